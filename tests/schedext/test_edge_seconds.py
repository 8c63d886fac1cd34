from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedext.costs import DEFAULT_COSTS, GB, HOUR_SECONDS, Way
from schedext.demand import DEFAULT_ITEM_BYTES, DEFAULT_ITEMS_PER_SECOND, Chain, ChainName, Edge
from schedext.edge_seconds import EdgeSeconds, PlacedEdge, edge_seconds, edges_to
from schedext.node import PlacedFunction
from schedext.placing import Neighbour
from tasuki.devices.topology import LINKS, LinkKind

NAME = ChainName("video", "detect")
DECODE = PlacedFunction("u-decode", "decode", "n1")
INFER = PlacedFunction("u-infer", "infer", "n2")

# A GB each second is 3,600 s lost in an hour within the zone, and four times that beyond.
COSTS = replace(DEFAULT_COSTS, zone=Way(1 * GB, 0.0), other_zone=Way(0.25 * GB, 0.0))
ZONES = {"n1": "a", "n2": "a", "n3": "b", "n4": ""}


def resize(*edges: Edge) -> Chain:
    """The function whose pod is to be placed."""
    return Chain(NAME, "resize", edges or None)


def flows(edges: tuple[PlacedEdge, ...]) -> dict[str, tuple[int, float]]:
    return {edge.placed.uid: (edge.item_bytes, edge.items_per_second) for edge in edges}


DEFAULT = (DEFAULT_ITEM_BYTES, DEFAULT_ITEMS_PER_SECOND)


@pytest.mark.parametrize(
    ("chain", "declared", "expected"),
    [
        pytest.param(
            resize(), {}, {"u-decode": DEFAULT, "u-infer": DEFAULT}, id="nobody declares any: all, by default"
        ),
        pytest.param(resize(Edge("decode", 5, 2.0)), {}, {"u-decode": (5, 2.0)}, id="only those that the pod names"),
        pytest.param(
            resize(Edge("decode", 5, 2.0)),
            {"infer": (Edge("resize", 7, 3.0),)},
            {"u-decode": (5, 2.0), "u-infer": (7, 3.0)},
            id="and those that name the pod's function",
        ),
        pytest.param(
            resize(Edge("decode", 5, 2.0)),
            {"decode": (Edge("resize", 9, 9.0),)},
            {"u-decode": (5, 2.0)},
            id="declared at both ends: once, as the pod says",
        ),
        pytest.param(
            resize(),
            {"decode": (Edge("other", 1, 1.0), Edge("resize", 9, 4.0))},
            {"u-decode": (9, 4.0), "u-infer": DEFAULT},
            id="the other end's word is better than the default",
        ),
        pytest.param(resize(Edge("elsewhere")), {"infer": (Edge("decode"),)}, {}, id="no edge to anyone placed"),
    ],
)
def test_edges(chain: Chain, declared: Mapping[str, tuple[Edge, ...]], expected: dict[str, tuple[int, float]]) -> None:
    assert flows(edges_to(chain, "u", (DECODE, INFER), declared)) == expected


def test_a_pod_has_no_edge_to_itself_nor_to_its_replicas() -> None:
    placed = (PlacedFunction("u", "elsewhere", "n1"), PlacedFunction("u-2", "resize", "n1"), DECODE)

    assert flows(edges_to(resize(), "u", placed, {})) == {"u-decode": DEFAULT}


def test_several_pods_of_a_function_share_its_edge() -> None:
    placed = (DECODE, replace(DECODE, uid="u-decode-2", node="n3"), INFER)

    found = flows(edges_to(resize(Edge("decode", 8, 30.0), Edge("infer", 2, 6.0)), "u", placed, {}))

    assert found == {"u-decode": (8, 15.0), "u-decode-2": (8, 15.0), "u-infer": (2, 6.0)}


def an_edge(node: str, *, gigabytes: float = 1.0, parts: tuple[int, ...] = ()) -> PlacedEdge:
    """Of so many GB a second."""
    return PlacedEdge(PlacedFunction(f"u-{node}", "decode", node, parts), int(gigabytes * GB), 1.0)


@pytest.mark.parametrize(
    ("node", "zone", "expected"),
    [
        pytest.param("n1", "a", 3 + 4 * 10, id="beside one neighbour, which is left out"),
        pytest.param("n2", "a", 2 + 4 * 10, id="beside another"),
        pytest.param("n9", "a", 2 + 3 + 4 * 10, id="in the zone of two"),
        pytest.param("n3", "b", 4 * (2 + 3), id="beside the one of another zone"),
        pytest.param("n8", "b", 4 * (2 + 3) + 10, id="in that zone"),
        pytest.param("n7", "c", 4 * (2 + 3 + 10), id="far from all"),
        pytest.param("n6", "", 4 * (2 + 3 + 10), id="nobody knows where"),
    ],
)
def test_neighbours_cost_by_where_they_are(node: str, zone: str, expected: float) -> None:
    edges = (an_edge("n1", gigabytes=2), an_edge("n2", gigabytes=3), an_edge("n3", gigabytes=10))

    found = edge_seconds(edges, ZONES, COSTS, from_device=False)

    assert found.at(node, zone) == pytest.approx(expected * HOUR_SECONDS)


def test_a_cluster_without_zones_is_one_zone() -> None:
    found = edge_seconds((an_edge("n4"), an_edge("unknown")), ZONES, COSTS, from_device=False)

    assert found.at("n9", "") == pytest.approx(2 * HOUR_SECONDS)
    assert found.at("n4", "") == pytest.approx(HOUR_SECONDS)
    assert found.at("n1", "a") == pytest.approx(8 * HOUR_SECONDS)


@pytest.mark.parametrize(
    ("parts", "from_device", "hops"),
    [
        pytest.param((), False, 0, id="from memory to memory"),
        pytest.param((), True, 1, id="out of a device"),
        pytest.param((0,), False, 1, id="into a device"),
        pytest.param((0,), True, 2, id="from device to device"),
        pytest.param((0, 1), True, 2, id="to one of two devices"),
    ],
)
def test_items_pass_through_the_memory_of_both_hosts(parts: tuple[int, ...], from_device: bool, hops: int) -> None:
    edge = PlacedEdge(PlacedFunction("uid", "decode", "n1", parts), 10**9, 1.0)

    found = edge_seconds((edge,), ZONES, COSTS, from_device=from_device)

    apart = edge_seconds((edge,), ZONES, COSTS, from_device=False).at("n9", "a")
    without = edge_seconds((an_edge("n1"),), ZONES, COSTS, from_device=False).at("n9", "a")
    one_hop = LINKS[LinkKind.NUMA_NODE]
    each = HOUR_SECONDS * (one_hop.latency_seconds + 10**9 / one_hop.bytes_per_second)
    assert found.at("n9", "a") == pytest.approx(without + hops * each)
    assert apart == pytest.approx(without + bool(parts) * each)


def test_each_item_waits_for_the_network() -> None:
    costs = replace(COSTS, zone=Way(1e18, 1e-3), other_zone=Way(1e18, 5e-3))
    found = edge_seconds((PlacedEdge(DECODE, 1, 30.0),), ZONES, costs, from_device=False)

    assert found.at("n2", "a") == pytest.approx(30 * HOUR_SECONDS * 1e-3)
    assert found.at("n3", "b") == pytest.approx(30 * HOUR_SECONDS * 5e-3)


def test_without_edges_it_makes_no_difference_where() -> None:
    assert edge_seconds((), ZONES, COSTS) == EdgeSeconds()


def test_neighbours_are_handed_on_by_node() -> None:
    edges = (an_edge("n1"), an_edge("n2", parts=(3,)), replace(an_edge("n1", parts=(0, 1)), item_bytes=6))

    assert edge_seconds(edges, ZONES, COSTS).neighbours == {
        "n1": (Neighbour(None, int(GB), 1.0), Neighbour(0, 6, 0.5), Neighbour(1, 6, 0.5)),
        "n2": (Neighbour(3, int(GB), 1.0),),
    }


nodes = st.sampled_from(list(ZONES))
edges = st.lists(
    st.builds(
        lambda node, size, rate: PlacedEdge(PlacedFunction("u", "decode", node), size, rate),
        nodes,
        st.integers(0, 10**15),
        st.floats(0, 10**15),
    ),
    min_size=1,
    max_size=12,
)


@given(edges)
def test_seconds_are_never_negative_and_nowhere_more_than_far_from_all(drawn: list[PlacedEdge]) -> None:
    found = edge_seconds(drawn, ZONES, DEFAULT_COSTS)

    for seconds in (*found.by_node.values(), *found.by_zone.values()):
        assert 0 <= seconds <= found.default * (1 + 1e-9)


@given(edges)
def test_only_a_node_with_all_neighbours_loses_nothing(drawn: list[PlacedEdge]) -> None:
    together = [replace(edge, placed=DECODE) for edge in drawn]

    assert edge_seconds(together, ZONES, DEFAULT_COSTS).at("n1", "a") == 0


@given(edges, st.data())
def test_moving_a_neighbour_nearer_never_costs_more(drawn: list[PlacedEdge], data: st.DataObject) -> None:
    """To a node from another one of its zone, and there from another zone."""
    index = data.draw(st.integers(0, len(drawn) - 1))

    def seconds(node: str) -> float:
        moved = [*drawn]
        moved[index] = replace(drawn[index], placed=PlacedFunction("u", "decode", node))
        return edge_seconds(moved, ZONES, DEFAULT_COSTS).at("n1", "a")

    tolerance = edge_seconds(drawn, ZONES, DEFAULT_COSTS).default * 1e-9
    assert seconds("n1") <= seconds("n2") + tolerance
    assert seconds("n2") <= seconds("n3") + tolerance


@given(edges)
def test_neighbours_carry_all_that_the_edges_do(drawn: list[PlacedEdge]) -> None:
    on_devices = [
        replace(edge, placed=replace(edge.placed, parts=tuple(range(index % 4)))) for index, edge in enumerate(drawn)
    ]

    found = edge_seconds(on_devices, ZONES, DEFAULT_COSTS)

    carried = sum(each.items_per_second for node in found.neighbours.values() for each in node)
    assert carried == pytest.approx(sum(edge.items_per_second for edge in drawn))
