"""Buckets from a file and from a cluster, over real files and real HTTP."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from objectcache.access import bucket_source
from objectcache.access import buckets as definitions
from objectcache.access.bucket_source import Buckets, BucketSources, Defined, SourceTimes
from objectcache.access.buckets import Bucket
from tasuki.kube.client import Kube
from tests.objectcache.access.cluster import CACHE_BUCKETS, HASTY, QUICK, ReviewingServer, Told, running
from tests.tasuki.kube.api_server import NAMESPACES, Refusal

TIMES = SourceTimes(HASTY, QUICK, settle_seconds=0.0)
SELECTOR = {"matchLabels": {"team": "vision"}}


@dataclass
class Seen:
    """What was published and told."""

    published: Told = field(default_factory=Told)
    told: Told = field(default_factory=Told)

    async def names(self, *names: str) -> Defined:
        """The first publication with just these buckets."""
        await self.published.until(lambda all_: any(sorted(each.buckets) == sorted(names) for each in all_))
        found: Defined = next(each for each in self.published.all if sorted(each.buckets) == sorted(names))
        return found

    async def problem(self, name: str, part: str) -> str:
        def problems() -> list[str]:
            return [text for told, text in self.told.all if told == name and part in text]

        await self.told.until(lambda _: problems())
        return problems()[-1]

    def last(self, name: str) -> str:
        return next((text for told, text in reversed(self.told.all) if told == name), "")


@asynccontextmanager
async def watched(sources: BucketSources) -> AsyncIterator[Seen]:
    seen = Seen()
    async with running(Buckets(sources, seen.published, seen.told, random.uniform, TIMES).run()):
        yield seen


def line(name: str, quota: str = "1Ki") -> str:
    return f"- {{Name: {name}, BucketQuota: {quota}}}\n"


async def test_a_file_is_read_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "buckets.yaml"
    file.write_text(line("a"))

    async with watched(BucketSources(file)) as seen:
        first = await seen.names("a")
        file.write_text(line("a") + line("b"))
        second = await seen.names("a", "b")

    assert first == Defined({"a": Bucket("a", 1024)}, {}, complete=True)
    assert second.complete


async def test_a_bad_file_leaves_what_was_in_force(tmp_path: Path) -> None:
    file = tmp_path / "buckets.yaml"
    file.write_text(line("a"))

    async with watched(BucketSources(file)) as seen:
        await seen.names("a")
        file.write_text("- {Name: A}")
        problem = await seen.problem("buckets file", "Name is 'A'")
        file.write_text(line("b"))
        await seen.names("b")

    assert problem.endswith("; what was in force stays in force")
    assert [sorted(each.buckets) for each in seen.published.all] == [["a"], ["b"]]
    assert seen.last("buckets file") == ""


async def test_an_absent_file_is_told_of_and_is_not_an_empty_one(tmp_path: Path) -> None:
    async with watched(BucketSources(tmp_path / "absent")) as seen:
        problem = await seen.problem("buckets file", "there is no such file")

    assert "mount the buckets' ConfigMap there" in problem
    assert seen.published.all == []


async def test_cache_buckets_come_change_and_go(api: ReviewingServer, kube: Kube) -> None:
    await api.put(CACHE_BUCKETS, "a", spec={"bucketQuota": "1Ki"})

    async with watched(BucketSources(objects=kube)) as seen:
        first = await seen.names("a")
        await api.put(CACHE_BUCKETS, "b", spec={"bucketQuota": "2Ki", "public": True})
        both = await seen.names("a", "b")
        await api.remove(CACHE_BUCKETS, "a")
        last = await seen.names("b")

    assert first == Defined({"a": Bucket("a", 1024)}, {}, complete=True)
    assert both.buckets["b"] == Bucket("b", 2048, public=True)
    assert last.complete


async def test_until_both_sources_have_spoken_what_is_defined_is_not_complete(
    api: ReviewingServer, kube: Kube, tmp_path: Path
) -> None:
    api.refusals = [Refusal(503, path=CACHE_BUCKETS, times=1)]
    await api.put(CACHE_BUCKETS, "b", spec={"bucketQuota": "1Ki"})
    file = tmp_path / "buckets.yaml"
    file.write_text(line("a"))
    api.answering.clear()

    async with watched(BucketSources(file, objects=kube)) as seen:
        first = await seen.names("a")
        api.answering.set()
        both = await seen.names("a", "b")

    assert (first.complete, both.complete) == (False, True)


async def test_a_bad_cache_bucket_spoils_no_other_and_is_told_of(api: ReviewingServer, kube: Kube) -> None:
    await api.put(CACHE_BUCKETS, "a", spec={"bucketQuota": "lots"})
    await api.put(CACHE_BUCKETS, "b", spec={"bucketQuota": "1Ki"})
    await api.put(CACHE_BUCKETS, "c")

    async with watched(BucketSources(objects=kube)) as seen:
        found = await seen.names("b")
        problem = await seen.problem("buckets", "CacheBucket 'a'")
        await api.put(CACHE_BUCKETS, "a", spec={"bucketQuota": "1Ki"})
        await api.remove(CACHE_BUCKETS, "c")
        await seen.published.until(lambda all_: all_[-1].complete)

    assert not found.complete
    assert "CacheBucket 'a': spec.bucketQuota cannot be read: 'lots' is not a quantity" in problem
    assert "CacheBucket 'c': spec.bucketQuota is missing" in problem
    assert sorted(seen.published.all[-1].buckets) == ["a", "b"]
    assert seen.last("buckets") == ""


async def test_a_cache_bucket_that_turns_bad_stays_as_it_was(api: ReviewingServer, kube: Kube) -> None:
    await api.put(CACHE_BUCKETS, "a", spec={"bucketQuota": "1Ki"})

    async with watched(BucketSources(objects=kube)) as seen:
        await seen.names("a")
        await api.put(CACHE_BUCKETS, "a", spec={"bucketQuota": 0})
        changed = await seen.problem("buckets", "what was in force stays in force")
        # A new list brings the bad one again.
        api.oldest_version = 10_000
        for stream in api.watches(CACHE_BUCKETS):
            api.drop(stream)
        await api.until(lambda: api.count("GET", f"{CACHE_BUCKETS}?limit") >= 2)
        api.oldest_version = 0
        await api.put(CACHE_BUCKETS, "b", spec={"bucketQuota": "1Ki"})
        found = await seen.names("a", "b")

    assert changed.startswith("CacheBucket 'a': spec.bucketQuota is 0, which holds nothing")
    assert found.buckets["a"] == Bucket("a", 1024)
    assert found.complete


async def test_the_file_wins_over_a_cache_bucket_of_the_same_name(
    api: ReviewingServer, kube: Kube, tmp_path: Path
) -> None:
    await api.put(CACHE_BUCKETS, "a", spec={"bucketQuota": "2Ki"})
    file = tmp_path / "buckets.yaml"
    file.write_text(line("a"))

    async with watched(BucketSources(file, objects=kube)) as seen:
        problem = await seen.problem("buckets", "CacheBucket 'a' counts for nothing")
        await seen.published.until(lambda all_: all_[-1].complete)
        await api.remove(CACHE_BUCKETS, "a")
        await seen.told.until(lambda _: seen.last("buckets") == "")

    assert problem.endswith("the file defines this bucket; remove one of the two")
    assert seen.published.all[-1].buckets == {"a": Bucket("a", 1024)}


async def test_namespaces_are_watched_only_once_a_bucket_selects_some(api: ReviewingServer, kube: Kube) -> None:
    await api.put(NAMESPACES, "research", metadata={"labels": {"team": "vision"}})
    await api.put(CACHE_BUCKETS, "a", spec={"bucketQuota": "1Ki"})

    async with watched(BucketSources(objects=kube, namespaces=kube)) as seen:
        await seen.names("a")
        before = api.count("GET", NAMESPACES)
        await api.put(CACHE_BUCKETS, "b", spec={"bucketQuota": "1Ki", "namespaceSelector": SELECTOR})
        await seen.published.until(lambda all_: all_[-1].namespaces)
        first = seen.published.all[-1].namespaces
        await api.put(NAMESPACES, "sales", metadata={"labels": {"team": "vision"}})
        await seen.published.until(lambda all_: "sales" in all_[-1].namespaces)
        await api.remove(NAMESPACES, "research")
        await seen.published.until(lambda all_: "research" not in all_[-1].namespaces)

    assert before == 0
    assert first == {"research": {"team": "vision"}}
    assert seen.published.all[-1].namespaces == {"sales": {"team": "vision"}}


async def test_a_selector_without_a_cluster_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "buckets.yaml"
    file.write_text("- {Name: a, BucketQuota: 1Ki, AllowNamespaceSelector: {matchLabels: {a: b}}}")

    async with watched(BucketSources(file)) as seen:
        problem = await seen.problem("namespaces", "bucket 'a' selects namespaces by labels")
        file.write_text(line("a"))
        await seen.told.until(lambda _: seen.last("namespaces") == "")

    assert problem.endswith("not known without a cluster; name its namespaces instead")


async def test_what_may_not_be_watched_is_told_with_its_remedy(api: ReviewingServer, kube: Kube) -> None:
    api.refusals = [Refusal(403, path=CACHE_BUCKETS, times=1)]

    async with watched(BucketSources(objects=kube)) as seen:
        problem = await seen.problem("cachebuckets", "403")
        await seen.names()

    assert "grant our service account the verbs list and watch on cachebuckets" in problem
    assert seen.last("cachebuckets") == ""


async def test_too_many_buckets_leave_out_the_last_objects(
    api: ReviewingServer, kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_source, "MOST_BUCKETS", 2)
    assert definitions.MOST_BUCKETS == 10_000
    for name in ("a", "b"):
        await api.put(CACHE_BUCKETS, name, spec={"bucketQuota": "1Ki"})
    file = tmp_path / "buckets.yaml"
    file.write_text(line("z"))

    async with watched(BucketSources(file, objects=kube)) as seen:
        problem = await seen.problem("buckets", "there are 3 buckets")
        found = await seen.names("a", "z")

    assert "CacheBucket 'b' and those after it by name count for nothing, remove some" in problem
    assert not found.complete
