"""Discovery by watches of pods and nodes, over real HTTP."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from objectcache.xds.member import WEIGHT_LABEL, Member
from objectcache.xds.watches import Found, Outlets, Watches, Which
from tasuki.kube.client import Kube, connect
from tasuki.kube.watching import WatchTimes
from tests.tasuki.kube.api_server import NODES, ApiServer, Kind, Refusal

PODS = "/api/v1/namespaces/caches/pods"
TIMES = WatchTimes(lasts_seconds=5.0, silence_seconds=1.0, first_pause_seconds=0.05, most_pause_seconds=0.1)
WHICH = Which("caches", "app.kubernetes.io/name=tasuki-cache", 8480, weighted=True)
A = Member("a", "10.0.0.1", 8480, "z1")
ZONE = "topology.kubernetes.io/zone"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    # Before the namespaces, whose path it begins with.
    server.kinds = {PODS: Kind(), **server.kinds}
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def kube(api: ApiServer, tmp_path: Path) -> AsyncIterator[Kube]:
    connection = await connect("auto", 2.0, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert connection is not None
    yield connection
    await connection.close()


class Seen:
    def __init__(self) -> None:
        self.found: list[Found] = []
        self.problems: dict[str, str] = {}

    async def until(self, condition: Callable[[Found], bool]) -> Found:
        async with asyncio.timeout(30):
            while not (self.found and condition(self.found[-1])):
                await asyncio.sleep(0.01)
        return self.found[-1]

    async def members(self, *expected: Member) -> None:
        await self.until(lambda found: found.members == expected)


@pytest.fixture
async def seen(kube: Kube) -> AsyncIterator[Seen]:
    made = Seen()
    outlets = Outlets(made.found.append, made.problems.__setitem__)
    running = asyncio.create_task(Watches(kube, WHICH, outlets, random.Random(1).uniform, TIMES).run())
    yield made
    running.cancel()
    await asyncio.wait([running])


async def put_node(api: ApiServer, name: str, zone: str = "z1", weight: str = "", **spec: Any) -> None:
    labels = {ZONE: zone, **({WEIGHT_LABEL: weight} if weight else {})}
    await api.put(NODES, name, metadata={"labels": labels}, spec=spec)


async def put_pod(
    api: ApiServer, node: str, address: str, *, ready: bool = True, leaving: bool = False, name: str = ""
) -> None:
    metadata = {"namespace": "caches", "creationTimestamp": "2026-11-01T00:00:00Z"}
    if leaving:
        metadata["deletionTimestamp"] = "2026-11-01T00:10:00Z"
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    status = {"phase": "Running", "podIP": address, "conditions": [condition]}
    await api.put(PODS, name or f"cache-{node}", metadata=metadata, spec={"nodeName": node}, status=status)


async def test_a_cache_comes_drains_and_goes(api: ApiServer, seen: Seen) -> None:
    await put_node(api, "a")
    await put_pod(api, "a", "10.0.0.1", ready=False)
    await seen.members()
    await put_pod(api, "a", "10.0.0.1")
    await seen.members(A)
    await put_pod(api, "a", "10.0.0.1", ready=False, leaving=True)
    await seen.members(replace(A, leaving=True))
    await api.remove(PODS, "cache-a")
    await seen.members()

    assert seen.found[-1].zones == {"a": "z1"}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"unschedulable": True}, id="cordoned"),
        pytest.param({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}, id="scaled down"),
        pytest.param({"taints": [{"key": "node.kubernetes.io/out-of-service"}]}, id="out of service"),
    ],
)
async def test_a_node_that_leaves_takes_its_cache_along(api: ApiServer, seen: Seen, spec: dict[str, Any]) -> None:
    stays = Member("b", "10.0.0.2", 8480, "z1")
    await put_node(api, "a", taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    await put_node(api, "b")
    await put_pod(api, "a", "10.0.0.1")
    await put_pod(api, "b", "10.0.0.2")
    await seen.members(A, stays)
    await put_node(api, "a", **spec)
    await seen.members(replace(A, leaving=True), stays)
    await put_node(api, "a")
    await seen.members(A, stays)


async def test_zone_and_weight_are_the_nodes(api: ApiServer, seen: Seen) -> None:
    await put_node(api, "a", "z2", "4")
    await put_pod(api, "a", "10.0.0.1")

    await seen.members(replace(A, zone="z2", weight=4))


async def test_only_the_caches_of_one_namespace_are_asked_for(api: ApiServer, seen: Seen) -> None:
    await seen.members()

    [asked] = [each for each in api.requests if each.startswith(f"GET {PODS}?") and "watch" not in each]
    query = parse_qs(asked.partition("?")[2])
    assert query["labelSelector"] == ["app.kubernetes.io/name=tasuki-cache"]
    assert query["fieldSelector"] == ["status.phase!=Failed,status.phase!=Succeeded"]


async def test_a_right_that_is_missing_is_told_with_where_it_is_needed(api: ApiServer, seen: Seen) -> None:
    api.refusals.append(Refusal(403, path=PODS, times=1_000, reason="Forbidden"))
    async with asyncio.timeout(30):
        while not seen.problems.get("pods"):
            await asyncio.sleep(0.01)

    assert 'pods of the API group "" in the namespace caches' in seen.problems["pods"]


async def test_what_was_seen_last_stands_while_the_api_server_is_away(api: ApiServer, seen: Seen) -> None:
    await put_node(api, "a")
    await put_pod(api, "a", "10.0.0.1")
    await seen.members(A)
    told = len(seen.found)

    await api.stop()
    async with asyncio.timeout(30):
        while not (seen.problems.get("pods") and seen.problems.get("nodes")):
            await asyncio.sleep(0.01)
    while_away = len(seen.found)
    await api.start()
    await put_pod(api, "a", "10.0.0.2")

    await seen.members(replace(A, address="10.0.0.2"))
    assert while_away == told


async def test_nothing_is_told_before_both_are_listed(api: ApiServer, kube: Kube) -> None:
    api.refusals.append(Refusal(500, path=NODES, times=3))
    await put_node(api, "a")
    await put_pod(api, "a", "10.0.0.1")
    seen = Seen()
    outlets = Outlets(seen.found.append, seen.problems.__setitem__)
    running = asyncio.create_task(Watches(kube, WHICH, outlets, random.Random(1).uniform, TIMES).run())
    try:
        await seen.members(A)
    finally:
        running.cancel()
        await asyncio.wait([running])

    assert [each.members for each in seen.found] == [(A,)]
