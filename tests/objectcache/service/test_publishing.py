"""Publishing what a cache holds, over real HTTP, with what can go wrong on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from objectcache.service.publishing import (
    DEFAULT_TIMES,
    MOST_BUCKETS,
    Holdings,
    Publisher,
    PublishingTimes,
    Site,
    is_due,
    status,
)
from tasuki.kube.cache_node import BucketResidency, CacheNode, CacheNodeStatus
from tasuki.kube.client import Kube, connect
from tasuki.kube.watching import WatchTimes
from tests.tasuki.kube.api_server import NODES, ApiServer, Json, Kind, Refusal

CACHE_NODES = "/apis/tasuki.dev/v1alpha1/cachenodes"
MI, GI = 2**20, 2**30
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HASTY = PublishingTimes(
    look_seconds=0.01,
    between_writes_seconds=0.02,
    most_seconds=3600,
    first_pause_seconds=0.01,
    most_pause_seconds=0.02,
    watch=WatchTimes(first_pause_seconds=0.01, most_pause_seconds=0.02),
)


def longest(_: float, most: float) -> float:
    return most


def holding(**buckets: int) -> Holdings:
    held = tuple(BucketResidency(name=name, bytes=size, objects=1) for name, size in buckets.items())
    return Holdings(capacity_bytes=100 * GI, used_bytes=sum(buckets.values()), buckets=held)


def said(zone: str = "a", *, serving: bool = True, **buckets: int) -> CacheNodeStatus:
    return status(holding(**buckets), zone, serving=serving, now=NOON)


class TestWhatIsPublished:
    def test_buckets_are_sorted_and_empty_ones_left_out(self) -> None:
        held = [("zoo", 3, 1), ("empty", 0, 0), ("of an empty object", 0, 1), ("ant", 1, 1)]
        buckets = tuple(BucketResidency(name=name, bytes=size, objects=objects) for name, size, objects in held)

        found = status(replace(holding(), buckets=buckets), "a", serving=True, now=NOON)

        assert [each.name for each in found.buckets] == ["ant", "of an empty object", "zoo"]

    def test_of_very_many_buckets_the_largest(self) -> None:
        many = holding(**{f"b{n:05d}": n + 1 for n in range(MOST_BUCKETS + 10)})

        found = status(many, "a", serving=True, now=NOON)

        assert len(found.buckets) == MOST_BUCKETS
        assert found.buckets[0].name == "b00010"

    def test_times_are_utc(self) -> None:
        tokyo = NOON.astimezone(timezone(timedelta(hours=9)))

        assert status(holding(), "a", serving=True, now=tokyo).observed_time == "2026-01-31T12:00:00Z"


class TestWhenItIsWritten:
    @pytest.mark.parametrize(
        ("now", "before"),
        [
            pytest.param(said(b=GI), None, id="never written"),
            pytest.param(said(b=GI, serving=False), said(b=GI), id="ends"),
            pytest.param(said(b=GI), said(b=GI, serving=False), id="begins"),
            pytest.param(said("b", b=GI), said("a", b=GI), id="another zone"),
        ],
    )
    def test_at_once(self, now: CacheNodeStatus, before: CacheNodeStatus | None) -> None:
        assert is_due(now, before, 0.0, 30.0, 600.0)

    @pytest.mark.parametrize(
        ("now", "before"),
        [
            pytest.param(said(b=106 * MI), said(b=100 * MI), id="more than a twentieth more"),
            pytest.param(said(b=94 * MI), said(b=100 * MI), id="more than a twentieth less"),
            pytest.param(said(b=102 * GI), said(b=100 * GI), id="more than a GiB more"),
            pytest.param(said(b=GI, c=1), said(b=GI), id="another bucket"),
            pytest.param(said(b=GI), said(b=GI, c=1), id="a bucket less"),
            pytest.param(msgspec.structs.replace(said(b=GI), capacity_bytes=7), said(b=GI), id="another capacity"),
        ],
    )
    def test_not_too_often(self, now: CacheNodeStatus, before: CacheNodeStatus) -> None:
        assert not is_due(now, before, 29.9, 30.0, 600.0)
        assert is_due(now, before, 30.0, 30.0, 600.0)

    @pytest.mark.parametrize(
        ("now", "before"),
        [
            pytest.param(said(b=GI), said(b=GI), id="nothing moved"),
            pytest.param(said(b=104 * MI), said(b=100 * MI), id="little moved"),
            pytest.param(said(b=3_000), said(b=1_000), id="kilobytes moved"),
            pytest.param(said(b=100 * GI + GI), said(b=100 * GI), id="one GiB of many"),
        ],
    )
    def test_seldom_without_need(self, now: CacheNodeStatus, before: CacheNodeStatus) -> None:
        assert not is_due(now, before, 599.9, 30.0, 600.0)
        assert is_due(now, before, 600.0, 30.0, 600.0)


@dataclass
class ACache:
    """A cache and its publisher."""

    publisher: Publisher
    held: list[Holdings]


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    server.kinds[CACHE_NODES] = Kind(status_apart=True)
    await server.start()
    await put_node(server)
    yield server
    await server.stop()


@pytest.fixture
async def kube(api: ApiServer, tmp_path: Path) -> AsyncIterator[Kube]:
    connection = await connect("auto", 2.0, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert connection is not None
    yield connection
    await connection.close()


async def put_node(api: ApiServer, zone: str = "tokyo-a", uid: str = "uid-of-n") -> None:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    await api.put(NODES, "n", metadata={"labels": labels, "uid": uid})


@asynccontextmanager
async def running(
    kube: Kube, first: Holdings, site: Site | None = None, times: PublishingTimes = HASTY
) -> AsyncIterator[ACache]:
    held = [first]
    publisher = Publisher(kube, site or Site("n"), lambda: held[-1], longest, times)
    task = asyncio.create_task(publisher.run())
    try:
        yield ACache(publisher, held)
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def published(api: ApiServer) -> Json:
    found: Json = api.objects(CACHE_NODES).get("n", {}).get("status") or {}
    return found


def sizes(api: ApiServer) -> dict[str, int]:
    return {each["name"]: each["bytes"] for each in published(api).get("buckets", ())}


def writes(api: ApiServer) -> int:
    return sum(1 for each in api.requests if not each.startswith("GET"))


async def test_what_it_holds_is_published_with_the_nodes_zone(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(imagenet=5 * GI, coco=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))

    found = msgspec.convert(api.objects(CACHE_NODES)["n"], CacheNode)
    assert isinstance(found.status, CacheNodeStatus)
    assert (found.status.zone, found.status.serving) == ("tokyo-a", True)
    assert (found.status.capacity_bytes, found.status.used_bytes) == (100 * GI, 6 * GI)
    assert [each.name for each in found.status.buckets] == ["coco", "imagenet"]
    [owner] = found.metadata.owner_references
    assert (owner.kind, owner.name, owner.uid) == ("Node", "n", "uid-of-n")


async def test_nothing_is_published_before_it_serves(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)):
        await asyncio.sleep(0.1)

        assert writes(api) == 0


async def test_changes_are_followed(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: sizes(api) == {"b": GI})

        cache.held.append(holding(b=3 * GI, c=MI))
        await api.until(lambda: sizes(api) == {"b": 3 * GI, "c": MI})

        cache.held.append(holding(c=MI))
        await api.until(lambda: sizes(api) == {"c": MI})


async def test_what_did_not_move_is_not_written_again(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))
        before = writes(api)

        cache.held.append(holding(b=GI + MI))
        await asyncio.sleep(0.15)

        assert writes(api) == before


async def test_it_is_written_from_time_to_time_that_nothing_has_changed(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI), times=replace(HASTY, most_seconds=0.05)) as cache:
        cache.publisher.serve()

        await api.until(lambda: api.count("PATCH", f"{CACHE_NODES}/n/status") >= 5)


async def test_the_zone_follows_the_label(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI), times=DEFAULT_TIMES) as cache:
        cache.publisher.serve()
        await api.until(lambda: published(api).get("zone") == "tokyo-a")

        await put_node(api, "tokyo-b")

        await api.until(lambda: published(api).get("zone") == "tokyo-b")


async def test_a_node_without_a_zone_is_in_none(api: ApiServer, kube: Kube) -> None:
    await put_node(api, zone="")
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()

        await api.until(lambda: published(api).get("zone") == "")


async def test_a_zone_that_is_given_needs_no_watch(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI), Site("n", "rack-7")) as cache:
        cache.publisher.serve()
        await api.until(lambda: published(api).get("zone") == "rack-7")

    assert api.count("GET", NODES) == api.count("GET", f"{NODES}/n") == 1


async def test_a_node_that_cannot_be_seen_is_a_problem(api: ApiServer, kube: Kube) -> None:
    refusal = Refusal(403, path=NODES, times=10**6)
    api.refusals = [refusal]
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: api.count("GET", NODES) >= 2)
        assert cache.publisher.state.problem == "node n was not seen yet, so that its zone is unknown"

        refusal.times = 0
        await api.until(lambda: bool(published(api)))
        await until(lambda: not cache.publisher.state.problem)


async def test_the_end_is_told_at_once_and_nothing_after_it(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI), times=replace(HASTY, between_writes_seconds=60.0)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))

        await cache.publisher.leave(5.0)

        assert published(api)["serving"] is False
        before = writes(api)
        cache.held.append(holding(other=5 * GI))
        await asyncio.sleep(0.1)
        assert writes(api) == before


async def test_a_cache_that_was_never_published_ends_quietly(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)) as cache:
        await cache.publisher.leave(5.0)

    assert "n" not in api.objects(CACHE_NODES)


async def test_the_end_is_told_without_waiting_for_the_next_attempt(api: ApiServer, kube: Kube) -> None:
    refusal = Refusal(503, "PATCH", times=1, retry_after=60)
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))
        api.refusals = [refusal]
        cache.held.append(holding(b=9 * GI))
        await until(lambda: cache.publisher.state.failures == 1)

        await cache.publisher.leave(5.0)

        assert published(api)["serving"] is False


async def test_a_cache_ends_even_if_nobody_listens(
    api: ApiServer, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))
        await api.stop()

        await cache.publisher.leave(0.1)

    assert "nobody was told that the cache ends" in caplog.text


async def test_a_restart_takes_over_what_is_there(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))
        await cache.publisher.leave(5.0)

    async with running(kube, holding(c=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: sizes(api) == {"c": GI} and published(api)["serving"])

    assert api.count("POST", CACHE_NODES) == 1


async def test_an_object_that_was_deleted_is_made_again(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))

        await api.remove(CACHE_NODES, "n")
        cache.held.append(holding(b=9 * GI))

        await api.until(lambda: sizes(api) == {"b": 9 * GI})


async def test_somebody_else_may_make_it_first(api: ApiServer, kube: Kube) -> None:
    api.refusals = [Refusal(409, "POST", CACHE_NODES, reason="AlreadyExists")]
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: api.count("POST", CACHE_NODES) == 1)
        if "n" not in api.objects(CACHE_NODES):
            await api.put(CACHE_NODES, "n")

        await api.until(lambda: sizes(api) == {"b": GI} and owners(api) == ["uid-of-n"])


async def test_a_node_that_was_made_anew_owns_it_again(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))

        await put_node(api, "tokyo-b", uid="another")

        await api.until(lambda: owners(api) == ["another"])


async def test_what_the_former_node_took_with_it_is_made_again_at_once(api: ApiServer, kube: Kube) -> None:
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await api.until(lambda: bool(published(api)))
        await api.remove(NODES, "n")
        await api.remove(CACHE_NODES, "n")

        await put_node(api, uid="another")

        await api.until(lambda: sizes(api) == {"b": GI} and owners(api) == ["another"])


@pytest.mark.parametrize("code", [409, 429, 500, 503])
async def test_refusals_are_survived(api: ApiServer, kube: Kube, code: int) -> None:
    api.refusals = [Refusal(code, "PATCH", times=3)]
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()

        await api.until(lambda: sizes(api) == {"b": GI})
        await until(lambda: cache.publisher.state.writes == 1)
        assert (cache.publisher.state.failures, cache.publisher.state.problem) == (3, "")


async def test_a_server_that_asks_for_time_is_given_it_within_reason(api: ApiServer, kube: Kube) -> None:
    api.refusals = [Refusal(429, "PATCH", retry_after=3600)]
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()

        await api.until(lambda: sizes(api) == {"b": GI})


async def test_a_cluster_that_lacks_the_kind_is_told_what_to_do(api: ApiServer, kube: Kube) -> None:
    del api.kinds[CACHE_NODES]
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await until(lambda: cache.publisher.state.failures > 1)

        assert "does not know tasuki.dev/v1alpha1 CacheNode: apply manifests/crd" in cache.publisher.state.problem


async def test_an_absent_api_server_is_waited_for(api: ApiServer, kube: Kube) -> None:
    await api.stop()
    async with running(kube, holding(b=GI)) as cache:
        cache.publisher.serve()
        await until(lambda: cache.publisher.state.problem)

        await api.start()

        await api.until(lambda: sizes(api) == {"b": GI})


def test_a_node_without_a_name_is_refused() -> None:
    unused: Any = None

    with pytest.raises(ValueError, match="set --node-name or TASUKI_NODE_NAME"):
        Publisher(unused, Site(""), holding, longest)


def owners(api: ApiServer) -> list[str]:
    metadata = api.objects(CACHE_NODES).get("n", {}).get("metadata", {})
    return [each["uid"] for each in metadata.get("ownerReferences", ())]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
