"""The kubelet's pod-resources API over a real unix socket."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from deviceplugin.node_status import Holder
from deviceplugin.pod_resources import PodResources, PodResourcesError
from protos.podresources.v1 import api_pb2, api_pb2_grpc


def devices(resource: str, *ids: str) -> api_pb2.ContainerDevices:
    return api_pb2.ContainerDevices(resource_name=resource, device_ids=ids)


def pod(name: str, *of_main: api_pb2.ContainerDevices) -> api_pb2.PodResources:
    main = api_pb2.ContainerResources(name="main", devices=of_main)
    return api_pb2.PodResources(name=name, namespace="default", containers=[main])


class Kubelet(api_pb2_grpc.PodResourcesListerServicer):
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.pods: list[api_pb2.PodResources] = []
        self.answers_after_seconds = 0.0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        api_pb2_grpc.add_PodResourcesListerServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def List(self, request: api_pb2.ListPodResourcesRequest, context: object) -> api_pb2.ListPodResourcesResponse:
        await asyncio.sleep(self.answers_after_seconds)
        return api_pb2.ListPodResourcesResponse(pod_resources=self.pods)

    async def Get(self, request: object, context: object) -> api_pb2.GetPodResourcesResponse:
        raise NotImplementedError

    async def GetAllocatableResources(self, request: object, context: object) -> api_pb2.AllocatableResourcesResponse:
        raise NotImplementedError


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet(tmp_path / "kubelet.sock")
    await kubelet.start()
    yield kubelet
    await kubelet.stop()


async def test_holders_are_sorted_and_their_numa_parts_put_together(kubelet: Kubelet) -> None:
    kubelet.pods = [
        pod("b", devices("nvidia.com/gpu", "GPU-2"), devices("nvidia.com/gpu", "GPU-1")),
        pod("a", devices("example.com/nic", "nic-0")),
        pod("none"),
    ]

    assert await PodResources(kubelet.socket).holders() == (
        Holder("default", "a", "main", "example.com/nic", ("nic-0",)),
        Holder("default", "b", "main", "nvidia.com/gpu", ("GPU-1", "GPU-2")),
    )


async def test_a_list_without_our_own_pod_is_not_believed(kubelet: Kubelet) -> None:
    resources = PodResources(kubelet.socket, own_pod="tasuki-deviceplugin-x")
    with pytest.raises(PodResourcesError, match="not whole yet"):
        await resources.holders()

    kubelet.pods = [pod("tasuki-deviceplugin-x"), pod("a", devices("nvidia.com/gpu", "GPU-0"))]
    assert len(await resources.holders()) == 1


async def test_an_absent_socket_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(PodResourcesError, match="is not there"):
        await PodResources(tmp_path / "kubelet.sock").holders()


async def test_a_kubelet_that_restarted_is_asked_again_at_once(kubelet: Kubelet) -> None:
    resources = PodResources(kubelet.socket, timeout_seconds=5)
    await resources.holders()
    await kubelet.stop()
    kubelet.socket.touch()
    with pytest.raises(PodResourcesError, match="UNAVAILABLE"):
        await resources.holders()
    kubelet.socket.unlink(missing_ok=True)
    await kubelet.start()
    kubelet.pods = [pod("a", devices("nvidia.com/gpu", "GPU-0"))]

    assert len(await resources.holders()) == 1


async def test_a_kubelet_that_hangs_is_not_waited_for(kubelet: Kubelet) -> None:
    kubelet.answers_after_seconds = 30

    with pytest.raises(PodResourcesError, match="DEADLINE_EXCEEDED"):
        await PodResources(kubelet.socket, timeout_seconds=0.1).holders()


async def test_an_answer_above_grpcs_own_limit_is_read(kubelet: Kubelet) -> None:
    ids = [f"GPU-00000000-1111-2222-3333-444444444444::{n:06}" for n in range(100_000)]
    kubelet.pods = [pod("a", devices("nvidia.com/gpu", *ids))]

    (holder,) = await PodResources(kubelet.socket).holders()

    assert len(holder.slice_ids) == 100_000
