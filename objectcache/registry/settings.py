"""What the command line and the environment say to the registry mirror, read once at start."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from tasuki.kube.names import CACHE_BUCKET_PATTERN
from tasuki.kube.quantity import QuantityError, parse
from tasuki.process.logging import LogFormat
from tasuki.process.options import (
    EVERY_ADDRESS,
    LOG_OPTIONS,
    Option,
    OptionError,
    address,
    is_loopback,
    one_of,
    path,
    settled,
)

Answer = Literal["true", "false"]

_BUCKET: Final = re.compile(CACHE_BUCKET_PATTERN)
_LEAST_SPOOL_BYTES: Final = 2**20
_MOST_SPOOL_BYTES: Final = 2**50


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stays as it is while the mirror runs.

    Attributes:
        listen: For container runtimes; whoever reaches it reads what the mirror can read.
        config: The file that names the upstreams; it may change, and is read again then.
        logins: The file with credentials for upstreams, as `docker login` writes it; None for none.
        cache_url: Of the object cache.
        cache_token: A file with a token for the cache; None for none.
        spool_bytes: What layers under way may take in `spool_dir`.
        most_fetches: Layers that are fetched at once.
        most_streams: Layers that are sent at once.
        tag_seconds: For how long a registry is not asked again what a tag leads to.
        stale_hours: For how long a tag's last digest stands in for a registry that is away.
        verify_hits: Whether whole layers from the cache are hashed while they are sent.
        drain_seconds: How long layers may take after SIGTERM.
    """

    config: Path
    cache_url: str
    listen: tuple[str, int] = ("127.0.0.1", 5001)
    allow_anyone: Answer = "false"
    metrics_address: tuple[str, int] | None = (EVERY_ADDRESS, 9428)
    logins: Path | None = None
    cache_token: Path | None = None
    bucket: str = "images"
    spool_dir: Path = Path("/var/spool/tasuki-registry")
    spool_bytes: int = 20 * 2**30
    most_fetches: int = 16
    most_streams: int = 128
    tag_seconds: float = 60.0
    stale_hours: float = 24.0
    verify_hits: Answer = "true"
    drain_seconds: int = 20
    log_level: str = "info"
    log_format: LogFormat = "text"


def _number(least: int, most: int, unit: str) -> Callable[[str], int]:
    """Reads a whole number of such a unit."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,7}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number of {unit} from {least} to {most}")
        return int(text)

    return read


def _size(text: str) -> int:
    try:
        size = parse(text)
    except QuantityError:
        size = parse("0")
    if not _LEAST_SPOOL_BYTES <= size <= _MOST_SPOOL_BYTES:
        raise ValueError("bytes as a quantity from 1Mi to 1Pi, such as 20Gi")
    return int(size)


def _bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text):
        raise ValueError("a bucket's name: at most 63 small letters, digits, dots and dashes")
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.username or parts.query or parts.fragment or parts.path not in {"", "/"}:
        raise ValueError("a URL of scheme, host and port, such as http://127.0.0.1:8480")
    return text.rstrip("/")


_REQUIRED: Final = " (required)"

_OPTIONS: Final = (
    Option(
        "config", "config", "TASUKI_CONFIG", path,
        "a YAML file with the list `upstreams`: the registries that are mirrored, and no others; read again when it "
        "changes (required)",
    ),
    Option(
        "logins", "logins", "TASUKI_LOGINS", path,
        "a file as `docker login` writes it, with credentials for upstreams whose `credentials` are `shared`; read "
        "again when it changes; empty: none (empty)",
        empty=(None,),
    ),
    Option("cache_url", "cache-url", "TASUKI_CACHE_URL", _url, "where the object cache is (required)"),
    Option(
        "cache_token", "cache-token", "TASUKI_CACHE_TOKEN", path,
        "a file with a token for the cache, read again all the time; empty: none (empty)",
        empty=(None,),
    ),
    Option("bucket", "bucket", "TASUKI_BUCKET", _bucket, "where layers and manifests are stored (images)"),
    Option(
        "listen", "listen", "TASUKI_LISTEN", address("5001", "", EVERY_ADDRESS),
        "where container runtimes are answered, over HTTP; beyond loopback it takes --allow-anyone (127.0.0.1:5001)",
    ),
    Option(
        "allow_anyone", "allow-anyone", "TASUKI_ALLOW_ANYONE", one_of(get_args(Answer)),
        "true: whoever reaches --listen reads every image that the mirror can read; true or false (false)",
    ),
    Option(
        "metrics_address", "metrics-address", "TASUKI_METRICS_ADDRESS",
        address("9428", ", or empty for no metrics", EVERY_ADDRESS),
        "where /metrics, /readyz and /healthz are served over HTTP; empty: nowhere (every address, port 9428)",
        empty=(None,),
    ),
    Option(
        "spool_dir", "spool-dir", "TASUKI_SPOOL_DIR", path,
        "a folder for layers on their way, empty after each restart (/var/spool/tasuki-registry)",
    ),
    Option(
        "spool_bytes", "spool-size", "TASUKI_SPOOL_SIZE", _size,
        "what they may take there; a layer that does not fit is passed through and not stored (20Gi)",
    ),
    Option(
        "most_fetches", "most-fetches", "TASUKI_MOST_FETCHES", _number(1, 1000, "layers"),
        "how many layers are fetched at once (16)",
    ),
    Option(
        "most_streams", "most-streams", "TASUKI_MOST_STREAMS", _number(1, 900, "layers"),
        "how many layers are sent at once, each of which takes up to some 2 MiB of memory (128)",
    ),
    Option(
        "tag_seconds", "tag-seconds", "TASUKI_TAG_SECONDS", _number(0, 86_400, "seconds"),
        "for how long a registry is not asked again what a tag leads to (60)",
    ),
    Option(
        "stale_hours", "stale-hours", "TASUKI_STALE_HOURS", _number(0, 720, "hours"),
        "for how long a tag's last digest is served while its registry is away or wants fewer requests (24)",
    ),
    Option(
        "verify_hits", "verify-hits", "TASUKI_VERIFY_HITS", one_of(get_args(Answer)),
        "true: whole layers from the cache are hashed while they are sent, and removed if they are wrong (true)",
    ),
    Option(
        "drain_seconds", "drain-seconds", "TASUKI_DRAIN_SECONDS", _number(0, 3600, "seconds"),
        "how long layers may still be sent after SIGTERM (20)",
    ),
    *LOG_OPTIONS,
)  # fmt: skip


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from arguments (without the program's name) and variables; a flag goes before its variable.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki registry",
        usage="%(prog)s [options]",
        description="Mirror container registries for this node, by way of the object cache.",
        epilog="A flag goes before its environment variable [in brackets]. docs/registry.md says how to run it, and "
        "how container runtimes are told of it.",
        allow_abbrev=False,
    )
    return settled(parser, _OPTIONS, argv, environ, _checked)


def _checked(found: dict[str, Any]) -> Settings:
    """With what no single setting shows."""
    for option in _OPTIONS:
        if option.help.endswith(_REQUIRED) and option.field not in found:
            raise OptionError(f"--{option.name} is missing: {option.help.removesuffix(_REQUIRED)}")
    settings = Settings(**found)
    host, port = settings.listen
    if settings.allow_anyone == "false" and not is_loopback(host):
        raise OptionError(
            f"--listen {host} port {port} can be reached from elsewhere, and whoever reaches it reads every image that "
            "the mirror can read; listen on 127.0.0.1, or write --allow-anyone true if they may"
        )
    return settings
