"""What a node publishes of its devices, read into layouts and looks of which equal ones are one object."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from sys import intern
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from schedext.ledger import Condition, Entry
from schedext.look import Layout, Look, Occupancy, Offer, Part, WayBetween
from tasuki.devices.model import DeviceKind, device_id_of
from tasuki.devices.topology import LinkKind
from tasuki.kube import collection
from tasuki.kube.accelerator_node import READY
from tasuki.kube.names import FPGA_DOMAIN

# For a pod's events, which are cut at 1024 bytes.
_MOST_TROUBLE: Final = 200
_KINDS: Final = {kind.value: kind for kind in DeviceKind}
_LINK_KINDS: Final = {kind.value: kind for kind in LinkKind}


class ConditionFound(msgspec.Struct, frozen=True, kw_only=True):
    type: str = ""
    status: str = ""
    message: str = ""


class FunctionFound(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    programming_seconds: float = 0.0


class DeviceFound(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    kind: str
    model: str = ""
    memory_bytes: int = 0
    healthy: bool = True
    numa_node: int | None = None
    pci_address: str = ""
    pcie_path: tuple[str, ...] = ()
    parent: str = ""
    profile: str = ""
    function: str = ""
    functions: tuple[FunctionFound, ...] = ()
    claimed: bool = False
    power_limit_watts: float = 0.0

    @property
    def card(self) -> str:
        """What the regions of one FPGA card have in common; empty for whole devices."""
        return self.parent or (self.pci_address if self.kind == DeviceKind.FPGA else "")


class PairFound(msgspec.Struct, frozen=True, kw_only=True, rename={"origin": "from", "target": "to"}):
    origin: str
    target: str


class LinkFound(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    kind: str = ""
    bytes_per_second: float
    latency_seconds: float = 0.0
    pairs: tuple[PairFound, ...] = ()


class DeviceSlicesFound(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    replicas: int
    held: int = 0


class HolderFound(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    pod: str
    container: str
    count: int = 0
    slices: tuple[str, ...] = ()


class ResourceFound(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    one_per_request: bool = False
    devices: tuple[DeviceSlicesFound, ...] = ()
    holders: tuple[HolderFound, ...] = ()


class StatusFound(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    devices: tuple[DeviceFound, ...] = ()
    links: tuple[LinkFound, ...] = ()
    resources: tuple[ResourceFound, ...] = ()
    conditions: tuple[ConditionFound, ...] = ()


class AcceleratorNodeFound(msgspec.Struct, frozen=True, kw_only=True):
    """What placing needs of an AcceleratorNode; what a later version adds to it does no harm."""

    metadata: collection.Metadata = collection.Metadata()
    status: StatusFound | None = None


# A pod's namespace and name, as the kubelet tells them.
PodName = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Accelerators:
    """What one node's devices are, and who holds them by the kubelet's word.

    Attributes:
        device_ids: Of the layout's parts, in their order.
        entries: In the order in which the node publishes them.
        trouble: Why they are not being offered; empty if they are.
    """

    layout: Layout
    device_ids: tuple[str, ...]
    condition: Condition = field(default_factory=Condition)
    entries: Mapping[PodName, tuple[Entry, ...]] = field(default_factory=dict)
    trouble: str = ""


class Layouts:
    """Makes equal layouts one object, for as long as anybody holds one."""

    def __init__(self) -> None:
        self._layouts: Final = WeakValueDictionary[tuple[object, ...], Layout]()

    def accelerators(self, found: AcceleratorNodeFound) -> Accelerators | None:
        """What is kept of an AcceleratorNode; None if it says nothing.

        Devices of kinds that are not known here are left out, and so are resources that have no others, but for those
        that FPGA regions could serve again.
        """
        status = found.status
        if status is None:
            return None
        devices = [*{each.id: each for each in status.devices if each.kind in _KINDS}.values()]
        indices = {each.id: index for index, each in enumerate(devices)}
        parts = tuple(_parts(devices, indices))
        offers = tuple(_offers(status, devices, indices))
        ways = tuple(_ways(status, indices))
        layout = self._layouts.get((parts, offers, ways))
        if layout is None:
            layout = Layout(parts, {offer.resource: offer for offer in offers}, dict(ways))
            self._layouts[parts, offers, ways] = layout
        return Accelerators(
            layout=layout,
            device_ids=tuple(intern(each.id) for each in devices),
            condition=Condition(
                healthy=tuple(each.healthy for each in devices),
                loaded=tuple(intern(each.function) for each in devices),
                unlisted=_unlisted(status, indices),
            ),
            entries=_entries(status, indices),
            trouble=_trouble(status),
        )


class Looks:
    """Makes equal looks one object, for as long as anybody holds one."""

    def __init__(self) -> None:
        self._looks: Final = WeakValueDictionary[tuple[object, ...], Look]()

    def look(self, layout: Layout, occupancy: Occupancy, trouble: str = "") -> Look:
        key = layout, occupancy, trouble
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = Look(layout, occupancy, trouble)
        return look


def _parts(devices: list[DeviceFound], indices: Mapping[str, int]) -> Iterator[Part]:
    first_of: dict[str, int] = {}
    for index, each in enumerate(devices):
        parent = devices[indices[each.parent]] if each.parent in indices else each
        if parent is not each:
            physical = indices[each.parent]
        else:
            physical = first_of.setdefault(each.card, index) if each.card else index
        yield Part(
            kind=_KINDS[each.kind],
            model=intern(each.model),
            memory_bytes=each.memory_bytes,
            physical=physical,
            numa_node=parent.numa_node,
            pcie_path=tuple(map(intern, parent.pcie_path)),
            profile=intern(each.profile),
            functions=tuple(sorted((intern(f.name), f.programming_seconds) for f in each.functions)),
            watts=_watts(each, parent),
        )


def _watts(device: DeviceFound, parent: DeviceFound) -> float:
    """A partition's share of the memory is taken for its share of the power."""
    if parent is device or parent.memory_bytes <= 0:
        return device.power_limit_watts
    return parent.power_limit_watts * device.memory_bytes / parent.memory_bytes


def _offers(status: StatusFound, devices: list[DeviceFound], indices: Mapping[str, int]) -> Iterator[Offer]:
    regions = [each for each in devices if each.kind == DeviceKind.FPGA]
    claimed = {indices[each.id] for each in regions if each.claimed}
    found = {f"{FPGA_DOMAIN}/{function.name}": Offer("", ()) for region in regions for function in region.functions}
    for resource in status.resources:
        cut = {indices[each.device]: each.replicas for each in resource.devices if each.device in indices}
        parts = tuple(sorted((index, replicas) for index, replicas in cut.items() if replicas > 0))
        # What is offered no longer is listed only while it is held; what is listed otherwise will have regions again.
        if parts or (regions and not resource.devices and not resource.holders):
            cut_down = tuple(index for index, _ in parts if index in claimed)
            found[resource.name] = Offer("", parts, resource.one_per_request, cut_down)
    for name in sorted(found):
        yield replace(found[name], resource=intern(name))


def _ways(status: StatusFound, indices: Mapping[str, int]) -> Iterator[tuple[tuple[int, int], WayBetween]]:
    for link in status.links:
        # Kinds that later versions add are taken for the longest, at the speed that is published.
        kind = _LINK_KINDS.get(link.kind, LinkKind.SOCKETS)
        way = WayBetween(kind, float(link.bytes_per_second), link.latency_seconds)
        for pair in link.pairs:
            one, other = indices.get(pair.origin), indices.get(pair.target)
            if one is not None and other is not None and one != other:
                yield (one, other), way
                yield (other, one), way


def _entries(status: StatusFound, indices: Mapping[str, int]) -> Mapping[PodName, tuple[Entry, ...]]:
    entries: defaultdict[PodName, tuple[Entry, ...]] = defaultdict(tuple)
    for resource in status.resources:
        for holder in resource.holders:
            listed = Counter(indices.get(device_id_of(each), -1) for each in holder.slices)
            listed.pop(-1, None)
            entry = Entry(
                container=intern(holder.container),
                resource=intern(resource.name),
                parts=tuple(sorted(listed.items())),
                unlisted=max(0, holder.count - len(holder.slices)),
                mark=hash(holder.slices),
            )
            entries[intern(holder.namespace), holder.pod] += (entry,)
    return dict(entries)


def _unlisted(status: StatusFound, indices: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for resource in status.resources:
        if all(holder.count <= len(holder.slices) for holder in resource.holders):
            continue
        left = [0] * len(indices)
        for each in resource.devices:
            if each.device in indices:
                left[indices[each.device]] += each.held
        # A set: two holders may name the same slice, and `held` counts it once.
        for slice_id in {each for holder in resource.holders for each in holder.slices}:
            if (index := indices.get(device_id_of(slice_id))) is not None:
                left[index] -= 1
        found[intern(resource.name)] = tuple(max(0, each) for each in left)
    return found


def _trouble(status: StatusFound) -> str:
    for each in status.conditions:
        if each.type == READY and each.status == "False":
            said = " ".join(each.message.split()) or "it is not ready"
            said = said if len(said) <= _MOST_TROUBLE else f"{said[: _MOST_TROUBLE - 1]}…"
            return f"its device plugin says: {said}"
    return ""
