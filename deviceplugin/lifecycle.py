"""The life of one resource's server: bind, register, and again whenever the kubelet or our socket goes away.

The kubelet empties the socket folder when it starts, so a restarted kubelet shows in two ways: our socket is gone,
and kubelet.sock is another file than before. Each is looked for after every change in the folder, and once in a
while without one. Our stream also ends, in a kubelet that lives, when another plugin that registered the same resource
goes away: the kubelet then disconnects whoever registered last.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from deviceplugin import wire
from deviceplugin.bound_watch import Follower
from deviceplugin.metrics import Metrics
from deviceplugin.offers import Offer
from deviceplugin.rivals import Rivals, is_served
from deviceplugin.server import DevicePluginService
from protos.deviceplugin.v1beta1.api_pb2_grpc import RegistrationStub
from tasuki.process.unix_sockets import CHANNEL_OPTIONS, LONGEST_PATH_BYTES

log: Final = logging.getLogger(__name__)

# The kubelet dials back while Register is under way, for up to 10 s (devicemanager/plugin/v1beta1/client.go).
_REGISTER_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 1.0
_FIRST_RETRY_SECONDS: Final = 0.05
_LAST_RETRY_SECONDS: Final = 5.0
# The kubelet opens its stream right after Register; and when it goes down, its connections close a moment before its
# socket is replaced. Without a stream for longer than that, it was taken from us.
_STREAM_SECONDS: Final = 15.0
_DROPPED_SECONDS: Final = 2.0
# What the kubelet does when a stream ends, it does to whoever registered last: let it do so before we register again.
_SETTLE_SECONDS: Final = 0.25
_GRACE_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 0.1
_WITHDRAW_SECONDS: Final = 1.0
# Neighbours that are new are asked whether they are rivals before we register, but a slow one does not hold us up.
_NEIGHBOURS_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Tells a file from another that took its path."""

    device: int
    inode: int
    changed_ns: int


def identity(path: Path) -> FileIdentity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return FileIdentity(found.st_dev, found.st_ino, found.st_ctime_ns)


class Ticker:
    """Wakes every waiter at each change in the folder, or of what is wanted; one watch serves all resources."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tick(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, at_most_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_seconds):
                await self._next.wait()


def socket_name(resource_name: str) -> str:
    """The file name of a resource's socket: derived, not copied, so that no configured name becomes a path."""
    return f"tasuki-{hashlib.sha256(resource_name.encode()).hexdigest()[:16]}.sock"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all resources' servers of a node share.

    Attributes:
        folder: Where the sockets are, ours and the kubelet's.
        kubelet_socket: None to serve without registering.
        rivals: Other plugins for the same devices.
        state_changed: Called with the resource's name and why it is not served at present (empty if it is).
        withdrawn: Called with the name of a resource that is no longer served, and is not to be.
        allocated: Called after each Allocate.
        follower: Knows what the scheduler chose; by default nothing.
    """

    folder: Path
    kubelet_socket: Path | None
    ticker: Ticker
    metrics: Metrics
    rivals: Rivals
    state_changed: Callable[[str, str], None]
    withdrawn: Callable[[str], None]
    allocated: Callable[[], None]
    follower: Follower = field(default_factory=Follower)


# The state of a resource at first, which is nobody's fault.
NOT_REGISTERED: Final = "not registered with the kubelet yet"


class AlreadyServedError(Exception):
    """Another live plugin answers on the socket that is to be ours."""


class ResourceServer:
    """Serves one resource until told to stop."""

    def __init__(self, offer: Offer, surroundings: Surroundings) -> None:
        self._around = surroundings
        self.name = offer.name
        self.service = DevicePluginService(offer, surroundings.metrics, surroundings.follower, surroundings.allocated)
        self._socket = surroundings.folder / socket_name(offer.name)
        self._registration: _Registration | None = None
        self._drops = 0
        self._stop = asyncio.Event()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._stop.set()
        self._around.ticker.tick()

    async def run(self) -> None:
        """Serve; return once stopped and calls under way have been answered."""
        self._around.state_changed(self.name, NOT_REGISTERED)
        while not self.stopping:
            try:
                async with self._bound() as ours:
                    await self._stay_registered(ours)
            except (AlreadyServedError, OSError) as error:
                self._state(str(error))
                await self._pause(_LAST_RETRY_SECONDS)

    async def withdraw(self, empty: Offer) -> None:
        """Advertise nothing, so that the node's capacity falls to zero at once and not after the kubelet's grace."""
        self.service.publish(empty)
        # The streams hand the list to gRPC within a turn or two of the loop; give it time to leave.
        if self.service.streams:
            await asyncio.sleep(_WITHDRAW_SECONDS)

    @contextlib.asynccontextmanager
    async def _bound(self) -> AsyncIterator[FileIdentity]:
        """A server on our socket, for as long as the block runs."""
        await self._clear_path()
        self.service.open()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self.service.handlers(),))
        try:
            server.add_insecure_port(f"unix:{self._socket}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._socket}: {error}") from error
        self._around.rivals.own.add(self._socket.name)
        await server.start()
        try:
            ours = identity(self._socket)
            if ours is None:
                raise OSError(f"{self._socket} vanished as soon as it was made")
            yield ours
        finally:
            await self._stop_serving(server)
            self._around.rivals.own.discard(self._socket.name)

    async def _stop_serving(self, server: grpc.aio.Server) -> None:
        """Take no more calls, answer those under way, and only then end the streams.

        The kubelet closes its whole connection as soon as a stream ends, and with it every call that is not answered
        yet (devicemanager/plugin/v1beta1/handler.go): the pod would be rejected although its slices were granted.
        """
        stopped = asyncio.create_task(server.stop(_GRACE_SECONDS))
        if self.service.streams:
            loop = asyncio.get_running_loop()
            end = loop.time() + _GRACE_SECONDS
            while self.service.calls and loop.time() < end:  # noqa: ASYNC110 - a moment, at the very end
                await asyncio.sleep(_DRAIN_SECONDS)
            # An answer that was given may still be on its way.
            await asyncio.sleep(_DRAIN_SECONDS)
        self.service.close()
        await stopped

    async def _clear_path(self) -> None:
        """Remove what a dead daemon left; never what a live one serves on."""
        if len(str(self._socket)) > LONGEST_PATH_BYTES:
            raise OSError(
                f"the socket's path {self._socket} has {len(str(self._socket))} bytes, but {LONGEST_PATH_BYTES} is the "
                "most; use a shorter folder for --kubelet-socket"
            )
        if identity(self._around.folder) is None:
            raise OSError(
                f"the folder {self._around.folder} does not exist; is the kubelet's folder for device plugins mounted?"
            )
        if identity(self._socket) is None:
            return
        if not await is_served(self._socket):
            self._socket.unlink(missing_ok=True)
            return
        raise AlreadyServedError(
            f"another Tasuki daemon on this node already serves {self.name} on {self._socket.name}; stop one of them"
        )

    async def _stay_registered(self, ours: FileIdentity) -> None:
        """Keep the kubelet informed; return when the server must be bound anew."""
        bound_with = self._registration
        self._forget_registration()
        retry_seconds = _FIRST_RETRY_SECONDS
        while not self.stopping:
            if not _same_file(identity(self._socket), ours):
                log.warning("own socket is gone, binding again resource=%s", self.name)
                return
            if self._around.kubelet_socket is None:
                self._state("")
                await self._pause(_LOOK_SECONDS)
                continue
            kubelet = identity(self._around.kubelet_socket)
            if kubelet is None:
                self._forget_registration()
                retry_seconds = _FIRST_RETRY_SECONDS
                self._state(f"the kubelet's socket {self._around.kubelet_socket} does not exist")
                await self._pause(_LOOK_SECONDS)
            elif self._registration is None or self._registration.kubelet != kubelet:
                if bound_with is not None and bound_with.kubelet == kubelet:
                    await asyncio.sleep(_SETTLE_SECONDS)
                bound_with = None
                if await self._may_register() and await self._register(self._around.kubelet_socket, kubelet):
                    retry_seconds = _FIRST_RETRY_SECONDS
                else:
                    await self._back_off(retry_seconds, ours, kubelet)
                    retry_seconds = min(2 * retry_seconds, _LAST_RETRY_SECONDS)
            else:
                self._look_around(self._registration)
                await self._pause(_LOOK_SECONDS)

    async def _may_register(self) -> bool:
        """Stay away while another plugin hands out our devices: to take over would be to hand them out twice."""
        await self._around.rivals.asked(_NEIGHBOURS_SECONDS)
        conflict = self._conflict()
        if conflict:
            self._state(conflict)
        return not conflict

    def _conflict(self) -> str:
        """The sentence on another plugin for our devices; empty if there is none."""
        rival = self._around.rivals.of({s.device.id for s in self.service.offer.resource.slices})
        if rival is None:
            return ""
        return (
            f"another device plugin ({rival}) hands out the same devices as {self.name}; remove one of the two, "
            "such as NVIDIA's DaemonSet"
        )

    async def _register(self, kubelet_socket: Path, kubelet: FileIdentity) -> bool:
        outcomes = self._around.metrics.registrations
        streams_before = self.service.streams_opened
        try:
            async with grpc.aio.insecure_channel(f"unix:{kubelet_socket}", options=CHANNEL_OPTIONS) as channel:
                needs_start = self.service.offer.start is not None
                request = wire.register_request(self.name, self._socket.name, pre_start_required=needs_start)
                call = RegistrationStub(channel).Register(request, timeout=_REGISTER_SECONDS)
                if not await self._done_before_stop(call):
                    return False
        except grpc.aio.AioRpcError as error:
            outcomes.labels(self.name, "failed").inc()
            self._state(f"the kubelet did not take the registration: {error.code().name}: {error.details()}")
            return False
        outcomes.labels(self.name, "ok").inc()
        log.info("registered resource=%s socket=%s", self.name, self._socket.name)
        self._registration = _Registration(kubelet, streams_before, asyncio.get_running_loop().time())
        return True

    def _look_around(self, registration: "_Registration") -> None:
        """Notice that the kubelet, though alive, no longer listens to us, or listens to another as well."""
        now = asyncio.get_running_loop().time()
        if self.service.streams:
            registration.silent_since = None
            if now - registration.at > _LAST_RETRY_SECONDS:
                self._drops = 0
            self._state(self._conflict())
            return
        if registration.silent_since is None:
            registration.silent_since = now
        had_stream = self.service.streams_opened > registration.streams_before
        patience_seconds = _DROPPED_SECONDS if had_stream else _STREAM_SECONDS
        if now - registration.silent_since >= patience_seconds * 2 ** min(self._drops, 5):
            self._drops += 1
            self._state(f"the kubelet no longer listens to us for {self.name}; registering again")
            self._forget_registration()

    def _forget_registration(self) -> None:
        self._registration = None

    async def _back_off(self, seconds: float, ours: FileIdentity, kubelet: FileIdentity) -> None:
        """Wait out the time, unless one of the two sockets becomes another; the folder changes often otherwise."""
        assert self._around.kubelet_socket is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not self.stopping and (left := end - loop.time()) > 0:
            if identity(self._around.kubelet_socket) != kubelet or not _same_file(identity(self._socket), ours):
                return
            await self._pause(left)

    async def _done_before_stop(self, call: Awaitable[object]) -> bool:
        """Wait for a call, but not past a stop; returns whether it was answered."""
        answered = asyncio.ensure_future(call)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({answered, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                await answered
                return True
            return False
        finally:
            for task in (answered, stopped):
                task.cancel()
            await asyncio.gather(answered, stopped, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """Until something changes in the folder, or is wanted otherwise, or the time is over."""
        if not self.stopping:
            await self._around.ticker.wait(seconds)

    def _state(self, reason: str) -> None:
        self._around.state_changed(self.name, reason)


@dataclass(slots=True)
class _Registration:
    """A registration that the kubelet took.

    Attributes:
        kubelet: The kubelet.sock that it went through; another file there is another kubelet.
        streams_before: How many streams had been opened before.
        at: When, on the loop's clock.
        silent_since: Since when no stream is open; None while one is.
    """

    kubelet: FileIdentity
    streams_before: int
    at: float
    silent_since: float | None = None


def _same_file(one: FileIdentity | None, other: FileIdentity) -> bool:
    """Whether a path still leads to the same file; its change time may move on."""
    return one is not None and (one.device, one.inode) == (other.device, other.inode)
