from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedext import data_seconds as module
from schedext.costs import DEFAULT_COSTS, GB, Costs, Way
from schedext.data_seconds import DataSeconds, data_seconds
from schedext.owners import Reads
from tasuki.kube.cache_node import CacheNodeStatus
from tests.schedext.caches import holds, residency, told

# Without latencies, seconds are bytes over bandwidth: 10, 20, 40 and 100 s for 100 GB.
COSTS = replace(
    DEFAULT_COSTS,
    local_disk=Way(10 * GB, 0.0),
    zone=Way(5 * GB, 0.0),
    other_zone=Way(2.5 * GB, 0.0),
    origin=Way(1 * GB, 0.0),
)

NODES = {"n1": "a", "n2": "a", "n3": "b", "n4": "b", "n5": ""}
TB = 10**12

sizes = st.integers(0, 10 * TB)
reports = st.fixed_dictionaries(
    {
        node: st.builds(
            lambda zone, objects, buckets: holds(zone, objects=objects, **buckets),
            st.just(zone),
            st.integers(1, 10**6),
            st.dictionaries(st.sampled_from(["imagenet", "coco"]), sizes),
        )
        for node, zone in NODES.items()
    }
)


@pytest.mark.parametrize(
    ("node", "zone", "expected"),
    [
        pytest.param("all", "a", 10.0, id="all of it on its own disk"),
        pytest.param("none", "a", 20.0, id="all of it in its zone"),
        pytest.param("half", "b", 0.5 * 10 + 0.5 * 40, id="half of it on its disk, the rest in another zone"),
        pytest.param("none", "b", 0.5 * 20 + 0.5 * 40, id="half of it in its zone, the rest in another zone"),
        pytest.param("none", "c", 40.0, id="all of it in another zone"),
        pytest.param("none", "", 40.0, id="a node without a zone, where others have one"),
    ],
)
def test_bytes_cost_by_where_they_are(node: str, zone: str, expected: float) -> None:
    held = residency(all=holds("a", imagenet=100 * 10**9), half=holds("b", imagenet=50 * 10**9))

    found = data_seconds(("imagenet",), held, COSTS)

    assert found.at(node, zone) == pytest.approx(expected)


def test_what_the_zone_lacks_comes_from_the_origin_where_that_is_sooner() -> None:
    held = residency(all=holds("a", imagenet=100 * 10**9), half=holds("b", imagenet=50 * 10**9))
    far = replace(COSTS, other_zone=replace(COSTS.other_zone, bytes_per_second=0.1 * GB))

    found = data_seconds(("imagenet",), held, far)

    assert found.at("none", "a") == pytest.approx(20.0)
    assert found.at("none", "b") == pytest.approx(0.5 * 20 + 0.5 * 100)
    assert found.at("none", "c") == pytest.approx(100.0)


def test_a_cluster_without_zones_is_one_zone() -> None:
    found = data_seconds(("imagenet",), residency(n1=holds("", imagenet=100 * 10**9)), COSTS)

    assert found.at("n1", "") == pytest.approx(10.0)
    assert found.at("n2", "") == pytest.approx(20.0)


def test_buckets_add_up() -> None:
    held = residency(
        n1=holds("a", imagenet=100 * 10**9),
        n2=holds("a", coco=50 * 10**9),
        n3=holds("b", coco=50 * 10**9, models=9 * 10**9),
    )

    found = data_seconds(("coco", "imagenet"), held, COSTS)
    both = data_seconds(("coco", "models"), held, COSTS)

    assert both.at("n3", "b") == pytest.approx(0.5 * 10 + 0.09 * 10)
    assert found.at("n1", "a") == pytest.approx(10 + 0.5 * 20)
    assert found.at("n2", "a") == pytest.approx(20 + 0.5 * 10)
    assert found.at("n3", "b") == pytest.approx(40 + 0.5 * 10)
    assert found.at("n4", "b") == pytest.approx(40 + 0.5 * 20)


@pytest.mark.parametrize(
    "buckets", [pytest.param((), id="no bucket"), pytest.param(("coco",), id="a bucket that nobody holds")]
)
def test_it_makes_no_difference_where_nothing_is_read(buckets: tuple[str, ...]) -> None:
    assert data_seconds(buckets, residency(n1=holds("a", imagenet=1)), COSTS) == DataSeconds()


def test_the_slower_of_disk_and_network_counts() -> None:
    held = residency(n1=holds("a", imagenet=100 * 10**9))
    slow_disk = replace(COSTS, local_disk=Way(1 * GB, 0.0))

    found = data_seconds(("imagenet",), held, slow_disk)

    assert found.at("n1", "a") == found.at("n2", "a") == found.at("n3", "b") == pytest.approx(100.0)


def test_each_object_waits_for_network_and_disk() -> None:
    costs = Costs(local_disk=Way(1e18, 1e-3), zone=Way(1e18, 2e-3), other_zone=Way(1e18, 4e-3))
    held = residency(n1=holds("a", objects=1000, imagenet=10**6))

    found = data_seconds(("imagenet",), held, costs)

    assert found.at("n1", "a") == pytest.approx(1.0)
    assert found.at("n2", "a") == pytest.approx(1.0 + 2.0)
    assert found.at("n2", "b") == pytest.approx(1.0 + 4.0)


@given(reports)
def test_nowhere_is_better_than_the_own_disk_nor_worse_than_far_away(cluster: Mapping[str, CacheNodeStatus]) -> None:
    held = told(cluster)
    found = data_seconds(("coco", "imagenet"), held, DEFAULT_COSTS)

    disk = 0.0
    for bucket in ("coco", "imagenet"):
        whole = max(held.shares(bucket).values(), key=lambda share: share.size_bytes, default=None)
        if whole is not None:
            disk += whole.size_bytes / DEFAULT_COSTS.local_disk.bytes_per_second
    for node, zone in NODES.items():
        assert disk * (1 - 1e-9) <= found.at(node, zone) <= found.default * (1 + 1e-9)


held_sizes = st.integers(1, 10 * TB)


@given(held_sizes, held_sizes, held_sizes, st.integers(0, 10 * TB))
def test_bytes_moved_to_a_node_within_its_zone_never_cost_it_more(own: int, others: int, far: int, moved: int) -> None:
    moved = min(moved, others - 1)

    before = seconds_on_n1(own, others, far)
    after = seconds_on_n1(own + moved, others - moved, far)

    assert after <= before * (1 + 1e-9)


@given(held_sizes, held_sizes, held_sizes, st.integers(0, 10 * TB))
def test_more_bytes_on_a_node_never_cost_it_more(own: int, others: int, far: int, more: int) -> None:
    """As long as another zone tells how large the bucket is."""
    far += own + others + more

    assert seconds_on_n1(own + more, others, far) <= seconds_on_n1(own, others, far) * (1 + 1e-9)


def test_of_too_many_buckets_the_largest_count_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {f"n{n}": holds("a", large=8 * TB, small=TB) for n in range(4)} | {"other": holds("a", small=4 * TB)}
    held = told(nodes)
    exact = data_seconds(("large", "small"), held, COSTS)
    monkeypatch.setattr(module, "_MOST_STEPS", 6)

    found = data_seconds(("large", "small"), held, COSTS)

    assert found.by_zone == exact.by_zone
    large, small = (data_seconds((bucket,), held, COSTS) for bucket in ("large", "small"))
    assert found.by_node.keys() == large.by_node.keys()
    for node, seconds in found.by_node.items():
        assert seconds == pytest.approx(large.by_node[node] + small.by_zone["a"])
    assert found.at("other", "a") == exact.by_zone["a"]


def test_of_named_objects_each_is_read_from_its_owners_disk() -> None:
    held = residency(n1=holds("a", objects=50, imagenet=100 * 10**9), n2=holds("a", objects=50, imagenet=100 * 10**9))
    reads = {"imagenet": Reads(10, {"a": {"n1": 9, "n2": 1}})}

    found = data_seconds(("imagenet",), held, COSTS, reads)

    # Ten of a hundred objects are 20 GB, which take 2 s from the own disk and 4 s from the zone.
    assert found.at("n1", "a") == pytest.approx(0.9 * 2 + 0.1 * 4)
    assert found.at("n2", "a") == pytest.approx(0.1 * 2 + 0.9 * 4)
    assert found.at("n3", "a") == pytest.approx(4)
    assert found.at("n4", "b") == pytest.approx(8)


def test_of_named_objects_a_zone_has_as_large_a_part_as_of_the_bucket() -> None:
    held = residency(n1=holds("a", objects=100, imagenet=200 * 10**9), n3=holds("b", objects=50, imagenet=100 * 10**9))
    reads = {"imagenet": Reads(10, {"a": {"n1": 10}, "b": {"n3": 5, "n4": 5}})}

    found = data_seconds(("imagenet",), held, COSTS, reads)

    assert found.at("n3", "b") == found.at("n4", "b") == pytest.approx(0.25 * 2 + 0.25 * 4 + 0.5 * 8)


def test_named_objects_whose_owners_are_unknown_lie_as_reported() -> None:
    held = residency(n1=holds("a", objects=75, imagenet=150 * 10**9), n2=holds("a", objects=25, imagenet=50 * 10**9))

    found = data_seconds(("imagenet",), held, COSTS, {"imagenet": Reads(10)})

    assert found.at("n1", "a") == pytest.approx(0.75 * 2 + 0.25 * 4)
    assert found.at("n3", "a") == pytest.approx(4)


def test_naming_more_objects_than_a_bucket_has_is_reading_all_of_it() -> None:
    held = residency(n1=holds("a", objects=100, imagenet=100 * 10**9))

    found = data_seconds(("imagenet",), held, COSTS, {"imagenet": Reads(1000, {"a": {"n1": 1000}})})

    assert found.at("n1", "a") == pytest.approx(10)


def test_buckets_without_named_objects_are_read_whole() -> None:
    held = residency(n1=holds("a", objects=100, imagenet=100 * 10**9, coco=100 * 10**9))

    found = data_seconds(("coco", "imagenet"), held, COSTS, {"imagenet": Reads(1, {"a": {"n1": 1}})})

    assert found.at("n1", "a") == pytest.approx(10 + 0.1)


@given(reports, st.integers(1, 1000), st.dictionaries(st.sampled_from(["n1", "n2"]), st.integers(0, 1000)))
def test_owning_objects_never_costs_a_node_more(
    cluster: Mapping[str, CacheNodeStatus], objects: int, owned: Mapping[str, int]
) -> None:
    counts = {node: min(count, objects // 2) for node, count in owned.items()}
    reads = {"coco": Reads(objects, {"a": counts})}

    found = data_seconds(("coco",), told(cluster), DEFAULT_COSTS, reads)

    assert all(seconds <= found.by_zone[NODES[node]] for node, seconds in found.by_node.items())
    assert all(seconds >= 0 for seconds in found.by_node.values())
    if counts.keys() >= {"n1", "n2"} and counts["n1"] > counts["n2"]:
        assert found.at("n1", "a") <= found.at("n2", "a")


def seconds_on_n1(own: int, others: int, far: int) -> float:
    """Where another node of its zone, and one of another zone, hold some as well."""
    cluster = {
        "n1": holds("a", objects=500, coco=own),
        "n2": holds("a", objects=500, coco=others),
        "n3": holds("b", objects=1000, coco=far),
    }
    return data_seconds(("coco",), told(cluster), DEFAULT_COSTS).at("n1", "a")


@given(reports)
def test_a_node_that_holds_bytes_is_never_worse_than_its_zones_others(cluster: Mapping[str, CacheNodeStatus]) -> None:
    found = data_seconds(("coco", "imagenet"), told(cluster), DEFAULT_COSTS)

    assert all(seconds <= found.by_zone[NODES[node]] for node, seconds in found.by_node.items())


@given(reports)
def test_only_nodes_with_bytes_are_listed(cluster: Mapping[str, CacheNodeStatus]) -> None:
    found = data_seconds(("coco",), told(cluster), DEFAULT_COSTS)

    holders = {
        node for node, status in cluster.items() if any(each.name == "coco" and each.bytes for each in status.buckets)
    }
    assert found.by_node.keys() == holders
    assert found.by_zone.keys() == {NODES[node] for node in holders}
