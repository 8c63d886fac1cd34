"""What the extender learns of the cluster, over real HTTP."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from schedext.demand import NamedObjects
from schedext.look import Occupancy
from schedext.watches import Watches
from schedext.world import World
from tasuki.kube.client import Kube, connect
from tasuki.kube.placement import slices_text
from tasuki.kube.watching import WatchTimes
from tests.schedext.accelerators import GPU, gpu_status, holder
from tests.schedext.api_server import CACHE_NODES, SchedulingApiServer
from tests.schedext.pods import a_container, pod_json
from tests.schedext.scenes import on
from tests.tasuki.kube.api_server import ACCELERATOR_NODES, NODES, PODS, Refusal

HASTY = WatchTimes(lasts_seconds=60, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.05)
NEEDED = (NODES, PODS, ACCELERATOR_NODES)


@pytest.fixture
async def api() -> AsyncIterator[SchedulingApiServer]:
    server = SchedulingApiServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def kube(api: SchedulingApiServer, tmp_path: Path) -> AsyncIterator[Kube]:
    connection = await connect("auto", 2.0, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert connection is not None
    yield connection
    await connection.close()


@dataclass
class Watched:
    world: World
    watches: Watches
    told: dict[str, str] = field(default_factory=dict)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def look(self, name: str = "n") -> Occupancy | None:
        node = self.world.nodes.get(name)
        return node.look.occupancy if node is not None else None

    def taken(self, name: str = "n") -> tuple[int, ...]:
        node = self.world.nodes.get(name)
        return node.look.taken(GPU) if node is not None and node.publishes else ()


@asynccontextmanager
async def watching(kube: Kube, times: WatchTimes = HASTY) -> AsyncIterator[Watched]:
    told: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    world = World(loop.time, lambda: datetime.now(UTC), lambda _: None)
    watches = Watches(kube, world, told.__setitem__, random.Random(0).uniform, times)
    task = asyncio.create_task(watches.run())
    try:
        yield Watched(world, watches, told)
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def put_node(api: SchedulingApiServer, name: str = "n", zone: str = "z", **content: Any) -> None:
    allocatable = {"cpu": "64", "pods": "110", "hugepages-2Mi": "0", GPU: "4", "broken.dev/x": "much"}
    metadata = {"labels": {"topology.kubernetes.io/zone": zone, "other": "label"}}
    await api.put(NODES, name, metadata=metadata, status={"allocatable": allocatable}, **content)


async def put_pod(api: SchedulingApiServer, name: str, *devices: str, node: str = "n", phase: str = "Running") -> None:
    notes = {"tasuki.dev/slices": slices_text(on(*devices))} if devices else {}
    made = pod_json(a_container(gpus=max(1, len(devices))), name=name, node=node, phase=phase, annotations=notes)
    await api.put_pod("research", name, made["metadata"]["uid"], **made)


async def a_cluster(api: SchedulingApiServer) -> None:
    await put_node(api)
    await api.put(ACCELERATOR_NODES, "n", status=gpu_status())
    await put_pod(api, "p", "n-0")


async def test_the_cluster_as_it_is(api: SchedulingApiServer, kube: Kube) -> None:
    await a_cluster(api)
    bucket = {"name": "b", "bytes": 7, "objects": 1}
    status = {"zone": "z", "serving": True, "capacityBytes": 9, "usedBytes": 7, "observedTime": ""}
    await api.put(CACHE_NODES, "n", status=status | {"buckets": [bucket]})
    async with watching(kube) as watched:
        assert not watched.watches.synced
        await watched.until(lambda: watched.watches.synced and bool(watched.world.residency.shares("b")))
        await watched.until(lambda: len(watched.told) == 4)

        node = watched.world.nodes["n"]
        assert (node.zone, node.publishes, dict(node.allocatable)) == ("z", True, {GPU: 4, "broken.dev/x": 0})
        assert watched.taken() == (1, 0)
        assert watched.told == dict.fromkeys(("nodes", "pods", "acceleratornodes", "cachenodes"), "")
        ages = watched.watches.age_seconds
        assert set(ages) == set(watched.told)
        assert all(0 <= age < 10 for age in ages.values())


async def test_tables_of_owners_follow_the_caches(api: SchedulingApiServer, kube: Kube) -> None:
    await a_cluster(api)
    status = {"zone": "z", "serving": True, "capacityBytes": 9, "usedBytes": 7, "observedTime": "", "buckets": []}
    await api.put(CACHE_NODES, "n", status=status)
    objects = (NamedObjects("b", tuple(range(100))),)
    async with watching(kube) as watched:
        owners = watched.world.owners
        await watched.until(lambda: dict(owners.reads(objects)["b"].owned) == {"z": {"n": 100}})

        await api.put(CACHE_NODES, "m", status=status)
        await watched.until(lambda: len(owners.reads(objects)["b"].owned["z"]) == 2)

        await api.put(CACHE_NODES, "n", status=status | {"serving": False})
        await watched.until(lambda: dict(owners.reads(objects)["b"].owned) == {"z": {"m": 100}})


async def test_a_cluster_without_caches(api: SchedulingApiServer, kube: Kube) -> None:
    del api.kinds[CACHE_NODES]
    await a_cluster(api)
    async with watching(kube) as watched:
        await watched.until(lambda: watched.watches.synced and "cachenodes" in watched.told)

        assert watched.taken() == (1, 0)
        assert "404" in watched.told["cachenodes"]
        assert "cachenodes" not in watched.watches.age_seconds


@pytest.mark.parametrize("path", NEEDED)
async def test_without_one_of_them_it_is_not_synced(api: SchedulingApiServer, kube: Kube, path: str) -> None:
    await a_cluster(api)
    refusal = Refusal(403, path=path, times=10**6)
    api.refusals = [refusal]
    async with watching(kube) as watched:
        await watched.until(lambda: len(watched.told) == 4)
        await watched.until(lambda: len(watched.watches.age_seconds) == 3)
        assert not watched.watches.synced
        refusal.times = 0
        await watched.until(lambda: watched.watches.synced)

        await watched.until(lambda: watched.taken() == (1, 0))


async def test_changes(api: SchedulingApiServer, kube: Kube) -> None:
    await a_cluster(api)
    async with watching(kube) as watched:
        await watched.until(lambda: watched.taken() == (1, 0))
        await put_pod(api, "q", "n-1", "n-1")
        await watched.until(lambda: watched.taken() == (1, 2))
        await api.put(ACCELERATOR_NODES, "n", status=gpu_status(holder("p", "n-1::0"), replicas=4))
        await watched.until(lambda: watched.taken() == (0, 3))
        await api.remove_pod("research", "p")
        await watched.until(lambda: watched.taken() == (0, 2))
        await api.put(NODES, "n", metadata={"labels": {"topology.kubernetes.io/zone": "other"}})
        await watched.until(lambda: watched.world.nodes["n"].zone == "other")
        await api.remove(ACCELERATOR_NODES, "n")
        await watched.until(lambda: not watched.world.nodes["n"].publishes)
        await api.remove(NODES, "n")
        await watched.until(lambda: not watched.world.nodes)


async def test_pods_that_have_ended_are_not_sent(api: SchedulingApiServer, kube: Kube) -> None:
    await a_cluster(api)
    await put_pod(api, "ended", "n-1", phase="Succeeded")
    async with watching(kube) as watched:
        await watched.until(lambda: watched.watches.synced and bool(api.watches(PODS)))
        assert watched.taken() == (1, 0)
        await put_pod(api, "p", "n-0", phase="Failed")
        await watched.until(lambda: watched.taken() == (0, 0))

        asked = {
            parse_qs(urlsplit(request.split()[1]).query)["fieldSelector"][0]
            for request in api.requests
            if f"GET {PODS}?" in request
        }
        assert asked == {"status.phase!=Failed,status.phase!=Succeeded"}


async def test_an_unreadable_object_spoils_no_other(api: SchedulingApiServer, kube: Kube) -> None:
    await a_cluster(api)
    await put_node(api, "m")
    await api.put(ACCELERATOR_NODES, "m", status={"devices": "many"})
    await api.put_pod("research", "bad", spec={"nodeName": 7})
    async with watching(kube) as watched:
        await watched.until(lambda: watched.watches.synced and set(watched.world.nodes) == {"n", "m"})

        assert watched.taken() == (1, 0)
        assert not watched.world.nodes["m"].publishes


async def dropped(api: SchedulingApiServer) -> None:
    await api.stop()
    await churn(api)
    await api.start()


async def gone(api: SchedulingApiServer) -> None:
    await api.stop()
    await churn(api)
    api.oldest_version = 10**6
    api.gone_in_stream = False
    await api.start()


async def gone_in_the_stream(api: SchedulingApiServer) -> None:
    await gone(api)
    api.gone_in_stream = True


async def slow(api: SchedulingApiServer) -> None:
    api.answering.clear()
    await api.stop()
    await api.start()
    await churn(api)
    await asyncio.sleep(0.05)
    api.answering.set()


async def faulty(api: SchedulingApiServer) -> None:
    api.refusals = [Refusal(code, path=path, times=2) for code in (503, 429) for path in NEEDED]
    await dropped(api)


async def cut_at_once(api: SchedulingApiServer) -> None:
    api.watch_seconds = 0.02
    await dropped(api)
    await asyncio.sleep(0.2)
    api.watch_seconds = None


async def nonsense(api: SchedulingApiServer) -> None:
    for path in NEEDED:
        await api.say(path, b'{"type": "MODIFIED", "object": {"metadata": {"name": "n"\n')
    await churn(api)


async def churn(api: SchedulingApiServer) -> None:
    """Of each kind one comes, one goes, and one changes."""
    await api.remove_pod("research", "p")
    await put_pod(api, "q", "n-1", "n-1")
    await put_pod(api, "new", node="m")
    await api.remove(NODES, "leaves")
    await put_node(api, "m", "y")
    await api.remove(ACCELERATOR_NODES, "leaves")
    await api.put(ACCELERATOR_NODES, "m", status=gpu_status(holder("new", "m-1::1"), node="m"))
    await api.put(ACCELERATOR_NODES, "n", status=gpu_status(sick=[0]))


@pytest.mark.parametrize("breaks", [dropped, gone, gone_in_the_stream, slow, faulty, cut_at_once, nonsense])
async def test_a_broken_watch_ends_where_a_fresh_list_does(
    api: SchedulingApiServer, kube: Kube, breaks: Callable[[SchedulingApiServer], Any]
) -> None:
    await a_cluster(api)
    await put_pod(api, "q", node="")
    await put_node(api, "leaves")
    await api.put(ACCELERATOR_NODES, "leaves", status=gpu_status(node="leaves"))
    async with watching(kube) as watched:
        await watched.until(lambda: watched.watches.synced)
        await watched.until(lambda: all(api.watches(path) for path in NEEDED))
        await breaks(api)
        api.oldest_version = 0
        async with watching(kube) as fresh:
            await fresh.until(lambda: fresh.watches.synced)
            await watched.until(lambda: seen(watched) == seen(fresh))

            assert watched.taken("n") == (0, 2)
            assert watched.taken("m") == (0, 1)
            assert set(watched.world.nodes) == {"n", "m"}


def seen(watched: Watched) -> object:
    nodes = watched.world.nodes
    return [(name, nodes[name].zone, nodes[name].publishes, watched.look(name)) for name in sorted(nodes)]


async def test_what_was_promised_ends_by_itself(api: SchedulingApiServer, kube: Kube) -> None:
    await a_cluster(api)
    await put_pod(api, "w", node="")
    async with watching(kube) as watched:
        await watched.until(lambda: watched.watches.synced)
        pod = watched.world.named("research", "w")
        assert pod is not None
        watched.world.reserve(pod, "n", on("n-1"), (), 0.01)
        assert watched.taken() == (1, 1)

        await watched.until(lambda: watched.taken() == (1, 0))


async def swallow(data: bytes | bytearray | memoryview) -> None:
    """As a connection that broke without a word."""


async def test_what_another_replica_bound_is_seen_even_if_the_watch_is_broken_unnoticed(
    api: SchedulingApiServer, kube: Kube
) -> None:
    await a_cluster(api)
    async with watching(kube) as watched:
        await watched.until(lambda: watched.taken() == (1, 0) and bool(api.watches(PODS)))
        for stream in api.watches(PODS):
            stream.write = swallow  # type: ignore[method-assign]
        await put_pod(api, "q", "n-1", "n-1")
        await asyncio.sleep(0.05)
        assert watched.taken() == (1, 0)

        watched.watches.renew()

        assert not watched.watches.current
        await watched.until(lambda: watched.watches.current)
        assert watched.taken() == (1, 2)
        assert api.count("GET", f"{PODS}?fieldSelector") == 1


async def test_until_the_watch_is_open_again_nothing_is_current(api: SchedulingApiServer, kube: Kube) -> None:
    await a_cluster(api)
    async with watching(kube) as watched:
        await watched.until(lambda: watched.taken() == (1, 0) and bool(api.watches(PODS)))
        api.answering.clear()
        watched.watches.renew()
        watched.watches.renew()
        await asyncio.sleep(1.2)
        assert not watched.watches.current
        await put_pod(api, "q", "n-1", "n-1")
        api.answering.set()

        await watched.until(lambda: watched.watches.current)
        assert watched.taken() == (1, 2)
