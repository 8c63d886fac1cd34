"""Why a pod goes where it goes: every node, judged and ranked as the scheduler is told."""

from schedext.costs import Costs
from schedext.explanation import Explanation, NodeExplanation
from schedext.levels import levels_of
from schedext.node import Node
from schedext.placement import Placement, Refusal
from schedext.pod import Pod
from schedext.view import BEYOND, View
from schedext.world import World


def explained(pod: Pod, view: View, world: World, costs: Costs) -> Explanation:
    """What each node of the cluster is to a pod at this moment, as if no other filter had a say."""
    found = {name: view.place(name) for name in sorted(world.nodes)}
    seconds = [each.total_seconds if isinstance(each, Placement) else BEYOND for each in found.values()]
    watts = [each.watts if isinstance(each, Placement) else 0.0 for each in found.values()]
    levels, note = levels_of(view.wanted.objective, seconds, watts, costs)
    return Explanation(
        pod=f"{pod.metadata.namespace}/{pod.metadata.name}",
        objective=view.wanted.objective,
        notes=tuple(filter(None, (*_notes(pod, view), note))),
        nodes=tuple(
            _node(world.nodes[name], each, level) for (name, each), level in zip(found.items(), levels, strict=True)
        ),
    )


def _notes(pod: Pod, view: View) -> tuple[str, ...]:
    where = f"the pod is on node {pod.spec.node_name}; what it holds there counts as free" if pod.spec.node_name else ""
    indifferent = "it asks for no device that a node publishes" if view.is_indifferent else ""
    return where, indifferent


def _node(node: Node, found: Placement | Refusal, level: int) -> NodeExplanation:
    if isinstance(found, Refusal):
        return NodeExplanation(node.name, node.zone, fits=False, reason=found.reason, never=found.never)
    parts = sorted({*found.visible, *(pick.part for pick in found.picks)})
    return NodeExplanation(
        node.name,
        node.zone,
        seconds=found.seconds,
        watts=found.watts,
        score=level,
        devices=tuple(node.device_ids[part] for part in parts),
    )
