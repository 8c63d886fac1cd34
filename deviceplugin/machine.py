"""What one scan finds: the GPUs of a machine, as the driver tells of them."""

from dataclasses import dataclass, field

from tasuki.devices.model import Device
from tasuki.devices.topology import Topology


@dataclass(frozen=True, slots=True)
class MigAttributes:
    """What a MIG instance has of its GPU (NVML's device attributes)."""

    multiprocessors: int
    gpu_instance_slices: int
    compute_instance_slices: int
    copy_engines: int
    decoders: int
    encoders: int
    jpeg_engines: int
    ofa_engines: int


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A MIG device: one compute instance within one GPU instance.

    Attributes:
        device: `id` is `MIG-<uuid>`, `index` is `<gpu>:<n>`, `parent` the GPU, `profile` for example `1g.5gb`
            or `1c.2g.10gb`.
        gi: NVML's GPU instance id.
        ci: NVML's compute instance id.
        capability_minors: Minor numbers of the /dev/nvidia-caps nodes that give access to the GPU instance and
            to the compute instance, in this order; None where the driver does not say.
    """

    device: Device
    gi: int
    ci: int
    capability_minors: tuple[int, int] | None
    attributes: MigAttributes


@dataclass(frozen=True, slots=True)
class Gpu:
    """A physical GPU.

    Attributes:
        minor: The number in /dev/nvidia<minor>.
        fabric_clique: `<cluster uuid>.<clique id>` of a GPU in an NVLink fabric; empty otherwise.
        mig: In NVML's order; empty while MIG is off.
    """

    device: Device
    minor: int
    compute_capability: tuple[int, int]
    mig_capable: bool = False
    mig_enabled: bool = False
    mig: tuple[MigInstance, ...] = ()
    fabric_clique: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs of one machine at one moment.

    Attributes:
        driver_version: As the driver spells it, `580.95.05`; empty without a driver.
        cuda_version: The newest CUDA that the driver supports, (major, minor).
        gpus: In NVML's order.
        product: The machine's product name (DMI); empty if unknown.
        unreadable: One sentence for each GPU that the driver counts but that does not answer, so that nothing
            more is known of it.
    """

    driver_version: str = ""
    cuda_version: tuple[int, int] = (0, 0)
    gpus: tuple[Gpu, ...] = ()
    topology: Topology = field(default_factory=Topology)
    product: str = ""
    unreadable: tuple[str, ...] = ()
