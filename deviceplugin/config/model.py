"""A valid configuration of one node: the NVIDIA device plugin's file, and our additions under `tasuki:`."""

from enum import StrEnum
from typing import Final, Literal

import msgspec

from deviceplugin.fpga import Family

# The kubelet gives PreStartContainer 30 s (KubeletPreStartContainerRPCTimeoutInSecs); the rest is for checking the
# image and reading back.
PROGRAMMING_BUDGET_SECONDS: Final = 25.0


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


class FpgaImplementation(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a function's `implementations`: an image that makes a region of one kind that function.

    Attributes:
        family: Of the cards that it is for.
        interface: What a region must say that it is, canonical; empty for regions that say nothing.
        id: What a region holds once the image is in it, canonical.
        bitstream: The image's file name in the folder of bitstreams.
        channels: Into how many equal parts a region with it is cut, one slice each.
        users: How many containers may hold channels of one region at once.
        programming_seconds: How long programming is expected to take.
    """

    family: Family
    interface: str
    id: str
    bitstream: str
    programming_seconds: float
    channels: int = 1
    users: int = 1


class FpgaFunction(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `tasuki.fpga.functions`; no two implementations are for the same regions."""

    name: str
    implementations: tuple[FpgaImplementation, ...]


class PeerNames(StrEnum):
    """Whose resource names regions are also offered under."""

    NONE = "none"
    INTEL = "intel"
    AMD = "amd"
    ALL = "all"


class FpgaProgrammer(msgspec.Struct, frozen=True, kw_only=True):
    """`tasuki.fpga.programmer`: how images get into regions.

    Attributes:
        command: A program and its arguments, with `{image}` and `{pci}` in places; none for the kernel's interfaces.
        families: Which the command is for; the others are programmed by the kernel's interfaces.
        firmware_folder: Where the kernel looks for firmware, for cards that are programmed by its name.
    """

    command: tuple[str, ...] = ()
    families: tuple[Family, ...] = tuple(Family)
    firmware_folder: str = "/lib/firmware"


class FpgaPrewarm(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `tasuki.fpga.prewarm`: keep so many regions programmed with a function."""

    function: str
    regions: Literal["all"] | int = "all"


class FpgaOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`tasuki.fpga`: the catalogue of functions; each implementation's id belongs to one function only."""

    functions: tuple[FpgaFunction, ...] = ()
    peer_names: PeerNames = PeerNames.NONE
    programmer: FpgaProgrammer = FpgaProgrammer()
    prewarm: tuple[FpgaPrewarm, ...] = ()


class VaccelTransport(StrEnum):
    """How a vAccel agent is reached; the value is the address's scheme."""

    UNIX = "unix"
    TCP = "tcp"
    VSOCK = "vsock"


class VaccelAgent(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `tasuki.vaccel.agents`: a vAccel agent whose sessions are offered.

    Attributes:
        name: Unique on the node; a DNS label.
        address: As clients spell it: `unix:///run/vaccel/vaccel.sock`, `tcp://10.0.0.1:65500`, `vsock://2:2048`.
        sessions: How many at once.
        plugins: What the agent runs, for the node's labels; empty if nobody says.
        version: The agent's, for the node's labels; empty if nobody says.
    """

    name: str
    address: str
    sessions: int
    plugins: tuple[str, ...] = ()
    version: str = ""

    @property
    def transport(self) -> VaccelTransport:
        return VaccelTransport(self.address.partition("://")[0])

    @property
    def socket(self) -> str:
        """The socket's path on the host; only for `unix`."""
        return self.address.removeprefix("unix://")

    @property
    def host(self) -> str:
        """The name or address to connect to for `tcp`, without brackets; the context id for `vsock`."""
        return self.address.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """For `tcp` and `vsock`."""
        return int(self.address.rpartition(":")[2])


class VaccelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`tasuki.vaccel`; agents have different names and addresses."""

    agents: tuple[VaccelAgent, ...] = ()


class TasukiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`tasuki`: what NVIDIA's file has no place for.

    Attributes:
        memory_caps: Tell the frameworks in a shared slice to keep to its share of the memory.
        cuda_visible_devices: Name the container's devices in CUDA_VISIBLE_DEVICES too, by UUID.
        rescan_seconds: Time between two scans, which find changed MIG devices and lost devices.
    """

    memory_caps: bool = True
    cuda_visible_devices: bool = True
    rescan_seconds: float = 30.0
    device_nodes: DeviceNodes = DeviceNodes()
    health: HealthOptions = HealthOptions()
    fpga: FpgaOptions = FpgaOptions()
    vaccel: VaccelOptions = VaccelOptions()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that may change while the daemon runs."""

    flags: Flags = Flags()
    resources: ResourcePatterns = ResourcePatterns()
    sharing: Sharing = Sharing()
    imex: Imex = Imex()
    tasuki: TasukiOptions = TasukiOptions()
