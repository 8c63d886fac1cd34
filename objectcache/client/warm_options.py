"""The command line of `tasuki cache warm`."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from objectcache.client.filesystem import BUCKET_VARIABLE, TOKEN_PATH_VARIABLE, URL_VARIABLE
from objectcache.client.keeping import DEFAULT_BLOCK_SIZE, DEFAULT_MAX_OBJECT, Version
from objectcache.client.warming import Owners, Shard, node_names, shard
from tasuki.kube.quantity import QuantityError, parse

_MOST_PARALLEL: Final = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks.

    Attributes:
        options: Of the origin's file system.
        max_object: In bytes.
        block_size: In bytes.
    """

    url: str
    cache: str | None
    bucket: str | None
    token_path: str | None
    options: Mapping[str, Any]
    parallel: int
    shard: Shard
    owners: Owners
    version: Version
    max_object: int
    block_size: int
    origin: str | None
    is_dry: bool


def read(argv: Sequence[str]) -> Asked:
    """What is asked, by arguments (without the program's name).

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki cache warm",
        description="Bring all files under a URL into the cache, as the Python client (fsspec) will look for them.",
        epilog="What is there already is left alone, so that it can be interrupted and started again.",
        allow_abbrev=False,
    )
    parser.add_argument("url", help="a file, or a folder with all below it, as fsspec spells it: s3://bucket/folder")
    parser.add_argument("--cache", metavar="URL", help=f"of the cache [{URL_VARIABLE}]")
    parser.add_argument("--bucket", metavar="NAME", help=f"of the cache [{BUCKET_VARIABLE}]")
    parser.add_argument("--token-path", metavar="PATH", help=f"of a file with a token [{TOKEN_PATH_VARIABLE}]")
    parser.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], type=_option,
        help="of the origin's file system, in JSON if it is that; may be repeated",
    )  # fmt: skip
    parser.add_argument("--parallel", metavar="COUNT", type=_parallel, default=16, help="objects at once (16)")
    parser.add_argument(
        "--shard", metavar="i/n", type=_typed(shard), default=Shard(),
        help="only this part, so that n jobs with i from 0 share the work (0/1)",
    )  # fmt: skip
    parser.add_argument(
        "--nodes", metavar="NAMES", type=_typed(node_names), default=(),
        help="whose caches serve in this zone, with commas or spaces between: all are filled at once",
    )  # fmt: skip
    parser.add_argument("--owner", metavar="NAME", default="", help="only objects that will lie on this one of --nodes")
    parser.add_argument("--dry-run", action="store_true", help="only look what is missing")
    parser.add_argument(
        "--version", choices=get_args(Version), default="auto", help="as the file system that will read it (auto)"
    )
    for name, default in (("--max-object", DEFAULT_MAX_OBJECT), ("--block-size", DEFAULT_BLOCK_SIZE)):
        parser.add_argument(
            name, metavar="BYTES", type=_typed(_bytes), default=default,
            help=f"as the file system that will read it ({default // 2**20}Mi)",
        )  # fmt: skip
    parser.add_argument("--origin", metavar="PLACE", help="as the file system that will read it (by its options)")
    given = parser.parse_args(argv)
    if given.owner and given.owner not in given.nodes:
        known = ", ".join(given.nodes) or "none"
        parser.error(f"argument --owner: {given.owner!r}: it must be one of --nodes ({known})")
    return Asked(
        given.url, given.cache, given.bucket, given.token_path, dict(given.option), given.parallel, given.shard,
        Owners(given.nodes, given.owner),
        given.version, given.max_object, given.block_size, given.origin, given.dry_run,
    )  # fmt: skip


def _typed(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse, which else would not say what it must be."""

    def read_text(text: str) -> Any:
        try:
            return reader(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: it must be {error}") from None

    return read_text


def _bytes(text: str) -> int:
    try:
        size = parse(text)
    except QuantityError:
        size = None
    if size is None or size < 0 or size != int(size):
        raise ValueError("bytes, such as 64Mi")
    return int(size)


def _parallel(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_PARALLEL:
        raise argparse.ArgumentTypeError(f"{text!r}: it must be 1 to {_MOST_PARALLEL}")
    return int(text)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{name!r}: it must be name=value, such as anon=true")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
