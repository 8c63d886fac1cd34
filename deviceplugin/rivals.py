"""Finding other live plugins on this node that hand out the same devices as we do.

The kubelet tells nobody of it: the newest registration of a resource gets its calls while the lists of the older one
still count (kubernetes 1.36, pkg/kubelet/cm/devicemanager/plugin/v1beta1/handler.go), and under two resource names
one device is simply handed out twice.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from protos.deviceplugin.v1beta1 import api_pb2
from protos.deviceplugin.v1beta1.api_pb2_grpc import DevicePluginStub
from tasuki.devices.model import Slice
from tasuki.process.unix_sockets import CHANNEL_OPTIONS

if TYPE_CHECKING:
    from protos.deviceplugin.v1beta1.api_pb2_grpc import DevicePluginAsyncStub  # exists in the stubs alone

# Tells our own daemons that it is not the kubelet who asks.
PROBE_METADATA: Final = "tasuki-probe"

_KUBELET: Final = "kubelet.sock"
_PROBE_SECONDS: Final = 5.0
# A plugin may need this long from making its socket to serving on it, and to being registered.
_NEW_SECONDS: Final = 15.0
_AGAIN_SECONDS: Final = 1.0
_SLOW_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Neighbour:
    """Another socket in the kubelet's folder.

    Attributes:
        since: When it was first seen, on the loop's clock.
        next_probe: When to ask it (again).
        asked: Whether it has answered, or been too slow, once.
        shares: The ids of our devices that it hands out too.
    """

    since: float
    next_probe: float
    asked: bool = False
    shares: frozenset[str] = frozenset()


@dataclass(slots=True)
class Rivals:
    """Asks the neighbours, all at once and in the background, which of our devices they hand out.

    Attributes:
        own: File names of our own sockets.
        devices: One slice of each of our devices, by device id.
    """

    folder: Path
    own: set[str] = field(default_factory=set)
    devices: dict[str, Slice] = field(default_factory=dict)
    _neighbours: dict[tuple[str, int], _Neighbour] = field(default_factory=dict)
    _looked: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, devices: Collection[str]) -> str | None:
        """The name of a socket whose plugin hands out one of these devices, or None."""
        names = (name for (name, _), n in self._neighbours.items() if not n.shares.isdisjoint(devices))
        return min(names, default=None)

    async def asked(self, at_most_seconds: float) -> None:
        """Wait until everybody who is there now has been asked."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_seconds):
                while any(
                    socket not in self._neighbours or not self._neighbours[socket].asked
                    for socket in plugin_sockets(self.folder, {_KUBELET, *self.own})
                ):
                    await self._looked.wait()

    async def look(self) -> bool:
        """Ask whom it is time to ask; returns whether any answer changed."""
        now = asyncio.get_running_loop().time()
        found = plugin_sockets(self.folder, {_KUBELET, *self.own})
        gone = [neighbour for socket, neighbour in self._neighbours.items() if socket not in found]
        self._neighbours = {socket: self._neighbours.get(socket, _Neighbour(now, now)) for socket in sorted(found)}
        due = [(name, n) for (name, _), n in self._neighbours.items() if n.next_probe <= now]
        answers = await asyncio.gather(*(self._shared_with(self.folder / name) for name, _ in due))
        changed = any(neighbour.shares for neighbour in gone)
        for (_, neighbour), shares in zip(due, answers, strict=True):
            neighbour.asked = True
            fresh = asyncio.get_running_loop().time() - neighbour.since < _NEW_SECONDS
            soon = fresh or shares is None or bool(shares)
            neighbour.next_probe = asyncio.get_running_loop().time() + (_AGAIN_SECONDS if soon else _SLOW_SECONDS)
            if shares is not None and shares != neighbour.shares:
                neighbour.shares, changed = shares, True
        self._looked.set()
        self._looked = asyncio.Event()
        return changed

    async def _shared_with(self, socket: Path) -> frozenset[str] | None:
        """The ids of our devices that a plugin hands out too; None if it did not say in time."""
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(_PROBE_SECONDS),
                grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel,
            ):
                return await _shared(DevicePluginStub(channel), dict(self.devices))
        return None


async def _shared(stub: "DevicePluginAsyncStub", ours: dict[str, Slice]) -> frozenset[str]:
    """Ask a plugin to prefer each device of ours; only one that offers it can.

    Its list would tell at once, but NVIDIA's plugin keeps every ListAndWatch stream for ever, and one that nobody
    reads swallows the health events of the kubelet's. It does answer this. A plugin that has no preferences is
    asked for its list.
    """
    shared = set()
    for device_id, one in ours.items():
        for spelling in dict.fromkeys((one.id, device_id, f"{device_id}::0")):
            wanted = api_pb2.ContainerPreferredAllocationRequest(available_deviceIDs=[spelling], allocation_size=1)
            request = api_pb2.PreferredAllocationRequest(container_requests=[wanted])
            try:
                answer = await stub.GetPreferredAllocation(request, metadata=((PROBE_METADATA, "1"),))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return frozenset()  # a dead daemon's socket, or one of ours that is not registered
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return await _listed(stub, ours)
                continue  # it does not know this device
            if not answer.container_responses or not answer.container_responses[0].deviceIDs:
                return await _listed(stub, ours)
            shared.add(device_id)
            break
    return frozenset(shared)


async def _listed(stub: "DevicePluginAsyncStub", ours: dict[str, Slice]) -> frozenset[str]:
    stream = stub.ListAndWatch(api_pb2.Empty())
    try:
        async for response in stream:
            theirs = {device.ID.partition("::")[0] for device in response.devices}
            return frozenset(ours.keys() & theirs)
    except grpc.aio.AioRpcError:
        return frozenset()
    finally:
        stream.cancel()
    return frozenset()


def plugin_sockets(folder: Path, except_for: Collection[str]) -> set[tuple[str, int]]:
    """The other sockets in the kubelet's folder: names and inodes."""
    found = set()
    for path in _entries(folder):
        if path.name in except_for:
            continue
        try:
            if path.is_socket():
                found.add((path.name, path.stat().st_ino))
        except OSError:
            continue  # gone meanwhile
    return found


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return ()  # whoever binds a socket there tells of it


async def is_served(socket: Path) -> bool:
    """Whether a live device plugin answers on a socket."""
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        try:
            await DevicePluginStub(channel).GetDevicePluginOptions(api_pb2.Empty(), timeout=_PROBE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True
