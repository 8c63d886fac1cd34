"""What the command line and the environment say to the device plugin, read once at start."""

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from deviceplugin.config.flags import FLAGS, Flag
from deviceplugin.config.kinds import FPGA, GPU, VACCEL
from deviceplugin.config.precedence import Overrides
from deviceplugin.config.values import is_subdomain
from tasuki.kube.names import NVIDIA_CONFIG_LABEL
from tasuki.process.document import ConfigError
from tasuki.process.logging import LogFormat
from tasuki.process.options import (
    LOG_OPTIONS,
    Option,
    OptionError,
    address,
    arguments,
    check_variables,
    fields,
    one_of,
    path,
    words,
)
from tasuki.process.unix_sockets import LONGEST_PATH_BYTES

KubeApi = Literal["auto", "off"]
FollowBindings = Literal["auto", "off"]
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
    follow_bindings: FollowBindings = "auto"
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


def _fallbacks(text: str) -> tuple[str, ...]:
    read = one_of(get_args(Fallback))
    return tuple(read(word) for word in words(text))


def _kinds(text: str) -> tuple[str, ...]:
    read = one_of((GPU, FPGA, VACCEL))
    return tuple(dict.fromkeys(read(word) for word in words(text)))


def _absolute_path(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError("an absolute path, one that begins with '/'")
    return path(text)


def _socket_path(text: str) -> Path:
    if (size := len(os.fsencode(text))) > LONGEST_PATH_BYTES:
        raise ValueError(f"a path of at most {LONGEST_PATH_BYTES} bytes for a socket, not {size}")
    return path(text)


def _node_name(text: str) -> str:
    if not is_subdomain(text):
        raise ValueError("a Node's name: lower-case letters, digits, '-' and '.'")
    return text


def _pod_name(text: str) -> str:
    if not is_subdomain(text):
        raise ValueError("a Pod's name: lower-case letters, digits, '-' and '.'")
    return text


_NVIDIA: Final = (
    Option(
        "kubelet_socket", "kubelet-socket", "KUBELET_SOCKET", _socket_path,
        "where the kubelet listens for device plugins; empty: offer nothing to a kubelet "
        "(/var/lib/kubelet/device-plugins/kubelet.sock)",
        empty=(None,),
    ),
    Option(
        "config_file", "config-file", "CONFIG_FILE", path,
        "a configuration file, read again when its content changes (none)",
    ),
    Option(
        "config_dir", "config-dir", "CONFIG_FILE_SRCDIR", path,
        f"a folder of named configurations, of which the node's label {NVIDIA_CONFIG_LABEL} chooses one (none)",
    ),
    Option(
        "default_config", "default-config", "DEFAULT_CONFIG", str,
        "the configuration of a node without that label (the fallbacks decide)",
    ),
    Option(
        "fallbacks", "fallback-strategies", "FALLBACK_STRATEGIES", _fallbacks,
        "without label and default: 'named' takes the one called default, 'single' the only one, 'empty' none "
        "(named,single)",
        is_list=True,
    ),
    Option(
        "cdi_feature_flags", "cdi-feature-flags", "CDI_FEATURE_FLAGS", words,
        "no effect: feature flags of the library with which NVIDIA's plugin writes CDI specifications (none)",
        is_list=True,
    ),
    Option(
        "cdi_disabled_hooks", "cdi-disable-hooks", "CDI_DISABLE_HOOKS", words,
        "hooks to leave out of our CDI specification; 'all' for every one (none)", is_list=True,
    ),
    Option(
        "node_name", "node-name", "NODE_NAME", _node_name,
        "the name of this Node (the host's name)",
    ),
)  # fmt: skip

_TASUKI: Final = (
    Option(
        "simulate", "simulate", "TASUKI_SIMULATE", str,
        "take a described machine for this one: a name such as dgx-a100, or a YAML file (the driver's GPUs)",
    ),
    Option(
        "kinds", "kinds", "TASUKI_KINDS", _kinds,
        "which kinds of accelerators are this daemon's, separated by commas: gpu, fpga, vaccel (gpu)",
        is_list=True,
    ),
    Option(
        "simulate_fpga", "simulate-fpga", "TASUKI_SIMULATE_FPGA", str,
        "look for FPGAs in a laid-out tree: a name such as intel-dfl, or a tree's YAML file (the kernel's files)",
    ),
    Option(
        "kube_api", "kube-api", "TASUKI_KUBE_API", one_of(get_args(KubeApi)),
        "auto: label the Node, keep its AcceleratorNode and send events if an API server is configured; off (auto)",
    ),
    Option(
        "follow_bindings", "follow-bindings", "TASUKI_FOLLOW_BINDINGS", one_of(get_args(FollowBindings)),
        "auto: hand out the devices that the scheduler extender chose, if we are allowed to see pods; off (auto)",
    ),
    Option(
        "pod_resources_socket", "pod-resources-socket", "TASUKI_POD_RESOURCES_SOCKET", _socket_path,
        "where the kubelet tells which container holds which device (/var/lib/kubelet/pod-resources/kubelet.sock)",
    ),
    Option(
        "pod_name", "pod-name", "TASUKI_POD_NAME", _pod_name,
        "the pod that this daemon runs in, by which it knows a kubelet's list to be whole (none)",
    ),
    Option(
        "cdi_root", "cdi-root", "TASUKI_CDI_ROOT", path,
        "where our CDI specification is written (/var/run/cdi)",
    ),
    Option(
        "sysfs_root", "sysfs-root", "TASUKI_SYSFS_ROOT", _absolute_path,
        "the tree of the kernel's files in which FPGAs are looked for (/sys)",
    ),
    Option(
        "bitstreams", "bitstreams", "TASUKI_BITSTREAMS", _absolute_path,
        "the folder of images that FPGAs can be programmed with (/var/lib/tasuki/bitstreams)",
    ),
    Option(
        "metrics_address", "metrics-address", "TASUKI_METRICS_ADDRESS", address("9422", ", or empty for no metrics"),
        "where /metrics, /readyz and /healthz are served; empty: nowhere (0.0.0.0:9422)",
        empty=(None,),
    ),
    *LOG_OPTIONS,
)  # fmt: skip

_OPTIONS: Final = (*_NVIDIA, *_TASUKI)

# Ours, but for containers; a daemon that is started in one has them too.
_HANDED_OUT: Final = frozenset({"TASUKI_GPU_MEMORY_BYTES"})
_HANDED_OUT_PREFIXES: Final = ("TASUKI_FPGA_", "TASUKI_VACCEL_")

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
        own = _own_fields(given, environ)
        check_variables(environ, [option.variable for option in _TASUKI], _is_handed_out)
        overrides = _overrides(given, environ)
    except (OptionError, ConfigError) as error:
        parser.error(str(error))
    return Settings(
        **{"node_name": socket.gethostname().strip().lower(), **own},
        disabled_xids=environ.get("DP_DISABLE_HEALTHCHECKS", ""),
        enabled_xids=environ.get("DP_ENABLE_HEALTHCHECKS", ""),
        overrides=overrides,
        notices=_notices(own, environ),
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
            option.add_to(group)
    return parser


def _add(  # noqa: PLR0913 - what argparse wants to know
    group: argparse._ArgumentGroup,
    names: Sequence[str],
    variables: Sequence[str],
    text: str,
    *,
    is_list: bool,
    is_boolean: bool,
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
    known = [name for name in parser._option_string_actions if name.startswith("--")]  # noqa: SLF001 - no other way
    # Go programs take `-mig-strategy` for `--mig-strategy`.
    return arguments(
        parser, [f"-{a}" if re.match(r"-[a-z]", a) and f"-{a.partition('=')[0]}" in known else a for a in argv]
    )


def _own_fields(given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    found = fields(_OPTIONS, given, environ)
    if "config_file" in found and "config_dir" in found:
        raise OptionError(
            "CONFIG_FILE (--config-file) and CONFIG_FILE_SRCDIR (--config-dir) are both set; "
            "keep the folder if the node's label is to choose, and the file otherwise"
        )
    return found


def _overrides(given: Mapping[str, str], environ: Mapping[str, str]) -> Overrides:
    return Overrides(**{flag.field: value for flag in FLAGS if (value := _override(flag, given, environ)) is not None})


def _override(flag: Flag, given: Mapping[str, str], environ: Mapping[str, str]) -> Any:
    if flag.names[0] in given:
        return flag.parse(given[flag.names[0]], f"--{flag.names[0]}")
    for variable in flag.variables:
        if variable in environ and flag.is_set(environ[variable]):
            return flag.parse(environ[variable], variable)
    return None


def _is_handed_out(name: str) -> bool:
    return name in _HANDED_OUT or name.startswith(_HANDED_OUT_PREFIXES)


def _notices(own: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, ...]:
    notices = [f"{name} has no effect: {why}" for name, why in _WITHOUT_EFFECT.items() if environ.get(name)]
    label = environ.get("NODE_LABEL", "")
    if label not in ("", NVIDIA_CONFIG_LABEL):
        notices.append(f"NODE_LABEL={label} has no effect: the label is always {NVIDIA_CONFIG_LABEL}")
    if own.get("cdi_feature_flags"):
        stated = ",".join(own["cdi_feature_flags"])
        notices.append(f"CDI_FEATURE_FLAGS={stated} has no effect: they are for the library that NVIDIA's plugin uses")
    return tuple(notices)
