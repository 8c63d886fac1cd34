from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from schedext.residency import Residency
from tasuki.kube.cache_node import CacheNodeStatus
from tests.schedext.caches import holds, residency, told

BUCKETS = ("imagenet", "coco", "models")

reports = st.builds(
    lambda zone, serving, buckets: holds(zone, serving=serving, **buckets),
    st.sampled_from(["", "a", "b"]),
    st.booleans(),
    st.dictionaries(st.sampled_from(BUCKETS), st.integers(-1, 10**13)),
)
clusters = st.dictionaries(st.sampled_from(["n1", "n2", "n3", "n4"]), reports)
histories = st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3", "n4"]), st.none() | reports), max_size=20)


def everything(found: Residency) -> Mapping[str, Mapping[str, tuple[int, int, Mapping[str, int]]]]:
    return {
        bucket: {zone: (share.size_bytes, share.objects, share.by_node) for zone, share in shares.items()}
        for bucket in BUCKETS
        if (shares := found.shares(bucket))
    }


def test_a_buckets_bytes_are_known_by_node_and_by_zone() -> None:
    found = residency(
        n1=holds("a", imagenet=30, coco=1), n2=holds("a", imagenet=10, objects=2), n3=holds("b", imagenet=5)
    )

    assert everything(found) == {
        "imagenet": {"a": (40, 3, {"n1": 30, "n2": 10}), "b": (5, 1, {"n3": 5})},
        "coco": {"a": (1, 1, {"n1": 1})},
    }


def test_nothing_is_known_of_a_bucket_that_nobody_holds() -> None:
    assert not residency(n1=holds("a", imagenet=30)).shares("coco")


def test_a_report_replaces_the_former_one() -> None:
    found = residency(n1=holds("a", imagenet=30, coco=7), n2=holds("a", imagenet=1))

    found.apply("n1", holds("b", imagenet=20))

    assert everything(found) == {"imagenet": {"a": (1, 1, {"n2": 1}), "b": (20, 1, {"n1": 20})}}


def test_a_cache_that_stops_serving_counts_for_nothing() -> None:
    found = residency(n1=holds("a", imagenet=30))

    found.apply("n1", holds("a", imagenet=30, serving=False))

    assert everything(found) == {}


def test_a_cache_that_is_gone_counts_for_nothing() -> None:
    found = residency(n1=holds("a", imagenet=30), n2=holds("a", imagenet=4))

    found.apply("n1", None)
    found.apply("n3", None)

    assert everything(found) == {"imagenet": {"a": (4, 1, {"n2": 4})}}


def test_absurd_numbers_of_objects_are_survived() -> None:
    found = residency(n1=holds("a", imagenet=30, objects=-5), n2=holds("a", imagenet=1, objects=2**63))

    assert found.shares("imagenet")["a"].objects == 1 + 2**40


@given(histories)
def test_only_each_nodes_last_report_matters(history: list[tuple[str, CacheNodeStatus | None]]) -> None:
    found = Residency()
    for node, status in history:
        found.apply(node, status)

    last = {node: status for node, status in dict(history).items() if status is not None}
    assert everything(found) == everything(told(last))


@given(clusters)
def test_a_zone_holds_what_its_serving_nodes_hold(cluster: Mapping[str, CacheNodeStatus]) -> None:
    found = told(cluster)

    for bucket in BUCKETS:
        expected: dict[str, int] = {}
        for status in cluster.values():
            held = sum(each.bytes for each in status.buckets if each.name == bucket and each.bytes > 0)
            if status.serving and held:
                expected[status.zone] = expected.get(status.zone, 0) + held
        assert {zone: share.size_bytes for zone, share in found.shares(bucket).items()} == expected
        assert all(sum(share.by_node.values()) == share.size_bytes for share in found.shares(bucket).values())
