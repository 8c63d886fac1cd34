"""What passing items to and from its neighbours in a chain costs a pod, by where it runs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from schedext.costs import HOUR_SECONDS, Costs, Way
from schedext.demand import Chain, Edge
from schedext.device_seconds import HOST_MEMORY
from schedext.node import PlacedFunction
from schedext.placing import Neighbour
from tasuki.devices.cost import transfer_seconds


@dataclass(frozen=True, slots=True)
class PlacedEdge:
    """Between a pod and one placed pod of another function; the direction does not matter.

    Attributes:
        items_per_second: That pod's part of what the edge carries.
    """

    placed: PlacedFunction
    item_bytes: int
    items_per_second: float


@dataclass(frozen=True, slots=True)
class EdgeSeconds:
    """Seconds lost in an hour by edges that leave the node: `by_node.get(name)`, else `by_zone.get(zone, default)`.

    Attributes:
        by_node: Of nodes with neighbours, which themselves are left out: placing a pod on the node's devices counts
            them, from `neighbours`.
        by_zone: Of every other node of a zone with neighbours.
        default: Of nodes anywhere else.
        neighbours: By the node that they are on.
    """

    by_node: Mapping[str, float] = field(default_factory=dict)
    by_zone: Mapping[str, float] = field(default_factory=dict)
    default: float = 0.0
    neighbours: Mapping[str, tuple[Neighbour, ...]] = field(default_factory=dict)

    def at(self, node: str, zone: str) -> float:
        return self.by_node.get(node, self.by_zone.get(zone, self.default))


_NONE: Final = EdgeSeconds()


def edges_to(
    chain: Chain, uid: str, placed: Sequence[PlacedFunction], declared: Mapping[str, tuple[Edge, ...]]
) -> tuple[PlacedEdge, ...]:
    """The edges between a pod and the placed pods of its chain, in their order.

    An edge counts once, whichever end declares it; if both do, the pod's own word holds. A pod that declares none has
    one to each other function. Between pods of one function there is none. Several pods of a function share its edge
    evenly.

    Args:
        chain: The pod's.
        uid: The pod's, which may itself be among the placed ones.
        placed: Of the same chain.
        declared: What other functions' pods declare, by function; those that declare nothing are absent.
    """
    neighbours = [each for each in placed if each.uid != uid and each.function != chain.function]
    pods = Counter(each.function for each in neighbours)
    own = {edge.function: edge for edge in chain.edges or ()}
    edges = {each: own.get(each) or _undeclared(chain, each, declared.get(each, ())) for each in pods}
    return tuple(
        PlacedEdge(each, edge.item_bytes, edge.items_per_second / pods[each.function])
        for each in neighbours
        if (edge := edges[each.function]) is not None
    )


def edge_seconds(
    edges: Sequence[PlacedEdge], zones: Mapping[str, str], costs: Costs, *, from_device: bool = True
) -> EdgeSeconds:
    """What the edges cost by node and zone.

    Between nodes, items pass through the memory of both hosts: out of a device, over the network, into a device, one
    after the other.

    Args:
        edges: As `edges_to` has them.
        zones: By the name of each neighbour's node. Nodes of no zone, and those that are missing, have the empty one
            in common: where no node has a zone, all are equally near to each other.
        costs: Of networks.
        from_device: Whether the pod's items are on a device of its own, or in the host's memory anyway.
    """
    if not edges:
        return _NONE
    default = 0.0
    far: defaultdict[str, float] = defaultdict(float)
    near: defaultdict[str, float] = defaultdict(float)
    on_node: defaultdict[tuple[str, str], float] = defaultdict(float)
    neighbours: defaultdict[str, list[Neighbour]] = defaultdict(list)
    for edge in edges:
        node, zone = edge.placed.node, zones.get(edge.placed.node, "")
        within, beyond = (
            _seconds(edge, way, hops=from_device + bool(edge.placed.parts)) for way in (costs.zone, costs.other_zone)
        )
        default += beyond
        far[zone] += beyond
        near[zone] += within
        on_node[node, zone] += within
        neighbours[node] += _neighbours(edge)
    # Each subtracted sum has some of the same terms in the same order, so that rounding makes no difference negative.
    return EdgeSeconds(
        by_node={node: (near[zone] - own) + (default - far[zone]) for (node, zone), own in on_node.items()},
        by_zone={zone: near[zone] + (default - far[zone]) for zone in near},
        default=default,
        neighbours={node: tuple(each) for node, each in neighbours.items()},
    )


def _undeclared(chain: Chain, function: str, theirs: Sequence[Edge]) -> Edge | None:
    """The edge to a function that the pod itself does not name."""
    for edge in theirs:
        if edge.function == chain.function:
            return Edge(function, edge.item_bytes, edge.items_per_second)
    return Edge(function) if chain.edges is None else None


def _seconds(edge: PlacedEdge, way: Way, hops: int) -> float:
    items = edge.items_per_second * HOUR_SECONDS
    return way.seconds(edge.item_bytes * items, items) + hops * items * transfer_seconds(HOST_MEMORY, edge.item_bytes)


def _neighbours(edge: PlacedEdge) -> Iterator[Neighbour]:
    """One for each device of the pod, which share the items evenly, as replicas do."""
    parts = edge.placed.parts or (None,)
    for part in parts:
        yield Neighbour(part, edge.item_bytes, edge.items_per_second / len(parts))
