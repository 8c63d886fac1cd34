"""Devices, and the slices in which the kubelet hands them out."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class DeviceKind(StrEnum):
    """What a device is; the value is what AcceleratorNode publishes."""

    GPU = "gpu"
    MIG = "mig"
    FPGA = "fpga"
    VACCEL = "vaccel"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a device may be handed out, and the reason why not."""

    healthy: bool
    reason: str = ""

    def __str__(self) -> str:
        return "healthy" if self.healthy else f"unhealthy: {self.reason}"


HEALTHY: Final = Health(healthy=True)


def unhealthy(reason: str) -> Health:
    return Health(healthy=False, reason=reason)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the machine a device sits.

    Attributes:
        numa_node: The memory node next to it; None where the firmware does not say.
        pci_address: `domain:bus:device.function`, lower case, four-digit domain; empty if not on PCI.
        pcie_path: Names from the root complex down to the device itself, as in sysfs:
            `("pci0000:00", "0000:00:01.0", "0000:01:00.0", "0000:07:00.0")`. Two devices are as near as the
            prefix that they share is long.
    """

    numa_node: int | None = None
    pci_address: str = ""
    pcie_path: tuple[str, ...] = ()

    @property
    def pcie_root(self) -> str:
        """The root complex, spelled as Kubernetes' DRA attribute `pcieRoot` spells it; empty if unknown."""
        return self.pcie_path[0] if self.pcie_path else ""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or one hardware partition of it.

    Attributes:
        id: The driver's own stable name: `GPU-<uuid>`, `MIG-<uuid>`.
        index: The driver's enumeration: `0` for a GPU, `0:1` for a partition of it.
        model: The product name as the driver spells it.
        parent: The id of the physical device that a partition is cut from; None for a whole one.
        profile: The partition's profile, for example `1g.5gb`; empty for a whole device.
        power_limit_watts: The most that it may draw, as it is set now; 0 if unknown, and for a partition.
    """

    id: str
    kind: DeviceKind
    index: str
    model: str
    memory_bytes: int
    health: Health = HEALTHY
    place: Place = Place()
    parent: str | None = None
    profile: str = ""
    power_limit_watts: float = 0.0

    @property
    def physical(self) -> str:
        """The id of the physical device, whose faults this one shares."""
        return self.parent or self.id


def index_order(device: Device) -> tuple[int, ...]:
    """Sort key: the driver's order, `10` after `9`, `0:2` between `0:1` and `1`."""
    return tuple(int(part) for part in device.index.split(":"))


@dataclass(frozen=True, slots=True)
class Slice:
    """The unit that a container holds: a whole device, or one of its equal timeshares.

    Attributes:
        id: The name under which the kubelet knows it: the device's id, with `::<replica>` if shared. It is
            spelled once, here, and never parsed again.
        replicas: How many slices share the device; 1 means that the slice is the device.
    """

    id: str
    device: Device
    replica: int = 0
    replicas: int = 1


def slices_of(device: Device, replicas: int | None) -> tuple[Slice, ...]:
    """Cut a device into its slices; None leaves it whole.

    The spelling is NVIDIA's device plugin's, so that exporters and operators recognise it
    (internal/rm/devices.go, NewAnnotatedID).
    """
    if replicas is None:
        return (Slice(device.id, device),)
    return tuple(Slice(f"{device.id}::{n}", device, n, replicas) for n in range(replicas))


def device_id_of(slice_id: str) -> str:
    """The id of the device that a slice is cut from, for those who know a slice by its id alone: see `slices_of`."""
    return slice_id.partition("::")[0]
