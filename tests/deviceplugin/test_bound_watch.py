"""The device that the scheduler extender chose is the device that the kubelet allocates, where that can be known."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deviceplugin import bound_watch
from deviceplugin.bound import Ask, Outcome, PodOnNode
from deviceplugin.bound_watch import BoundWatch, Follower
from deviceplugin.node_status import Holder
from tasuki.kube.client import Kube, connect
from tasuki.kube.collection import Applied, Deleted, ObjectName
from tasuki.kube.names import BOUND_SLICES
from tasuki.kube.placement import slices_text
from tasuki.kube.watching import WatchTimes
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.pods import Container, Pod
from tests.builders import some_slices
from tests.deviceplugin.test_serving import GPU, SECONDS, Served, an_offer, offers, serving
from tests.tasuki.kube.api_server import PODS, ApiServer, Refusal

NODE = "n"
TIMES = WatchTimes(lasts_seconds=30, silence_seconds=5, first_pause_seconds=0.02, most_pause_seconds=0.1)
Choice = Mapping[str, int]


def longest(_: float, most: float) -> float:
    return most


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
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
class Node:
    """A kubelet and a plugin with four GPUs, whose policy by itself takes the first that is free."""

    api: ApiServer
    kubelet: Kubelet
    served: Served
    follower: Follower
    notes: list[str] = field(default_factory=list)

    async def bind(self, name: str, choice: Choice | None = None, count: int = 1, *, node: str = NODE) -> None:
        """What the API server shows of a pod once it is bound."""
        annotations = {BOUND_SLICES: slices_text({"main": {GPU: choice}})} if choice else {}
        container = {"name": "main", "resources": {"limits": {GPU: str(count)}, "requests": {GPU: str(count)}}}
        await self.api.put(
            PODS,
            name,
            metadata={"namespace": "default", "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"},
            spec={"nodeName": node, "containers": [container]},
            status={"phase": "Pending"},
        )

    async def start(self, name: str) -> None:
        """The kubelet reports that it has admitted a pod."""
        stored = self.api.objects(PODS)[name]
        content = {key: value for key, value in stored.items() if key != "metadata"}
        status = {"phase": "Pending", "startTime": "2026-01-01T00:00:01Z"}
        await self.api.put(PODS, name, metadata=stored["metadata"], **{**content, "status": status})

    async def known(self, *names: str) -> None:
        """Wait until the plugin knows of exactly these pods that are not started."""
        await until(lambda: {name.name for name in self.follower._pending.waiting} == set(names))

    async def admit(self, name: str, count: int = 1) -> str:
        admission = await self.kubelet.admit(Pod(name, (Container("main", {GPU: count}),), uid=f"uid-of-{name}"))
        return " ".join(admission.container("main").devices[GPU])

    def counted(self, outcome: Outcome) -> float | None:
        labels = {"outcome": outcome.value}
        return self.served.metrics.registry.get_sample_value("tasuki_deviceplugin_preferred_followed_total", labels)


@asynccontextmanager
async def a_node(folder: Path, api: ApiServer, kube: Kube, *, forbidden_seconds: float = 0.05) -> AsyncIterator[Node]:
    follower, notes = Follower(), list[str]()
    watch = BoundWatch(kube, NODE, follower, notes.append, longest)
    async with Kubelet(folder) as kubelet, serving(folder, an_offer(4), follower=follower) as served:
        await kubelet.wait_for(offers(4), SECONDS)
        watching = asyncio.create_task(watch.run(TIMES, forbidden_seconds))
        yield Node(api, kubelet, served, follower, notes)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def test_the_device_chosen_at_bind_is_allocated(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("a", {"GPU-3": 1})
        await node.known("a")

        assert await node.admit("a") == "GPU-3"
        assert node.counted(Outcome.FOLLOWED) == 1


async def test_pods_get_their_own_as_the_kubelet_takes_them_in_turn(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await api.until(lambda: bool(api.watches(PODS)))
        await node.bind("b", {"GPU-3": 1})
        await node.bind("c", {"GPU-1": 1})
        await node.bind("a", {"GPU-2": 1})
        await node.known("a", "b", "c")

        got = [await node.admit("b"), await node.admit("c"), await node.admit("a")]

        assert got == ["GPU-3", "GPU-1", "GPU-2"]
        assert node.counted(Outcome.FOLLOWED) == 3


async def test_out_of_turn_each_pod_gets_what_was_meant_for_one_of_them(
    tmp_path: Path, api: ApiServer, kube: Kube
) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("a", {"GPU-2": 1})
        await node.bind("b", {"GPU-3": 1})
        await node.known("a", "b")

        got = {await node.admit("b"), await node.admit("a")}

        assert got == {"GPU-2", "GPU-3"}


async def test_pods_of_other_nodes_do_not_matter(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("elsewhere", {"GPU-2": 1}, node="m")
        await node.bind("a", {"GPU-3": 1})
        await node.known("a")

        assert await node.admit("a") == "GPU-3"


async def test_a_started_pod_is_forgotten(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("a", {"GPU-2": 1})
        await node.bind("b", {"GPU-3": 1})
        await node.known("a", "b")

        await node.start("a")
        await node.known("b")

        assert await node.admit("b") == "GPU-3"


async def test_a_deleted_pod_is_forgotten(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("a", {"GPU-2": 1})
        await node.bind("b", {"GPU-3": 1})
        await node.known("a", "b")

        await api.remove(PODS, "a")
        await node.known("b")

        assert await node.admit("b") == "GPU-3"


async def test_an_event_that_comes_after_the_kubelets_call_is_waited_for(
    tmp_path: Path, api: ApiServer, kube: Kube
) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("before", {"GPU-0": 1})
        await node.known("before")
        await node.start("before")
        await node.known()

        admission = asyncio.create_task(node.admit("a"))
        service = node.served.fleet._running[GPU].server.service
        await until(lambda: service.calls == 1)
        await node.bind("a", {"GPU-3": 1})

        assert await admission == "GPU-3"


async def test_an_event_that_never_comes_is_not_waited_for_for_ever(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("other", {"GPU-3": 2}, 2)
        await node.known("other")

        assert await node.admit("a") == "GPU-0"
        assert node.counted(Outcome.ORDINARY) == 1


async def test_without_the_right_to_see_pods_all_is_as_before(
    tmp_path: Path, api: ApiServer, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refusal = Refusal(403, path=PODS, times=1_000_000)
    api.refusals.append(refusal)
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("a", {"GPU-3": 1})
        await until(lambda: api.count("GET", PODS) > 2)

        assert await node.admit("a") == "GPU-0"
        assert not any(node.notes)
        told = [
            f"{r.levelname} {r.message}" for r in caplog.records if r.name.startswith(("deviceplugin.bound", "tasuki"))
        ]
        assert len(told) == 1
        assert told[0].startswith("INFO pods are not followed")

        refusal.times = 0
        await node.bind("b", {"GPU-3": 1})
        await node.known("a", "b")
        await node.start("a")
        await node.known("b")
        assert await node.admit("b") == "GPU-3"


async def test_while_the_api_server_is_away_nothing_is_followed(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("a", {"GPU-3": 1})
        await node.known("a")

        await api.stop()
        await until(lambda: bool(node.notes) and bool(node.notes[-1]))

        assert await node.admit("b") == "GPU-0"
        await api.start()
        await until(lambda: not node.notes[-1])
        assert await node.admit("a") == "GPU-3"


async def test_the_kubelets_list_of_holders_serves_a_pod(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("a", {"GPU-2": 1})
        await node.bind("b", {"GPU-3": 1})
        await node.known("a", "b")

        node.follower.holders_seen([Holder("default", "a", "main", GPU, ("GPU-0",))], asyncio.get_running_loop().time())

        assert await node.admit("b") == "GPU-3"


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param({"annotations": {BOUND_SLICES: "{"}}, id="no JSON"),
        pytest.param({"annotations": {BOUND_SLICES: slices_text({"main": {GPU: {"GPU-3": 2}}})}}, id="another size"),
        pytest.param({"annotations": {BOUND_SLICES: slices_text({"other": {GPU: {"GPU-3": 1}}})}}, id="another name"),
        pytest.param({"annotations": None}, id="null"),
    ],
)
async def test_a_choice_that_cannot_be_meant_is_none(
    pod: dict[str, Any], tmp_path: Path, api: ApiServer, kube: Kube
) -> None:
    async with a_node(tmp_path, api, kube) as node:
        spec = {"nodeName": NODE, "containers": [{"name": "main", "resources": {"limits": {GPU: "1"}}}]}
        await api.put(PODS, "a", metadata={"namespace": "default", **pod}, spec=spec, status={})
        await node.known("a")

        assert await node.admit("a") == "GPU-0"


async def test_asks_are_in_the_kubelets_order(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        amounts = {GPU: "1k", "nvidia.com/half": "500m", "memory": "1Gi", "example.com/odd": "x"}
        spec = {
            "nodeName": NODE,
            "containers": [{"name": "main", "resources": {"limits": amounts}}, {"name": "idle"}],
            "initContainers": [{"name": "init", "resources": {"requests": {GPU: 2}, "limits": None}}],
        }
        await api.put(PODS, "a", metadata={"namespace": "default"}, spec=spec, status={"phase": "Pending"})
        await node.known("a")

        (known,) = node.follower._pending.waiting.values()
        assert known.pod.asks == (Ask("init", GPU, 2), Ask("main", GPU, 1000))


def returns_at_once(work: Coroutine[Any, Any, None]) -> bool:
    try:
        work.send(None)
    except StopIteration:
        return True
    work.close()
    return False


async def test_nothing_is_waited_for_before_a_choice_was_seen(tmp_path: Path, api: ApiServer, kube: Kube) -> None:
    async with a_node(tmp_path, api, kube) as node:
        await node.bind("nobody-chose-for", count=2)
        await node.known("nobody-chose-for")
        before = returns_at_once(node.follower.expect(GPU, [1]))

        await node.bind("a", {"GPU-3": 2}, 2)
        await node.known("nobody-chose-for", "a")

        assert before
        assert not returns_at_once(node.follower.expect(GPU, [1]))
        assert returns_at_once(node.follower.expect(GPU, [2]))
        assert returns_at_once(node.follower.expect(GPU, [0]))
        node.follower.disconnected()
        assert returns_at_once(node.follower.expect(GPU, [1]))


async def test_a_wait_ends_with_the_event_that_it_is_for() -> None:
    follower = Follower()
    follower.connected()
    follower.take(Applied(ObjectName("default", "a"), PodOnNode("1", "", (Ask("main", GPU, 2, (("GPU-3", 2),)),))))
    waiting = asyncio.create_task(follower.expect(GPU, [1]))
    await asyncio.sleep(0)
    before = waiting.done()

    follower.take(Applied(ObjectName("default", "b"), PodOnNode("2", "", (Ask("main", GPU, 1),))))
    for _ in range(3):
        await asyncio.sleep(0)

    assert (before, waiting.done()) == (False, True)


async def test_many_calls_without_an_event_wait_for_one_and_not_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound_watch, "_EVENT_SECONDS", 0.01)
    follower = Follower()
    follower.connected()
    follower.take(Applied(ObjectName("default", "a"), PodOnNode("1", "", (Ask("main", GPU, 2, (("GPU-3", 2),)),))))

    first = returns_at_once(follower.expect(GPU, [1]))
    await follower.expect(GPU, [1])
    second = returns_at_once(follower.expect(GPU, [1]))
    follower.take(Deleted(ObjectName("default", "b")))
    after_an_event = returns_at_once(follower.expect(GPU, [1]))

    assert (first, second, after_an_event) == (False, True, False)


async def test_a_follower_of_nothing_leaves_everything_to_the_policy() -> None:
    follower = Follower()
    free = some_slices(2)

    follower.allocated(GPU, free)
    advice = follower.advise(GPU, free, [], 1)

    assert returns_at_once(follower.expect(GPU, [1]))
    assert (advice.outcome, advice.slices) == (Outcome.ORDINARY, free)
