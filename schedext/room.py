"""Whether a node's devices have room for a pod, and the reason if they have not; read `room_for` first.

What is called one device for `tasuki.dev/spread` and `tasuki.dev/pack` is the part, but for MIG partitions the GPU that
they are cut from: who spreads wants faults and memory bandwidth apart, which partitions of one GPU share, at least a
fall off the bus; who packs several partitions can only mean the GPU, as an unshared partition is one slice.

Slices in use on unknown devices are where they hurt most: there is room only if there is room wherever they are. They
count for their own resource.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Final

from schedext.demand import Shape
from schedext.look import Layout, Look, Occupancy, Offer, Part
from schedext.placement import Refusal
from tasuki.devices.model import DeviceKind
from tasuki.kube.names import FPGA_DOMAIN
from tasuki.kube.quantity import written

_GPUS: Final = frozenset({DeviceKind.GPU, DeviceKind.MIG})
_FUNCTIONS: Final = f"{FPGA_DOMAIN}/"
_GI: Final = 2**30
_MI: Final = 2**20

# Attempts at dividing regions among functions; each takes microseconds. Nodes have few regions that differ.
_MAX_STEPS: Final = 500


@dataclass(frozen=True, slots=True)
class Room:
    """Where the slices of one resource that a pod wants may come from.

    Attributes:
        count: How many it wants.
        free: Parts that suit, in their order, with how many slices are free on each, at least one.
        floating: How many slices beyond what is known are in use, nobody knows where.
    """

    resource: str
    count: int
    free: tuple[tuple[int, int], ...]
    floating: int = 0


def room_for(shape: Shape, look: Look) -> tuple[Room, ...] | Refusal:
    """For each of the shape's resources, in their order."""
    never = _never(shape, look.layout)
    if never is not None:
        return never
    if look.trouble:
        return Refusal(look.trouble, never=False)
    rooms = _rooms(shape, look)
    if fits(shape, look.layout, rooms):
        return rooms
    return Refusal(_why_not(shape, look, rooms), never=False)


def visible_gpus(shape: Shape, look: Look) -> tuple[int, ...] | Refusal:
    """The GPUs that a pod could see on a node that pods share, in their order: at least as many as it is to see.

    Fewer will not do, as a pod that names more GPUs than there are does not start.
    """
    cut_up = {part.physical for part in look.layout.parts if part.kind is DeviceKind.MIG}
    whole = [d for d, part in enumerate(look.layout.parts) if part.kind is DeviceKind.GPU and d not in cut_up]
    gpus = [d for d in whole if shape.memory_bytes <= look.layout.parts[d].memory_bytes]
    asked = max(1, shape.visible_gpus)
    memory = f" with {_bytes(shape.memory_bytes)} of memory" if shape.memory_bytes else ""
    if len(gpus) < asked:
        return Refusal(f"is to see {_gpus(asked)}{memory}, it has {len(gpus) or 'none'}", never=True)
    if look.trouble:
        return Refusal(look.trouble, never=False)
    healthy = [d for d in gpus if look.occupancy.healthy[d]]
    well = tuple(d for d in healthy if shape.memory_bytes <= memory_left(look, d, replicas=2))
    if len(well) >= asked:
        return well
    if len(healthy) >= asked:
        return Refusal(f"is to see {_gpus(asked)}{memory} left, {_have(len(well))} that much", never=False)
    return Refusal(f"is to see {_gpus(asked)}{memory}, {_are(len(healthy))} healthy", never=False)


def fits(shape: Shape, layout: Layout, rooms: tuple[Room, ...]) -> bool:
    """Whether every room is large enough, with each FPGA region in at most one of them."""
    if not all(is_enough(shape, layout, room) for room in rooms):
        return False
    return len(rooms) == 1 or not compete(layout, rooms) or divided(shape, layout, rooms) is not None


def is_enough(shape: Shape, layout: Layout, room: Room) -> bool:
    """Whether one room is large enough by itself."""
    if shape.spread:
        return _on_distinct(layout, room) >= room.count
    if shape.pack:
        per_device = _per_device(layout, room)
        # What it takes to leave no device with enough.
        return sum(free - room.count + 1 for free in per_device if free >= room.count) > room.floating
    return sum(free for _, free in room.free) - room.floating >= room.count


def device_of(layout: Layout, part: int) -> int:
    """What counts as one device when slices are spread or packed; see above."""
    here = layout.parts[part]
    return here.physical if here.kind is DeviceKind.MIG else part


def is_fpga(layout: Layout, room: Room) -> bool:
    """Whether it is of regions, each of which serves one resource at a time."""
    return bool(room.free) and layout.parts[room.free[0][0]].kind is DeviceKind.FPGA


def without(room: Room, parts: frozenset[int]) -> Room:
    return replace(room, free=tuple(pair for pair in room.free if pair[0] not in parts))


def divided(shape: Shape, layout: Layout, rooms: tuple[Room, ...]) -> tuple[Room, ...] | None:
    """The rooms with every FPGA region in one of them only; None if they are too few (or too unlike to find out)."""
    contested = {k: room for k, room in enumerate(rooms) if is_fpga(layout, room)}
    division = _Division(shape, contested)
    if not division.found(0, -1):
        return None
    given = division.given
    return tuple(
        replace(room, free=tuple(pair for pair in room.free if given.get(pair[0]) == k)) if k in contested else room
        for k, room in enumerate(rooms)
    )


class _Division:
    """Gives region after region to a function that still lacks room; more room never hurts, so that is no loss.

    What a region adds to a room is a number, and so is what the room needs. With slices in use on unknown regions and
    `spread` that is on the safe side: each of them is taken to spoil a region.
    """

    def __init__(self, shape: Shape, rooms: Mapping[int, Room]) -> None:
        self.given: dict[int, int] = {}
        self._lacks = {k: _needed(shape, room) for k, room in rooms.items()}
        adds = {k: {part: _added(shape, room, free) for part, free in room.free} for k, room in rooms.items()}
        alike = {part: tuple(add.get(part, 0) for add in adds.values()) for add in adds.values() for part in add}
        # Those that are alike stand together, so that giving one or the other is tried once.
        self._regions = sorted(alike, key=lambda part: (alike[part], part))
        self._as_before = [n > 0 and alike[part] == alike[self._regions[n - 1]] for n, part in enumerate(self._regions)]
        self._adds = [{k: add[part] for k, add in adds.items() if add.get(part)} for part in self._regions]
        self._rest = {k: [*accumulate((add.get(k, 0) for add in reversed(self._adds)), initial=0)][::-1] for k in adds}
        self._steps = 0

    def found(self, n: int, before: int) -> bool:
        """Decide on region n and those that follow; `before` is the room that region n - 1 went to."""
        self._steps += 1
        lacking = [k for k, lack in self._lacks.items() if lack > 0]
        if not lacking:
            return True
        if self._steps > _MAX_STEPS or any(self._rest[k][n] < self._lacks[k] for k in lacking):
            return False
        part, adds = self._regions[n], self._adds[n]
        takers = [k for k in lacking if k in adds and (k >= before or not self._as_before[n])]
        for k in takers:
            self.given[part] = k
            self._lacks[k] -= adds[k]
            if self.found(n + 1, k):
                return True
            self._lacks[k] += adds[k]
            del self.given[part]
        return not takers and self.found(n + 1, before)


def _needed(shape: Shape, room: Room) -> int:
    return room.floating + (1 if shape.pack else room.count)


def _added(shape: Shape, room: Room, free: int) -> int:
    """To what is needed, by a region of its own."""
    if shape.spread:
        return 1
    return max(0, free - room.count + 1) if shape.pack else free


def compete(layout: Layout, rooms: tuple[Room, ...]) -> bool:
    """Whether two of them may want the same FPGA region."""
    parts = [part for room in rooms if is_fpga(layout, room) for part, _ in room.free]
    return len(parts) != len(set(parts))


def _on_distinct(layout: Layout, room: Room) -> int:
    """On how many devices there is at least one slice, wherever the floating ones are."""
    per_device = sorted(_per_device(layout, room))
    left = room.floating
    for gone, free in enumerate(per_device):
        left -= free
        if left < 0:
            return len(per_device) - gone
    return 0


def _rooms(shape: Shape, look: Look) -> tuple[Room, ...]:
    rooms = (_room(look, resource, count) for resource, count in shape.counts)
    return tuple(_with_memory(look, room, shape.memory_bytes) for room in rooms)


def _room(look: Look, resource: str, count: int) -> Room:
    """Whatever memory is left."""
    layout, healthy = look.layout, look.occupancy.healthy
    offer = layout.offers.get(resource)
    if offer is None or not offer.devices:
        return Room(resource, count, ())
    taken = look.taken(resource)
    elsewhere = _in_use_as_another(look, resource)
    free = tuple([(d, n - taken[d]) for d, n in offer.devices if taken[d] < n and healthy[d] and d not in elsewhere])
    return Room(resource, count, free, look.floating(resource))


def _with_memory(look: Look, room: Room, memory_bytes: int) -> Room:
    """What is left of it where every user needs memory; 0 is said by those who take an equal share for each slice."""
    layout = look.layout
    if not room.free or layout.parts[room.free[0][0]].kind not in _GPUS:
        return room
    cut = dict(layout.offers[room.resource].devices)
    if memory_bytes:
        return replace(room, free=tuple([(d, n) for d, n in room.free if memory_bytes <= memory_left(look, d, cut[d])]))
    shares = [min(n, _shares_left(look, d, cut[d])) for d, n in room.free]
    if all(left == n for left, (_, n) in zip(shares, room.free, strict=True)):
        return room
    return replace(room, free=tuple([(d, left) for left, (d, _) in zip(shares, room.free, strict=True) if left]))


def _in_use_as_another(look: Look, resource: str) -> Collection[int]:
    """An FPGA region holds one function; of any other device, perhaps all is in use as it was configured earlier."""
    others = [taken for name, taken in look.occupancy.taken if name != resource]
    return {d for taken in others for d, slices in enumerate(taken) if slices} if others else ()


def _shares_left(look: Look, part: int, replicas: int) -> int:
    """How many equal shares of its memory a device has left: what a slice gets whose pod does not say what it needs."""
    share = look.layout.parts[part].memory_bytes // replicas
    return memory_left(look, part, replicas) // share if share else replicas


def memory_left(look: Look, part: int, replicas: int) -> int:
    """What a shared device's other users leave; a device that is not shared is its only user's."""
    memory = look.layout.parts[part].memory_bytes
    return max(0, memory - look.occupancy.promised_bytes[part]) if replicas > 1 else memory


def _per_device(layout: Layout, room: Room) -> list[int]:
    frees: dict[int, int] = {}
    for part, free in room.free:
        device = device_of(layout, part)
        frees[device] = frees.get(device, 0) + free
    return list(frees.values())


# What could ever be.


@lru_cache(maxsize=8192)
def _never(shape: Shape, layout: Layout) -> Refusal | None:
    """Why not even with all devices healthy and free; None if it would fit then."""
    for (resource, count), largest in zip(shape.counts, shape.largest, strict=True):
        offer = layout.offers.get(resource)
        if not _all_of(layout, resource, count):
            return Refusal(f"it offers no {resource}", never=True)
        if offer is not None and offer.one_per_request and largest > 1:
            return Refusal(
                f"a container gets 1 {resource} at most there, as they are shares of devices: ask for 1", never=True
            )
    empty = _emptied(shape, layout)
    rooms = _rooms(shape, empty)
    if fits(shape, layout, rooms):
        return None
    return Refusal(_Words(shape, empty, ever=True).why_not(rooms), never=True)


def _emptied(shape: Shape, layout: Layout) -> Look:
    """With FPGA regions offered for all they could hold: those in use as something else are not listed."""
    offers = {
        **layout.offers,
        **{name: Offer(name, devices) for name, count in shape.counts if (devices := _all_of(layout, name, count))},
    }
    parts = len(layout.parts)
    occupancy = Occupancy(
        healthy=(True,) * parts, loaded=("",) * parts, users=(0,) * parts, promised_bytes=(0,) * parts
    )
    return Look(replace(layout, offers=offers), occupancy)


def _all_of(layout: Layout, resource: str, count: int) -> tuple[tuple[int, int], ...]:
    """The devices that are offered under the resource, and those that could be.

    Which FPGA regions have a name that is no function's nobody publishes, so that any may; nor into how many channels
    they would be cut, so they are taken to suffice: a pod had better wait in vain than be told never.
    """
    offer = layout.offers.get(resource)
    if offer is None:
        return ()
    devices = dict(offer.devices)
    if not devices or layout.parts[offer.devices[0][0]].kind is DeviceKind.FPGA:
        devices.update((d, max(count, devices[d])) for d in offer.cut_down)
        for d, part in enumerate(layout.parts):
            if part.kind is DeviceKind.FPGA and _could_serve(part, resource):
                devices.setdefault(d, count)
    return tuple(sorted(devices.items()))


def _could_serve(region: Part, resource: str) -> bool:
    if not resource.startswith(_FUNCTIONS):
        return True
    function = resource.removeprefix(_FUNCTIONS)
    return any(name == function for name, _ in region.functions)


# In words.


def _why_not(shape: Shape, look: Look, rooms: tuple[Room, ...]) -> str:
    """Of rooms that are not enough at the moment, but would be on an empty node."""
    words = _Words(shape, look, ever=False)
    reason = words.why_not(rooms)
    everywhere = replace(look.occupancy, healthy=(True,) * len(look.layout.parts))
    healthy = Look(look.layout, everywhere)
    if fits(shape, look.layout, _rooms(shape, healthy)):
        return f"{reason}; {_ill(shape, look)}"
    return reason


def _ill(shape: Shape, look: Look) -> str:
    devices = {d for name, _ in shape.counts if (offer := look.layout.offers.get(name)) for d, _ in offer.devices}
    ill = sum(1 for d in devices if not look.occupancy.healthy[d])
    return f"{ill} of {len(devices)} devices {'is' if ill == 1 else 'are'} unhealthy"


@dataclass(frozen=True, slots=True)
class _Words:
    """Sentences for users; the scheduler counts equal ones over nodes, so they say little that differs between nodes.

    Attributes:
        ever: The look is of an empty node.
    """

    shape: Shape
    look: Look
    ever: bool

    def why_not(self, rooms: tuple[Room, ...]) -> str:
        for room in rooms:
            if not is_enough(self.shape, self.look.layout, room):
                regardless = _room(self.look, room.resource, room.count)
                if is_enough(self.shape, self.look.layout, regardless):
                    return self._memory(room, regardless)
                return self._slices(regardless, "")
        functions = ", ".join(room.resource for room in rooms if is_fpga(self.look.layout, room))
        return f"too few FPGA regions {'are there' if self.ever else 'are free'} for {functions} at the same time"

    def _slices(self, room: Room, such: str) -> str:
        wants = f"wants {room.count} {room.resource}{such}"
        if self.shape.spread:
            distinct = _on_distinct(self.look.layout, room)
            return f"{wants} on distinct devices, " + (
                f"it has {distinct or 'none'}" if self.ever else f"{_have(distinct)} one free"
            )
        if self.shape.pack:
            # Each of the floating ones may be on the very device.
            most = max((free for free in _per_device(self.look.layout, room)), default=0)
            return f"{wants} on one device, " + (
                f"none has more than {most}" if self.ever else _at_most(most - room.floating)
            )
        free = max(0, sum(free for _, free in room.free) - room.floating)
        return f"{wants}, " + (f"it has {free or 'none'}" if self.ever else f"{_are(free)} free")

    def _memory(self, room: Room, regardless: Room) -> str:
        if not self.shape.memory_bytes:
            return self._slices(room, " with an equal share of memory left")
        need = _bytes(self.shape.memory_bytes)
        if room.free:
            return self._slices(room, f" with {need} of memory{'' if self.ever else ' left'}")
        parts = [part for part, _ in regardless.free]
        if not any(self.look.layout.parts[part].memory_bytes for part in parts):
            return f"needs {need} of memory on a device, how much its devices have is not known"
        cut = dict(self.look.layout.offers[room.resource].devices)
        most = _rounded(max(memory_left(self.look, part, cut[part]) for part in parts))
        return f"needs {need} of memory on a device, " + (
            f"none has more than {most}" if self.ever else f"at most {most} is left on any"
        )


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _bytes(size_bytes: int) -> str:
    return written(Fraction(size_bytes), "binary")


def _are(count: int) -> str:
    return f"{count} are" if count > 1 else f"{count or 'none'} is"


def _at_most(count: int) -> str:
    return f"at most {_are(count)} free on any" if count > 0 else "none is free on any"


def _have(count: int) -> str:
    return f"{count} have" if count > 1 else f"{count or 'none'} has"


def _rounded(size_bytes: int) -> str:
    """Down, so that nodes that differ by little say the same."""
    unit = _GI if size_bytes >= _GI else _MI
    return _bytes(size_bytes // unit * unit)
