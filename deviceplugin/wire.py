"""The kubelet's device plugin messages ↔ values."""

from collections.abc import Iterable, Sequence
from typing import Final

from deviceplugin.container import ContainerEdits
from deviceplugin.resources import Resource
from protos.deviceplugin.v1beta1 import api_pb2
from tasuki.devices.model import Health, Place, Slice, unhealthy

API_VERSION: Final = "v1beta1"

# The kubelet dials with gRPC's default limit: 4 MiB for a message received (google.golang.org/grpc, server and
# client defaultMaxReceiveMessageSize). What is larger it drops, and the node advertises nothing.
MAX_LIST_BYTES: Final = 4 * 1024 * 1024

_SICK: Final = unhealthy("in the worst case")
_LONGEST_ID: Final = 127
_HEALTHY: Final = "Healthy"
_UNHEALTHY: Final = "Unhealthy"


class ListTooLargeError(ValueError):
    """More slices than one message to the kubelet can hold."""


def options(*, pre_start_required: bool) -> api_pb2.DevicePluginOptions:
    """What a plugin of ours says of itself; it always has a preference."""
    return api_pb2.DevicePluginOptions(get_preferred_allocation_available=True, pre_start_required=pre_start_required)


def register_request(resource_name: str, endpoint: str, *, pre_start_required: bool) -> api_pb2.RegisterRequest:
    return api_pb2.RegisterRequest(
        version=API_VERSION,
        endpoint=endpoint,
        resource_name=resource_name,
        options=options(pre_start_required=pre_start_required),
    )


def list_response(resource: Resource) -> bytes:
    """The ListAndWatch message for a resource's slices, serialised.

    All slices of one device differ only in their id, so the rest is encoded once a device and joined: 60,000
    slices take a few dozen milliseconds. That a repeated field is its elements' encodings one after the other is
    Protocol Buffers' wire format (https://protobuf.dev/programming-guides/encoding/).

    Raises:
        ListTooLargeError: The kubelet would refuse the message.
    """
    parts: list[bytes] = []
    tails: dict[tuple[Health, Place], tuple[bytes, int]] = {}
    # A list that fits while all is well must still fit when every slice turns unhealthy.
    worst_bytes = largest_bytes = 0
    for a_slice in resource.slices:
        key = (a_slice.device.health, a_slice.device.place)
        if key not in tails:
            tails[key] = _device_tail(*key), len(_device_tail(_SICK, key[1]))
        tail, sick_tail_bytes = tails[key]
        slice_id = a_slice.id.encode()
        if len(slice_id) > _LONGEST_ID:
            raise ListTooLargeError(f"slice id {a_slice.id!r} is longer than {_LONGEST_ID} bytes")
        body = b"\x0a" + _varint(len(slice_id)) + slice_id + tail
        parts.append(b"\x0a" + _varint(len(body)) + body)
        sick_bytes = len(body) - len(tail) + sick_tail_bytes
        sick_bytes += 1 + len(_varint(sick_bytes))
        worst_bytes += sick_bytes
        largest_bytes = max(largest_bytes, sick_bytes)
    if worst_bytes > MAX_LIST_BYTES:
        raise ListTooLargeError(
            f"{resource.name} has {len(parts)} slices, but the kubelet takes {MAX_LIST_BYTES} bytes in one list: "
            f"at most {MAX_LIST_BYTES // largest_bytes} of them fit; lower its replicas"
        )
    return b"".join(parts)


def _device_tail(health: Health, place: Place) -> bytes:
    """A Device without its id, as bytes that can follow one."""
    device = api_pb2.Device(health=_HEALTHY if health.healthy else _UNHEALTHY)
    if place.numa_node is not None:
        device.topology.nodes.add(ID=place.numa_node)
    return device.SerializeToString(deterministic=True)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def preferred_response(chosen: Iterable[Sequence[Slice]]) -> api_pb2.PreferredAllocationResponse:
    return api_pb2.PreferredAllocationResponse(
        container_responses=[
            api_pb2.ContainerPreferredAllocationResponse(deviceIDs=[s.id for s in slices]) for slices in chosen
        ]
    )


def allocate_response(granted: Iterable[ContainerEdits]) -> api_pb2.AllocateResponse:
    return api_pb2.AllocateResponse(container_responses=[_container(edits) for edits in granted])


def _container(edits: ContainerEdits) -> api_pb2.ContainerAllocateResponse:
    return api_pb2.ContainerAllocateResponse(
        envs=edits.envs,
        mounts=[
            api_pb2.Mount(container_path=m.container_path, host_path=m.host_path, read_only=m.read_only)
            for m in edits.mounts
        ],
        devices=[
            api_pb2.DeviceSpec(container_path=n.container_path, host_path=n.host_path, permissions=n.permissions)
            for n in edits.nodes
        ],
        annotations=edits.annotations,
        cdi_devices=[api_pb2.CDIDevice(name=name) for name in edits.cdi_devices],
    )
