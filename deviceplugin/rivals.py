"""Finding another live plugin on this node that hands out the same devices as we do.

The kubelet tells nobody of it: the newest registration of a resource gets its calls while the lists of the older one
still count (kubernetes 1.36, pkg/kubelet/cm/devicemanager/plugin/v1beta1/handler.go), and under two resource names
one device is simply handed out twice.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from protos.deviceplugin.v1beta1 import api_pb2
from protos.deviceplugin.v1beta1.api_pb2_grpc import DevicePluginStub
from tasuki.devices.model import Slice

_PROBE_SECONDS: Final = 2.0

CHANNEL_OPTIONS: Final = (
    # grpcio would send the socket's path as :authority, which Go's servers refuse (grpc/grpc#38142).
    ("grpc.default_authority", "localhost"),
    # A shared connection would still back off from the server that went away when the next one is there.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


def plugin_sockets(folder: Path, except_for: Collection[str]) -> set[tuple[str, int]]:
    """The other sockets in the kubelet's folder: names and inodes."""
    found = set()
    for path in folder.iterdir():
        if path.name in except_for:
            continue
        try:
            if path.is_socket():
                found.add((path.name, path.stat().st_ino))
        except OSError:
            continue  # gone meanwhile
    return found


async def first_rival(folder: Path, names: Iterable[str], ours: Slice) -> str | None:
    """The name of a socket whose plugin knows one of our slices, or None."""
    for name in sorted(names):
        if await _knows(folder / name, ours):
            return name
    return None


async def _knows(socket: Path, ours: Slice) -> bool:
    """Ask a plugin to prefer a device of ours; only one that offers it can.

    Reading its list would tell more, but NVIDIA's plugin keeps every ListAndWatch stream for ever, and one that
    nobody reads swallows the health events of the kubelet's.
    """
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        stub = DevicePluginStub(channel)
        for spelling in dict.fromkeys((ours.id, ours.device.id, f"{ours.device.id}::0")):
            wanted = api_pb2.ContainerPreferredAllocationRequest(available_deviceIDs=[spelling], allocation_size=1)
            request = api_pb2.PreferredAllocationRequest(container_requests=[wanted])
            try:
                answer = await stub.GetPreferredAllocation(request, timeout=_PROBE_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
                    return False  # a dead daemon's socket, or a plugin without preferences
                continue
            if any(spelling in response.deviceIDs for response in answer.container_responses):
                return True
    return False


async def is_served(socket: Path) -> bool:
    """Whether a live device plugin answers on a socket."""
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        try:
            await DevicePluginStub(channel).GetDevicePluginOptions(api_pb2.Empty(), timeout=_PROBE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True
