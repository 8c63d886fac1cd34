"""The seconds that a pod and those who come after it lose in an hour with certain devices of one node, by cause."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations
from typing import Final

from schedext.costs import EDGES, EXCHANGE, FRAGMENTATION, HOUR_SECONDS, PROGRAMMING, SHARING, Costs
from schedext.look import Layout, Look
from tasuki.devices.cost import EXCHANGE_BYTES, transfer_seconds
from tasuki.devices.model import Device, DeviceKind, Place
from tasuki.devices.nearest import nearest_devices
from tasuki.devices.topology import LINKS, Link, LinkKind, host_path
from tasuki.kube.names import FPGA_DOMAIN

# Between a device and the host's memory: through the root complex to the memory of one node. Which node's that is
# nobody knows beforehand; the kernel allocates next to the CPU that writes first, which the kubelet puts near the
# device if it can.
HOST_MEMORY: Final = LINKS[LinkKind.NUMA_NODE]

# Numbers of GPUs that jobs ask for, and how often: mostly powers of two. The others only break ties, in favour of
# filling up a node rather than beginning to break up one that has more left.
_JOBS: Final[Mapping[int, float]] = {job: 1.0 if job in {1, 2, 4, 8, 16} else 0.1 for job in range(1, 17)}

# So many unlike devices, or more in a few kinds of alike ones, `nearest_devices` settles within milliseconds. Beyond, a
# set is grown from a few seeds.
_MOST_UNLIKE: Final = 12
_MOST_ALIKE: Final = 16
_MOST_CLASSES: Final = 8
_MOST_SEEDS: Final = 4


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A function of the same chain that has its place on this node.

    Attributes:
        part: The index of its device in the node's layout; None if it has none, so that its data is in host memory.
    """

    part: int | None
    item_bytes: int
    items_per_second: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What the seconds of a choice depend on, beside the choice."""

    look: Look
    costs: Costs
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """Slices of one resource for a pod.

    Attributes:
        slices: By part.
        whole_free: How many whole devices were free under the resource before.
    """

    resource: str
    slices: Mapping[int, int]
    whole_free: int = 0


def seconds_of(scene: Scene, chosen: Sequence[Chosen], visible: Sequence[int] = ()) -> dict[str, float]:
    """Only of causes that count for something; `visible` are devices that are seen without being held."""
    look, costs = scene.look, scene.costs
    waits = [sharing_seconds(costs, look.occupancy.users[part]) for part in visible]
    whole: list[int] = []
    breaking = programming = 0.0
    touched = touched_gpus(look)
    for each in chosen:
        cut = replicas(look.layout, each.resource)
        own = 0
        for part in each.slices:
            if is_whole(look.layout, part, cut[part]):
                whole.append(part)
                own += 1
                waits.append(0.0)
                continue
            waits.append(_waiting(scene, part, cut[part]))
            breaking += _breaking(scene, each.resource, part, cut[part], touched)
            # The second partition of a GPU breaks up nothing any more.
            touched.add(look.layout.parts[part].physical)
            programming += programming_seconds(scene, each.resource, part)
        breaking += whole_seconds(costs, each.whole_free, own) if own else 0.0
    found = {
        EDGES: edge_seconds(scene, [*(part for each in chosen for part in each.slices), *visible]),
        PROGRAMMING: programming,
        SHARING: sum(waits) / len(waits) if waits else 0.0,
        FRAGMENTATION: breaking,
        EXCHANGE: exchange_seconds(look.layout, tuple(sorted(whole))) * costs.exchanges_per_hour if whole[1:] else 0.0,
    }
    return {cause: seconds for cause, seconds in found.items() if seconds > 0}


def slice_seconds(scene: Scene, resource: str, free: Sequence[tuple[int, int]]) -> list[float]:
    """For each of these parts, what one slice of it would cost; of whole GPUs, only what sets them apart."""
    look = scene.look
    cut = replicas(look.layout, resource)
    kind = look.layout.parts[free[0][0]].kind
    if kind is DeviceKind.GPU and not scene.neighbours:
        return _gpu_seconds(scene, [look.occupancy.users[part] if cut[part] > 1 else -1 for part, _ in free])
    touched = touched_gpus(look)
    found = []
    for part, _ in free:
        seconds = _waiting(scene, part, cut[part]) + _breaking(scene, resource, part, cut[part], touched)
        if kind is DeviceKind.FPGA:
            seconds += programming_seconds(scene, resource, part)
        found.append(seconds + edge_seconds(scene, (part,)))
    return found


def _gpu_seconds(scene: Scene, users: Sequence[int]) -> list[float]:
    """The same for GPUs by their users, -1 for those that are not shared: what is asked most, thousands of times."""
    start = scene.costs.device_wait_seconds if scene.costs.policy == "pack" else 0.0
    found = {count: sharing_seconds(scene.costs, count) if count else start for count in set(users)}
    found[-1] = 0.0
    return [found[count] for count in users]


def sharing_seconds(costs: Costs, users: int) -> float:
    """Waiting behind so many others, each of whom keeps the device busy for a part of the time."""
    busy = users * costs.duty
    return HOUR_SECONDS * busy / (1 + busy)


def whole_seconds(costs: Costs, free: int, count: int) -> float:
    """Taking so many of the free whole devices, of what the jobs wait that had room until then."""
    return costs.gpu_wait_seconds * _gpus_lost(free, count) if costs.policy == "pack" else 0.0


@lru_cache(maxsize=4096)
def _gpus_lost(free: int, count: int) -> float:
    """Of each size of job, as many as fit no longer."""
    return sum(often * job * (free // job - max(0, free - count) // job) for job, often in _JOBS.items())


def programming_seconds(scene: Scene, resource: str, part: int) -> float:
    """Spread over the pod's run; none if the region holds the function, or is being given it for others."""
    function = resource.removeprefix(f"{FPGA_DOMAIN}/")
    look = scene.look
    if look.occupancy.loaded[part] == function or look.taken(resource)[part]:
        return 0.0
    seconds = next((seconds for name, seconds in look.layout.parts[part].functions if name == function), 0.0)
    return seconds / scene.costs.run_hours


def edge_seconds(scene: Scene, parts: Sequence[int]) -> float:
    """Each neighbour's data goes to whichever of the devices it reaches soonest, or to the host's memory."""
    total = 0.0
    for neighbour in scene.neighbours:
        items = neighbour.items_per_second * HOUR_SECONDS
        there = neighbour.part
        if there is None and not parts:
            # In the host's memory, where it stays: between nodes only the network counts then.
            continue
        if there is None or not parts:
            total += items * transfer_seconds(HOST_MEMORY, neighbour.item_bytes)
        else:
            layout = scene.look.layout
            total += items * min(
                transfer_seconds(link_between(layout, part, there), neighbour.item_bytes) for part in parts
            )
    return total


def is_whole(layout: Layout, part: int, cut: int) -> bool:
    """Whether a slice of it is a whole GPU."""
    return cut == 1 and layout.parts[part].kind is DeviceKind.GPU


def touched_gpus(look: Look) -> set[int]:
    """GPUs of which somebody uses a partition; empty where there are none to be had."""
    if not _has_mig(look.layout):
        return set()
    return {part.physical for part, users in zip(look.layout.parts, look.occupancy.users, strict=True) if users}


def _waiting(scene: Scene, part: int, cut: int) -> float:
    """An FPGA's channel has hardware of its own, and what is not shared has no other users."""
    if cut == 1 or scene.look.layout.parts[part].kind is DeviceKind.FPGA:
        return 0.0
    return sharing_seconds(scene.costs, scene.look.occupancy.users[part])


def _breaking(scene: Scene, resource: str, part: int, cut: int, touched: set[int]) -> float:
    """Of what is still in one piece."""
    costs, here = scene.costs, scene.look.layout.parts[part]
    if costs.policy != "pack":
        return 0.0
    unused = not scene.look.occupancy.users[part]
    if here.kind is DeviceKind.GPU:
        return costs.device_wait_seconds if cut > 1 and unused else 0.0
    if here.kind is DeviceKind.MIG:
        return 0.0 if here.physical in touched else costs.gpu_wait_seconds
    if here.kind is DeviceKind.FPGA and unused:
        # Another pod could have had the region, and sooner so for what is loaded in it.
        loaded = scene.look.occupancy.loaded[part]
        return costs.gpu_wait_seconds * (2 if loaded and programming_seconds(scene, resource, part) else 1)
    return 0.0


# What follows depends on the layout alone. Thousands of looks share one, so it is found out once.


@lru_cache(maxsize=4096)
def replicas(layout: Layout, resource: str) -> Mapping[int, int]:
    """By part, into how many slices it is cut under the resource."""
    offer = layout.offers.get(resource)
    return dict(offer.devices) if offer else {}


@lru_cache(maxsize=4096)
def _has_mig(layout: Layout) -> bool:
    return any(part.kind is DeviceKind.MIG for part in layout.parts)


@lru_cache(maxsize=65536)
def link_between(layout: Layout, one: int, other: int) -> Link:
    """The best between two parts; without knowledge the longest path, as everywhere."""
    ends = layout.parts[one].physical, layout.parts[other].physical
    if ends[0] == ends[1]:
        return LINKS[LinkKind.SAME_DEVICE]
    way = layout.ways.get(ends)
    if way is not None:
        return Link(way.kind, way.bytes_per_second, way.latency_seconds)
    return _host_link(layout, one, other)


def _host_link(layout: Layout, one: int, other: int) -> Link:
    return LINKS[host_path(_device(layout, one), _device(layout, other))]


def _device(layout: Layout, part: int) -> Device:
    here = layout.parts[part]
    place = Place(here.numa_node, "", here.pcie_path)
    return Device(str(here.physical), here.kind, str(part), here.model, here.memory_bytes, place=place)


@lru_cache(maxsize=16384)
def exchange_seconds(layout: Layout, parts: tuple[int, ...]) -> float:
    """One exchange, in the mean over all pairs."""
    seconds = [transfer_seconds(link_between(layout, i, j), EXCHANGE_BYTES) for i, j in combinations(parts, 2)]
    return sum(seconds) / len(seconds)


@lru_cache(maxsize=16384)
def nearest_parts(layout: Layout, free: tuple[int, ...], size: int, required: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The set of whole devices whose members reach each other soonest, and that leaves the best to others."""
    if size == len(free):
        return free
    if len(free) <= _MOST_UNLIKE or (len(free) <= _MOST_ALIKE and _classes(layout, free) <= _MOST_CLASSES):
        ids = [str(part) for part in free]
        distances = {(str(i), str(j)): _distance(layout, i, j) for i, j in permutations(free, 2)}
        chosen = nearest_devices(ids, [str(part) for part in required], size, distances)
        return tuple(int(part) for part in chosen)
    return min(
        (_grown(layout, free, size, required or (seed,)) for seed in (required or free)[:_MOST_SEEDS]),
        key=lambda parts: (exchange_seconds(layout, parts) if size > 1 else 0.0, parts),
    )


def _grown(layout: Layout, free: tuple[int, ...], size: int, first: tuple[int, ...]) -> tuple[int, ...]:
    """One after the other, whoever is nearest to those before."""
    chosen = list(first)
    far = {part: sum(_distance(layout, part, each)[0] for each in chosen) for part in free if part not in first}
    while len(chosen) < size:
        part = min(far, key=lambda part: (far[part], part))
        del far[part]
        chosen.append(part)
        for other in far:
            far[other] += _distance(layout, other, part)[0]
    return tuple(sorted(chosen))


def _classes(layout: Layout, parts: tuple[int, ...]) -> int:
    """How many kinds of interchangeable ones there are among them; counting ends where the answer is too many."""
    first: list[int] = []
    for part in parts:
        if not any(_interchangeable(layout, parts, part, other) for other in first):
            first.append(part)
            if len(first) > _MOST_CLASSES:
                break
    return len(first)


def _interchangeable(layout: Layout, parts: tuple[int, ...], one: int, other: int) -> bool:
    return all(
        _distance(layout, one, each) == _distance(layout, other, each) for each in parts if each not in {one, other}
    )


@lru_cache(maxsize=65536)
def _distance(layout: Layout, one: int, other: int) -> tuple[float, float]:
    """As `tasuki.devices.cost.distance`: by the best way, then through the host."""
    best, host = link_between(layout, one, other), _host_link(layout, one, other)
    return transfer_seconds(best, EXCHANGE_BYTES), transfer_seconds(host, EXCHANGE_BYTES)
