from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from protos.deviceplugin.v1beta1 import api_pb2 as device_api
from protos.podresources.v1 import api_pb2, api_pb2_grpc
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.pod_resources import PodResourcesServer
from tasuki.sandbox.pods import Container

GPU = "nvidia.com/gpu"


def device(name: str, numa: list[int] | None = None, health: str = "Healthy") -> device_api.Device:
    topology = None
    if numa is not None:
        topology = device_api.TopologyInfo(nodes=[device_api.NUMANode(ID=node) for node in numa])
    return device_api.Device(ID=name, health=health, topology=topology)


@pytest.fixture
async def lister(folder: Path, kubelet: Kubelet) -> AsyncIterator[Any]:
    async with (
        PodResourcesServer(folder / "pr", kubelet) as server,
        aio.insecure_channel(f"unix:{server.socket}") as channel,
    ):
        yield api_pb2_grpc.PodResourcesListerStub(channel)


def told(devices: Any) -> list[tuple[str, list[str], list[int]]]:
    return [(d.resource_name, list(d.device_ids), [n.ID for n in d.topology.nodes]) for d in devices]


async def test_each_running_container_is_listed_with_one_entry_for_each_device_and_numa_node(
    kubelet: Kubelet, plugin: Any, pod: Any, lister: Any
) -> None:
    await plugin(GPU, [device("GPU-0", [0, 1]), device("GPU-1"), device("GPU-2", [])])
    setup = Container("setup", {GPU: 1}, init=True)
    proxy = Container("proxy", init=True, sidecar=True)
    await kubelet.admit(pod("a", setup, proxy, main={GPU: 3}, plain={}))

    listed = await lister.List(api_pb2.ListPodResourcesRequest())

    (only,) = listed.pod_resources
    assert (only.namespace, only.name) == ("default", "a")
    assert [c.name for c in only.containers] == ["proxy", "main", "plain"]
    assert told(only.containers[1].devices) == [
        (GPU, ["GPU-0"], [0]),
        (GPU, ["GPU-0"], [1]),
        (GPU, ["GPU-1"], []),
        (GPU, ["GPU-2"], []),
    ]


async def test_an_ended_pod_is_not_listed(kubelet: Kubelet, plugin: Any, pod: Any, lister: Any) -> None:
    await plugin(GPU, [device("GPU-0")])
    admission = await kubelet.admit(pod("a", main={GPU: 1}))

    kubelet.end(admission.pod.uid)

    assert not (await lister.List(api_pb2.ListPodResourcesRequest())).pod_resources


async def test_what_pods_hold_is_known_over_a_restart(kubelet: Kubelet, plugin: Any, pod: Any, lister: Any) -> None:
    await plugin(GPU, [device("GPU-0", [1])])
    await kubelet.admit(pod("a", main={GPU: 1}))

    await kubelet.restart()

    listed = await lister.List(api_pb2.ListPodResourcesRequest())
    assert told(listed.pod_resources[0].containers[0].devices) == [(GPU, ["GPU-0"], [1])]


async def test_healthy_devices_are_allocatable_whoever_holds_them(
    kubelet: Kubelet, plugin: Any, pod: Any, lister: Any
) -> None:
    await plugin(GPU, [device("GPU-0", [0]), device("GPU-1", [0], "Unhealthy"), device("GPU-2"), device("GPU-3", [])])
    await kubelet.admit(pod("a", main={GPU: 1}))

    allocatable = await lister.GetAllocatableResources(api_pb2.AllocatableResourcesRequest())

    assert told(allocatable.devices) == [(GPU, ["GPU-0"], [0]), (GPU, ["GPU-2"], [])]


async def test_one_pod_can_be_asked_for(kubelet: Kubelet, plugin: Any, pod: Any, lister: Any) -> None:
    await plugin(GPU, [device("GPU-0")])
    await kubelet.admit(pod("a", main={GPU: 1}))

    got = await lister.Get(api_pb2.GetPodResourcesRequest(pod_namespace="default", pod_name="a"))

    assert told(got.pod_resources.containers[0].devices) == [(GPU, ["GPU-0"], [])]
    with pytest.raises(aio.AioRpcError, match="pod b in namespace default not found"):
        await lister.Get(api_pb2.GetPodResourcesRequest(pod_namespace="default", pod_name="b"))
