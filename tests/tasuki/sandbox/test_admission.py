"""What a pod gets, over real sockets."""

from collections.abc import Callable
from typing import Any

from protos.deviceplugin.v1beta1 import api_pb2
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.pods import Container, Pod

GPU = "nvidia.com/gpu"
NIC = "example.com/nic"
SOON_SECONDS = 10.0

Gpus = Callable[[int], list[api_pb2.Device]]


async def test_allocate_is_called_once_for_each_container_and_resource(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    gpu = await plugin(GPU, gpus(4))
    nic = await plugin(NIC, [api_pb2.Device(ID="nic-0", health="Healthy")])

    await kubelet.admit(pod("a", one={GPU: 2, NIC: 1}, two={GPU: 1}))

    assert [len(c.devices_ids) for r in gpu.calls_of("Allocate") for c in r.container_requests] == [2, 1]
    assert len(nic.calls_of("Allocate")) == 1


async def test_the_preferred_devices_are_taken(kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any) -> None:
    fake = await plugin(GPU, gpus(8), prefer=lambda wanted: ["GPU-6", "GPU-7"])

    admission = await kubelet.admit(pod("a", main={GPU: 2}))

    assert admission.container("main").devices == {GPU: ("GPU-6", "GPU-7")}
    assert [name for name, _ in fake.calls] == ["GetPreferredAllocation", "Allocate"]


async def test_a_preference_for_devices_that_are_taken_is_passed_over(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    fake = await plugin(GPU, gpus(2), prefer=lambda wanted: ["GPU-1"])
    await kubelet.admit(pod("a", main={GPU: 1}))

    second = await kubelet.admit(pod("b", main={GPU: 1}))

    assert second.container("main").devices == {GPU: ("GPU-0",)}
    asked = fake.calls_of("GetPreferredAllocation")[-1].container_requests[0]
    assert list(asked.available_deviceIDs) == ["GPU-0"]


async def test_unhealthy_devices_are_not_handed_out(kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any) -> None:
    fake = await plugin(GPU, gpus(2))
    fake.change([api_pb2.Device(ID="GPU-0", health="Unhealthy"), api_pb2.Device(ID="GPU-1", health="Healthy")])
    await kubelet.wait_for(lambda now: now[GPU].allocatable == 1, SOON_SECONDS)

    admission = await kubelet.admit(pod("a", main={GPU: 2}))

    assert admission.reason == "UnexpectedAdmissionError"
    assert "2 requested, 1 available" in admission.message


async def test_without_any_healthy_device_the_message_says_so(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    fake = await plugin(GPU, gpus(2))
    await fake.stop()
    await kubelet.wait_for(lambda now: now[GPU].allocatable == 0, SOON_SECONDS)

    admission = await kubelet.admit(pod("a", main={GPU: 1}))

    assert f"no healthy devices of {GPU} are present" in admission.message


async def test_a_refused_allocate_rejects_the_pod_and_frees_what_it_had(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    await plugin(GPU, gpus(1))
    nic = await plugin("z.example.com/nic", [api_pb2.Device(ID="nic-0", health="Healthy")])
    nic.refusal = "the cable is out"
    refused = await kubelet.admit(pod("a", main={GPU: 1, "z.example.com/nic": 1}))
    nic.refusal = ""

    admission = await kubelet.admit(pod("b", main={GPU: 1, "z.example.com/nic": 1}))

    assert "code = FailedPrecondition desc = the cable is out" in refused.message
    assert admission.admitted


async def test_devices_are_free_again_when_the_pod_ends(kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any) -> None:
    await plugin(GPU, gpus(1))
    first = await kubelet.admit(pod("a", main={GPU: 1}))
    before = await kubelet.admit(pod("b", main={GPU: 1}))

    kubelet.end(first.pod.uid)
    after = await kubelet.admit(pod("c", main={GPU: 1}))

    assert (before.admitted, after.admitted) == (False, True)


async def test_a_resource_that_no_plugin_offers_is_passed_over(kubelet: Kubelet, pod: Any) -> None:
    admission = await kubelet.admit(pod("a", main={GPU: 1}))

    assert admission.admitted
    assert admission.container("main").devices == {}


async def test_containers_start_after_pre_start_with_their_own_devices(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    fake = await plugin(GPU, gpus(2), pre_start_required=True)

    admission = await kubelet.admit(pod("a", one={GPU: 1}, two={GPU: 1}))

    assert [name for name, _ in fake.calls] == ["Allocate", "Allocate", "PreStartContainer", "PreStartContainer"]
    told = [tuple(request.devices_ids) for request in fake.calls_of("PreStartContainer")]
    assert told == [admission.container(name).devices[GPU] for name in ("one", "two")]
    assert admission.started


async def test_a_refused_pre_start_keeps_the_container_from_starting_but_the_pod_is_admitted(
    kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any
) -> None:
    await plugin(GPU, gpus(1), pre_start_required=True, pre_start_refusal="reset failed")

    admission = await kubelet.admit(pod("a", main={GPU: 1}))

    assert admission.admitted
    assert not admission.started
    assert "reset failed" in admission.container("main").not_started


async def test_the_pods_own_environment_wins(kubelet: Kubelet, plugin: Any, gpus: Gpus) -> None:
    answer = api_pb2.ContainerAllocateResponse(envs={"NVIDIA_VISIBLE_DEVICES": "GPU-0", "KEPT": "yes"})
    await plugin(GPU, gpus(1), answer=answer)
    main = Container("main", {GPU: 1}, env={"NVIDIA_VISIBLE_DEVICES": "all"})

    admission = await kubelet.admit(Pod("a", (main,), uid="a"))

    assert admission.container("main").edits.envs == {"NVIDIA_VISIBLE_DEVICES": "all", "KEPT": "yes"}


async def test_an_answer_for_no_container_rejects_the_pod(kubelet: Kubelet, plugin: Any, gpus: Gpus, pod: Any) -> None:
    await plugin(GPU, gpus(1), answer=None)

    admission = await kubelet.admit(pod("a", main={GPU: 1}))

    assert "answered for no container" in admission.message
