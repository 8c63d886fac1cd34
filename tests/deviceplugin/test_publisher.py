"""Publishing over real HTTP and a real pod-resources socket, with everything that can go wrong on the way."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import kmock as kmock_types
import msgspec
import pytest

from deviceplugin import targets
from deviceplugin.config.model import Config, Flags, GfdFlags, SharedResource, Sharing, SharingStrategy
from deviceplugin.machine import Machine
from deviceplugin.node_status import NodeFacts
from deviceplugin.pod_resources import PodResources
from deviceplugin.publisher import NodeEdges, Publisher, PublisherTimes
from deviceplugin.resources import plan
from protos.podresources.v1 import api_pb2, api_pb2_grpc
from tasuki.devices.model import Place, unhealthy
from tasuki.kube.client import Kube, connect
from tasuki.kube.errors import KubeConfigError
from tasuki.kube.events import Occurrence
from tasuki.kube.watching import WatchTimes
from tasuki.process.files import replace_file
from tests.builders import a_gpu, a_machine
from tests.tasuki.kube.api_server import (
    ACCELERATOR_NODES,
    EVENTS,
    NODE_FEATURES,
    NODES,
    ApiServer,
    Json,
    Refusal,
)

HASTY = PublisherTimes(
    between_writes_seconds=0.01,
    resync_seconds=60,
    poll_seconds=0.02,
    after_allocation_seconds=0.0,
    first_pause_seconds=0.01,
    most_pause_seconds=0.02,
    between_events_seconds=0.0,
    watch=WatchTimes(first_pause_seconds=0.01, most_pause_seconds=0.02),
)
LABELS = Config(flags=Flags(gfd=GfdFlags(no_timestamp=True)))


def longest(_: float, most: float) -> float:
    return most


def gfd(**options: Any) -> Config:
    return Config(flags=Flags(gfd=GfdFlags(no_timestamp=True, **options)))


def facts(machine: Machine, config: Config = LABELS) -> NodeFacts:
    return NodeFacts(machine, plan(machine, config), config)


class Kubelet(api_pb2_grpc.PodResourcesListerServicer):
    """Says which pod holds which GPU."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    async def List(self, request: object, context: object) -> api_pb2.ListPodResourcesResponse:
        return api_pb2.ListPodResourcesResponse(
            pod_resources=[
                api_pb2.PodResources(
                    name=pod,
                    namespace="default",
                    containers=[
                        api_pb2.ContainerResources(
                            name="main",
                            devices=[api_pb2.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=[gpu])],
                        )
                    ],
                )
                for pod, gpu in self.held.items()
            ]
        )

    async def Get(self, request: object, context: object) -> api_pb2.GetPodResourcesResponse:
        raise NotImplementedError

    async def GetAllocatableResources(self, request: object, context: object) -> api_pb2.AllocatableResourcesResponse:
        raise NotImplementedError


@dataclass
class Chosen:
    """What the node's label was told to be."""

    values: list[str | None] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, value: str | None) -> None:
        self.values.append(value)
        self.told.set()

    async def next(self) -> str | None:
        async with asyncio.timeout(5):
            await self.told.wait()
        self.told.clear()
        return self.values[-1]


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    await server.put(NODES, "n", metadata={"labels": {"kubernetes.io/hostname": "n"}})
    yield server
    await server.stop()


@pytest.fixture
async def kube(api: ApiServer, tmp_path: Path) -> AsyncIterator[Kube]:
    connection = await connect("auto", 2.0, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert connection is not None
    yield connection
    await connection.close()


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet()
    server = grpc.aio.server()
    api_pb2_grpc.add_PodResourcesListerServicer_to_server(kubelet, server)
    server.add_insecure_port(f"unix:{tmp_path}/kubelet.sock")
    await server.start()
    yield kubelet
    await server.stop(None)


@pytest.fixture
def chosen() -> Chosen:
    return Chosen()


@pytest.fixture
def edges(kube: Kube, tmp_path: Path, chosen: Chosen) -> NodeEdges:
    return NodeEdges(kube, "n", PodResources(tmp_path / "kubelet.sock", 2.0), chosen, sysfs=tmp_path / "sys")


@asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[Publisher]:
    task = asyncio.create_task(publisher.run())
    yield publisher
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def node_labels(api: ApiServer) -> dict[str, str]:
    found: dict[str, str] = api.objects(NODES)["n"]["metadata"]["labels"]
    return found


def status(api: ApiServer) -> Json:
    found: Json = api.objects(ACCELERATOR_NODES).get("n", {}).get("status") or {}
    return found


def holders(api: ApiServer) -> list[str]:
    return [h["pod"] for r in status(api).get("resources", ()) for h in r["holders"]]


async def settled(api: ApiServer, gpus: int) -> None:
    await api.until(
        lambda: status(api).get("gpus") == gpus and node_labels(api).get("nvidia.com/gpu.count") == str(gpus)
    )


async def quiet(api: ApiServer) -> int:
    """The number of writes after a time in which there could have been many more."""
    await asyncio.sleep(0.15)
    return sum(1 for request in api.requests if not request.startswith("GET"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # a file tells nobody
            await asyncio.sleep(0.01)


async def test_labels_and_object_appear_and_follow_the_machine(
    api: ApiServer, edges: NodeEdges, kubelet: Kubelet
) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2)))
        await settled(api, 2)
        publisher.update(facts(a_machine(count=3)))
        await settled(api, 3)

    assert node_labels(api)["kubernetes.io/hostname"] == "n"
    assert api.objects(ACCELERATOR_NODES)["n"]["metadata"]["ownerReferences"][0]["uid"] == "uid-of-n"
    assert publisher.state.problem == ""


async def test_nothing_is_written_while_nothing_changes(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2)))
        await settled(api, 2)
        before = await quiet(api)
        publisher.update(facts(a_machine(count=2)))

        assert await quiet(api) == before == 3  # labels, the object, its status


async def test_a_restarted_daemon_writes_nothing_that_is_there_already(
    api: ApiServer, edges: NodeEdges, kubelet: Kubelet
) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2)))
        await settled(api, 2)
        before = await quiet(api)

    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2)))

        assert await quiet(api) == before


async def test_only_the_newest_state_is_written(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        for count in range(50):
            publisher.update(facts(a_machine(count=count)))
        await settled(api, 49)

        assert await quiet(api) == 3


async def test_stale_labels_go_and_those_of_others_stay(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    theirs = {"nvidia.com/gpu.present": "true", "nvidia.com/mig.config": "all-1g.5gb"}
    await api.put(NODES, "n", metadata={"labels": {**theirs, "nvidia.com/mig-1g.5gb.count": "7"}})
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1)))
        await settled(api, 1)

    assert "nvidia.com/mig-1g.5gb.count" not in node_labels(api)
    assert theirs.items() <= node_labels(api).items()


async def test_who_holds_what_is_published_soon_after_an_allocation(
    api: ApiServer, edges: NodeEdges, kubelet: Kubelet
) -> None:
    async with running(Publisher(edges, longest, replace(HASTY, poll_seconds=60))) as publisher:
        publisher.update(facts(a_machine(count=2)))
        await settled(api, 2)
        kubelet.held["trainer"] = "GPU-1"
        publisher.allocated()
        await api.until(lambda: holders(api) == ["trainer"])

    assert status(api)["resources"][0]["free"] == 1


async def test_a_pod_that_ends_is_noticed_by_polling(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    kubelet.held["trainer"] = "GPU-1"
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2)))
        await api.until(lambda: holders(api) == ["trainer"])
        kubelet.held.clear()
        await api.until(lambda: holders(api) == [])


async def test_without_the_kubelets_socket_holders_are_said_to_be_unknown(api: ApiServer, edges: NodeEdges) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1)))
        await settled(api, 1)

    assert [(c["type"], c["status"]) for c in status(api)["conditions"]] == [
        ("Ready", "True"),
        ("HoldersKnown", "False"),
    ]


async def test_an_api_server_that_is_away_at_the_start(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    await api.stop()
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1)))
        await until(lambda: "no answer" in publisher.state.problem)
        publisher.update(facts(a_machine(count=2)))
        await api.start()
        await settled(api, 2)
        await until(lambda: publisher.state.problem == "")

    assert publisher.state.failures > 0


async def test_a_deleted_object_is_made_again(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1)))
        await settled(api, 1)
        await api.remove(ACCELERATOR_NODES, "n")
        publisher.update(facts(a_machine(count=2)))
        await settled(api, 2)


async def test_what_others_changed_is_put_right_at_the_next_look(
    api: ApiServer, edges: NodeEdges, kubelet: Kubelet
) -> None:
    async with running(Publisher(edges, longest, replace(HASTY, resync_seconds=0.05))) as publisher:
        publisher.update(facts(a_machine(count=1), gfd(sleep_seconds=0.05)))
        await settled(api, 1)
        await api.put(NODES, "n", metadata={"labels": {"nvidia.com/gpu.count": "99"}})
        await api.remove(ACCELERATOR_NODES, "n")
        await settled(api, 1)


async def test_one_refused_target_holds_up_no_other(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    api.refusals = [Refusal(403, "PATCH", NODES, times=10_000)]
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1)))
        await api.until(lambda: status(api).get("gpus") == 1)

        await api.until(lambda: "403" in publisher.state.problem)


async def test_a_cluster_without_the_crd_still_gets_labels(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    missing = api.kinds.pop(ACCELERATOR_NODES)
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1)))
        await api.until(lambda: node_labels(api).get("nvidia.com/gpu.count") == "1")
        await until(lambda: "apply manifests/crd" in publisher.state.problem)
        api.kinds[ACCELERATOR_NODES] = missing
        await settled(api, 1)


async def test_a_conflict_at_creation_is_no_trouble(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    api.refusals = [Refusal(404, "GET", ACCELERATOR_NODES)]
    await api.put(ACCELERATOR_NODES, "n")
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1)))
        await settled(api, 1)


async def test_health_and_sharing_reach_the_object(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    entry = SharedResource(name="nvidia.com/gpu", rename="nvidia.com/gpu.shared", replicas=4)
    config = Config(sharing=Sharing(strategy=SharingStrategy.TIME_SLICING, resources=(entry,)))
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(a_gpu(0), a_gpu(1, health=unhealthy("XID 79"))), config))
        await settled(api, 2)

    assert status(api)["summary"] == "nvidia.com/gpu.shared 4/8 free"
    assert [d.get("reason", "") for d in status(api)["devices"]] == ["", "XID 79"]


async def test_the_configuration_label_is_told_first_and_at_each_change(
    api: ApiServer, edges: NodeEdges, chosen: Chosen
) -> None:
    async with running(Publisher(edges, longest, HASTY)):
        first = await chosen.next()
        await api.put(NODES, "n", metadata={"labels": {"nvidia.com/device-plugin.config": "shared"}})
        second = await chosen.next()
        await api.put(NODES, "n", metadata={"labels": {"nvidia.com/device-plugin.config": "shared", "x": "y"}})
        await api.put(NODES, "n", metadata={"labels": {}})
        third = await chosen.next()

    assert (first, second, third) == (None, "shared", None)
    assert chosen.values == [None, "shared", None]


async def test_events_are_sent(api: ApiServer, edges: NodeEdges) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.record(Occurrence("Warning", "DeviceUnhealthy", "GPU-0: XID 79"))
        await api.until(lambda: len(api.objects(EVENTS)) == 1)


async def test_the_node_feature_api_takes_the_place_of_labels(
    api: ApiServer, edges: NodeEdges, kubelet: Kubelet
) -> None:
    config = msgspec.structs.replace(LABELS, flags=msgspec.structs.replace(LABELS.flags, use_node_feature_api=True))
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1), config))
        await api.until(lambda: bool(api.objects(NODE_FEATURES)))

    (feature,) = api.objects(NODE_FEATURES).values()
    assert feature["metadata"]["labels"] == {"nfd.node.kubernetes.io/node-name": "n"}
    assert feature["spec"]["labels"]["nvidia.com/gpu.count"] == "1"
    assert "nvidia.com/gpu.count" not in node_labels(api)


async def test_a_node_feature_is_looked_at_again_and_written_only_if_it_differs(
    api: ApiServer, edges: NodeEdges, kubelet: Kubelet
) -> None:
    flags = msgspec.structs.replace(gfd(sleep_seconds=0.02).flags, use_node_feature_api=True)
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1), msgspec.structs.replace(LABELS, flags=flags)))
        await api.until(lambda: api.count("GET", NODE_FEATURES) > 3)
        untouched = api.count("PUT", NODE_FEATURES)
        await api.put(NODE_FEATURES, "tasuki-features-for-n", spec={"labels": {"nvidia.com/gpu.count": "99"}})
        await api.until(lambda: api.count("PUT", NODE_FEATURES) == 1)

    assert untouched == 0
    assert api.objects(NODE_FEATURES)["tasuki-features-for-n"]["spec"]["labels"]["nvidia.com/gpu.count"] == "1"


async def test_an_api_server_without_a_node_name_is_refused_at_once(edges: NodeEdges) -> None:
    with pytest.raises(KubeConfigError, match="NODE_NAME"):
        Publisher(replace(edges, node_name=""), longest, HASTY)


async def test_oneshot_labels_once(api: ApiServer, edges: NodeEdges, kubelet: Kubelet) -> None:
    async with running(Publisher(edges, longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=1), gfd(oneshot=True)))
        await settled(api, 1)
        publisher.update(facts(a_machine(count=2), gfd(oneshot=True)))
        await api.until(lambda: status(api)["gpus"] == 2)
        await quiet(api)

    assert node_labels(api)["nvidia.com/gpu.count"] == "1"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_api_server(folder: Path) -> NodeEdges:
    return NodeEdges(None, "n", PodResources(folder / "absent.sock"), Chosen(), sysfs=folder / "sys")


async def test_without_an_api_server_only_the_file_is_written_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "features"
    async with running(Publisher(without_api_server(tmp_path), longest, HASTY)) as publisher:
        publisher.record(Occurrence("Normal", "Nobody", "hears this"))
        publisher.update(facts(a_machine(count=2), gfd(output_file=str(path))))
        await until(path.exists)
        lines = path.read_text().splitlines()
        mode = path.stat().st_mode & 0o777

    assert "nvidia.com/gpu.count=2" in lines
    assert lines == sorted(lines)
    assert mode == 0o644
    assert files_in(tmp_path) == []


async def test_a_file_that_is_being_written_at_the_end_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_writing, goes_on, is_written = threading.Event(), threading.Event(), threading.Event()

    def written_late(path: Path, content: bytes) -> None:
        is_writing.set()
        goes_on.wait(5)
        replace_file(path, content)
        is_written.set()

    monkeypatch.setattr(targets, "replace_file", written_late)
    publisher = Publisher(without_api_server(tmp_path), longest, HASTY)
    task = asyncio.create_task(publisher.run())
    publisher.update(facts(a_machine(count=2), gfd(output_file=str(tmp_path / "features"))))
    await until(is_writing.is_set)
    task.cancel()
    await asyncio.sleep(0.01)
    goes_on.set()
    with suppress(asyncio.CancelledError):
        await task
    await until(is_written.is_set)

    assert files_in(tmp_path) == []


async def test_a_oneshot_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "features"
    async with running(Publisher(without_api_server(tmp_path), longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2), gfd(output_file=str(path), oneshot=True)))
        await until(path.exists)

    assert path.exists()


async def test_a_file_that_cannot_be_written_is_a_problem_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "later" / "features"
    async with running(Publisher(without_api_server(tmp_path), longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2), gfd(output_file=str(path))))
        await until(lambda: "later" in publisher.state.problem)
        path.parent.mkdir()
        await until(path.exists)
        await until(lambda: publisher.state.problem == "")


async def test_a_file_that_moves_leaves_no_old_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    async with running(Publisher(without_api_server(tmp_path), longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2), gfd(output_file=str(old))))
        await until(old.exists)
        publisher.update(facts(a_machine(count=2), gfd(output_file=str(new))))
        await until(new.exists)

        assert not old.exists()


@pytest.mark.parametrize(
    ("content", "machine"),
    [
        pytest.param("Standard ND96asr v4\n", "Standard-ND96asr-v4", id="a file of its own"),
        pytest.param(None, "unknown", id="one that is not there"),
    ],
)
async def test_the_machines_type_and_mode_come_from_files(content: str | None, machine: str, tmp_path: Path) -> None:
    path, source = tmp_path / "features", tmp_path / "type"
    if content:
        source.write_text(content)
    pci = tmp_path / "sys/bus/pci/devices/0000:07:00.0"
    pci.mkdir(parents=True)
    (pci / "class").write_text("0x030200\n")
    (pci / "vendor").write_text("0x10de\n")
    gpu = a_gpu(0)
    placed = replace(gpu, device=replace(gpu.device, place=Place(pci_address="0000:07:00.0")))
    async with running(Publisher(without_api_server(tmp_path), longest, HASTY)) as publisher:
        config = gfd(output_file=str(path), machine_type_file=str(source))
        publisher.update(facts(a_machine(placed), config))
        await until(path.exists)
        lines = path.read_text().splitlines()

    assert f"nvidia.com/gpu.machine={machine}" in lines
    assert "nvidia.com/gpu.mode=compute" in lines


async def test_an_independent_api_server_agrees(
    kmock: kmock_types.KubernetesEmulator, edges: NodeEdges, kubelet: Kubelet, chosen: Chosen, tmp_path: Path
) -> None:
    """Once more against kmock, which reads the API's documentation with other eyes than our own server's."""
    nodes, objects = kmock.resource("v1/nodes"), kmock.resource("tasuki.dev/v1alpha1/acceleratornodes")
    choice = {"nvidia.com/device-plugin.config": "shared"}
    kmock.objects[nodes, None, "n"] = {"metadata": {"name": "n", "uid": "u", "labels": choice}}
    kmock.resources[objects] = {}  # type: ignore[assignment]  # a partial description is allowed
    kubeconfig = ApiServer().kubeconfig(tmp_path, str(kmock.url).rstrip("/"))
    connection = await connect("auto", 2.0, {"KUBECONFIG": kubeconfig})
    async with running(Publisher(replace(edges, kube=connection), longest, HASTY)) as publisher:
        publisher.update(facts(a_machine(count=2)))
        assert await chosen.next() == "shared"
        await until(lambda: publisher.state.writes == 3)
    assert connection is not None
    await connection.close()

    assert kmock.objects[nodes, None, "n"]["metadata"]["labels"]["nvidia.com/gpu.count"] == "2"
    assert kmock.objects[objects, None, "n"]["status"]["summary"] == "nvidia.com/gpu 2/2 free"
    assert kmock.objects[objects, None, "n"]["metadata"]["ownerReferences"][0]["uid"] == "u"
