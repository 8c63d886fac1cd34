"""Why a pod goes where it goes: every node, judged and ranked as the scheduler is told."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from schedext.costs import Costs
from schedext.explanation import Explanation, NodeExplanation
from schedext.levels import levels_of
from schedext.node import Node
from schedext.owners import Reads
from schedext.placement import Placement, Refusal
from schedext.pod import Pod
from schedext.view import BEYOND, View
from schedext.world import World

# Each takes some 50 microseconds, and the scheduler waits for a turn at most.
_NODES_IN_A_TURN: Final = 50

# Of zones, and of a zone's nodes.
_MOST_OWNERS: Final = 5

Rest = Callable[[], Awaitable[None]]


async def explained(pod: Pod, view: View, world: World, costs: Costs, rest: Rest) -> Explanation:
    """What each node of the cluster is to a pod when its turn comes, as if no other filter had a say.

    Args:
        pod: That is explained.
        view: Its own.
        world: Of all nodes.
        costs: What difference is none.
        rest: Leaves time to others, between some nodes and the next.
    """
    found: list[tuple[NodeExplanation, Placement | Refusal]] = []
    for number, name in enumerate(sorted(world.nodes), start=1):
        # It may be gone by now.
        if (node := world.nodes.get(name)) is not None:
            place = view.place(name, as_one=True)
            found.append((_node(node, place), place))
        if not number % _NODES_IN_A_TURN:
            await rest()
    seconds = [each.total_seconds if isinstance(each, Placement) else BEYOND for _, each in found]
    watts = [each.watts if isinstance(each, Placement) else 0.0 for _, each in found]
    levels, note = levels_of(view.wanted.objective, seconds, watts, costs)
    return Explanation(
        pod=f"{pod.metadata.namespace}/{pod.metadata.name}",
        objective=view.wanted.objective,
        notes=tuple(filter(None, (*_notes(pod, view), note))),
        nodes=tuple(
            replace(node, score=level) if node.fits else node for (node, _), level in zip(found, levels, strict=True)
        ),
    )


def _notes(pod: Pod, view: View) -> tuple[str, ...]:
    where = f"the pod is on node {pod.spec.node_name}; what it holds there counts as free" if pod.spec.node_name else ""
    indifferent = "it asks for no device that a node publishes" if view.is_indifferent else ""
    return where, indifferent, *_owners(view.reads)


def _owners(reads: Mapping[str, Reads]) -> Iterator[str]:
    """Whose the objects are that the pod names; of many zones and nodes only the first."""
    objects = sum(each.objects for each in reads.values())
    if not objects:
        return
    zones: dict[str, Counter[str]] = {}
    for each in reads.values():
        for zone, owned in each.owned.items():
            zones.setdefault(zone, Counter()).update(owned)
    if not zones:
        yield f"the caches' tables are not made yet: what nodes report counts, not whose the {objects} objects are"
    for zone in sorted(zones)[:_MOST_OWNERS]:
        ranked = sorted(zones[zone].items(), key=lambda each: (-each[1], each[0]))
        shown = ", ".join(f"{node} {count}" for node, count in ranked[:_MOST_OWNERS])
        more = ", …" if len(ranked) > _MOST_OWNERS else ""
        where = f"in zone {zone}" if zone else "in no zone"
        yield f"of the {objects} objects that it names, caches {where} have: {shown}{more}"
    if len(zones) > _MOST_OWNERS:
        yield f"{len(zones) - _MOST_OWNERS} more zones have caches"


def _node(node: Node, found: Placement | Refusal) -> NodeExplanation:
    """All but the score, for which all must be known."""
    if isinstance(found, Refusal):
        return NodeExplanation(node.name, node.zone, fits=False, reason=found.reason, never=found.never)
    return NodeExplanation(
        node.name,
        node.zone,
        seconds=found.seconds,
        watts=found.watts,
        devices=tuple(node.device_ids[part] for part in found.parts),
    )
