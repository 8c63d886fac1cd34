import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from protos.deviceplugin.v1beta1 import api_pb2
from tasuki.sandbox.endpoint import RECEIVE_LIMIT_BYTES, PluginCallError
from tasuki.sandbox.events import Disconnected, Refused
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.plugins import Timeouts
from tasuki.sandbox.pods import Container

GPU = "nvidia.com/gpu"
SOON_SECONDS = 10.0

Gpus = Callable[[int], list[api_pb2.Device]]


def lowest(wanted: api_pb2.ContainerPreferredAllocationRequest) -> list[str]:
    others = sorted(set(wanted.available_deviceIDs).difference(wanted.must_include_deviceIDs))
    return [*wanted.must_include_deviceIDs, *others][: wanted.allocation_size]


async def test_a_registered_plugin_has_capacity_and_allocatable_devices(kubelet: Kubelet, plugin: Any) -> None:
    listed = [api_pb2.Device(ID="GPU-0", health="Healthy"), api_pb2.Device(ID="GPU-1", health="Unhealthy")]

    await plugin(GPU, listed)

    view = kubelet.resources()[GPU]
    assert (view.capacity, view.allocatable) == (2, 1)
    assert view.healthy == {"GPU-0"}
    assert view.unhealthy == {"GPU-1"}
    assert [r.resource for r in kubelet.registrations] == [GPU]


@pytest.mark.parametrize(
    ("version", "resource"),
    [
        pytest.param("v1alpha1", GPU, id="another version"),
        pytest.param("v1beta1", "gpu", id="no domain"),
        pytest.param("v1beta1", "kubernetes.io/gpu", id="kubernetes' own domain"),
        pytest.param("v1beta1", "requests.x.com/gpu", id="a quota's prefix"),
        pytest.param("v1beta1", "Nvidia.com/gpu", id="no domain name"),
        pytest.param("v1beta1", f"x.com/{'g' * 64}", id="name of 64 letters"),
    ],
)
async def test_a_bad_registration_is_refused_with_the_reason(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, version: str, resource: str
) -> None:
    fake = await plugin(GPU, gpus(1))

    with pytest.raises(aio.AioRpcError) as refused:
        await fake.register(version=version, resource=resource)

    assert refused.value.code() is grpc.StatusCode.UNKNOWN
    told = str(refused.value.details())
    assert version in told or resource in told
    assert isinstance(kubelet.events[-1], Refused)


async def test_a_plugin_that_does_not_serve_is_refused_after_the_dial_timeout(folder: Path, plugin: Any) -> None:
    async with Kubelet(folder / "dp2", timeouts=Timeouts(dial=0.2)) as kubelet:
        fake = await plugin(GPU, [])
        fake.folder = kubelet.folder

        with pytest.raises(aio.AioRpcError, match="failed to dial device plugin"):
            await fake.register()

        assert kubelet.resources() == {}


async def test_an_injected_refusal_lasts_until_it_is_taken_back(kubelet: Kubelet, plugin: Any, gpus: Gpus) -> None:
    fake = await plugin(GPU, gpus(1))
    kubelet.refuse_registrations("try later")

    with pytest.raises(aio.AioRpcError, match="try later"):
        await fake.register()
    kubelet.refuse_registrations(None)
    await fake.register()

    assert len(kubelet.registrations) == 2


async def test_a_change_of_health_replaces_the_whole_list(kubelet: Kubelet, plugin: Any, gpus: Gpus) -> None:
    fake = await plugin(GPU, gpus(3))

    fake.change([api_pb2.Device(ID="GPU-1", health="Unhealthy")])

    await kubelet.wait_for(lambda now: now[GPU].capacity == 1, SOON_SECONDS)
    assert kubelet.resources()[GPU].unhealthy == {"GPU-1"}


async def test_the_end_of_the_stream_makes_every_device_unhealthy_but_keeps_the_resource(
    kubelet: Kubelet, plugin: Any, gpus: Gpus
) -> None:
    fake = await plugin(GPU, gpus(3))

    await fake.stop()

    await kubelet.wait_for(lambda now: now[GPU].allocatable == 0, SOON_SECONDS)
    assert kubelet.resources()[GPU].capacity == 3
    assert not kubelet.resources()[GPU].connected


class TestGrace:
    @pytest.fixture
    def timeouts(self) -> Timeouts:
        return Timeouts(dial=1.0, grace=0.05)

    async def test_a_resource_is_forgotten_after_the_grace_period(
        self, kubelet: Kubelet, plugin: Any, gpus: Gpus
    ) -> None:
        fake = await plugin(GPU, gpus(1))

        await fake.stop()

        await kubelet.wait_for(lambda now: GPU not in now, SOON_SECONDS)


async def test_a_list_over_the_receive_limit_disconnects_the_plugin(kubelet: Kubelet, plugin: Any, gpus: Gpus) -> None:
    fake = await plugin(GPU, gpus(1))

    fake.change([api_pb2.Device(ID="x" * 1024, health="Healthy")] * (RECEIVE_LIMIT_BYTES // 1024))

    await kubelet.wait_for(lambda now: now[GPU].allocatable == 0, SOON_SECONDS)
    assert isinstance(kubelet.events[-1], Disconnected)
    assert "ResourceExhausted" in kubelet.events[-1].reason


async def test_a_second_registration_gets_the_calls(kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any) -> None:
    first = await plugin(GPU, gpus(1))
    second = await plugin(GPU, gpus(2))

    await kubelet.admit(pod("a", main={GPU: 1}))

    assert (len(first.calls), len(second.calls)) == (0, 1)


async def test_the_end_of_an_older_stream_disconnects_the_newer_registration(
    kubelet: Kubelet, plugin: Any, gpus: Gpus
) -> None:
    first = await plugin(GPU, gpus(1))
    await plugin(GPU, gpus(2))

    await first.stop()

    await kubelet.wait_for(lambda now: not now[GPU].connected, SOON_SECONDS)
    with pytest.raises(PluginCallError, match="has been stopped"):
        await kubelet.endpoint(GPU).allocate(["GPU-0"])


async def test_a_restart_removes_all_sockets_and_nothing_else(kubelet: Kubelet, plugin: Any, gpus: Gpus) -> None:
    await plugin(GPU, gpus(1))
    (kubelet.folder / "kubelet_internal_checkpoint").touch()
    (kubelet.folder / "sub").mkdir()

    await kubelet.restart()

    names = sorted(path.name for path in kubelet.folder.iterdir())
    assert names == ["kubelet.sock", "kubelet_internal_checkpoint", "sub"]


async def test_after_a_restart_devices_are_unknown_until_the_plugin_registers_again(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    fake = await plugin(GPU, gpus(2))
    await kubelet.admit(pod("a", main={GPU: 1}))

    await kubelet.restart()
    before = kubelet.resources()[GPU].capacity
    await fake.serve_again()
    await kubelet.wait_for(lambda now: now[GPU].allocatable == 2, SOON_SECONDS)
    again = await kubelet.admit(pod("b", main={GPU: 2}))

    assert before == 0
    assert "1 available" in again.message, "the running pod still holds its device"


async def test_the_socket_outlives_many_restarts(kubelet: Kubelet, plugin: Any) -> None:
    fake = await plugin(GPU, [])

    for _ in range(10):
        await kubelet.restart()
        await asyncio.sleep(0)
        assert kubelet.socket.is_socket()
    await fake.serve_again()

    assert kubelet.resources()[GPU].connected


async def test_wait_for_says_what_there_is_instead(kubelet: Kubelet, plugin: Any, gpus: Gpus) -> None:
    await plugin(GPU, gpus(2))

    with pytest.raises(TimeoutError, match=f"{GPU} 2/2"):
        await kubelet.wait_for(lambda now: now[GPU].capacity == 3, 0.05)


async def test_a_folder_whose_path_is_too_long_for_a_socket_is_refused(folder: Path) -> None:
    with pytest.raises(OSError, match="107 bytes"):
        await Kubelet(folder / ("x" * 100)).start()


async def test_a_container_is_not_admitted_twice(kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any) -> None:
    await plugin(GPU, gpus(2))
    await kubelet.admit(pod("a", main={GPU: 1}))

    with pytest.raises(ValueError, match="runs already"):
        await kubelet.admit(pod("a", main={GPU: 1}))


async def test_a_kubelet_that_stops_during_allocate_rejects_the_pod(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    await plugin(GPU, gpus(1), during_allocate=kubelet.stop)

    admission = await kubelet.admit(pod("a", main={GPU: 1}))

    assert admission.reason == "UnexpectedAdmissionError"
    assert kubelet.pods() == ()


async def test_pods_take_their_devices_one_pod_at_a_time(kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any) -> None:
    await plugin(GPU, gpus(8))

    admissions = await asyncio.gather(*(kubelet.admit(pod(f"p{n}", main={GPU: 2})) for n in range(4)))

    taken = [d for a in admissions for d in a.container("main").devices[GPU]]
    assert len(taken) == len(set(taken)) == 8


async def test_a_sidecar_keeps_its_devices_while_an_init_container_passes_them_on(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    fake = await plugin(GPU, gpus(4), prefer=lowest)
    sidecar = Container("sidecar", {GPU: 1}, init=True, sidecar=True)
    setup = Container("setup", {GPU: 2}, init=True)

    admission = await kubelet.admit(pod("a", sidecar, setup, one={GPU: 1}, two={GPU: 2}))

    by_container = {c.container.name: c.devices[GPU] for c in admission.containers}
    assert by_container["sidecar"] == ("GPU-0",)
    assert by_container["setup"] == ("GPU-1", "GPU-2")
    assert set(by_container["one"]) < set(by_container["setup"])
    assert "GPU-3" in by_container["two"]
    assert not set(by_container["one"]) & set(by_container["two"])
    last = fake.calls_of("GetPreferredAllocation")[-1].container_requests[0]
    assert list(last.must_include_deviceIDs) == [d for d in by_container["two"] if d != "GPU-3"]
    assert last.allocation_size == 2
    assert set(last.available_deviceIDs) == set(by_container["two"])
