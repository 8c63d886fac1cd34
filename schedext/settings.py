"""What the command line and the environment say to the scheduler extender, read once at start."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from schedext.costs import DEFAULT_COSTS, GB, Costs, Policy
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

UseLease = Literal["auto", "off"]
Answer = Literal["true", "false"]

_LOOPBACK: Final = "127.0.0.1"

_LEAST_BANDWIDTH: Final = 10**6
_MOST_BANDWIDTH: Final = 10**13


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stays as it is while the extender runs.

    Attributes:
        listen: For the scheduler; whoever reaches /bind there may bind any pod to any node.
        explain_listen: For people, through the API server's proxy: only reads, over plain HTTP; None for nowhere.
        tls_dir: A folder with tls.crt and tls.key; None for plain HTTP.
        client_ca: Whose certificates clients must show; None to ask for none.
        allow_anyone: Whether `listen` may be reached from outside the pod without a certificate.
        lease: `auto` lets one replica bind at a time; `off` is for a single replica.
        zone_bandwidth: Bytes a second, as those of `Costs`; so are the other bandwidths.
        reserve_seconds: How long devices are held for a pod whose binding is not seen.
        drain_seconds: How long the scheduler is still answered after SIGTERM.
    """

    listen: tuple[str, int] = (_LOOPBACK, 9445)
    explain_listen: tuple[str, int] | None = (EVERY_ADDRESS, 9446)
    metrics_address: tuple[str, int] | None = (EVERY_ADDRESS, 9425)
    tls_dir: Path | None = None
    client_ca: Path | None = None
    allow_anyone: Answer = "false"
    lease: UseLease = "auto"
    policy: Policy = DEFAULT_COSTS.policy
    zone_bandwidth: float = DEFAULT_COSTS.zone.bytes_per_second
    other_zone_bandwidth: float = DEFAULT_COSTS.other_zone.bytes_per_second
    local_disk_bandwidth: float = DEFAULT_COSTS.local_disk.bytes_per_second
    origin_bandwidth: float = DEFAULT_COSTS.origin.bytes_per_second
    run_hours: float = DEFAULT_COSTS.run_hours
    reserve_seconds: float = 60.0
    drain_seconds: float = 5.0
    log_level: str = "info"
    log_format: LogFormat = "text"

    def costs(self) -> Costs:
        """What seconds are made of in this cluster."""
        default = DEFAULT_COSTS
        return replace(
            default,
            zone=replace(default.zone, bytes_per_second=self.zone_bandwidth),
            other_zone=replace(default.other_zone, bytes_per_second=self.other_zone_bandwidth),
            local_disk=replace(default.local_disk, bytes_per_second=self.local_disk_bandwidth),
            origin=replace(default.origin, bytes_per_second=self.origin_bandwidth),
            run_hours=self.run_hours,
            policy=self.policy,
        )


def _number(least: float, most: float, unit: str) -> Callable[[str], float]:
    """Reads a number of such a unit."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not least <= float(text) <= most:
            raise ValueError(f"a number of {unit} from {least:g} to {most:g}")
        return float(text)

    return read


def _bandwidth(text: str) -> float:
    try:
        bytes_per_second = parse(text)
    except QuantityError:
        bytes_per_second = parse("0")
    if not _LEAST_BANDWIDTH <= bytes_per_second <= _MOST_BANDWIDTH:
        raise ValueError("bytes per second as a quantity from 1M to 10T, such as 12G for 12 GB/s, which is 96 Gb/s")
    return float(bytes_per_second)


def _gigabytes(bytes_per_second: float) -> str:
    return f"{bytes_per_second / GB:g}G"


_OPTIONS: Final = (
    Option(
        "listen", "listen", "TASUKI_LISTEN", address("9445", "", EVERY_ADDRESS),
        "where the scheduler is answered, at /filter, /prioritize, /bind, /preempt and /explain; beyond loopback it "
        "takes --client-ca (127.0.0.1:9445)",
    ),
    Option(
        "explain_listen", "explain-listen", "TASUKI_EXPLAIN_LISTEN",
        address("9446", ", or empty for nowhere", EVERY_ADDRESS),
        "where only /explain is served over HTTP, for `tasuki explain`; empty: nowhere (every address, port 9446)",
        empty=(None,),
    ),
    Option(
        "metrics_address", "metrics-address", "TASUKI_METRICS_ADDRESS",
        address("9425", ", or empty for no metrics", EVERY_ADDRESS),
        "where /metrics, /readyz and /healthz are served over HTTP; empty: nowhere (every address, port 9425)",
        empty=(None,),
    ),
    Option(
        "tls_dir", "tls-dir", "TASUKI_TLS_DIR", path,
        "a folder with tls.crt and tls.key, read again when they change; empty: plain HTTP (empty)",
        empty=(None,),
    ),
    Option(
        "client_ca", "client-ca", "TASUKI_CLIENT_CA", path,
        "certificates of authorities, of which the scheduler must show one's; empty: it shows none (empty)",
        empty=(None,),
    ),
    Option(
        "allow_anyone", "allow-anyone", "TASUKI_ALLOW_ANYONE", one_of(get_args(Answer)),
        "true: whoever reaches --listen may bind any pod to any node; only where the network lets nobody but the "
        "scheduler through; true or false (false)",
    ),
    Option(
        "lease", "lease", "TASUKI_LEASE", one_of(get_args(UseLease)),
        "auto: one replica binds at a time, by a Lease; off: there is only one replica; auto or off (auto)",
    ),
    Option(
        "policy", "policy", "TASUKI_POLICY", one_of(get_args(Policy)),
        "pack: keep whole devices free for pods that take whole ones; spread: only keep pods from waiting for each "
        f"other; pack or spread ({DEFAULT_COSTS.policy})",
    ),
    Option(
        "zone_bandwidth", "zone-bandwidth", "TASUKI_ZONE_BANDWIDTH", _bandwidth,
        f"bytes per second between nodes of a zone ({_gigabytes(DEFAULT_COSTS.zone.bytes_per_second)})",
    ),
    Option(
        "other_zone_bandwidth", "other-zone-bandwidth", "TASUKI_OTHER_ZONE_BANDWIDTH", _bandwidth,
        f"bytes per second between zones ({_gigabytes(DEFAULT_COSTS.other_zone.bytes_per_second)})",
    ),
    Option(
        "local_disk_bandwidth", "local-disk-bandwidth", "TASUKI_LOCAL_DISK_BANDWIDTH", _bandwidth,
        "bytes per second that a node reads from its own cache "
        f"({_gigabytes(DEFAULT_COSTS.local_disk.bytes_per_second)})",
    ),
    Option(
        "origin_bandwidth", "origin-bandwidth", "TASUKI_ORIGIN_BANDWIDTH", _bandwidth,
        "bytes per second that a node gets from the storage behind the cache "
        f"({_gigabytes(DEFAULT_COSTS.origin.bytes_per_second)})",
    ),
    Option(
        "run_hours", "run-hours", "TASUKI_RUN_HOURS", _number(0.01, 10_000, "hours"),
        f"how long a pod is expected to run, over which reprogramming is spread ({DEFAULT_COSTS.run_hours:g})",
    ),
    Option(
        "reserve_seconds", "reserve-seconds", "TASUKI_RESERVE_SECONDS", _number(60, 600, "seconds"),
        "how long devices are held for a pod whose binding is not seen; the API server works on a request for a minute "
        "(60)",
    ),
    Option(
        "drain_seconds", "drain-seconds", "TASUKI_DRAIN_SECONDS", _number(0, 300, "seconds"),
        "how long the scheduler is still answered after SIGTERM, until it no longer asks here (5)",
    ),
    *LOG_OPTIONS,
)  # fmt: skip


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from arguments (without the program's name) and variables; a flag goes before its variable.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki schedext",
        usage="%(prog)s [options]",
        description="Extend kube-scheduler: where accelerators have room, which devices a pod gets, what each node "
        "would cost it.",
        epilog="A flag goes before its environment variable [in brackets]. The API server is that of the pod's service "
        "account, or of the file that KUBECONFIG names. docs/scheduling.md says how to run it.",
        allow_abbrev=False,
    )
    return settled(parser, _OPTIONS, argv, environ, _checked)


def _checked(found: dict[str, Any]) -> Settings:
    """With what no single setting shows."""
    settings = Settings(**found)
    if settings.client_ca is not None and settings.tls_dir is None:
        raise OptionError("--client-ca asks for certificates, which takes TLS: give --tls-dir too")
    host, port = settings.listen
    if settings.client_ca is None and settings.allow_anyone == "false" and not is_loopback(host):
        raise OptionError(
            f"--listen {host} port {port} can be reached from elsewhere, and whoever reaches it may bind any pod to "
            "any node; give --client-ca, listen on 127.0.0.1, or write --allow-anyone true if the network lets nobody "
            "but the scheduler through"
        )
    return settings
