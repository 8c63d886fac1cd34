"""One pod's view of the cluster at one moment: where it fits, and what each place costs it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from schedext.costs import CACHE, EDGES, Costs
from schedext.data_seconds import DataSeconds, data_seconds
from schedext.demand import Demand
from schedext.edge_seconds import EdgeSeconds, edge_seconds, edges_to
from schedext.judging import Cost, Judged, Judgement, Judgements, Kind, kind_of
from schedext.look import Look
from schedext.node import Node
from schedext.owners import Reads
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
        pinned: The only node that it may go to: where a binding is under way, or where its plan wants it while the plan
            lasts; else empty.
    """

    def __init__(self, scales: Scales, uid: str, wanted: Demand, now: datetime) -> None:
        self._world: Final = scales.world
        self._judgements: Final = scales.judgements
        self._costs: Final = scales.costs
        self._uid: Final = uid
        self.wanted: Final = wanted
        self._kind: Final = kind_of(wanted, scales.world.resources.__contains__)
        self._judged: Final[Judged] = scales.judgements.of(self._kind.shape)
        self._planned_until: Final = self._plan_ends()
        is_planned = wanted.plan is not None and self._planned_until is not None and now < self._planned_until
        planned = wanted.plan.node if wanted.plan is not None and is_planned else ""
        self._reservation: Final = scales.world.reservation(uid)
        self.pinned: Final = self._reservation.node if self._reservation is not None else planned
        self._elsewhere: Final = self._refused_elsewhere()
        self._own: Final = self._own_looks()

    @property
    def is_indifferent(self) -> bool:
        """Whether every node's devices suit, and none is planned."""
        return self._kind.is_empty and not self.pinned

    def sort(self, names: Sequence[str], fits: list[str], busy: dict[str, str], never: dict[str, str]) -> None:
        """Put each name where it belongs: into `fits`, or with the reason into one of the others."""
        if self.is_indifferent:
            fits.extend(names)
            return
        nodes, fit = self._world.nodes, fits.append
        # Nearly always a node looks like one that was judged before.
        quick = {} if self.pinned or self._own else self._judged.by_look
        for name in names:
            node = nodes.get(name)
            if node is not None and quick.get(node.look).__class__ is Cost:
                fit(name)
                continue
            found = self._judge(name)
            if isinstance(found, Refusal):
                (never if found.never else busy)[name] = found.reason
            else:
                fit(name)

    def costs(self, names: Sequence[str]) -> tuple[list[float], list[float]]:
        """Seconds lost in an hour on each node, `BEYOND` where the pod does not fit, and watts (0: unknown)."""
        data, edges, nodes = self._data, self._edges, self._world.nodes
        quick = {} if self.pinned else self._judged.by_look
        exact = self._own.keys() | edges.by_node.keys()
        held = data.by_node
        by_zone: dict[str, tuple[float, float]] = {}
        seconds: list[float] = []
        watts: list[float] = []
        for name in names:
            node = nodes.get(name)
            found = quick.get(node.look) if node is not None and name not in exact else None
            if node is None or not isinstance(found, Cost):
                lost, power = self._cost(name)
            else:
                away = by_zone.get(node.zone)
                if away is None:
                    away = by_zone[node.zone] = data.at("", node.zone), edges.at("", node.zone)
                lost, power = found
                lost += held.get(name, away[0]) + away[1]
            seconds.append(lost)
            watts.append(power)
        return seconds, watts

    def place(self, name: str, *, as_one: bool = False) -> Placement | Refusal:
        """Where on the node the pod would sit, near its neighbours there, with every cause of its seconds.

        Args:
            name: The node's.
            as_one: Take all its containers for one: of thousands, each takes its time.
        """
        found = self._placed(name, self._edges, as_one=as_one)
        node = self._world.nodes.get(name)
        if isinstance(found, Refusal) or node is None:
            return found
        seconds = dict(found.seconds)
        for cause, lost in ((EDGES, self._edges.at(name, node.zone)), (CACHE, self._data.at(name, node.zone))):
            if lost:
                seconds[cause] = seconds.get(cause, 0.0) + lost
        return replace(found, seconds=seconds)

    def fits_without(self, name: str, uids: Collection[str]) -> bool:
        """Whether the pod fits on a node once these pods are gone."""
        return isinstance(self._placed(name, _NO_EDGES, without={*uids, self._uid}), Placement)

    def _judge(self, name: str) -> Judgement:
        node = self._world.nodes.get(name)
        if (refusal := self._refused_unseen(name, node)) is not None or node is None:
            return refusal or _UNKNOWN
        look = self._own.get(name, node.look)
        found = self._judged.judge(look)
        if isinstance(found, Refusal) and self._is_foreign(node, look):
            return self._foreign_refusal() or self._judgements.of(self._without_foreign(look).shape).judge(look)
        return found

    def _cost(self, name: str) -> tuple[float, float]:
        """With the neighbours on the node; for the few nodes that are like no other."""
        node = self._world.nodes.get(name)
        found = self._judge(name) if name not in self._edges.neighbours else self._placed(name, self._edges)
        if isinstance(found, Refusal) or node is None:
            return BEYOND, 0.0
        lost = found.total_seconds if isinstance(found, Placement) else found.seconds
        return lost + self._data.at(name, node.zone) + self._edges.at(name, node.zone), found.watts

    def _placed(
        self, name: str, edges: EdgeSeconds, *, without: Collection[str] = (), as_one: bool = True
    ) -> Placement | Refusal:
        node = self._world.nodes.get(name)
        if (refusal := self._refused_unseen(name, node)) is not None or node is None:
            return refusal or _UNKNOWN
        look = self._world.look_without(name, without) if without else self._own.get(name, node.look)
        kind, neighbours = self._kind, edges.neighbours.get(name, ())
        found = place(kind.shape, kind.as_one if as_one else kind.wants, look, self._costs, neighbours)
        if isinstance(found, Refusal) and self._is_foreign(node, look):
            kind = self._without_foreign(look)
            wants = kind.as_one if as_one else kind.wants
            return self._foreign_refusal() or place(kind.shape, wants, look, self._costs, neighbours)
        return found

    def _refused_unseen(self, name: str, node: Node | None) -> Refusal | None:
        """What does not depend on how the node looks."""
        if self._elsewhere is not None and name != self.pinned:
            return self._elsewhere
        return _UNKNOWN if node is None else None

    def _plan_ends(self) -> datetime | None:
        """When what is kept for the pod is given up, whatever its plan says; None without a plan."""
        if self.wanted.plan is None:
            return None
        pod = self._world.pod(self._uid)
        return (pod.planned_until if pod is not None else None) or self.wanted.plan.until

    def _refused_elsewhere(self) -> Refusal | None:
        """On every node but the one that it is pinned to."""
        if self._reservation is not None:
            return Refusal(f"a binding to node {self.pinned} is under way, and may still succeed", never=False)
        if self._planned_until is None or not self.pinned:
            return None
        until = f"{self._planned_until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return Refusal(f"its chain is planned with it on node {self.pinned} until {until}", never=True)

    def _own_looks(self) -> dict[str, Look]:
        """Nodes as they are without what the pod itself holds there, or is kept for it."""
        named = set()
        if self._reservation is not None:
            named.add(self._reservation.node)
        if self.wanted.plan is not None:
            named.add(self.wanted.plan.node)
        if (pod := self._world.pod(self._uid)) is not None and pod.node:
            named.add(pod.node)
        return {name: self._world.look_without(name, {self._uid}) for name in named if name in self._world.nodes}

    def _is_foreign(self, node: Node, look: Look) -> bool:
        """Whether another device plugin than Tasuki's offers something that the pod asks for, there."""
        offers, allocatable = look.layout.offers, node.allocatable
        return any(name not in offers and allocatable.get(name, 0) > 0 for name, _ in self._kind.shape.counts)

    def _foreign_refusal(self) -> Refusal | None:
        """What others offer is the scheduler's to count; only where devices must be known, that is not enough."""
        shape = self._kind.shape
        for is_asked, name in ((shape.spread, SPREAD), (shape.pack, PACK), (shape.memory_bytes > 0, GPU_MEMORY)):
            if is_asked:
                return Refusal(f"{name} takes Tasuki's device plugin, and another one offers its devices", never=True)
        return None

    def _without_foreign(self, look: Look) -> Kind:
        return kind_of(self.wanted, look.layout.offers.__contains__)

    @cached_property
    def reads(self) -> Mapping[str, Reads]:
        """By bucket, of the objects that the pod names."""
        return self._world.owners.reads(self.wanted.objects)

    @cached_property
    def _data(self) -> DataSeconds:
        wanted = self.wanted
        if not wanted.buckets:
            return _NO_DATA
        return data_seconds(wanted.buckets, self._world.residency, self._costs, self.reads)

    @cached_property
    def _edges(self) -> EdgeSeconds:
        chain = self.wanted.chain
        if chain is None:
            return _NO_EDGES
        placed = self._world.placed(chain.name)
        found = edges_to(chain, self._uid, placed, self._world.declared_edges(chain.name))
        nodes = self._world.nodes
        zones = {each.placed.node: nodes[each.placed.node].zone for each in found if each.placed.node in nodes}
        return edge_seconds(found, zones, self._costs, from_device=not self._kind.is_empty)
