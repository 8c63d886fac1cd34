"""The configuration file of NVIDIA's device plugin, with our additions under `tasuki:`."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from deviceplugin.config import fpga, vaccel, values
from deviceplugin.config.model import (
    AllocationPolicy,
    Config,
    DeviceIdStrategy,
    DeviceNodes,
    Flags,
    GfdFlags,
    HealthOptions,
    Imex,
    MigStrategy,
    PluginFlags,
    ResourcePattern,
    ResourcePatterns,
    SharedResource,
    Sharing,
    SharingStrategy,
    TasukiOptions,
)
from tasuki.process import document
from tasuki.process.document import Node
from tasuki.process.keys import Key, Table, described, each, fail, fields, items

SHARED_SUFFIX: Final = ".shared"


@dataclass(frozen=True, slots=True)
class _Block:
    """`sharing.timeSlicing` or `sharing.mps`.

    Attributes:
        fail_requests_greater_than_one: None if the file does not say.
    """

    fail_requests_greater_than_one: bool | None
    resources: tuple[SharedResource, ...]


def parse(text: bytes) -> Config:
    """What a file says, before flags and environment variables are laid over it by `precedence.apply`.

    Until then `flags.nvidia_dev_root` is empty where the file does not give it, and what depends on several
    settings is not checked.

    Raises:
        ConfigError: With a sentence for each problem: the line, the key's full path, its value and the remedy.
    """
    root = document.read(text)
    found = _fields(FILE, root, "") if root.value is not None else {}
    found.pop("version", None)
    return Config(**{"flags": _UNSET_FLAGS, **found})


def _fields(table: Table, node: Node, path: str) -> dict[str, Any]:
    return fields(table, FILE, node, path)


def _nested(field: str, struct: type, table: Table) -> Key:
    """A mapping that becomes a struct."""
    return Key(field, lambda node, path: struct(**_fields(table, node, path)), table=table)


def _version(node: Node, path: str) -> str:
    if node.value not in ("v1", ""):
        raise fail(node, path, f"{described(node)}; the only version is v1")
    return "v1"


def _patterns(node: Node, path: str) -> tuple[ResourcePattern, ...]:
    def one(item: Node, here: str) -> ResourcePattern:
        return ResourcePattern(**_fields(_PATTERN, item, here))

    found: tuple[ResourcePattern, ...] = each(node, path, one)
    for i, (item, here) in enumerate(items(node, path)):
        before = next((p.pattern for p in found[:i] if p.pattern in ("*", found[i].pattern)), None)
        if before is not None:
            raise fail(
                item,
                f"{here}.pattern",
                f"is {found[i].pattern!r}, but {before!r} above it already takes all of these",
            )
    return found


def _pattern(node: Node, path: str) -> str:
    text = values.string(node, path)
    if not text:
        raise fail(node, path, "is empty; '*' matches everything")
    return text


def _shared_resource(node: Node, path: str) -> SharedResource:
    """An entry; without a `rename` of its own, that is empty until the whole block is known."""
    return SharedResource(**{"rename": "", **_fields(_SHARED_RESOURCE, node, path)})


def _shared_resources(node: Node, path: str) -> tuple[SharedResource, ...]:
    found: tuple[SharedResource, ...] = each(node, path, _shared_resource)
    if not found:
        raise fail(node, path, "is an empty list; name at least one resource to share")
    for i, (item, here) in enumerate(items(node, path)):
        for earlier in found[:i]:
            _check_apart(earlier, found[i], item, here)
    return found


def _check_apart(earlier: SharedResource, entry: SharedResource, node: Node, path: str) -> None:
    """Refuse two entries that share one device whatever the machine; `resources.plan` sees the other cases."""
    if earlier.name != entry.name:
        return
    both = [earlier.devices, entry.devices]
    if "all" in both or all(isinstance(devices, int) for devices in both):
        raise fail(
            node,
            path,
            f"shares {entry.name} again; give each entry its own list of `devices`, such as [0, 1] and [2]",
        )
    lists = [devices for devices in both if isinstance(devices, tuple)]
    twice = sorted(set(lists[0]).intersection(*lists[1:])) if len(lists) > 1 else []
    if twice:
        raise fail(node, f"{path}.devices", f"has {twice[0]!r}, which an entry above shares already")


def _block(node: Node, path: str) -> _Block:
    """One way of sharing, with each entry under its final name."""
    found = _fields(_REPLICATED, node, path)
    entries: tuple[SharedResource, ...] = found["resources"]
    suffix = SHARED_SUFFIX if found.get("rename_by_default", False) else ""
    named = []
    for i, entry in enumerate(entries):
        rename = entry.rename or entry.name + suffix
        values.check_resource_name(rename, node, f"{path}.resources[{i}].rename")
        named.append(msgspec.structs.replace(entry, rename=rename))
    return _Block(found.get("fail_requests_greater_than_one"), tuple(named))


def _sharing(node: Node, path: str) -> Sharing:
    found: dict[str, _Block] = _fields(_SHARING, node, path)
    if len(found) > 1:
        raise fail(node, path, "has both timeSlicing and mps; a node shares its GPUs in one way, remove one of them")
    for strategy, block in found.items():
        stated = block.fail_requests_greater_than_one
        return Sharing(
            strategy=SharingStrategy(strategy),
            # NVIDIA's defaults: MPS has always refused such requests, time slicing never.
            fail_requests_greater_than_one=strategy == SharingStrategy.MPS if stated is None else stated,
            resources=block.resources,
        )
    return Sharing()


_UNSET_FLAGS: Final = Flags(nvidia_dev_root="")


def _flags(node: Node, path: str) -> Flags:
    return msgspec.structs.replace(_UNSET_FLAGS, **_fields(_FLAGS, node, path))


def _resources(node: Node, path: str) -> ResourcePatterns:
    """Empty lists are as good as none."""
    found = _fields(_RESOURCES, node, path)
    return ResourcePatterns(**{field: patterns for field, patterns in found.items() if patterns})


_PLUGIN: Final = Table(
    {
        "passDeviceSpecs": Key("pass_device_specs", values.boolean),
        "deviceListStrategy": Key("device_list_strategy", values.device_list_strategies),
        "deviceIDStrategy": Key("device_id_strategy", values.choice(DeviceIdStrategy)),
        "cdiAnnotationPrefix": Key("cdi_annotation_prefix", values.string),
        "nvidiaCTKPath": Key("nvidia_ctk_path", values.absolute_path),
        "containerDriverRoot": Key("container_driver_root", values.root_path),
        "sharedDevicesAllocationPolicy": Key("shared_devices_allocation_policy", values.choice(AllocationPolicy)),
    },
    folds_case=True,
)

_GFD: Final = Table(
    {
        "oneshot": Key("oneshot", values.boolean),
        "noTimestamp": Key("no_timestamp", values.boolean),
        "sleepInterval": Key("sleep_seconds", values.duration_seconds),
        "outputFile": Key("output_file", values.string),
        "machineTypeFile": Key("machine_type_file", values.string),
    },
    folds_case=True,
)

_FLAGS: Final = Table(
    {
        "migStrategy": Key("mig_strategy", values.choice(MigStrategy)),
        "failOnInitError": Key("fail_on_init_error", values.boolean),
        "mpsRoot": Key("mps_root", values.optional_path),
        "nvidiaDriverRoot": Key("nvidia_driver_root", values.root_path),
        "nvidiaDevRoot": Key("nvidia_dev_root", values.optional_path),
        "gdrcopyEnabled": Key("gdrcopy_enabled", values.boolean),
        "gdsEnabled": Key("gds_enabled", values.boolean),
        "mofedEnabled": Key("mofed_enabled", values.boolean),
        "useNodeFeatureAPI": Key("use_node_feature_api", values.boolean),
        "deviceDiscoveryStrategy": Key("device_discovery_strategy", values.discovery_strategy),
        "plugin": _nested("plugin", PluginFlags, _PLUGIN),
        "gfd": _nested("gfd", GfdFlags, _GFD),
    },
    folds_case=True,
)

# Go decodes these two, and what is under `sharing.<strategy>`, through a map, so that case matters and null is
# a value.
_PATTERN: Final = Table(
    {
        "pattern": Key("pattern", _pattern, nullable=False),
        "name": Key("name", values.resource_name, nullable=False),
    },
    required=("pattern", "name"),
)

_SHARED_RESOURCE: Final = Table(
    {
        "name": Key("name", values.resource_name, nullable=False),
        "rename": Key("rename", values.resource_name, nullable=False),
        "devices": Key("devices", values.devices, nullable=False),
        "replicas": Key("replicas", values.replicas, nullable=False),
    },
    required=("name", "replicas"),
)

_REPLICATED: Final = Table(
    {
        "renameByDefault": Key("rename_by_default", values.boolean),
        "failRequestsGreaterThanOne": Key("fail_requests_greater_than_one", values.boolean),
        "resources": Key("resources", _shared_resources, nullable=False, table=_SHARED_RESOURCE),
    },
    required=("resources",),
)

_RESOURCES: Final = Table(
    {
        "gpus": Key("gpus", _patterns, table=_PATTERN),
        "mig": Key("mig", _patterns, table=_PATTERN),
    },
    folds_case=True,
)

_SHARING: Final = Table(
    {
        "timeSlicing": Key(SharingStrategy.TIME_SLICING, _block, nullable=False, table=_REPLICATED),
        "mps": Key(SharingStrategy.MPS, _block, table=_REPLICATED),
    },
    folds_case=True,
)

_IMEX: Final = Table(
    {
        "channelIDs": Key("channel_ids", values.imex_channels),
        "required": Key("required", values.boolean),
    },
    folds_case=True,
)

_DEVICE_NODES: Final = Table(
    {
        "enabled": Key("enabled", values.boolean),
        "libraryHostPath": Key("library_host_path", values.absolute_path),
        "libraryContainerPath": Key("library_container_path", values.absolute_path),
    }
)

_HEALTH: Final = Table(
    {
        "recoverySeconds": Key("recovery_seconds", values.number(1, 604_800, or_zero=True)),
        "probeSeconds": Key("probe_seconds", values.number(1, 3_600)),
    }
)

_TASUKI: Final = Table(
    {
        "memoryCaps": Key("memory_caps", values.boolean),
        "cudaVisibleDevices": Key("cuda_visible_devices", values.boolean),
        "rescanSeconds": Key("rescan_seconds", values.number(1, 3_600)),
        "deviceNodes": _nested("device_nodes", DeviceNodes, _DEVICE_NODES),
        "health": _nested("health", HealthOptions, _HEALTH),
        "fpga": Key("fpga", fpga.options, table=fpga.TABLE),
        "vaccel": Key("vaccel", vaccel.options, table=vaccel.TABLE),
    }
)

FILE: Final = Table(
    {
        "version": Key("version", _version),
        "flags": Key("flags", _flags, table=_FLAGS),
        "resources": Key("resources", _resources, table=_RESOURCES),
        "sharing": Key("sharing", _sharing, table=_SHARING),
        "imex": _nested("imex", Imex, _IMEX),
        "tasuki": _nested("tasuki", TasukiOptions, _TASUKI),
    },
    folds_case=True,
)
