"""The gRPC service of one resource, as the kubelet calls it."""

# ruff: noqa: N802 - the protocol names the methods

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from deviceplugin import rivals, wire
from deviceplugin.bound_watch import Follower
from deviceplugin.container import RefusedError
from deviceplugin.metrics import Metrics
from deviceplugin.offers import Offer
from protos.deviceplugin.v1beta1 import api_pb2
from tasuki.devices.model import Slice
from tasuki.devices.preference import PreferenceError

log: Final = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]


class DevicePluginService:
    """Answers the kubelet for one resource; every call sees one whole offer, old or new."""

    def __init__(self, offer: Offer, metrics: Metrics, follower: Follower, allocated: Callable[[], None]) -> None:
        self._offer = offer
        self._follower = follower
        self._changed = asyncio.Event()
        self._metrics = metrics
        self._allocated = allocated
        self._closed = True
        self.streams = 0
        """How many ListAndWatch streams are open."""
        self.streams_opened = 0
        """How many there have been in all."""
        self.calls = 0
        """How many other calls are being answered."""

    @property
    def offer(self) -> Offer:
        return self._offer

    def publish(self, offer: Offer) -> None:
        """Answer with this offer from now on, and tell every open stream."""
        self._offer = offer
        self._wake_streams()

    def close(self) -> None:
        """End every open stream."""
        self._closed = True
        self._wake_streams()

    def open(self) -> None:
        """Let streams live (again)."""
        self._closed = False

    def _wake_streams(self) -> None:
        # Each waiter holds the event that it waits for, so setting the old one wakes all and a new one serves the
        # next change: no stream can swallow another's.
        self._changed.set()
        self._changed = asyncio.Event()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service's methods. The list is sent as the bytes that were made once for all streams."""
        unary = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            "v1beta1.DevicePlugin",
            {
                "GetDevicePluginOptions": unary(
                    self.GetDevicePluginOptions,
                    api_pb2.Empty.FromString,
                    api_pb2.DevicePluginOptions.SerializeToString,
                ),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(self.ListAndWatch, api_pb2.Empty.FromString, None),
                "GetPreferredAllocation": unary(
                    self._counted(self.GetPreferredAllocation),
                    api_pb2.PreferredAllocationRequest.FromString,
                    api_pb2.PreferredAllocationResponse.SerializeToString,
                ),
                "Allocate": unary(
                    self._counted(self.Allocate),
                    api_pb2.AllocateRequest.FromString,
                    api_pb2.AllocateResponse.SerializeToString,
                ),
                "PreStartContainer": unary(
                    self._counted(self.PreStartContainer),
                    api_pb2.PreStartContainerRequest.FromString,
                    api_pb2.PreStartContainerResponse.SerializeToString,
                ),
            },
        )

    def _counted(self, method: Method) -> Method:
        async def counted(request: Any, context: Context) -> Any:
            self.calls += 1
            try:
                return await method(request, context)
            finally:
                self.calls -= 1

        return counted

    async def GetDevicePluginOptions(self, _request: api_pb2.Empty, _context: Context) -> api_pb2.DevicePluginOptions:
        return wire.options(pre_start_required=self._offer.start is not None)

    async def ListAndWatch(self, _request: api_pb2.Empty, _context: Context) -> AsyncIterator[bytes]:
        """Send the list now and after each change; gRPC cancels this when the kubelet hangs up."""
        self.streams += 1
        self.streams_opened += 1
        sent: bytes | None = None
        try:
            while not self._closed:
                changed = self._changed
                if self._offer.listed != sent:
                    sent = self._offer.listed
                    log.info("list sent resource=%s bytes=%d", self._offer.name, len(sent))
                    yield sent
                    continue
                await changed.wait()
        finally:
            self.streams -= 1

    async def GetPreferredAllocation(
        self, request: api_pb2.PreferredAllocationRequest, context: Context
    ) -> api_pb2.PreferredAllocationResponse:
        started = time.perf_counter()
        if any(key == rivals.PROBE_METADATA for key, _ in context.invocation_metadata() or ()):
            if not self.streams:
                # A daemon that looks whether we are in its way: we are not, before the kubelet listens to us.
                reason = f"the kubelet does not listen to us for {self._offer.name}"
                await context.abort(grpc.StatusCode.UNAVAILABLE, reason)
        else:
            await self._follower.expect(self._offer.name, [w.allocation_size for w in request.container_requests])
        offer = self._offer
        try:
            chosen = [self._preferred(offer, wanted) for wanted in request.container_requests]
        except (PreferenceError, RefusedError) as error:
            await self._refuse(context, "GetPreferredAllocation", str(error))
        self._answered("GetPreferredAllocation", started)
        return wire.preferred_response(chosen)

    def _preferred(self, offer: Offer, wanted: api_pb2.ContainerPreferredAllocationRequest) -> list[Slice]:
        required = _named(offer, wanted.must_include_deviceIDs)
        available = _still_offered(offer, wanted.available_deviceIDs)
        advice = self._follower.advise(offer.name, available, required, wanted.allocation_size)
        self._metrics.preferred_followed.labels(advice.outcome.value).inc()
        return offer.policy(advice.slices, required, wanted.allocation_size)

    async def Allocate(self, request: api_pb2.AllocateRequest, context: Context) -> api_pb2.AllocateResponse:
        offer, started = self._offer, time.perf_counter()
        wanted = [list(container.devices_ids) for container in request.container_requests]
        try:
            granted = [offer.grant(offer.resource, offer.slices, ids) for ids in wanted]
        except RefusedError as error:
            await self._refuse(context, "Allocate", f"invalid allocation request for {offer.name!r}: {error}")
        self._answered("Allocate", started)
        self._metrics.allocated.labels(offer.name).inc(sum(map(len, wanted)))
        log.info("allocated resource=%s slices=%s", offer.name, ",".join(i for ids in wanted for i in ids))
        for ids in wanted:
            self._follower.allocated(offer.name, _still_offered(offer, ids))
        self._allocated()
        return wire.allocate_response(granted)

    async def PreStartContainer(
        self, request: api_pb2.PreStartContainerRequest, context: Context
    ) -> api_pb2.PreStartContainerResponse:
        """Prepare slices where their kind asks for it; elsewhere, a kubelet that calls all the same gets a yes."""
        offer, started = self._offer, time.perf_counter()
        try:
            if offer.start is None:
                _named(offer, request.devices_ids)
            else:
                # A slice that is gone from the list: its kind knows why.
                await offer.start(offer.resource, offer.slices, list(request.devices_ids))
        except RefusedError as error:
            await self._refuse(context, "PreStartContainer", str(error))
        self._answered("PreStartContainer", started)
        return api_pb2.PreStartContainerResponse()

    def _answered(self, method: str, started: float) -> None:
        self._metrics.latency.labels(method).observe(time.perf_counter() - started)
        self._metrics.requests.labels(self._offer.name, method, "ok").inc()

    async def _refuse(self, context: Context, method: str, reason: str) -> NoReturn:
        self._metrics.requests.labels(self._offer.name, method, "refused").inc()
        log.warning("refused resource=%s method=%s reason=%r", self._offer.name, method, reason)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)


def _named(offer: Offer, slice_ids: Iterable[str]) -> list[Slice]:
    try:
        return [offer.slices[slice_id] for slice_id in slice_ids]
    except KeyError as missing:
        raise RefusedError(f"{offer.name} has no slice {missing.args[0]!r}") from None


def _still_offered(offer: Offer, slice_ids: Iterable[str]) -> list[Slice]:
    """The kubelet may not have taken in the newest list yet; what is gone from it is no choice any more."""
    return [offer.slices[slice_id] for slice_id in slice_ids if slice_id in offer.slices]
