"""What the command line and the environment say to the control plane, read once at start."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from objectcache.xds.member import WEIGHT_LABEL
from objectcache.xds.snapshot import AccessLog, Options
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
from tasuki.routing.maglev import DEFAULT_TABLE_SIZE, LARGEST_TABLE_SIZE, Maglev, MaglevError

Weights = Literal["equal", "label"]

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stays as it is while the control plane runs.

    Attributes:
        listen: For Envoys.
        endpoints: A file that lists the caches; None to find them in the cluster.
        namespace: Of the caches' pods; empty for our own.
        selector: Of their labels.
        cache_port: On which they answer.
        weights: `label` heeds the nodes' weights.
        tls_dir: A folder with tls.crt and tls.key; None for plain gRPC.
        client_ca: Whose certificates Envoys must show; None to ask for none.
    """

    listen: tuple[str, int] = (EVERY_ADDRESS, 9447)
    metrics_address: tuple[str, int] | None = (EVERY_ADDRESS, 9426)
    endpoints: Path | None = None
    namespace: str = ""
    selector: str = "app.kubernetes.io/name=tasuki-cache"
    cache_port: int = 8480
    weights: Weights = "equal"
    envoy_listen: tuple[str, int] = ("::", 8080)
    access_log: AccessLog = "off"
    idle_seconds: float = 300.0
    table_size: int = DEFAULT_TABLE_SIZE
    tls_dir: Path | None = None
    client_ca: Path | None = None
    log_level: str = "info"
    log_format: LogFormat = "text"

    def options(self) -> Options:
        return Options(self.envoy_listen, self.access_log, self.idle_seconds, self.table_size)


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError("a namespace: at most 63 of a-z, 0-9 and -, no - at its ends")
    return text


def _selector(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("a label selector, such as app.kubernetes.io/name=tasuki-cache")
    return text


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise ValueError("a port from 1 to 65535")
    return int(text)


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or not least <= float(text) <= most:
            raise ValueError(f"a number of seconds from {least:g} to {most:g}")
        return float(text)

    return read


def _table_size(text: str) -> int:
    wrong = ValueError(f"a prime of at most {LARGEST_TABLE_SIZE}, such as {DEFAULT_TABLE_SIZE} or 655373")
    if not re.fullmatch(r"[0-9]{1,7}", text):
        raise wrong
    try:
        Maglev((), int(text))
    except MaglevError:
        raise wrong from None
    return int(text)


_DEFAULT: Final = Settings()
_OPTIONS: Final = (
    Option(
        "listen", "listen", "TASUKI_LISTEN", address("9447", "", EVERY_ADDRESS),
        "where Envoys are told, by gRPC (every address, port 9447)",
    ),
    Option(
        "metrics_address", "metrics-address", "TASUKI_METRICS_ADDRESS",
        address("9426", ", or empty for no metrics", EVERY_ADDRESS),
        "where /metrics, /readyz and /healthz are served over HTTP; empty: nowhere (every address, port 9426)",
        empty=(None,),
    ),
    Option(
        "endpoints", "endpoints", "TASUKI_ENDPOINTS", path,
        "a YAML list of caches (node, zone, address, port, weight, leaving), read again when it changes; empty: the "
        "cluster's pods (empty)",
        empty=(None,),
    ),
    Option(
        "namespace", "namespace", "TASUKI_NAMESPACE", _namespace,
        "of the caches' pods; empty: the one that this runs in (empty)",
    ),
    Option(
        "selector", "selector", "TASUKI_SELECTOR", _selector,
        f"labels of the caches' pods ({_DEFAULT.selector})",
    ),
    Option(
        "cache_port", "cache-port", "TASUKI_CACHE_PORT", _port,
        f"on which the caches' pods answer ({_DEFAULT.cache_port})",
    ),
    Option(
        "weights", "weights", "TASUKI_WEIGHTS", one_of(get_args(Weights)),
        f"equal: each cache of a zone owns as many keys; label: in proportion to the node's label {WEIGHT_LABEL} "
        "(equal)",
    ),
    Option(
        "envoy_listen", "envoy-listen", "TASUKI_ENVOY_LISTEN", address("8080", "", "::"),
        "where Envoys take requests for objects (every address, port 8080)",
    ),
    Option(
        "access_log", "access-log", "TASUKI_ACCESS_LOG", one_of(get_args(AccessLog)),
        "which requests Envoys write to standard output: off, errors (5xx) or all (off)",
    ),
    Option(
        "idle_seconds", "idle-seconds", "TASUKI_IDLE_SECONDS", _seconds(1, 86_400),
        f"after which a request without progress is given up ({_DEFAULT.idle_seconds:g})",
    ),
    Option(
        "table_size", "table-size", "TASUKI_TABLE_SIZE", _table_size,
        f"slots of the Maglev table, a prime; more than {DEFAULT_TABLE_SIZE} takes time and memory, and moves fewer "
        f"keys where a zone has hundreds of caches ({DEFAULT_TABLE_SIZE})",
    ),
    Option(
        "tls_dir", "tls-dir", "TASUKI_TLS_DIR", path,
        "a folder with tls.crt and tls.key, read again when they change; empty: gRPC without TLS (empty)",
        empty=(None,),
    ),
    Option(
        "client_ca", "client-ca", "TASUKI_CLIENT_CA", path,
        "certificates of authorities, of which an Envoy must show one's; empty: it shows none (empty)",
        empty=(None,),
    ),
    *LOG_OPTIONS,
)  # fmt: skip


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from arguments (without the program's name) and variables; a flag goes before its variable.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki xds",
        usage="%(prog)s [options]\n       %(prog)s bootstrap [options]",
        description="Tell Envoys which cache owns which object. `bootstrap` prints what such an Envoy is started with.",
        epilog="A flag goes before its environment variable [in brackets]. The API server is that of the pod's service "
        "account, or of the file that KUBECONFIG names. docs/routing.md says how to run it.",
        allow_abbrev=False,
    )
    return settled(parser, _OPTIONS, argv, environ, _checked)


def _checked(found: dict[str, Any]) -> Settings:
    """With what no single setting shows."""
    settings = Settings(**found)
    if settings.client_ca is not None and settings.tls_dir is None:
        raise OptionError("--client-ca asks for certificates, which takes TLS: give --tls-dir too")
    return settings
