"""A device plugin that obeys the protocol and can be told to misbehave."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from protos.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.plugins import Timeouts
from tasuki.sandbox.pods import Container, Pod

Context = aio.ServicerContext[Any, Any]
SOON_SECONDS = 10.0


def device(name: str, *, health: str = "Healthy", numa: tuple[int, ...] | None = None) -> api_pb2.Device:
    made = api_pb2.Device(ID=name, health=health)
    if numa is not None:
        made.topology.CopyFrom(api_pb2.TopologyInfo(nodes=[api_pb2.NUMANode(ID=node) for node in numa]))
    return made


@dataclass
class FakePlugin(api_pb2_grpc.DevicePluginServicer):
    """Serves one resource in the kubelet's folder; `calls` notes each request with its method's name."""

    folder: Path
    resource: str
    devices: list[api_pb2.Device]
    endpoint: str = "fake.sock"
    prefer: Callable[[api_pb2.ContainerPreferredAllocationRequest], list[str]] | None = None
    pre_start_required: bool = False
    refusal: str = ""
    pre_start_refusal: str = ""
    answer: api_pb2.ContainerAllocateResponse | None = field(default_factory=api_pb2.ContainerAllocateResponse)
    during_allocate: Callable[[], Awaitable[None]] | None = None
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self._server: aio.Server | None = None

    async def serve(self) -> None:
        self._server = aio.server()
        api_pb2_grpc.add_DevicePluginServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.folder / self.endpoint}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    async def serve_again(self) -> None:
        """What a plugin does when it sees that the kubelet has started anew."""
        await self.stop()
        await self.serve()
        await self.register()

    async def register(self, version: str = "v1beta1", resource: str | None = None) -> None:
        async with aio.insecure_channel(f"unix:{self.folder / 'kubelet.sock'}") as channel:
            await api_pb2_grpc.RegistrationStub(channel).Register(
                api_pb2.RegisterRequest(
                    version=version, endpoint=self.endpoint, resource_name=resource or self.resource
                ),
                timeout=SOON_SECONDS,
            )

    def change(self, devices: list[api_pb2.Device]) -> None:
        self.devices = devices
        self._changed.set()
        self._changed = asyncio.Event()

    def calls_of(self, method: str) -> list[Any]:
        return [request for name, request in self.calls if name == method]

    async def GetDevicePluginOptions(self, request: api_pb2.Empty, context: Context) -> api_pb2.DevicePluginOptions:
        return api_pb2.DevicePluginOptions(
            pre_start_required=self.pre_start_required, get_preferred_allocation_available=self.prefer is not None
        )

    async def ListAndWatch(
        self, request: api_pb2.Empty, context: Context
    ) -> AsyncIterator[api_pb2.ListAndWatchResponse]:
        while True:
            changed = self._changed
            yield api_pb2.ListAndWatchResponse(devices=self.devices)
            await changed.wait()

    async def GetPreferredAllocation(
        self, request: api_pb2.PreferredAllocationRequest, context: Context
    ) -> api_pb2.PreferredAllocationResponse:
        self.calls.append(("GetPreferredAllocation", request))
        assert self.prefer is not None
        return api_pb2.PreferredAllocationResponse(
            container_responses=[
                api_pb2.ContainerPreferredAllocationResponse(deviceIDs=self.prefer(wanted))
                for wanted in request.container_requests
            ]
        )

    async def Allocate(self, request: api_pb2.AllocateRequest, context: Context) -> api_pb2.AllocateResponse:
        self.calls.append(("Allocate", request))
        if self.refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        if self.during_allocate is not None:
            await self.during_allocate()
        return api_pb2.AllocateResponse(container_responses=[] if self.answer is None else [self.answer])

    async def PreStartContainer(
        self, request: api_pb2.PreStartContainerRequest, context: Context
    ) -> api_pb2.PreStartContainerResponse:
        self.calls.append(("PreStartContainer", request))
        if self.pre_start_refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.pre_start_refusal)
        return api_pb2.PreStartContainerResponse()


PluginMaker = Callable[..., Awaitable[FakePlugin]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets cannot have long ones."""
    with tempfile.TemporaryDirectory(prefix="tasuki-test-") as made:
        yield Path(made)


@pytest.fixture
def timeouts() -> Timeouts:
    return Timeouts(dial=1.0)


@pytest.fixture
async def kubelet(folder: Path, timeouts: Timeouts) -> AsyncIterator[Kubelet]:
    async with Kubelet(folder / "dp", timeouts=timeouts) as serving:
        yield serving


@pytest.fixture
async def plugin(kubelet: Kubelet) -> AsyncIterator[PluginMaker]:
    """Makes plugins that have registered and listed their devices."""
    made: list[FakePlugin] = []

    async def make(resource: str, devices: list[api_pb2.Device], **knobs: Any) -> FakePlugin:
        fake = FakePlugin(kubelet.folder, resource, devices, endpoint=f"fake-{len(made)}.sock", **knobs)
        made.append(fake)
        await fake.serve()
        await fake.register()
        await kubelet.wait_for(lambda now: now[resource].capacity == len(devices), SOON_SECONDS)
        return fake

    yield make

    for fake in made:
        await fake.stop()


@pytest.fixture
def gpus() -> Callable[[int], list[api_pb2.Device]]:
    return lambda count: [device(f"GPU-{number}") for number in range(count)]


PodMaker = Callable[..., Pod]


@pytest.fixture
def pod() -> PodMaker:
    """Builds pods: `pod("a", main={"nvidia.com/gpu": 1})`, each keyword being a container."""

    def make(name: str, *init: Container, **containers: dict[str, int]) -> Pod:
        mains = [Container(container, wants) for container, wants in containers.items()]
        return Pod(name, (*init, *mains), uid=f"uid-{name}")

    return make
