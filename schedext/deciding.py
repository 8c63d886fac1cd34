"""What the extender answers, from the world as it is known; read `Decider` first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from schedext.costs import Costs
from schedext.demand import DemandError, Objective, demand
from schedext.explaining import Rest, explained
from schedext.explanation import Explanation
from schedext.judging import Judgements
from schedext.levels import levels_of
from schedext.node import Node
from schedext.placement import Placement, Refusal
from schedext.pod import Pod
from schedext.tracked import TrackedPod
from schedext.view import Scales, View
from schedext.wire import FilterResult, Victims
from schedext.world import World
from tasuki.kube.placement import Slices

_LEAST: Final = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What a pod gets on a node, by the devices' ids.

    Attributes:
        slices: By container, resource and device.
        visible: Devices that the pod sees without holding slices of them.
        devices: All of these, each once, in the node's order.
    """

    slices: Slices
    visible: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


class Decider:
    """Filter, prioritize, choose and preempt: functions of the world at this moment, which they leave as it is.

    Args:
        world: What is known of the cluster.
        costs: What seconds are made of.
        now: For plans, which end at a time of day.
    """

    def __init__(self, world: World, costs: Costs, now: Callable[[], datetime]) -> None:
        self._world: Final = world
        self._costs: Final = costs
        self._now: Final = now
        self._scales: Final = Scales(world, Judgements(costs, world.nodes), costs)

    def view(self, uid: str, pod: Pod) -> View:
        """How the cluster looks to a pod.

        Raises:
            DemandError: It cannot be read what the pod wants.
        """
        return View(self._scales, uid, demand(pod), self._now())

    def filter(self, pod: Pod, names: Sequence[str]) -> FilterResult:
        """Which of the nodes the pod fits on, and why not on the others."""
        try:
            view = self.view(pod.metadata.uid, pod)
        except DemandError as error:
            # Nothing but a changed pod can help, so that preempting others is no use either.
            return FilterResult(unresolvable=dict.fromkeys(names, str(error)))
        result = FilterResult()
        view.sort(names, result.names, result.failed, result.unresolvable)
        return result

    def prioritize(self, pod: Pod, names: Sequence[str]) -> list[bytes]:
        """Each node with a score from 0 to 10, encoded; where the pod does not fit, the least."""
        try:
            view = self.view(pod.metadata.uid, pod)
        except DemandError:
            return [self._fragment(name, _LEAST) for name in names]
        levels = levels_of(view.wanted.objective, *view.costs(names), self._costs)[0]
        nodes = self._world.nodes
        try:
            return [nodes[name].fragments()[level] for name, level in zip(names, levels, strict=True)]
        except KeyError:
            return [self._fragment(name, level) for name, level in zip(names, levels, strict=True)]

    def choose(self, pod: TrackedPod, node: Node) -> Choice | Refusal:
        """The devices that a pod gets if it goes to the node now."""
        if pod.problem:
            return Refusal(pod.problem, never=True)
        found = View(self._scales, pod.uid, pod.demand, self._now()).place(node.name)
        return found if isinstance(found, Refusal) else _choice(found, node)

    def preempt(self, pod: Pod, victims: Mapping[str, Victims]) -> Mapping[str, Victims]:
        """The nodes on which the pod fits once these victims are gone."""
        try:
            view = self.view(pod.metadata.uid, pod)
        except DemandError:
            return {}
        if view.is_indifferent:
            return victims
        return {name: found for name, found in victims.items() if view.fits_without(name, found.pods)}

    async def explain(self, pod: Pod, rest: Rest) -> Explanation:
        """Every node with its seconds by cause, or with the reason why it is none for the pod; rests in between."""
        try:
            view = self.view(pod.metadata.uid, pod)
        except DemandError as error:
            name = f"{pod.metadata.namespace}/{pod.metadata.name}"
            return Explanation(name, Objective.PERFORMANCE, notes=(str(error),))
        return await explained(pod, view, self._world, self._costs, rest)

    def _fragment(self, name: str, level: int) -> bytes:
        node = self._world.nodes.get(name)
        # A name that is not a node's may hold anything.
        return node.fragments()[level] if node is not None else msgspec.json.encode({"Host": name, "Score": level})


def _choice(placement: Placement, node: Node) -> Choice:
    ids = node.device_ids
    slices: dict[str, dict[str, dict[str, int]]] = {}
    for pick in placement.picks:
        slices.setdefault(pick.container, {}).setdefault(pick.resource, {})[ids[pick.part]] = pick.count
    return Choice(slices, tuple(ids[part] for part in placement.visible), tuple(ids[part] for part in placement.parts))
