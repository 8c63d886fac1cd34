"""A valid configuration of one node: the NVIDIA device plugin's file, and our additions under `tasuki:`."""

from enum import StrEnum
from typing import Literal

import msgspec


class ConfigError(ValueError):
    """What is given does not make a configuration.

    Attributes:
        problems: One sentence for each thing that is wrong, in the order of the file.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class MigStrategy(StrEnum):
    """How MIG devices are offered: not at all, as ordinary GPUs, or as a resource for each profile."""

    NONE = "none"
    SINGLE = "single"
    MIXED = "mixed"


class DeviceListStrategy(StrEnum):
    """By which way the list of devices reaches the container's runtime."""

    ENVVAR = "envvar"
    VOLUME_MOUNTS = "volume-mounts"
    CDI_ANNOTATIONS = "cdi-annotations"
    CDI_CRI = "cdi-cri"


class DeviceIdStrategy(StrEnum):
    """What NVIDIA_VISIBLE_DEVICES names."""

    UUID = "uuid"
    INDEX = "index"


class AllocationPolicy(StrEnum):
    """From which devices shared slices are preferred."""

    DISTRIBUTED = "distributed"
    PACKED = "packed"


class SharingStrategy(StrEnum):
    """How one device serves several containers; the value is the node label's."""

    NONE = "none"
    TIME_SLICING = "time-slicing"
    MPS = "mps"


class PluginFlags(msgspec.Struct, frozen=True, kw_only=True):
    """`flags.plugin`."""

    pass_device_specs: bool = False
    device_list_strategy: tuple[DeviceListStrategy, ...] = (DeviceListStrategy.ENVVAR,)
    device_id_strategy: DeviceIdStrategy = DeviceIdStrategy.UUID
    cdi_annotation_prefix: str = "cdi.k8s.io/"
    nvidia_ctk_path: str = "/usr/bin/nvidia-ctk"
    container_driver_root: str = "/driver-root"
    shared_devices_allocation_policy: AllocationPolicy = AllocationPolicy.DISTRIBUTED


class GfdFlags(msgspec.Struct, frozen=True, kw_only=True):
    """`flags.gfd`; `sleep_seconds` is infinity for a file that says `infinite`."""

    oneshot: bool = False
    no_timestamp: bool = False
    sleep_seconds: float = 60.0
    output_file: str = ""
    machine_type_file: str = "/sys/class/dmi/id/product_name"


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """`flags`; `nvidia_dev_root` is never empty here: it defaults to `nvidia_driver_root`."""

    mig_strategy: MigStrategy = MigStrategy.NONE
    fail_on_init_error: bool = True
    mps_root: str = ""
    nvidia_driver_root: str = "/"
    nvidia_dev_root: str = "/"
    gdrcopy_enabled: bool = False
    gds_enabled: bool = False
    mofed_enabled: bool = False
    use_node_feature_api: bool = False
    device_discovery_strategy: Literal["auto", "nvml"] = "auto"
    plugin: PluginFlags = PluginFlags()
    gfd: GfdFlags = GfdFlags()


class ResourcePattern(msgspec.Struct, frozen=True):
    """Devices whose product name or MIG profile matches `pattern` (`*` is anything) are offered as `name`.

    `name` is fully qualified: `nvidia.com/gpu`.
    """

    pattern: str
    name: str


class ResourcePatterns(msgspec.Struct, frozen=True, kw_only=True):
    """`resources`: the first match wins. No entries for `mig` means `nvidia.com/mig-<profile>`."""

    gpus: tuple[ResourcePattern, ...] = (ResourcePattern("*", "nvidia.com/gpu"),)
    mig: tuple[ResourcePattern, ...] = ()


class SharedResource(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `sharing.<strategy>.resources`.

    Attributes:
        name: The resource whose devices are shared, fully qualified.
        rename: What the shared slices are called, fully qualified; equal to `name` if not renamed.
        devices: `all`, how many of them in the driver's order, or which: indices (`0`, `0:1`) and UUIDs.
        replicas: Slices per device, at least 2.
    """

    name: str
    rename: str
    replicas: int
    devices: Literal["all"] | int | tuple[str, ...] = "all"


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """`sharing`, of which only one strategy can be set.

    Several entries may share devices of one resource in different ways, as long as no device is in two.
    """

    strategy: SharingStrategy = SharingStrategy.NONE
    fail_requests_greater_than_one: bool = False
    resources: tuple[SharedResource, ...] = ()


class Imex(msgspec.Struct, frozen=True, kw_only=True):
    """`imex`."""

    channel_ids: tuple[int, ...] = ()
    required: bool = False


class DeviceNodes(msgspec.Struct, frozen=True, kw_only=True):
    """`tasuki.deviceNodes`: for plain runc, without NVIDIA's runtime.

    Attributes:
        library_host_path: The driver's user-space libraries on the host, mounted read-only.
        library_container_path: Where they are mounted; its `lib64` is put on the loader's path.
    """

    enabled: bool = False
    library_host_path: str = "/home/kubernetes/bin/nvidia"
    library_container_path: str = "/usr/local/nvidia"


class HealthOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`tasuki.health`.

    Attributes:
        recovery_seconds: How long a device must prove itself before it is offered again; 0 means never, as
            with NVIDIA's plugin.
        probe_seconds: Time between two probes of a device on probation.
    """

    recovery_seconds: float = 0.0
    probe_seconds: float = 10.0


class TasukiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`tasuki`: what NVIDIA's file has no place for.

    Attributes:
        memory_caps: Tell the frameworks in a shared slice to keep to its share of the memory.
        cuda_visible_devices: Name the container's devices in CUDA_VISIBLE_DEVICES too, by UUID.
        rescan_seconds: Time between two scans, which find changed MIG devices and lost GPUs.
    """

    memory_caps: bool = True
    cuda_visible_devices: bool = True
    rescan_seconds: float = 30.0
    device_nodes: DeviceNodes = DeviceNodes()
    health: HealthOptions = HealthOptions()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that may change while the daemon runs."""

    flags: Flags = Flags()
    resources: ResourcePatterns = ResourcePatterns()
    sharing: Sharing = Sharing()
    imex: Imex = Imex()
    tasuki: TasukiOptions = TasukiOptions()
