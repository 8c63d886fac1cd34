"""The kubelet's messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.container import ContainerEdits, DeviceNode, Mount
from deviceplugin.resources import Resource
from deviceplugin.wire import MAX_LIST_BYTES, ListTooLargeError, allocate_response, list_response
from protos.deviceplugin.v1beta1 import api_pb2
from tasuki.devices.model import HEALTHY, Place, slices_of, unhealthy
from tests.builders import a_device


def a_resource(replicas: int, *, devices: int = 1, name_length: int = 5) -> Resource:
    made = [a_device(f"{i:0{name_length}}") for i in range(devices)]
    return Resource("nvidia.com/gpu", tuple(s for d in made for s in slices_of(d, replicas)))


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(1, 3), st.none() | st.integers(0, 300), st.booleans()),
        max_size=9,
    )
)
def test_the_list_is_what_protocol_buffers_would_write(shapes: list[tuple[int, int, int | None, bool]]) -> None:
    devices = [
        (a_device(index, place=Place(numa), health=HEALTHY if well else unhealthy("XID 79")), replicas)
        for index, replicas, numa, well in shapes
    ]
    slices = tuple(s for device, replicas in devices for s in slices_of(device, replicas))
    expected = api_pb2.ListAndWatchResponse(
        devices=[
            api_pb2.Device(
                ID=s.id,
                health="Healthy" if s.device.health.healthy else "Unhealthy",
                topology=None
                if s.device.place.numa_node is None
                else api_pb2.TopologyInfo(nodes=[api_pb2.NUMANode(ID=s.device.place.numa_node)]),
            )
            for s in slices
        ]
    )

    assert list_response(Resource("nvidia.com/gpu", slices)) == expected.SerializeToString(deterministic=True)


def test_a_list_that_is_too_large_is_refused_with_the_number_that_fits() -> None:
    with pytest.raises(ListTooLargeError, match=r"at most \d+ of them fit") as refusal:
        list_response(a_resource(1, devices=200_000, name_length=7))
    most = int(str(refusal.value).split("at most ")[1].split()[0])

    assert len(list_response(a_resource(1, devices=most, name_length=7))) <= MAX_LIST_BYTES
    with pytest.raises(ListTooLargeError):
        list_response(a_resource(1, devices=most + 1, name_length=7))


def test_a_list_that_would_not_fit_once_all_is_unhealthy_is_refused_while_healthy() -> None:
    healthy_bytes = len(list_response(a_resource(1, devices=1000, name_length=20))) // 1000
    count = MAX_LIST_BYTES // healthy_bytes

    with pytest.raises(ListTooLargeError):
        list_response(a_resource(1, devices=count, name_length=20))


def test_allocate_answers_each_container_in_turn() -> None:
    first = ContainerEdits(
        envs={"NVIDIA_VISIBLE_DEVICES": "GPU-0"},
        nodes=(DeviceNode("/dev/nvidia0", "/dev/nvidia0", "rw"),),
        mounts=(Mount("/dev/null", "/var/run/nvidia-container-devices/GPU-0"),),
        annotations={"cdi.k8s.io/x": "a/b=c"},
        cdi_devices=("a/b=c",),
    )

    answer = allocate_response([first, ContainerEdits()])

    assert len(answer.container_responses) == 2
    made = answer.container_responses[0]
    assert dict(made.envs) == {"NVIDIA_VISIBLE_DEVICES": "GPU-0"}
    assert [(d.host_path, d.permissions) for d in made.devices] == [("/dev/nvidia0", "rw")]
    assert [(m.host_path, m.read_only) for m in made.mounts] == [("/dev/null", True)]
    assert [d.name for d in made.cdi_devices] == ["a/b=c"]
    assert answer.container_responses[1] == api_pb2.ContainerAllocateResponse()
