"""What admission learns of the cluster, over real HTTP."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tasuki.kube.client import Kube, connect
from tasuki.kube.watching import WatchTimes
from tests.tasuki.kube.api_server import NAMESPACES, NODES, PRIORITY_CLASSES, ApiServer, Refusal
from webhooks.cluster import Cluster, PriorityClass
from webhooks.cluster_watch import ClusterTimes, ClusterWatch
from webhooks.nodes import NodeFacts, Taint

WATCH = WatchTimes(lasts_seconds=60, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.05)
HASTY = ClusterTimes(watch=WATCH, settle_seconds=0.01)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    server.documents["/version"] = b'{"major": "1", "minor": "36"}'
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def kube(api: ApiServer, tmp_path: Path) -> AsyncIterator[Kube]:
    connection = await connect("auto", 2.0, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert connection is not None
    yield connection
    await connection.close()


@dataclass
class Seen:
    """What was published and told, in order."""

    snapshots: list[Cluster] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, cluster: Cluster) -> None:
        self.snapshots.append(cluster)
        self.changed.set()

    def tell(self, name: str, reason: str) -> None:
        self.told.append((name, reason))
        self.changed.set()

    @property
    def last(self) -> Cluster:
        return self.snapshots[-1] if self.snapshots else Cluster()

    @property
    def troubles(self) -> dict[str, str]:
        return dict(self.told)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def until_complete(self) -> None:
        await self.until(lambda: None not in self.parts)

    @property
    def parts(self) -> list[object]:
        last = self.last
        return [last.nodes, last.namespaces, last.priority_classes, last.server_version]


@asynccontextmanager
async def watching(kube: Kube, times: ClusterTimes = HASTY) -> AsyncIterator[Seen]:
    seen = Seen()
    watch = ClusterWatch(kube, seen.publish, seen.tell, random.Random(0).uniform, times)
    task = asyncio.create_task(watch.run())
    try:
        yield seen
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def put_node(api: ApiServer, name: str, gpus: str = "8", **labels: str) -> None:
    """As a kubelet would write it."""
    metadata: dict[str, Any] = {
        "labels": labels,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": {"a": "b"},
    }
    spec = {"podCIDR": "10.0.0.0/24", "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}
    capacity = {"cpu": "64", "memory": "1Ti", "hugepages-2Mi": "0", "pods": "110", "nvidia.com/gpu": gpus}
    status = {"capacity": capacity, "allocatable": capacity, "nodeInfo": {"kubeletVersion": "v1.36.1-gke.123"}}
    await api.put(NODES, name, metadata=metadata, spec=spec, status=status)


def names(seen: Seen) -> set[str]:
    return set(seen.last.nodes or ())


def facts(seen: Seen, name: str) -> NodeFacts:
    assert seen.last.nodes is not None
    return seen.last.nodes[name]


async def test_the_cluster_as_it_is(api: ApiServer, kube: Kube) -> None:
    await put_node(api, "n", pool="gpu")
    await api.put(NAMESPACES, "research", metadata={"labels": {"team": "vision"}})
    await api.put(NAMESPACES, "plain")
    await api.put(PRIORITY_CLASSES, "urgent", value=1000, preemptionPolicy="Never")
    await api.put(PRIORITY_CLASSES, "low", value=-10, globalDefault=True)
    async with watching(kube) as seen:
        await seen.until_complete()

        gpu = Taint("nvidia.com/gpu", "", "NoSchedule")
        assert seen.last == Cluster(
            priority_classes={"urgent": PriorityClass("urgent", 1000), "low": PriorityClass("low", -10, True)},
            nodes={"n": NodeFacts("n", {"pool": "gpu"}, (gpu,), frozenset({"nvidia.com/gpu"}), (1, 36))},
            namespaces={"research": {"team": "vision"}, "plain": {}},
            server_version=(1, 36),
        )
        await seen.until(lambda: len(seen.told) == 4)
        assert set(seen.told) == {("nodes", ""), ("namespaces", ""), ("priority classes", ""), ("server version", "")}


async def test_a_part_is_published_as_soon_as_it_is_complete(api: ApiServer, kube: Kube) -> None:
    api.refusals = [Refusal(403, path=NODES, times=10**6), Refusal(503, path="/version", times=10**6)]
    times = ClusterTimes(watch=WATCH, settle_seconds=60)
    async with watching(kube, times) as seen:
        await seen.until(lambda: seen.last.namespaces is not None and seen.last.priority_classes is not None)

        assert (seen.last.nodes, seen.last.server_version) == (None, None)
        assert len(seen.snapshots) == 2


async def test_changes_of_each_part(api: ApiServer, kube: Kube) -> None:
    await put_node(api, "leaves")
    await put_node(api, "stays", pool="old")
    async with watching(kube) as seen:
        await seen.until_complete()
        await api.remove(NODES, "leaves")
        await put_node(api, "stays", pool="new")
        await put_node(api, "comes")
        await api.put(NAMESPACES, "research", metadata={"labels": {"team": "vision"}})
        await api.put(PRIORITY_CLASSES, "urgent", value=7)
        await seen.until(lambda: names(seen) == {"stays", "comes"})
        await seen.until(lambda: seen.last.priority_classes == {"urgent": PriorityClass("urgent", 7)})
        # Each kind has a watch of its own, and they may come in any order.
        await seen.until(lambda: facts(seen, "stays").labels == {"pool": "new"} and bool(seen.last.namespaces))

        assert facts(seen, "stays").labels == {"pool": "new"}
        assert seen.last.namespaces == {"research": {"team": "vision"}}


async def test_what_makes_no_difference_is_not_published(api: ApiServer, kube: Kube) -> None:
    await put_node(api, "n")
    async with watching(kube) as seen:
        await seen.until_complete()
        before = len(seen.snapshots)
        for gpus in ("7", "6", "5"):
            await put_node(api, "n", gpus)
        await api.put(NAMESPACES, "kept", status={"phase": "Active"})
        await seen.until(lambda: "kept" in (seen.last.namespaces or {}))
        await put_node(api, "n", "8", pool="new")
        await seen.until(lambda: facts(seen, "n").labels != {})

        assert len(seen.snapshots) == before + 2


async def test_snapshots_before_stay_as_they_were_and_share_what_did_not_change(api: ApiServer, kube: Kube) -> None:
    await put_node(api, "n")
    async with watching(kube) as seen:
        await seen.until_complete()
        before = seen.last
        await put_node(api, "m")
        await seen.until(lambda: names(seen) == {"n", "m"})

        assert set(before.nodes or ()) == {"n"}
        assert facts(seen, "n") is (before.nodes or {})["n"]
        assert seen.last.namespaces is before.namespaces
        assert seen.last.priority_classes is before.priority_classes


async def test_changes_that_come_close_together_are_published_together(api: ApiServer, kube: Kube) -> None:
    times = ClusterTimes(watch=WATCH, settle_seconds=0.5)
    async with watching(kube, times) as seen:
        await seen.until_complete()
        before = len(seen.snapshots)
        await put_node(api, "first")
        await seen.until(lambda: names(seen) == {"first"})
        for number in range(20):
            await put_node(api, f"n{number}")
        await seen.until(lambda: len(names(seen)) == 21)

        assert len(seen.snapshots) - before < 20


async def test_what_changed_back_is_not_published(api: ApiServer, kube: Kube) -> None:
    times = ClusterTimes(watch=WATCH, settle_seconds=0.3)
    async with watching(kube, times) as seen:
        await seen.until_complete()
        await put_node(api, "first")
        await seen.until(lambda: names(seen) == {"first"})
        before = len(seen.snapshots)
        await put_node(api, "passing")
        await api.remove(NODES, "passing")
        await asyncio.sleep(0.4)
        await put_node(api, "second")
        await seen.until(lambda: names(seen) == {"first", "second"})

        assert [set(snapshot.nodes or ()) for snapshot in seen.snapshots[before:]] == [{"first", "second"}]


async def test_what_was_seen_last_stands_while_the_server_is_away(api: ApiServer, kube: Kube) -> None:
    await put_node(api, "n")
    await put_node(api, "leaves")
    async with watching(kube) as seen:
        await seen.until_complete()
        before = len(seen.snapshots)
        # A connection that is made just while the server stops would be left to the garbage collector, which warns.
        await api.until(lambda: all(api.watches(path) for path in (NODES, NAMESPACES, PRIORITY_CLASSES)))
        await api.stop()
        await seen.until(lambda: all(seen.troubles.get(name) for name in ("nodes", "namespaces", "priority classes")))
        during = (len(seen.snapshots), names(seen))
        await api.remove(NODES, "leaves")
        await api.start()
        await seen.until(lambda: names(seen) == {"n"})
        await seen.until(lambda: not any(seen.troubles.values()))

        assert during == (before, {"n", "leaves"})
        assert len(seen.snapshots) == before + 1


async def test_a_list_that_says_nothing_new_is_not_published(api: ApiServer, kube: Kube) -> None:
    await put_node(api, "n")
    async with watching(kube) as seen:
        await seen.until_complete()
        before = len(seen.snapshots)
        lists = api.count("GET", f"{NODES}?limit=500")
        await api.until(lambda: len(api.watches(NODES)) == 1)
        api.oldest_version = 102
        api.drop(api.watches(NODES)[0])
        await api.until(lambda: api.count("GET", f"{NODES}?limit=500") > lists)
        api.oldest_version = 0
        await put_node(api, "m")
        await seen.until(lambda: names(seen) == {"n", "m"})

        assert len(seen.snapshots) == before + 1


async def test_what_is_forbidden_is_told_and_the_rest_works(api: ApiServer, kube: Kube) -> None:
    api.refusals = [Refusal(403, path=PRIORITY_CLASSES, times=2)]
    async with watching(kube) as seen:
        await seen.until_complete()

        told = [reason for name, reason in seen.told if name == "priority classes"]
        assert len(told) == 2
        assert "list and watch on priorityclasses of the API group scheduling.k8s.io" in told[0]
        assert told[1] == ""


async def test_a_node_that_cannot_be_read_keeps_no_other_from_being_seen(api: ApiServer, kube: Kube) -> None:
    await api.put(NODES, "odd", spec={"taints": "many"})
    await put_node(api, "n")
    async with watching(kube) as seen:
        await seen.until_complete()

        assert names(seen) == {"n"}


@pytest.mark.parametrize(
    ("status", "resources", "idle"),
    [
        pytest.param({}, set(), set(), id="a node that has not reported"),
        pytest.param({"capacity": {"cpu": "1", "pods": "1"}}, set(), set(), id="native"),
        pytest.param({"capacity": {"hugepages-1Gi": "1", "attachable-volumes-csi": "1"}}, set(), set(), id="no domain"),
        pytest.param({"capacity": {"storage.kubernetes.io/x": "1"}}, set(), set(), id="of Kubernetes itself"),
        pytest.param({"capacity": {"nvidia.com/gpu": "0"}}, set(), {"nvidia.com/gpu"}, id="none just now"),
        pytest.param(
            {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "0"}},
            {"nvidia.com/gpu"},
            set(),
            id="all unhealthy",
        ),
        pytest.param(
            {"capacity": {"fpga.tasuki.dev/a": "1"}, "allocatable": {"amd.com/gpu": "1"}},
            {"fpga.tasuki.dev/a", "amd.com/gpu"},
            set(),
            id="in either of the two",
        ),
    ],
)
async def test_the_extended_resources_of_a_node(
    status: dict[str, Any], resources: set[str], idle: set[str], api: ApiServer, kube: Kube
) -> None:
    await api.put(NODES, "n", status=status)
    async with watching(kube) as seen:
        await seen.until_complete()

        assert facts(seen, "n").resources == resources
        assert facts(seen, "n").idle == idle


@pytest.mark.parametrize(
    ("spelling", "version"),
    [
        pytest.param("v1.36.1", (1, 36), id="plain"),
        pytest.param("v1.36.1-gke.123", (1, 36), id="GKE"),
        pytest.param("v1.35.0+k3s1", (1, 35), id="k3s"),
        pytest.param("", (0, 0), id="not reported"),
        pytest.param("latest", (0, 0), id="no version"),
    ],
)
async def test_the_version_of_a_kubelet(spelling: str, version: tuple[int, int], api: ApiServer, kube: Kube) -> None:
    await api.put(NODES, "n", status={"nodeInfo": {"kubeletVersion": spelling}})
    async with watching(kube) as seen:
        await seen.until_complete()

        assert facts(seen, "n").kubelet_version == version


async def test_taints_are_in_order_and_each_once(api: ApiServer, kube: Kube) -> None:
    taint = {"key": "b", "value": "1", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}
    await api.put(NODES, "n", spec={"taints": [taint, {"key": "a", "effect": "NoExecute"}, taint]})
    async with watching(kube) as seen:
        await seen.until_complete()

        assert facts(seen, "n").taints == (Taint("a", "", "NoExecute"), Taint("b", "1", "NoSchedule"))


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        pytest.param(b'{"major": "1", "minor": "36", "gitVersion": "v1.36.1"}', (1, 36), id="plain"),
        pytest.param(b'{"major": "1", "minor": "36+", "gitVersion": "v1.36.1-gke.123"}', (1, 36), id="a provider's"),
        pytest.param(b'{"major": "", "minor": "", "gitVersion": "v1.37.0-alpha.1"}', (1, 37), id="only Git's"),
        pytest.param(
            b'{"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "34"}', (1, 34), id="emulating"
        ),
    ],
)
async def test_the_version_of_the_server(answer: bytes, version: tuple[int, int], api: ApiServer, kube: Kube) -> None:
    api.documents["/version"] = answer
    async with watching(kube) as seen:
        await seen.until_complete()

        assert seen.last.server_version == version


@pytest.mark.parametrize("answer", [b"{}", b"<html>", b'{"major": "one", "minor": "\xff"}'], ids=str)
async def test_a_version_that_is_none_is_told_and_asked_for_again(answer: bytes, api: ApiServer, kube: Kube) -> None:
    api.documents["/version"] = answer
    async with watching(kube) as seen:
        await seen.until(lambda: "server version" in seen.troubles)
        api.documents["/version"] = b'{"major": "1", "minor": "36"}'
        await seen.until_complete()
        await seen.until(lambda: seen.troubles["server version"] == "")

        told = [reason for name, reason in seen.told if name == "server version"]
        assert len(told) == 2
        assert "GET /version" in told[0]


async def test_an_upgrade_is_noticed(api: ApiServer, kube: Kube) -> None:
    times = ClusterTimes(watch=WATCH, settle_seconds=0.01, version_seconds=0.02)
    async with watching(kube, times) as seen:
        await seen.until_complete()
        before = len(seen.snapshots)
        api.documents["/version"] = b'{"major": "1", "minor": "37"}'
        await seen.until(lambda: seen.last.server_version == (1, 37))

        assert len(seen.snapshots) == before + 1
