"""Where on a node a pod would sit; read `place` first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from schedext.costs import Costs
from schedext.demand import Shape, Turn, Want
from schedext.device_seconds import (
    Chosen,
    Neighbour,
    Scene,
    edge_seconds,
    exchange_seconds,
    is_whole,
    nearest_parts,
    replicas,
    seconds_of,
    slice_seconds,
)
from schedext.look import Layout, Look
from schedext.placement import Pick, Placement, Refusal
from schedext.room import (
    Room,
    compete,
    device_of,
    divided,
    is_enough,
    room_for,
    visible_gpus,
    without,
)
from tasuki.devices.model import DeviceKind

__all__ = ["Neighbour", "place"]

# By part: how many slices.
_Slices = dict[int, int]


def place(
    shape: Shape, wants: tuple[Want, ...], look: Look, costs: Costs, neighbours: tuple[Neighbour, ...] = ()
) -> Placement | Refusal:
    """The place on a node's devices that costs the fewest seconds, or why there is none.

    Filter, prioritize and bind all ask here, so that they agree. Between places that cost the same, `pack` takes the
    device that is fullest and `spread` the one that is emptiest, then whichever comes first.

    Args:
        shape: Of `wants`, without resources that no node of the cluster publishes.
        wants: Those of other resources than the shape's are left alone.
        look: At the node.
        costs: What counts.
        neighbours: Functions of the same chain that sit on this node.
    """
    scene = Scene(look, costs, neighbours)
    if shape.is_empty:
        return Placement(seconds=seconds_of(scene, ()))
    if shape.visible_gpus:
        return _seeing(scene, shape)
    rooms = room_for(shape, look)
    if isinstance(rooms, Refusal):
        return rooms
    chosen = _chosen(scene, shape, rooms)
    return Placement(
        picks=_picks(wants, chosen),
        seconds=seconds_of(scene, chosen),
        watts=_watts(look.layout, [part for each in chosen for part in each.slices]),
    )


def _seeing(scene: Scene, shape: Shape) -> Placement | Refusal:
    """For a pod that sees GPUs without holding slices of them: those with the fewest users."""
    gpus = visible_gpus(shape, scene.look)
    if isinstance(gpus, Refusal):
        return gpus
    users = scene.look.occupancy.users
    count = len(gpus) if shape.visible_gpus < 0 else shape.visible_gpus
    visible = tuple(sorted(sorted(gpus, key=lambda part: (users[part], part))[:count]))
    return Placement(visible=visible, seconds=seconds_of(scene, (), visible), watts=_watts(scene.look.layout, visible))


def _chosen(scene: Scene, shape: Shape, rooms: tuple[Room, ...]) -> list[Chosen]:
    if len(rooms) == 1:
        return [_choose(scene, shape, rooms[0])]
    if not compete(scene.look.layout, rooms):
        return [_choose(scene, shape, room) for room in rooms]
    return _one_by_one(scene, shape, rooms) or [
        _choose(scene, shape, room) for room in divided(shape, scene.look.layout, rooms) or rooms
    ]


def _one_by_one(scene: Scene, shape: Shape, rooms: tuple[Room, ...]) -> list[Chosen]:
    """Each function gets the regions that suit it best of those that are left; empty if one gets too few that way."""
    taken: frozenset[int] = frozenset()
    found: list[Chosen] = []
    for room in sorted(rooms, key=lambda room: (len(room.free), room.resource)):
        left = without(room, taken)
        if not is_enough(shape, scene.look.layout, left):
            return []
        found.append(_choose(scene, shape, left))
        taken |= found[-1].slices.keys()
    return found


def _choose(scene: Scene, shape: Shape, room: Room) -> Chosen:
    """Of one resource."""
    layout = scene.look.layout
    cut = replicas(layout, room.resource)
    whole = [part for part, _ in room.free if is_whole(layout, part, cut[part])]
    whole_free = max(0, len(whole) - room.floating)
    if len(whole) == len(room.free):
        return Chosen(room.resource, dict.fromkeys(_whole(scene, tuple(whole), room.count), 1), whole_free)
    ranked = _ranked(scene, shape, room)
    if room.count == 1:
        return Chosen(room.resource, {ranked[0]: 1}, whole_free)
    choices = [Chosen(room.resource, slices, whole_free) for slices in _choices(shape, layout, room, ranked)]
    if len(choices) == 1:
        return choices[0]
    # The first of those that cost the same: one device before several, the better ranked before the worse.
    return min(choices, key=lambda choice: sum(seconds_of(scene, (choice,)).values()))


def _whole(scene: Scene, free: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Near each other, and to the neighbours: sets with the devices that a neighbour reaches soonest are tried, too."""
    layout = scene.look.layout
    best = nearest_parts(layout, free, count)
    if not scene.neighbours or count == len(free):
        return best
    anchors = dict.fromkeys(
        min(free, key=lambda part: (edge_seconds(one, (part,)), part))
        for one in (scene, *(Scene(scene.look, scene.costs, (neighbour,)) for neighbour in scene.neighbours))
    )
    required: list[tuple[int, ...]] = [(part,) for part in anchors]
    if 1 < len(anchors) <= count:
        required.append(tuple(sorted(anchors)))
    choices = [best, *(nearest_parts(layout, free, count, parts) for parts in required)]
    exchanges = scene.costs.exchanges_per_hour if count > 1 else 0.0

    def seconds(parts: tuple[int, ...]) -> float:
        return edge_seconds(scene, parts) + (exchange_seconds(layout, parts) * exchanges if exchanges else 0.0)

    return min(choices, key=seconds)


def _ranked(scene: Scene, shape: Shape, room: Room) -> list[int]:
    """Parts, the cheapest first; of those that cost the same, as the policy has it. The first only, if one will do."""
    fullest_first = 1 if scene.costs.policy == "pack" else -1
    # Where slices in use on unknown devices could be in the way.
    doubtful_below = room.floating + (room.count if shape.pack else 1) if room.floating else 0
    ranks = [
        (free < doubtful_below, seconds, fullest_first * left, part)
        for (part, free), seconds, left in zip(
            room.free, slice_seconds(scene, room.resource, room.free), _left(scene.look.layout, room), strict=True
        )
    ]
    if room.count == 1:
        return [min(ranks)[-1]]
    return [rank[-1] for rank in sorted(ranks)]


def _left(layout: Layout, room: Room) -> list[int]:
    """For each part, how much is free on its device."""
    if layout.parts[room.free[0][0]].kind is not DeviceKind.MIG:
        return [free for _, free in room.free]
    left: Counter[int] = Counter()
    for part, free in room.free:
        left[device_of(layout, part)] += free
    return [left[device_of(layout, part)] for part, _ in room.free]


def _choices(shape: Shape, layout: Layout, room: Room, ranked: list[int]) -> list[_Slices]:
    """Sets of enough slices, worth comparing."""
    free = dict(room.free)
    by_device: dict[int, list[int]] = {}
    for part in ranked:
        by_device.setdefault(device_of(layout, part), []).append(part)
    if shape.spread:
        return [{parts[0]: 1 for parts in list(by_device.values())[: room.count]}]
    on_one = [
        _filled(parts, free, room.count)
        for parts in by_device.values()
        if sum(free[part] for part in parts) >= room.count
    ]
    return on_one if shape.pack else [*on_one, _filled(ranked, free, room.count)]


def _filled(parts: Sequence[int], free: Mapping[int, int], count: int) -> _Slices:
    """As many as there are of each, in the order of the parts."""
    slices: _Slices = {}
    for part in parts:
        slices[part] = min(free[part], count)
        count -= slices[part]
        if not count:
            break
    return slices


def _picks(wants: tuple[Want, ...], chosen: Sequence[Chosen]) -> tuple[Pick, ...]:
    """Each container's slices, as the kubelet hands them out: what an init container held goes to later containers."""
    if len(wants) == 1 and len(chosen) == 1:
        want = wants[0]
        return tuple([Pick(want.container, want.resource, part, n) for part, n in sorted(chosen[0].slices.items())])
    pools = {
        each.resource: [part for part, count in sorted(each.slices.items()) for _ in range(count)] for each in chosen
    }
    picks: list[Pick] = []
    for want in wants:
        pool = pools.get(want.resource)
        if pool is None:
            continue
        picks += [
            Pick(want.container, want.resource, part, len(list(same))) for part, same in groupby(pool[: want.count])
        ]
        if want.turn is not Turn.INIT:
            del pool[: want.count]
    return tuple(sorted(picks, key=lambda pick: (pick.container, pick.resource, pick.part)))


def _watts(layout: Layout, parts: Sequence[int]) -> float:
    watts = [layout.parts[part].watts for part in parts]
    return sum(watts) if all(watts) else 0.0
