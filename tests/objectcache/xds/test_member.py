from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import pytest

from objectcache.xds.member import WEIGHT_LABEL, CachePod, Member, NodeFacts, members, weight_of

POD = CachePod("cache-1", "n1", "10.0.0.1", "2026-11-01T00:00:00Z", ready=True, leaving=False)
HERE = Member("n1", "10.0.0.1", 8480, "z1")
THERE = {"n1": NodeFacts("z1")}


@pytest.mark.parametrize(
    ("pod", "node", "expected"),
    [
        pytest.param(POD, NodeFacts("z1"), [HERE], id="ready"),
        pytest.param(replace(POD, ready=False), NodeFacts("z1"), [], id="not ready"),
        pytest.param(replace(POD, leaving=True), NodeFacts("z1"), [replace(HERE, leaving=True)], id="being deleted"),
        pytest.param(
            replace(POD, leaving=True, ready=False), NodeFacts("z1"), [replace(HERE, leaving=True)],
            id="being deleted and not ready any more",
        ),
        pytest.param(replace(POD, address=""), NodeFacts("z1"), [], id="without an address"),
        pytest.param(replace(POD, node=""), NodeFacts("z1"), [], id="without a node"),
        pytest.param(replace(POD, node="n2"), NodeFacts("z1"), [], id="on a node that is not known"),
        pytest.param(POD, NodeFacts("", weight=3), [replace(HERE, zone="", weight=3)], id="no zone, of weight 3"),
    ],
)  # fmt: skip
def test_who_is_a_member(pod: CachePod, node: NodeFacts, expected: Sequence[Member]) -> None:
    assert list(members([pod], {"n1": node}, 8480)) == expected


OLD = replace(POD, name="old", address="10.0.0.9", created="2026-10-01T00:00:00Z")


@pytest.mark.parametrize(
    ("pods", "chosen"),
    [
        pytest.param([POD, replace(OLD, leaving=True)], "10.0.0.1", id="the one that stays"),
        pytest.param([replace(POD, leaving=True), OLD], "10.0.0.9", id="the one that stays, though older"),
        pytest.param([POD, OLD], "10.0.0.1", id="the younger of two that stay"),
        pytest.param([replace(POD, ready=False), replace(OLD, leaving=True)], "10.0.0.9", id="nobody else is ready"),
    ],
)
def test_a_node_has_one_member(pods: list[CachePod], chosen: str) -> None:
    for order in permutations(pods):
        [found] = members(order, THERE, 8480)

        assert found.address == chosen


ELSEWHERE = replace(POD, name="cache-2", node="n2", address="10.0.0.2")


def leaving(pods: Sequence[CachePod], nodes: Mapping[str, NodeFacts]) -> dict[str, bool]:
    return {member.node: member.leaving for member in members(pods, nodes, 8480)}


def test_a_cache_leaves_with_its_node() -> None:
    nodes = {"n1": NodeFacts("z1", leaving=True), "n2": NodeFacts("z2")}

    assert leaving([POD, ELSEWHERE], nodes) == {"n1": True, "n2": False}


def test_where_all_nodes_leave_at_once_caches_stay_until_their_pods_go() -> None:
    nodes = {name: NodeFacts("z1", leaving=True) for name in ("n1", "n2")}

    assert leaving([POD, ELSEWHERE], nodes) == {"n1": False, "n2": False}
    assert leaving([POD, replace(ELSEWHERE, leaving=True)], nodes) == {"n1": False, "n2": True}
    assert leaving([replace(POD, leaving=True)], nodes) == {"n1": True}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(replace(POD, leaving=True), ELSEWHERE, {"n2": False}, id="the one that stays"),
        pytest.param(replace(POD, created="2026-11-02T00:00:00Z"), ELSEWHERE, {"n1": False}, id="the younger"),
    ],
)
def test_an_address_has_one_member(one: CachePod, other: CachePod, expected: dict[str, bool]) -> None:
    nodes = {"n1": NodeFacts("z1"), "n2": NodeFacts("z1")}
    other = replace(other, address=one.address)

    assert leaving([one, other], nodes) == leaving([other, one], nodes) == expected


@pytest.mark.parametrize(
    ("label", "weight"),
    [("", 1), ("7", 7), ("0", 1), ("-2", 1), ("10000", 10000), ("10001", 1), ("1e3", 1), ("²", 1), ("9" * 50, 1)],
)
def test_what_is_no_weight_weighs_one(label: str, weight: int) -> None:
    assert weight_of({WEIGHT_LABEL: label}) == weight
