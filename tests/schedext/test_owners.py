from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedext.demand import NamedObjects, demand
from schedext.owners import Owners
from tasuki.kube.cache_node import CacheNodeStatus
from tasuki.routing.maglev import Maglev
from tests.schedext.caches import holds
from tests.schedext.pods import a_pod

SMALL = 251

reports = st.none() | st.builds(
    lambda zone, serving: holds(zone, serving=serving), st.sampled_from(["", "a", "b"]), st.booleans()
)
histories = st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3", "n4"]), reports), max_size=20)


def named(*objects: str) -> tuple[NamedObjects, ...]:
    return demand(a_pod(annotations={"tasuki.dev/cache-objects": ", ".join(objects)})).objects


def told(reports: Iterable[tuple[str, CacheNodeStatus | None]]) -> Owners:
    made = Owners()
    for node, status in reports:
        made.apply(node, status)
    return made


def settled(**zones: str) -> Owners:
    """By node its zone; every table is made."""
    made = told((node, holds(zone)) for node, zone in zones.items())
    settle(made)
    return made


def settle(owners: Owners, table_size: int = SMALL) -> None:
    for zone, members in owners.stale().items():
        owners.put(zone, Maglev(members, table_size))


def test_each_object_is_its_owners_as_envoy_has_it() -> None:
    """The golden vectors of docs/routing.md: three caches and four keys, found with a real Envoy."""
    owners = told((node, holds("z")) for node in ("node-a", "node-b", "node-c"))
    settle(owners, 65_537)
    objects = named("imagenet/train/000.jpg", "bk/s3://h/bucket/key", "models/llama.bin")

    found = owners.reads(objects)

    assert {bucket: dict(reads.owned["z"]) for bucket, reads in found.items()} == {
        "imagenet": {"node-c": 1},
        "bk": {"node-b": 1},
        "models": {"node-c": 1},
    }


def test_objects_are_counted_by_zone_and_node() -> None:
    owners = settled(n1="a", n2="a", n3="b")
    keys = [f"b/{n}" for n in range(50)]
    table = Maglev(["n1", "n2"], SMALL)

    reads = owners.reads(named(*keys))["b"]

    assert reads.objects == 50
    assert dict(reads.owned["a"]) == Counter(table.owner(key) for key in keys)
    assert dict(reads.owned["b"]) == {"n3": 50}


def test_nothing_is_known_of_a_zone_before_its_table_is_made() -> None:
    owners = told([("n1", holds("a"))])

    assert owners.reads(named("b/o"))["b"].owned == {}
    assert owners.stale() == {"a": ["n1"]}


def test_the_former_table_answers_until_there_is_another() -> None:
    owners = settled(n1="a")

    owners.apply("n2", holds("a"))

    assert owners.stale() == {"a": ["n1", "n2"]}
    assert dict(owners.reads(named("b/o"))["b"].owned["a"]) == {"n1": 1}


def test_a_new_table_counts_at_once() -> None:
    owners = settled(n1="a")
    objects = named("b/o")
    owners.reads(objects)

    owners.apply("n1", None)
    owners.apply("n2", holds("a"))
    settle(owners)

    assert dict(owners.reads(objects)["b"].owned["a"]) == {"n2": 1}


def test_a_table_that_was_overtaken_is_made_again() -> None:
    owners = told([("n1", holds("a"))])
    made = Maglev(owners.stale()["a"], SMALL)
    owners.apply("n2", holds("a"))

    owners.put("a", made)

    assert owners.stale() == {"a": ["n1", "n2"]}


@pytest.mark.parametrize(
    "status", [pytest.param(None, id="gone"), pytest.param(holds("a", serving=False), id="not serving")]
)
def test_a_zone_without_caches_owns_nothing(status: CacheNodeStatus | None) -> None:
    owners = settled(n1="a")

    owners.apply("n1", status)
    settle(owners)

    assert owners.reads(named("b/o"))["b"].owned == {}
    assert not owners.stale()


def test_a_cache_that_leaves_and_comes_back_costs_no_table() -> None:
    owners = settled(n1="a", n2="a")

    owners.apply("n2", holds("a", serving=False))
    owners.apply("n2", holds("a"))

    assert not owners.stale()


def test_a_report_of_the_same_cache_costs_no_table() -> None:
    owners = settled(n1="a")

    owners.apply("n1", holds("a", imagenet=10**9))

    assert not owners.stale()


def test_equal_objects_are_looked_up_once() -> None:
    owners = settled(n1="a")

    assert owners.reads(named("b/o", "b/p")) is owners.reads(named("b/p", "b/o"))


def test_what_is_remembered_is_bounded() -> None:
    owners = settled(n1="a")

    for n in range(100):
        owners.reads(named(f"b/{n}"))

    assert len(owners._remembered) <= 32


@given(histories)
def test_only_the_last_reports_matter(history: list[tuple[str, CacheNodeStatus | None]]) -> None:
    owners = told(history)

    settle(owners)

    expected: dict[str, list[str]] = {}
    for node, status in sorted(dict(history).items()):
        if status is not None and status.serving:
            expected.setdefault(status.zone, []).append(node)
    assert {zone: list(table.keys) for zone, table in owners._tables.items()} == expected
    assert owners._members.keys() == expected.keys()
    assert not owners.stale()


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True), st.sampled_from(["", "?v=2"]))
def test_every_object_has_one_owner_in_each_zone(numbers: list[int], query: str) -> None:
    owners = settled(n1="a", n2="a", n3="b", n4="")

    reads = owners.reads(named(*(f"b/{n}{query}" for n in numbers)))["b"]

    assert {zone: sum(owned.values()) for zone, owned in reads.owned.items()} == dict.fromkeys(
        ("", "a", "b"), len(numbers)
    )
    assert reads == owners.reads(named(*(f"b/{n}" for n in numbers)))["b"]
