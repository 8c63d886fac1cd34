"""What the command line and the environment say to a node's cache, read once at start."""

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from objectcache.link import Times
from tasuki.kube.quantity import QuantityError, parse
from tasuki.process.logging import LogFormat
from tasuki.process.options import (
    EVERY_ADDRESS,
    LOG_OPTIONS,
    Option,
    OptionError,
    address,
    one_of,
    path,
    settled,
)

Auth = Literal["tokenreview", "static"]
Fsync = Literal["never", "data", "full"]

_LEAST_CAPACITY: Final = 2**20
_LEAST_RATE: Final = 2**16
_RATE: Final = "bytes per second as a quantity of at least 64Ki, such as 32Mi"


class Capacity(msgspec.Struct, frozen=True):
    """How much may be kept: so many bytes, or such a part of the file system.

    Attributes:
        size_bytes: 0 if it is a part.
        part: Of the file system's size; 0 if it is a number of bytes.
    """

    size_bytes: int = 0
    part: float = 0.0

    def of(self, total_bytes: int) -> int:
        """In bytes, on a file system of such a size."""
        return self.size_bytes or int(total_bytes * self.part)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stays as it is while the cache runs.

    Attributes:
        data_dir: Where objects lie; nothing else may.
        free_bytes: Left to others on the file system, whatever `capacity` says.
        buckets: A file of buckets beside those of the API server; None for none.
        tokens: A file of tokens, for `auth` static.
        audience: That a token must be made for.
        node_name: Whose cache this is; empty to publish nothing.
        zone: Of the node; empty to look it up.
        workers: Processes that answer.
        bandwidth: Bytes a second that all of them send together at most; 0 for no bound.
        scrub_days: From one verification of all that is kept to the next; 0 for none.
        scrub_rate: Bytes a second that are verified at most.
        drain_seconds: How long requests are still taken after SIGTERM, until nobody sends any here.
        times: For clients; no option, as clients that need others would be wrong.
    """

    listen: tuple[str, int] = (EVERY_ADDRESS, 8480)
    metrics_address: tuple[str, int] | None = (EVERY_ADDRESS, 9427)
    data_dir: Path = Path("/var/lib/tasuki/cache")
    capacity: Capacity = Capacity(part=0.9)
    free_bytes: int = 2**30
    buckets: Path | None = None
    auth: Auth = "tokenreview"
    tokens: Path | None = None
    audience: str = "cache.tasuki.dev"
    node_name: str = ""
    zone: str = ""
    workers: int = 0
    fsync: Fsync = "never"
    bandwidth: int = 0
    most_connections: int = 10_000
    scrub_days: int = 7
    scrub_rate: int = 32 * 2**20
    drain_seconds: float = 15.0
    times: Times = Times()
    log_level: str = "info"
    log_format: LogFormat = "text"

    @property
    def worker_count(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))


def _capacity(text: str) -> Capacity:
    percent = re.fullmatch(r"([0-9]{1,2}|100)%", text)
    if percent and int(percent[1]) > 0:
        return Capacity(part=int(percent[1]) / 100)
    size = _bytes(text, "")
    if size < _LEAST_CAPACITY:
        raise ValueError("bytes as a quantity of at least 1Mi, such as 500Gi, or a part of the file system such as 90%")
    return Capacity(size_bytes=size)


def _bytes(text: str, refusal: str) -> int:
    try:
        found = parse(text)
    except QuantityError:
        found = parse("0") if not refusal else parse("-1")
    if refusal and (found < 0 or found.denominator != 1):
        raise ValueError(refusal)
    return int(found)


def _size(text: str) -> int:
    return _bytes(text, "bytes as a quantity, such as 10Gi")


def _scrub_rate(text: str) -> int:
    found = _bytes(text, _RATE)
    if found < _LEAST_RATE:
        raise ValueError(_RATE)
    return found


def _number(least: int, most: int, unit: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"a number of {unit} from {least} to {most}")
        return int(text)

    return read


_OPTIONS: Final = (
    Option(
        "listen", "listen", "TASUKI_LISTEN", address("8480", "", EVERY_ADDRESS),
        "where objects are served over HTTP/1.1; whoever reaches it still needs a token (every address, port 8480)",
    ),
    Option(
        "metrics_address", "metrics-address", "TASUKI_METRICS_ADDRESS",
        address("9427", ", or empty for no metrics", EVERY_ADDRESS),
        "where /metrics, /readyz and /healthz are served over HTTP; empty: nowhere (every address, port 9427)",
        empty=(None,),
    ),
    Option(
        "data_dir", "data-dir", "TASUKI_DATA_DIR", path,
        "a folder on a local disk for the cache alone (/var/lib/tasuki/cache)",
    ),
    Option(
        "capacity", "capacity", "TASUKI_CAPACITY", _capacity,
        "how much it may hold: a quantity such as 500Gi, or a part of the file system (90%)",
    ),
    Option(
        "free_bytes", "free-bytes", "TASUKI_FREE_BYTES", _size,
        "left free on the file system for others, whatever --capacity says (1Gi)",
    ),
    Option(
        "buckets", "buckets", "TASUKI_BUCKETS", path,
        "a YAML or JSON file of buckets, read again when it changes; beside CacheBucket objects (none)", empty=(None,),
    ),
    Option(
        "auth", "auth", "TASUKI_AUTH", one_of(get_args(Auth)),
        "tokenreview: the API server says what a service account's token is worth; static: the file --tokens does "
        "(tokenreview)",
    ),
    Option(
        "tokens", "tokens", "TASUKI_TOKENS", path,
        "a YAML or JSON file of tokens and their namespaces, for --auth static; read again when it changes (none)",
        empty=(None,),
    ),
    Option("audience", "audience", "TASUKI_AUDIENCE", str, "that tokens must be made for (cache.tasuki.dev)"),
    Option(
        "node_name", "node-name", "TASUKI_NODE_NAME", str,
        "the node whose CacheNode is kept, so that the scheduler knows what lies here; empty: none (empty)",
        empty=("",),
    ),
    Option(
        "zone", "zone", "TASUKI_ZONE", str, "the node's zone; empty: what its label says (empty)", empty=("",),
    ),
    Option(
        "workers", "workers", "TASUKI_WORKERS", _number(1, 256, "processes"),
        "processes that answer requests (one for each processor that the process may use)", empty=(0,),
    ),
    Option(
        "fsync", "fsync", "TASUKI_FSYNC", one_of(get_args(Fsync)),
        "what is on the disk before PUT is answered; never: nothing, and after a power failure objects are checked "
        "before they are used; data: the content; full: its name too (never)",
    ),
    Option(
        "bandwidth", "bandwidth", "TASUKI_BANDWIDTH", _size,
        "bytes per second that are sent at most, shared among buckets; 0: as many as can be (0)",
    ),
    Option(
        "most_connections", "connections", "TASUKI_CONNECTIONS", _number(16, 1_000_000, "connections"),
        "open at most, each worker; beyond, the one that is idle for longest is closed (10000)",
    ),
    Option(
        "scrub_days", "scrub-days", "TASUKI_SCRUB_DAYS", _number(0, 365, "days"),
        "from one verification of all that is kept to the next; 0: only what may be damaged is verified, when it is "
        "read (7)",
    ),
    Option(
        "scrub_rate", "scrub-rate", "TASUKI_SCRUB_RATE", _scrub_rate,
        "bytes per second that are read at most to verify them (32Mi)",
    ),
    Option(
        "drain_seconds", "drain-seconds", "TASUKI_DRAIN_SECONDS", _number(0, 300, "seconds"),
        "how long requests are still taken after SIGTERM, until nobody sends any here (15)",
    ),
    *LOG_OPTIONS,
)  # fmt: skip


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from arguments (without the program's name) and variables; a flag goes before its variable.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki cache",
        usage="%(prog)s [options]\n       %(prog)s warm [options] URL",
        description="Keep a node's share of the data that pods read on its local disk, and serve it over HTTP.",
        epilog="A flag goes before its environment variable [in brackets]. The API server is that of the pod's service "
        "account, or of the file that KUBECONFIG names. `tasuki cache warm --help` says how to fill it beforehand; "
        "docs/object-cache.md says how to run it.",
        allow_abbrev=False,
    )
    return settled(parser, _OPTIONS, argv, environ, _checked)


def _checked(found: dict[str, Any]) -> Settings:
    """With what no single setting shows."""
    settings = Settings(**found)
    if settings.auth == "static" and settings.tokens is None:
        raise OptionError("--auth static takes --tokens: the file that says which tokens there are")
    if settings.auth == "tokenreview" and settings.tokens is not None:
        raise OptionError("--tokens is read with --auth static only; write that, or leave --tokens out")
    if settings.auth == "static" and settings.buckets is None and not settings.node_name:
        raise OptionError(
            "--auth static without an API server takes --buckets: the file that says which buckets there are"
        )
    return settings
