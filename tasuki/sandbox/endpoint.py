"""The kubelet's side of the connection to one device plugin."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from pathlib import Path
from typing import Final, TypeVar

import grpc
from grpc import aio

from protos.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc
from tasuki.process.unix_sockets import CHANNEL_OPTIONS
from tasuki.sandbox.allocation import in_no_order

Request = TypeVar("Request")
Answer = TypeVar("Answer")

# gRPC's default, which the kubelet does not raise (kubernetes/kubernetes#109304).
RECEIVE_LIMIT_BYTES: Final = 4 * 1024 * 1024
# pluginapi.KubeletPreStartContainerRPCTimeoutInSecs
PRE_START_SECONDS: Final = 30.0
_REDIAL_MILLISECONDS: Final = 100

_CHANNEL_OPTIONS: Final = (
    *CHANNEL_OPTIONS,
    ("grpc.max_receive_message_length", RECEIVE_LIMIT_BYTES),
    ("grpc.initial_reconnect_backoff_ms", _REDIAL_MILLISECONDS),
    ("grpc.min_reconnect_backoff_ms", _REDIAL_MILLISECONDS),
    ("grpc.max_reconnect_backoff_ms", _REDIAL_MILLISECONDS * 10),
)


class PluginCallError(Exception):
    """A device plugin could not be reached, or answered with an error."""


class Endpoint:
    """One registration of a device plugin.

    Args:
        call_seconds: How long Allocate and GetPreferredAllocation may take. The real kubelet waits for ever.
    """

    def __init__(self, resource: str, socket: Path, call_seconds: float) -> None:
        self.resource: Final = resource
        self.socket: Final = socket
        self.stopped = False
        self._call_seconds = call_seconds
        self._channel: aio.Channel | None = None

    async def connect(self, dial_seconds: float) -> api_pb2.DevicePluginOptions:
        """Dial until the plugin answers, then ask for its options."""
        self._channel = aio.insecure_channel(f"unix:{self.socket}", options=_CHANNEL_OPTIONS)
        try:
            async with asyncio.timeout(dial_seconds):
                await self._channel.channel_ready()
        except TimeoutError as error:
            raise PluginCallError(
                f"failed to dial device plugin: nothing serves {self.socket} after {dial_seconds:g} s"
            ) from error
        method = self.stub.GetDevicePluginOptions
        return await self._call("GetDevicePluginOptions", method, api_pb2.Empty(), dial_seconds)

    @property
    def stub(self) -> "api_pb2_grpc.DevicePluginAsyncStub":
        """The plugin's methods, for callers that measure or misuse them."""
        if self._channel is None or self.stopped:
            raise PluginCallError(f"endpoint {self.socket.name} of {self.resource} has been stopped")
        return api_pb2_grpc.DevicePluginStub(self._channel)

    async def lists(self) -> AsyncGenerator[api_pb2.ListAndWatchResponse, None]:
        """ListAndWatch; raises PluginCallError when it ends with an error, and ends when the plugin ends it."""
        stream = self.stub.ListAndWatch(api_pb2.Empty())
        try:
            async for response in stream:
                yield response
        except aio.AioRpcError as error:
            raise _told("ListAndWatch", error) from error
        except asyncio.CancelledError as error:
            self._reraise_unless_closed(error)
        finally:
            stream.cancel()

    async def preferred(self, available: Collection[str], must_include: Collection[str], size: int) -> list[str]:
        request = api_pb2.PreferredAllocationRequest(
            container_requests=[
                api_pb2.ContainerPreferredAllocationRequest(
                    available_deviceIDs=in_no_order(available),
                    must_include_deviceIDs=in_no_order(must_include),
                    allocation_size=size,
                )
            ]
        )
        method = self.stub.GetPreferredAllocation
        answer = await self._call("GetPreferredAllocation", method, request, self._call_seconds)
        return list(answer.container_responses[0].deviceIDs) if answer.container_responses else []

    async def allocate(self, devices: Collection[str]) -> api_pb2.ContainerAllocateResponse:
        """Allocate for one container: the kubelet never puts two into one request."""
        request = api_pb2.AllocateRequest(
            container_requests=[api_pb2.ContainerAllocateRequest(devices_ids=in_no_order(devices))]
        )
        answer = await self._call("Allocate", self.stub.Allocate, request, self._call_seconds)
        if not answer.container_responses:
            raise PluginCallError(f"Allocate of {self.resource} answered for no container")
        return answer.container_responses[0]

    async def pre_start(self, devices: Collection[str]) -> None:
        request = api_pb2.PreStartContainerRequest(devices_ids=in_no_order(devices))
        await self._call("PreStartContainer", self.stub.PreStartContainer, request, PRE_START_SECONDS)

    async def close(self) -> None:
        self.stopped = True
        if self._channel is not None:
            await self._channel.close(grace=None)

    async def _call(
        self, name: str, method: "aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request, seconds: float
    ) -> Answer:
        try:
            return await method(request, timeout=seconds)
        except aio.AioRpcError as error:
            raise _told(name, error) from error
        except (aio.UsageError, asyncio.CancelledError) as error:
            self._reraise_unless_closed(error)
            raise PluginCallError(f"{name} of {self.resource}: the connection was closed") from error

    def _reraise_unless_closed(self, error: BaseException) -> None:
        """Tell a disconnect from the side from a cancellation of the caller: grpc.aio shows both alike."""
        task = asyncio.current_task()
        if not self.stopped or (task is not None and task.cancelling()):
            raise error


def _told(method: str, error: aio.AioRpcError) -> PluginCallError:
    """The error as Go's gRPC spells it, which is what an operator sees in a pod's status."""
    code: grpc.StatusCode = error.code()
    word = "".join(part.capitalize() for part in code.name.split("_"))
    return PluginCallError(f"device plugin {method}: rpc error: code = {word} desc = {error.details()}")
