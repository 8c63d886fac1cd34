"""One pod's view of the cluster at one moment: where it fits, and what each place costs it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Final

from schedext.costs import CACHE, EDGES, Costs
from schedext.data_seconds import DataSeconds, data_seconds
from schedext.demand import Demand
from schedext.edge_seconds import EdgeSeconds, edge_seconds, edges_to
from schedext.judging import Judged, Judgement, Judgements, Kind, kind_of
from schedext.look import Look
from schedext.node import Node
from schedext.placement import Placement, Refusal
from schedext.placing import place
from schedext.world import World
from tasuki.kube.names import GPU_MEMORY, PACK, SPREAD

_UNKNOWN: Final = Refusal("the extender has not seen it yet", never=False)
_NO_DATA: Final = DataSeconds()
_NO_EDGES: Final = EdgeSeconds()

# Worse than every place where the pod fits.
BEYOND: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Scales:
    """What judging goes by, for all pods alike."""

    world: World
    judgements: Judgements
    costs: Costs


class View:
    """Lives as long as one request, and changes nothing.

    Attributes:
        wanted: What the pod demands.
        pinned: The node that its plan wants it on, while the plan lasts; else empty.
    """

    def __init__(self, scales: Scales, uid: str, wanted: Demand, now: datetime) -> None:
        self._world: Final = scales.world
        self._judgements: Final = scales.judgements
        self._costs: Final = scales.costs
        self._uid: Final = uid
        self.wanted: Final = wanted
        self._kind: Final = kind_of(wanted, scales.world.resources.__contains__)
        self._judged: Final[Judged] = scales.judgements.of(self._kind)
        plan = wanted.plan
        self.pinned: Final = plan.node if plan is not None and now < plan.until else ""
        self._own: Final = self._own_looks()

    @property
    def is_indifferent(self) -> bool:
        """Whether every node's devices suit, and none is planned."""
        return self._kind.is_empty and not self.pinned

    def refusal_elsewhere(self) -> Refusal:
        """Of every node but the planned one."""
        plan = self.wanted.plan
        until = f"{plan.until:%Y-%m-%dT%H:%M:%SZ}" if plan is not None else ""
        return Refusal(f"its chain is planned with it on node {self.pinned} until {until}", never=True)

    def judge(self, name: str) -> Judgement:
        """Whether the pod fits on a node; its neighbours there are not looked at."""
        if self.pinned and name != self.pinned:
            return self.refusal_elsewhere()
        node = self._world.nodes.get(name)
        if node is None:
            return _UNKNOWN
        look = self._own.get(name, node.look)
        found = self._judged.by_look.get(look) or self._judged.judge(look)
        return self._foreign(node, look, found) if isinstance(found, Refusal) else found

    def judge_without(self, name: str, uids: Collection[str]) -> Judgement:
        """The same once these pods are gone."""
        if self.pinned and name != self.pinned:
            return self.refusal_elsewhere()
        node = self._world.nodes.get(name)
        if node is None:
            return _UNKNOWN
        look = self._world.look_without(name, {*uids, self._uid})
        found = place(self._kind.shape, self._kind.wants, look, self._costs)
        return self._foreign(node, look, found) if isinstance(found, Refusal) else found

    def sort(self, names: Sequence[str], fits: list[str], busy: dict[str, str], never: dict[str, str]) -> None:
        """Put each name where it belongs: into `fits`, or with the reason into one of the others."""
        if self.is_indifferent:
            fits.extend(names)
            return
        if self.pinned or self._own:
            quick: Mapping[Look, Judgement] = {}
        else:
            quick = self._judged.by_look
        nodes, fit = self._world.nodes, fits.append
        # Nearly always a node looks like one that was judged before.
        for name in names:
            node = nodes.get(name)
            if node is not None and quick.get(node.look).__class__ is Placement:
                fit(name)
                continue
            found = self.judge(name)
            if isinstance(found, Refusal):
                (never if found.never else busy)[name] = found.reason
            else:
                fit(name)

    def costs(self, names: Sequence[str]) -> tuple[list[float], list[float]]:
        """Seconds lost in an hour on each node, `BEYOND` where the pod does not fit, and watts (0: unknown)."""
        data, edges = self._data, self._edges
        by_zone: dict[str, float] = {}
        exact = self._own.keys() | data.by_node.keys() | edges.by_node.keys()
        quick = {} if self.pinned else self._judged.cost
        nodes = self._world.nodes
        seconds: list[float] = []
        watts: list[float] = []
        for name in names:
            node = nodes.get(name)
            if node is None or name in exact or (cost := quick.get(node.look)) is None:
                lost, power = self._cost(name, node)
            else:
                zone = node.zone
                away = by_zone.get(zone)
                if away is None:
                    away = by_zone[zone] = data.at("", zone) + edges.at("", zone)
                lost, power = cost[0] + away, cost[1]
            seconds.append(lost)
            watts.append(power)
        return seconds, watts

    def place(self, name: str) -> Judgement:
        """Where on the node the pod would sit, near its neighbours there, with every cause of its seconds."""
        found = self._placed(name)
        node = self._world.nodes.get(name)
        if isinstance(found, Refusal) or node is None:
            return found
        away = {EDGES: self._edges.at(name, node.zone), CACHE: self._data.at(name, node.zone)}
        seconds = dict(found.seconds)
        for cause, lost in away.items():
            if lost:
                seconds[cause] = seconds.get(cause, 0.0) + lost
        return replace(found, seconds=seconds)

    def _cost(self, name: str, node: Node | None) -> tuple[float, float]:
        found = self._placed(name)
        if isinstance(found, Refusal) or node is None:
            return BEYOND, 0.0
        away = self._data.at(name, node.zone) + self._edges.at(name, node.zone)
        return found.total_seconds + away, found.watts

    def _placed(self, name: str) -> Judgement:
        neighbours = self._edges.neighbours.get(name, ())
        found = self.judge(name)
        node = self._world.nodes.get(name)
        if isinstance(found, Refusal) or node is None or not neighbours:
            return found
        look = self._own.get(name, node.look)
        kind = self._kind if not self._is_foreign(node, look) else self._without_foreign(look)
        return place(kind.shape, kind.wants, look, self._costs, neighbours)

    def _own_looks(self) -> dict[str, Look]:
        """Nodes as they are without what the pod itself holds there, or is kept for it."""
        named = set()
        if (reservation := self._world.reservation(self._uid)) is not None:
            named.add(reservation.node)
        if self.wanted.plan is not None:
            named.add(self.wanted.plan.node)
        if (pod := self._world.pod(self._uid)) is not None and pod.node:
            named.add(pod.node)
        return {name: self._world.look_without(name, {self._uid}) for name in named if name in self._world.nodes}

    def _foreign(self, node: Node, look: Look, refusal: Refusal) -> Judgement:
        """What others' device plugins offer on this node is the scheduler's to count; only that much can be said."""
        if not self._is_foreign(node, look):
            return refusal
        shape = self._kind.shape
        if shape.spread or shape.pack or shape.memory_bytes:
            named = SPREAD if shape.spread else PACK if shape.pack else GPU_MEMORY
            return Refusal(
                f"{named} needs to know its devices, which another device plugin than Tasuki's offers", never=True
            )
        return self._judged_as(self._without_foreign(look), look)

    def _is_foreign(self, node: Node, look: Look) -> bool:
        offers, allocatable = look.layout.offers, node.allocatable
        return any(name not in offers and allocatable.get(name, 0) > 0 for name, _ in self._kind.shape.counts)

    def _without_foreign(self, look: Look) -> Kind:
        return kind_of(self.wanted, look.layout.offers.__contains__)

    def _judged_as(self, kind: Kind, look: Look) -> Judgement:
        if kind.is_empty:
            return Placement()
        judged = self._judgements.of(kind)
        return judged.by_look.get(look) or judged.judge(look)

    @cached_property
    def _data(self) -> DataSeconds:
        return (
            data_seconds(self.wanted.buckets, self._world.residency, self._costs) if self.wanted.buckets else _NO_DATA
        )

    @cached_property
    def _edges(self) -> EdgeSeconds:
        chain = self.wanted.chain
        if chain is None:
            return _NO_EDGES
        placed = self._world.placed(chain.name)
        found = edges_to(chain, self._uid, placed, self._world.declared_edges(chain.name))
        nodes = self._world.nodes
        zones = {each.placed.node: nodes[each.placed.node].zone for each in found if each.placed.node in nodes}
        return edge_seconds(found, zones, self._costs, from_device=bool(self._kind.wants))
