"""Buckets as they are written, and the rules that follow from them."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.access.buckets import MOST_BUCKETS, Bucket, read_buckets, read_cache_bucket, rules
from objectcache.access.namespace_selector import NamespaceSelector, Requirement
from objectcache.link import BucketRules
from tasuki.process.document import ConfigError

EXAMPLE = Path(__file__).parents[3] / "examples" / "objectcache" / "buckets.yaml"
GIB = 2**30
TEAM = NamespaceSelector((Requirement("team", "In", ("vision",)),))
NAMESPACES = {"research": {"team": "vision"}, "sales": {"team": "none"}, "vision": {"team": "vision"}}


def problems(content: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_buckets(content.encode())
    return caught.value.problems


def object_problems(name: str, spec: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_cache_bucket(name, spec.encode())
    return caught.value.problems


def rule(bucket: Bucket) -> BucketRules:
    (found,) = rules({bucket.name: bucket}, NAMESPACES, lambda _: 7)
    return found


def test_the_talks_json_is_read() -> None:
    bucket = {"Name": "bk", "Public": False, "BucketQuota": "100Gi", "AllowNamespaces": ["research", "a", "a"]}

    found = read_buckets(json.dumps([bucket]).encode())

    assert found == {"bk": Bucket("bk", 100 * GIB, namespaces=("a", "research"))}


def test_yaml_with_our_additions_is_read() -> None:
    found = read_buckets(b"""
buckets:
  - name: bk
    public: true
    bucketQuota: 1.5Gi
    pinnedQuota: 1Ki
    weight: 2
    allowNamespaceSelector:
      matchLabels: {team: vision}
      matchExpressions:
        - {key: example.org/stage, operator: NotIn, values: [b, a]}
        - {key: a, operator: Exists}
""")

    requirements = (
        *TEAM.requirements,
        Requirement("example.org/stage", "NotIn", ("a", "b")),
        Requirement("a", "Exists"),
    )
    selector = NamespaceSelector(requirements)
    assert found == {"bk": Bucket("bk", 3 * GIB // 2, True, None, selector, 2.0, 1024)}


def test_a_cache_bucket_is_read() -> None:
    spec = {
        "public": True,
        "bucketQuota": "1Gi",
        "allowNamespaces": ["research"],
        "namespaceSelector": {"matchLabels": {"team": "vision"}},
        "weight": 0.5,
        "pinnedQuota": 1024,
    }

    found = read_cache_bucket("bk", json.dumps(spec).encode())

    assert found == Bucket("bk", GIB, True, ("research",), TEAM, 0.5, 1024)


@pytest.mark.parametrize("content", ["", "[]", "buckets:", "buckets: []", "# nothing"])
def test_an_empty_file_has_no_buckets(content: str) -> None:
    assert read_buckets(content.encode()) == {}


def test_what_go_writes_for_nothing_is_nothing() -> None:
    bucket = {"Name": "bk", "BucketQuota": 1024, "AllowNamespaces": None, "AllowNamespaceSelector": None}

    assert read_buckets(json.dumps([bucket]).encode()) == {"bk": Bucket("bk", 1024)}


def test_an_empty_list_of_namespaces_is_not_the_same_as_none() -> None:
    bucket = {"Name": "bk", "Public": True, "BucketQuota": 1024, "AllowNamespaces": []}

    assert read_buckets(json.dumps([bucket]).encode()) == {"bk": Bucket("bk", 1024, public=True, namespaces=())}


def one(key: str, value: str, **others: str) -> str:
    fields = {"Name": "bk", "BucketQuota": "1Gi", **others, key: value}
    return "- {" + ", ".join(f"{name}: {text}" for name, text in fields.items()) + "}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(one("BucketQota", "1Gi"), "BucketQota is not a known key; did you mean 'BucketQuota'?", id="typo"),
        pytest.param("- Name: bk", "buckets[0].BucketQuota is missing", id="no quota"),
        pytest.param("- BucketQuota: 1Gi", "buckets[0].Name is missing", id="no name"),
        pytest.param("Name: bk", "Name is not a known key; it belongs at buckets.Name", id="no list"),
        pytest.param("- bk", "buckets[0] is 'bk'; it must be a mapping of keys to values", id="no mapping"),
        pytest.param("buckets: 3", "buckets is 3; it must be a list", id="a number for the list"),
        pytest.param(one("Name", "Big"), "Name is 'Big'; it must be at most 63 lower-case letters", id="capitals"),
        pytest.param(one("Name", "a" * 64), "; it must be at most 63 lower-case letters", id="long name"),
        pytest.param(one("Name", "a/b"), "Name is 'a/b'; it must be at most 63", id="a slash"),
        pytest.param(one("Name", "12"), "Name is 12; it must be at most 63", id="a number as name"),
        pytest.param(one("Name", "null"), "Name is empty; it must be at most 63", id="null as name"),
        pytest.param(
            one("Public", "maybe"), "Public is 'maybe'; it must be true or false", id="neither true nor false"
        ),
        pytest.param(one("BucketQuota", "lots"), "cannot be read: 'lots' is not a quantity such as", id="no quantity"),
        pytest.param(one("BucketQuota", "0"), "BucketQuota is 0, which holds nothing", id="nothing"),
        pytest.param(one("BucketQuota", "500m"), "BucketQuota is '500m', which holds nothing", id="half a byte"),
        pytest.param(one("BucketQuota", "-1Gi"), "BucketQuota is '-1Gi'; it must be from 0", id="less than nothing"),
        pytest.param(one("BucketQuota", "100E"), "BucketQuota is '100E'; it must be from 0", id="beyond any disk"),
        pytest.param(one("BucketQuota", "[1]"), "BucketQuota is a list; it must be an amount", id="a list for amount"),
        pytest.param(
            one("PinnedQuota", "2Gi"),
            "PinnedQuota is 2147483648 bytes, more than the bucket's quota",
            id="pins too much",
        ),
        pytest.param(one("Weight", "0"), "Weight is 0; it must be a number from 0.01 to 100", id="no weight"),
        pytest.param(one("Weight", ".nan"), "Weight is '.nan'; it must be a number", id="no number"),
        pytest.param(one("Weight", "true"), "Weight is true; it must be a number", id="true as weight"),
        pytest.param(one("AllowNamespaces", "research"), "AllowNamespaces is 'research'; it must be a list", id="one"),
        pytest.param(one("AllowNamespaces", '["*"]'), "for every namespace write the selector {}", id="a glob"),
        pytest.param(one("AllowNamespaces", "[1]"), "AllowNamespaces[0] is 1; it must be a namespace's name", id="int"),
        pytest.param(
            one("AllowNamespaceSelector", "{matchLabel: {}}"), "did you mean 'matchLabels'?", id="typo in selector"
        ),
        pytest.param(
            one("AllowNamespaceSelector", "{matchLabels: {a: 1}}"), "put it in quotes", id="a number as label"
        ),
        pytest.param(
            one("AllowNamespaceSelector", "{matchLabels: {/a: b}}"), "it must be a label's key, such as", id="no key"
        ),
        pytest.param(
            one("AllowNamespaceSelector", "{matchLabels: {a: -b}}"), "it must be a label's value: at", id="no value"
        ),
        pytest.param(
            one("AllowNamespaceSelector", "{matchExpressions: [{key: a, operator: Gt, values: ['1']}]}"),
            "operator is 'Gt'; it must be In, NotIn, Exists or DoesNotExist",
            id="a node's operator",
        ),
        pytest.param(
            one("AllowNamespaceSelector", "{matchExpressions: [{key: a, operator: In}]}"),
            "values is empty; In needs at least one value",
            id="in nothing",
        ),
        pytest.param(
            one("AllowNamespaceSelector", "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}"),
            "values must be left out with Exists; for certain values write In",
            id="exists with a value",
        ),
        pytest.param("- {Name: a, name: b, BucketQuota: 1}", "is here twice, also as 'Name'", id="a key in two cases"),
        pytest.param("]", "not valid YAML", id="no YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_value_and_remedy(content: str, told: str) -> None:
    found = problems(content)

    assert told in found[0]
    assert found[0].startswith("line 1: ")


def test_a_bucket_is_defined_once() -> None:
    found = problems("- {Name: a, BucketQuota: 1Gi}\n- {Name: b, BucketQuota: 1Gi}\n- {Name: a, BucketQuota: 2Gi}")

    assert found == ("line 3: buckets[2].Name is 'a' again, as in buckets[0]; each bucket is defined once",)


def test_all_problems_are_told_together() -> None:
    found = problems("- {Name: A, BucketQuota: 0}\n- {Name: b}")

    assert len(found) == 3


@pytest.mark.parametrize(
    ("name", "spec", "told"),
    [
        pytest.param("bk", '{"bucketQota": 1}', "spec.bucketQota is not a known key; did you mean 'bucketQ", id="typo"),
        pytest.param("bk", "{}", "spec.bucketQuota is missing", id="no quota"),
        pytest.param("bk", "null", "spec is empty; it must be a mapping", id="no spec"),
        pytest.param("a" * 64, '{"bucketQuota": 1}', "metadata.name is", id="long name"),
        pytest.param("bk", '{"bucketQuota": 1, "pinnedQuota": 2}', "spec.pinnedQuota is 2 bytes, more", id="pins"),
        pytest.param("bk", '{"bucketQuota": true}', "spec.bucketQuota is true; it must be an amount", id="true"),
        pytest.param("bk", '{"bucketQuota": 1e999}', "spec", id="infinite"),
        pytest.param("bk", '{"bucketQuota": 1' + "0" * 60 + "}", "spec.bucketQuota", id="more than all"),
        pytest.param("bk", "[" * 5000, "spec is no JSON", id="deep"),
    ],
)
def test_what_is_wrong_with_a_cache_bucket_is_told_with_its_name(name: str, spec: str, told: str) -> None:
    found = object_problems(name, spec)

    assert found[0].startswith(f"CacheBucket {name!r}"[:60])
    assert told in found[0]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), lambda below: (
    st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["bucketQuota", "weight", "x"]), below, max_size=3)
), max_leaves=8))  # fmt: skip
def test_whatever_a_cache_bucket_holds_is_a_bucket_or_a_problem(spec: Any) -> None:
    found = None
    with contextlib.suppress(ConfigError):
        found = read_cache_bucket("bk", json.dumps(spec).encode())

    assert found is None or 0 < found.quota_bytes < 2**63


@pytest.mark.parametrize(
    ("bucket", "readers", "writers"),
    [
        pytest.param(Bucket("b", 1), set(), set(), id="a private one that names nobody is for nobody"),
        pytest.param(Bucket("b", 1, namespaces=("a",)), {"a"}, {"a"}, id="a private one is for those it names"),
        pytest.param(
            Bucket("b", 1, namespaces=("a",), selector=TEAM),
            {"a", "research", "vision"},
            {"a", "research", "vision"},
            id="or selects",
        ),
        pytest.param(
            Bucket("b", 1, selector=NamespaceSelector()), None, None, id="an empty selector selects every one"
        ),
        pytest.param(Bucket("b", 1, True), None, None, id="a public one that says nothing of them is for all"),
        pytest.param(Bucket("b", 1, True, ()), None, set(), id="one that names nobody on purpose is written by nobody"),
        pytest.param(Bucket("b", 1, True, ("a",)), None, {"a"}, id="a public one is written by those it names"),
        pytest.param(Bucket("b", 1, True, None, TEAM), None, {"research", "vision"}, id="or selects of all readers"),
    ],
)
def test_who_may_read_and_write(bucket: Bucket, readers: set[str] | None, writers: set[str] | None) -> None:
    found = rule(bucket)

    assert (found.readers, found.writers) == (readers, writers)


def test_rules_are_sorted_and_hold_what_workers_need() -> None:
    numbers = {"b": 2, "a": 9}
    buckets = {"b": Bucket("b", 5), "a": Bucket("a", 10, True, weight=2.0, pinned_bytes=3)}

    found = rules(buckets, {}, numbers.__getitem__)

    assert found[0] == BucketRules("a", 9, 10, 3, 2.0, None, None)
    assert [(each.name, each.number) for each in found] == [("a", 9), ("b", 2)]


def test_ten_thousand_selectors_do_not_look_at_each_namespace() -> None:
    namespaces = {f"n-{i}": {"name": f"n-{i}", "all": "yes"} for i in range(2_000)}
    buckets = {
        f"b-{i}": Bucket(f"b-{i}", 1, selector=NamespaceSelector((Requirement("name", "In", (f"n-{i}",)),)))
        for i in range(MOST_BUCKETS)
    }

    found = {each.name: each for each in rules(buckets, namespaces, lambda _: 0)}

    assert found["b-77"].readers == frozenset({"n-77"})
    assert found["b-9999"].readers == frozenset()


def test_buckets_with_the_same_selector_share_what_it_chooses() -> None:
    namespaces = {f"n-{i}": {"team": "a"} for i in range(10)}
    selector = NamespaceSelector((Requirement("team", "In", ("a",)),))
    buckets = {name: Bucket(name, 1, selector=selector) for name in "ab"}

    one, other = rules(buckets, namespaces, lambda _: 0)

    assert one.readers is other.readers


def test_the_example_is_read() -> None:
    found = read_buckets(EXAMPLE.read_bytes())

    assert sorted(found) == ["imagenet", "simulation", "tokenizers"]
    assert found["tokenizers"].pinned_bytes == 20 * GIB
