"""A file and what the command line and the environment lay over it, as one checked configuration."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from deviceplugin.config import file
from deviceplugin.config.model import (
    AllocationPolicy,
    Config,
    DeviceIdStrategy,
    DeviceListStrategy,
    MigStrategy,
    PluginFlags,
    SharingStrategy,
)
from deviceplugin.config.values import is_subdomain
from tasuki.process.document import ConfigError
from tasuki.process.sentences import shown


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line and the environment say, captured once at start; None is said by neither.

    The fields are those of `Flags`, `PluginFlags` and `GfdFlags`, and of `Imex` with `imex_` in front.
    """

    mig_strategy: MigStrategy | None = None
    fail_on_init_error: bool | None = None
    mps_root: str | None = None
    nvidia_driver_root: str | None = None
    nvidia_dev_root: str | None = None
    gdrcopy_enabled: bool | None = None
    gds_enabled: bool | None = None
    mofed_enabled: bool | None = None
    use_node_feature_api: bool | None = None
    device_discovery_strategy: Literal["auto", "nvml"] | None = None

    pass_device_specs: bool | None = None
    device_list_strategy: tuple[DeviceListStrategy, ...] | None = None
    device_id_strategy: DeviceIdStrategy | None = None
    cdi_annotation_prefix: str | None = None
    nvidia_ctk_path: str | None = None
    container_driver_root: str | None = None
    shared_devices_allocation_policy: AllocationPolicy | None = None

    oneshot: bool | None = None
    no_timestamp: bool | None = None
    sleep_seconds: float | None = None
    output_file: str | None = None
    machine_type_file: str | None = None

    imex_channel_ids: tuple[int, ...] | None = None
    imex_required: bool | None = None


def load(text: bytes, overrides: Overrides) -> Config:
    """The configuration that a file and the overrides make together.

    Raises:
        ConfigError: They do not make one.
    """
    return apply(file.parse(text), overrides)


def apply(stated: Config, overrides: Overrides) -> Config:
    """Lay the overrides over what a file states, and check what depends on several settings.

    Raises:
        ConfigError: The settings contradict each other.
    """
    said: Mapping[str, Any] = {
        field: value for field, value in msgspec.structs.asdict(overrides).items() if value is not None
    }
    flags = _overlaid(
        msgspec.structs.replace(
            stated.flags,
            plugin=_overlaid(stated.flags.plugin, said),
            gfd=_overlaid(stated.flags.gfd, said),
        ),
        said,
    )
    if not flags.nvidia_dev_root:
        flags = msgspec.structs.replace(flags, nvidia_dev_root=flags.nvidia_driver_root)
    imex = _overlaid(stated.imex, {f.removeprefix("imex_"): v for f, v in said.items() if f.startswith("imex_")})
    config = msgspec.structs.replace(stated, flags=flags, imex=imex)
    _check(config)
    return config


def notices(config: Config) -> tuple[str, ...]:
    """Sentences on what a good configuration still asks of the operator."""
    if config.sharing.strategy is not SharingStrategy.MPS:
        return ()
    root = config.flags.mps_root
    return (
        f"sharing.mps needs NVIDIA's MPS control daemon on this node, with its files under {root}; Tasuki starts none",
    )


def _overlaid(struct: Any, said: Mapping[str, Any]) -> Any:
    fields = {field: said[field] for field in type(struct).__struct_fields__ if field in said}
    return msgspec.structs.replace(struct, **fields)


def _check(config: Config) -> None:
    flags, problems = config.flags, []
    if config.sharing.strategy is SharingStrategy.MPS:
        if flags.mig_strategy is MigStrategy.MIXED:
            problems.append(
                "sharing.mps is set and the MIG strategy is mixed; MPS cannot share MIG devices, "
                "use sharing.timeSlicing or another strategy"
            )
        if not flags.mps_root:
            problems.append(
                "sharing.mps is set and no MPS root is; give the folder of the MPS control daemons as "
                "flags.mpsRoot, --mps-root or MPS_ROOT"
            )
    if DeviceListStrategy.CDI_ANNOTATIONS in flags.plugin.device_list_strategy:
        problems.extend(_annotation_prefix_problems(flags.plugin))
    if problems:
        raise ConfigError(*problems)


def _annotation_prefix_problems(plugin: PluginFlags) -> list[str]:
    """The prefix and what follows it must make an annotation's key."""
    domain, slash, rest = plugin.cdi_annotation_prefix.partition("/")
    if slash and is_subdomain(domain) and (not rest or is_subdomain(rest.rstrip("-._"))):
        return []
    stated = shown(plugin.cdi_annotation_prefix)
    return [f"the CDI annotation prefix is {stated}; it must be a domain and a slash, such as 'cdi.k8s.io/'"]
