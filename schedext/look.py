"""What placing a pod looks at on one node, ids aside: nodes that look alike are decided alike, and only once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tasuki.devices.model import DeviceKind
from tasuki.devices.topology import LinkKind


@dataclass(frozen=True, slots=True)
class Part:
    """A device without its id.

    Attributes:
        physical: The index of the whole device that a partition is cut from; its own if it is whole or the whole is
            not listed. FPGA regions of one card share it.
        pcie_path: From the root complex down to the device; a partition's is its parent's. Empty if unknown.
        functions: What it could be programmed with, and the seconds that this takes; sorted by name.
        watts: The most that it may draw; 0 if unknown. A partition's is its share of its parent's.
    """

    kind: DeviceKind
    model: str
    memory_bytes: int
    physical: int
    numa_node: int | None = None
    pcie_path: tuple[str, ...] = ()
    profile: str = ""
    functions: tuple[tuple[str, float], ...] = ()
    watts: float = 0.0


@dataclass(frozen=True, slots=True)
class Offer:
    """One extended resource of a node.

    Attributes:
        devices: Indices into the layout's parts, ascending, with how many slices each is cut into. None where all that
            it could be of is FPGA regions that are held, or programmed, as something else at the moment.
        one_per_request: A container may ask for one slice at most.
        cut_down: Those of the devices that may list less than they are cut into, while somebody holds them.
    """

    resource: str
    devices: tuple[tuple[int, int], ...]
    one_per_request: bool = False
    cut_down: tuple[int, ...] = ()

    @property
    def slices(self) -> int:
        return sum(replicas for _, replicas in self.devices)


@dataclass(frozen=True, slots=True)
class WayBetween:
    """How two whole devices reach each other best."""

    kind: LinkKind
    bytes_per_second: float
    latency_seconds: float


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Layout:
    """A node's hardware and how it is offered; one object for all nodes that are built and configured alike.

    Attributes:
        parts: In the order in which the node publishes its devices.
        offers: By resource; also those that the node would offer with other functions in its FPGAs.
        ways: By two different indices of whole devices, both ways round; a missing pair has the longest path of the
            host between.
    """

    parts: tuple[Part, ...] = ()
    offers: Mapping[str, Offer] = field(default_factory=dict)
    ways: Mapping[tuple[int, int], WayBetween] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How a layout's devices are at the moment; every tuple is in the order of its parts.

    Attributes:
        healthy: Whether the device may be handed out.
        loaded: The function in a reprogrammable device, by the catalogue's name; empty for none of them.
        taken: Slices in use or promised, by resource; only of resources with any.
        floating: Slices by resource that are in use on devices nobody knows (yet); sorted, without zeros.
        users: How many pods hold a part of the device.
        promised_bytes: Of the device's memory: what its pods declared they need, and for those who did not say, the
            device's equal share for each slice.
    """

    healthy: tuple[bool, ...] = ()
    loaded: tuple[str, ...] = ()
    taken: tuple[tuple[str, tuple[int, ...]], ...] = ()
    floating: tuple[tuple[str, int], ...] = ()
    users: tuple[int, ...] = ()
    promised_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Look:
    """A layout and its occupancy; equal ones are the same object (see `Looks`), so that it can be a key at no cost.

    Attributes:
        trouble: Why the node's devices are not being offered at all at the moment; empty if they are.
    """

    layout: Layout
    occupancy: Occupancy
    trouble: str = ""

    def taken(self, resource: str) -> tuple[int, ...]:
        """Slices in use or promised, for each part."""
        for name, taken in self.occupancy.taken:
            if name == resource:
                return taken
        return (0,) * len(self.layout.parts)

    def floating(self, resource: str) -> int:
        return next((count for name, count in self.occupancy.floating if name == resource), 0)


# Of a node that publishes nothing.
EMPTY_LAYOUT: Final = Layout()
