"""What the command line and the environment say to the device plugin, read once at start."""

import argparse
import difflib
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from deviceplugin.config.flags import FLAGS, Flag
from deviceplugin.config.keys import shown
from deviceplugin.config.kinds import FPGA, GPU, VACCEL
from deviceplugin.config.model import ConfigError
from deviceplugin.config.precedence import Overrides
from deviceplugin.config.values import alternatives, is_subdomain
from tasuki.kube.names import NVIDIA_CONFIG_LABEL
from tasuki.process.logging import LEVELS, LogFormat
from tasuki.process.unix_sockets import LONGEST_PATH_BYTES

KubeApi = Literal["auto", "off"]
Fallback = Literal["named", "single", "empty"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stays as it is while the daemon runs.

    Attributes:
        kubelet_socket: None for no registration.
        metrics_address: Host and port; None for no metrics.
        default_config: The configuration of a node without a label; empty for none, so that `fallbacks` decide.
        disabled_xids: DP_DISABLE_HEALTHCHECKS as it stands.
        enabled_xids: DP_ENABLE_HEALTHCHECKS as it stands.
        notices: Sentences on what was given and has no effect here.
    """

    simulate: str | None = None
    kubelet_socket: Path | None = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
    pod_resources_socket: Path = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
    cdi_root: Path = Path("/var/run/cdi")
    kinds: tuple[str, ...] = (GPU,)
    simulate_fpga: str | None = None
    pod_name: str = ""
    sysfs_root: Path = Path("/sys")
    bitstreams: Path = Path("/var/lib/tasuki/bitstreams")
    node_name: str
    kube_api: KubeApi = "auto"
    metrics_address: tuple[str, int] | None = ("0.0.0.0", 9422)  # noqa: S104 - the node's Prometheus scrapes it
    log_level: str = "info"
    log_format: LogFormat = "text"
    config_file: Path | None = None
    config_dir: Path | None = None
    default_config: str = ""
    fallbacks: tuple[Fallback, ...] = ("named", "single")
    cdi_feature_flags: tuple[str, ...] = ()
    cdi_disabled_hooks: tuple[str, ...] = ()
    disabled_xids: str = ""
    enabled_xids: str = ""
    overrides: Overrides = Overrides()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Option:
    """A setting with no place in the file.

    Attributes:
        read: Makes the value of a text that is not empty; raises ValueError with what it must be.
        help: With the default.
        empty: What an empty text means; None if it is as if nothing were given.
        is_list: May be repeated on the command line.
    """

    field: str
    name: str
    variable: str
    read: Callable[[str], Any]
    help: str
    empty: tuple[Any] | None = None
    is_list: bool = False


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def _one_of(values: Iterable[str]) -> Callable[[str], str]:
    known = tuple(values)

    def read(text: str) -> str:
        if text.lower() not in known:
            raise ValueError(alternatives(known))
        return text.lower()

    return read


def _fallbacks(text: str) -> tuple[str, ...]:
    read = _one_of(get_args(Fallback))
    return tuple(read(word) for word in _words(text))


def _kinds(text: str) -> tuple[str, ...]:
    read = _one_of((GPU, FPGA, VACCEL))
    return tuple(dict.fromkeys(read(word) for word in _words(text)))


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path")
    return Path(text)


def _absolute_path(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError("an absolute path, one that begins with '/'")
    return _path(text)


def _socket_path(text: str) -> Path:
    if (size := len(os.fsencode(text))) > LONGEST_PATH_BYTES:
        raise ValueError(f"a path of at most {LONGEST_PATH_BYTES} bytes for a socket, not {size}")
    return _path(text)


def _node_name(text: str) -> str:
    if not is_subdomain(text):
        raise ValueError("a Node's name: lower-case letters, digits, '-' and '.'")
    return text


def _pod_name(text: str) -> str:
    if not is_subdomain(text):
        raise ValueError("a Pod's name: lower-case letters, digits, '-' and '.'")
    return text


def _address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("host:port, such as 0.0.0.0:9422 or [::]:9422, or empty for no metrics")
    return match[1] or match[2] or "0.0.0.0", int(match[3])  # noqa: S104 - `:9422` means every address


_NVIDIA: Final = (
    _Option(
        "kubelet_socket", "kubelet-socket", "KUBELET_SOCKET", _socket_path,
        "where the kubelet listens for device plugins; empty: offer nothing to a kubelet "
        "(/var/lib/kubelet/device-plugins/kubelet.sock)",
        empty=(None,),
    ),
    _Option(
        "config_file", "config-file", "CONFIG_FILE", _path,
        "a configuration file, read again when its content changes (none)",
    ),
    _Option(
        "config_dir", "config-dir", "CONFIG_FILE_SRCDIR", _path,
        f"a folder of named configurations, of which the node's label {NVIDIA_CONFIG_LABEL} chooses one (none)",
    ),
    _Option(
        "default_config", "default-config", "DEFAULT_CONFIG", str,
        "the configuration of a node without that label (the fallbacks decide)",
    ),
    _Option(
        "fallbacks", "fallback-strategies", "FALLBACK_STRATEGIES", _fallbacks,
        "without label and default: 'named' takes the one called default, 'single' the only one, 'empty' none "
        "(named,single)",
        is_list=True,
    ),
    _Option(
        "cdi_feature_flags", "cdi-feature-flags", "CDI_FEATURE_FLAGS", _words,
        "no effect: feature flags of the library with which NVIDIA's plugin writes CDI specifications (none)",
        is_list=True,
    ),
    _Option(
        "cdi_disabled_hooks", "cdi-disable-hooks", "CDI_DISABLE_HOOKS", _words,
        "hooks to leave out of our CDI specification; 'all' for every one (none)", is_list=True,
    ),
    _Option(
        "node_name", "node-name", "NODE_NAME", _node_name,
        "the name of this Node (the host's name)",
    ),
)  # fmt: skip

_TASUKI: Final = (
    _Option(
        "simulate", "simulate", "TASUKI_SIMULATE", str,
        "take a described machine for this one: a name such as dgx-a100, or a YAML file (the driver's GPUs)",
    ),
    _Option(
        "kinds", "kinds", "TASUKI_KINDS", _kinds,
        "which kinds of accelerators are this daemon's, separated by commas: gpu, fpga, vaccel (gpu)",
        is_list=True,
    ),
    _Option(
        "simulate_fpga", "simulate-fpga", "TASUKI_SIMULATE_FPGA", str,
        "look for FPGAs in a laid-out tree: a name such as intel-dfl, or a tree's YAML file (the kernel's files)",
    ),
    _Option(
        "kube_api", "kube-api", "TASUKI_KUBE_API", _one_of(get_args(KubeApi)),
        "auto: label the Node, keep its AcceleratorNode and send events if an API server is configured; off (auto)",
    ),
    _Option(
        "pod_resources_socket", "pod-resources-socket", "TASUKI_POD_RESOURCES_SOCKET", _socket_path,
        "where the kubelet tells which container holds which device (/var/lib/kubelet/pod-resources/kubelet.sock)",
    ),
    _Option(
        "pod_name", "pod-name", "TASUKI_POD_NAME", _pod_name,
        "the pod that this daemon runs in, by which it knows a kubelet's list to be whole (none)",
    ),
    _Option(
        "cdi_root", "cdi-root", "TASUKI_CDI_ROOT", _path,
        "where our CDI specification is written (/var/run/cdi)",
    ),
    _Option(
        "sysfs_root", "sysfs-root", "TASUKI_SYSFS_ROOT", _absolute_path,
        "the tree of the kernel's files in which FPGAs are looked for (/sys)",
    ),
    _Option(
        "bitstreams", "bitstreams", "TASUKI_BITSTREAMS", _absolute_path,
        "the folder of images that FPGAs can be programmed with (/var/lib/tasuki/bitstreams)",
    ),
    _Option(
        "metrics_address", "metrics-address", "TASUKI_METRICS_ADDRESS", _address,
        "where /metrics, /readyz and /healthz are served; empty: nowhere (0.0.0.0:9422)",
        empty=(None,),
    ),
    _Option(
        "log_level", "log-level", "TASUKI_LOG_LEVEL", _one_of(LEVELS),
        f"{alternatives(LEVELS)} (info)",
    ),
    _Option(
        "log_format", "log-format", "TASUKI_LOG_FORMAT", _one_of(get_args(LogFormat)),
        f"{alternatives(get_args(LogFormat))} (text)",
    ),
)  # fmt: skip

_OPTIONS: Final = (*_NVIDIA, *_TASUKI)

# Ours, but for containers; a daemon that is started in one has them too.
_HANDED_OUT: Final = frozenset({"TASUKI_GPU_MEMORY_BYTES"})
_HANDED_OUT_PREFIXES: Final = ("TASUKI_FPGA_", "TASUKI_VACCEL_")

# What the kubelet adds for each Service whose name begins with `tasuki` (Kubernetes: environment variables).
_SERVICE_LINK: Final = re.compile(
    r"TASUKI_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_LINK_URL: Final = re.compile(r"(tcp|udp|sctp)://")

# Of NVIDIA's config-manager and GPU feature discovery, both of which this daemon replaces.
_WITHOUT_EFFECT: Final = {
    "CONFIG_FILE_DST": "configurations are read where they are, none is copied or linked",
    "SEND_SIGNAL": "a changed configuration needs no signal",
    "SIGNAL": "a changed configuration needs no signal",
    "PROCESS_TO_SIGNAL": "a changed configuration needs no signal",
    "ONESHOT": "the label and the configurations are watched",
    "GFD_MIG_STRATEGY": "labels follow MIG_STRATEGY",
    "GFD_FAIL_ON_INIT_ERROR": "labels follow FAIL_ON_INIT_ERROR",
    "GFD_CONFIG_FILE": "labels follow CONFIG_FILE",
}


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from arguments (without the program's name) and variables; a flag goes before its variable.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = _parser()
    given = _arguments(parser, argv)
    try:
        fields = _own_fields(given, environ)
        _check_variables(environ)
        overrides = _overrides(given, environ)
    except ConfigError as error:
        parser.error(str(error))
    return Settings(
        **{"node_name": socket.gethostname().strip().lower(), **fields},
        disabled_xids=environ.get("DP_DISABLE_HEALTHCHECKS", ""),
        enabled_xids=environ.get("DP_ENABLE_HEALTHCHECKS", ""),
        overrides=overrides,
        notices=_notices(fields, environ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tasuki deviceplugin",
        usage="%(prog)s [options]",
        description="Offer the GPUs of this node to the kubelet: whole, as MIG devices, or timeshared.",
        epilog="A flag goes before its environment variable [in brackets], and that before the configuration file. "
        "DP_DISABLE_HEALTHCHECKS and DP_ENABLE_HEALTHCHECKS list XIDs as for NVIDIA's plugin.",
        allow_abbrev=False,
    )
    nvidia = parser.add_argument_group("as NVIDIA's device plugin, in place of the configuration file")
    for flag in FLAGS:
        _add(
            nvidia,
            flag.names,
            flag.variables,
            f"{flag.help} ({flag.default})",
            is_list=flag.is_list,
            is_boolean=flag.is_boolean,
        )
    beside = parser.add_argument_group("as NVIDIA's device plugin and config-manager")
    tasuki = parser.add_argument_group("Tasuki's own")
    for group, options in ((beside, _NVIDIA), (tasuki, _TASUKI)):
        for option in options:
            _add(group, (option.name,), (option.variable,), option.help, is_list=option.is_list)
    return parser


def _add(  # noqa: PLR0913 - what argparse wants to know
    group: argparse._ArgumentGroup,
    names: Sequence[str],
    variables: Sequence[str],
    text: str,
    *,
    is_list: bool = False,
    is_boolean: bool = False,
) -> None:
    extra: dict[str, Any] = {"nargs": "?", "const": "true", "metavar": "BOOL"} if is_boolean else {"metavar": "VALUE"}
    group.add_argument(
        *(f"--{name}" for name in names),
        dest=names[0],
        action="append" if is_list else "store",
        help=f"{text} [{', '.join(variables)}]".replace("%", "%%"),
        **extra,
    )


def _arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Mapping[str, str]:
    """What is on the command line, by flag; a repeated list joined with commas."""
    known = [name for name in parser._option_string_actions if name.startswith("--")]  # noqa: SLF001 - no other way
    # Go programs take `-mig-strategy` for `--mig-strategy`.
    spelled = [f"-{a}" if re.match(r"-[a-z]", a) and f"-{a.partition('=')[0]}" in known else a for a in argv]
    namespace, unknown = parser.parse_known_args(spelled)
    if unknown:
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        parser.error(f"unknown argument {unknown[0]}" + (f"; did you mean {near[0]}?" if near else ""))
    return {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in vars(namespace).items()
        if value is not None
    }


def _own_fields(given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for option in _OPTIONS:
        name, text = option.variable, environ.get(option.variable)
        if option.name in given:
            name, text = f"--{option.name}", given[option.name]
        if text is None:
            continue
        if text:
            try:
                fields[option.field] = option.read(text)
            except ValueError as error:
                raise ConfigError(f"{name} is {shown(text)}; it must be {error}") from None
        elif option.empty is not None:
            fields[option.field] = option.empty[0]
    if "config_file" in fields and "config_dir" in fields:
        raise ConfigError(
            "CONFIG_FILE (--config-file) and CONFIG_FILE_SRCDIR (--config-dir) are both set; "
            "keep the folder if the node's label is to choose, and the file otherwise"
        )
    return fields


def _overrides(given: Mapping[str, str], environ: Mapping[str, str]) -> Overrides:
    return Overrides(**{flag.field: value for flag in FLAGS if (value := _override(flag, given, environ)) is not None})


def _override(flag: Flag, given: Mapping[str, str], environ: Mapping[str, str]) -> Any:
    if flag.names[0] in given:
        return flag.parse(given[flag.names[0]], f"--{flag.names[0]}")
    for variable in flag.variables:
        if variable in environ and flag.is_set(environ[variable]):
            return flag.parse(environ[variable], variable)
    return None


def _check_variables(environ: Mapping[str, str]) -> None:
    """Refuse a variable that begins like ours and is not, as it is most likely a slip.

    Raises:
        ConfigError: Naming it and the nearest one.
    """
    known = [option.variable for option in _TASUKI]
    for name in sorted(environ):
        if not name.startswith("TASUKI_") or name in known:
            continue
        if name in _HANDED_OUT or name.startswith(_HANDED_OUT_PREFIXES):
            continue
        if _is_service_link(name, environ[name]):
            continue
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ConfigError(f"{name} is not a known environment variable; the nearest is {nearest}")


def _is_service_link(name: str, value: str) -> bool:
    """Links named just `_PORT` are told from slips by their value."""
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and _SERVICE_LINK_URL.match(value) is not None


def _notices(fields: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, ...]:
    notices = [f"{name} has no effect: {why}" for name, why in _WITHOUT_EFFECT.items() if environ.get(name)]
    label = environ.get("NODE_LABEL", "")
    if label not in ("", NVIDIA_CONFIG_LABEL):
        notices.append(f"NODE_LABEL={label} has no effect: the label is always {NVIDIA_CONFIG_LABEL}")
    if fields.get("cdi_feature_flags"):
        stated = ",".join(fields["cdi_feature_flags"])
        notices.append(f"CDI_FEATURE_FLAGS={stated} has no effect: they are for the library that NVIDIA's plugin uses")
    return tuple(notices)
