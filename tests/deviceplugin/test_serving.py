"""Serving resources to a kubelet that comes, goes and refuses."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from deviceplugin import lifecycle
from deviceplugin.bound_watch import Follower
from deviceplugin.container import ContainerEdits, RefusedError
from deviceplugin.fleet import Fleet
from deviceplugin.lifecycle import Surroundings, Ticker, socket_name
from deviceplugin.metrics import Metrics
from deviceplugin.offers import Offer, offer
from deviceplugin.resources import Resource
from deviceplugin.rivals import Rivals
from protos.deviceplugin.v1beta1 import api_pb2
from protos.deviceplugin.v1beta1.api_pb2_grpc import DevicePluginStub
from tasuki.devices.model import Health, Slice, slices_of, unhealthy
from tasuki.devices.preference import spread
from tasuki.process.unix_sockets import CHANNEL_OPTIONS
from tasuki.process.watching import FolderWatch
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.views import ResourceView
from tests.builders import a_device

if TYPE_CHECKING:
    from protos.deviceplugin.v1beta1.api_pb2_grpc import DevicePluginAsyncStub  # exists in the stubs alone

GPU = "nvidia.com/gpu"
SECONDS = 10.0


def grant(resource: Resource, slices: Mapping[str, Slice], ids: Sequence[str]) -> ContainerEdits:
    if any(i not in slices for i in ids):
        raise RefusedError(f"unknown device: {ids}")
    return ContainerEdits(envs={"GOT": ",".join(ids)})


def an_offer(devices: int = 2, *, name: str = GPU, replicas: int | None = None, sick: Sequence[int] = ()) -> Offer:
    slices = tuple(
        s
        for i in range(devices)
        for s in slices_of(a_device(i, health=unhealthy("XID 79") if i in sick else Health(healthy=True)), replicas)
    )
    return offer(Resource(name, slices), spread, grant)


@dataclass
class Served:
    """A fleet on a folder, and what it told of itself."""

    folder: Path
    fleet: Fleet
    metrics: Metrics
    states: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def serve(self, *offers: Offer) -> None:
        self.fleet.serve({o.name: o for o in offers})

    async def until(self, reason: str, name: str = GPU) -> None:
        """Wait until the resource's state tells of this."""
        async with asyncio.timeout(SECONDS):
            while reason not in self.states.get(name, "") or (not reason and self.states.get(name) != ""):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    folder: Path, *offers: Offer, register: bool = True, follower: Follower | None = None
) -> AsyncIterator[Served]:
    ticker, metrics, rivals = Ticker(), Metrics(), Rivals(folder)
    states: dict[str, str] = {}
    told: list[str] = []

    def state_changed(name: str, reason: str) -> None:
        if states.get(name) != reason:
            told.append(reason)
        states[name] = reason

    async with asyncio.TaskGroup() as group:
        surroundings = Surroundings(
            folder=folder,
            kubelet_socket=folder / "kubelet.sock" if register else None,
            ticker=ticker,
            metrics=metrics,
            rivals=rivals,
            state_changed=state_changed,
            withdrawn=lambda name: told.append(f"{name} withdrawn"),
            allocated=lambda: told.append("allocated"),
            follower=follower or Follower(),
        )
        fleet = Fleet(surroundings, group.create_task)

        async def tick() -> None:
            with FolderWatch([folder]) as watch:
                while True:
                    if await watch.wait(1.0):
                        ticker.tick()

        async def look() -> None:
            while True:
                if await rivals.look():
                    ticker.tick()
                await ticker.wait(1.0)

        background = [group.create_task(tick()), group.create_task(look())]
        served = Served(folder, fleet, metrics, states, told)
        served.serve(*offers)
        try:
            yield served
        finally:
            await fleet.stop()
            for task in background:
                task.cancel()


@asynccontextmanager
async def plugin(folder: Path, name: str = GPU) -> AsyncIterator["DevicePluginAsyncStub"]:
    """A client of the plugin, as the kubelet is one."""
    async with grpc.aio.insecure_channel(f"unix:{folder / socket_name(name)}", options=CHANNEL_OPTIONS) as channel:
        await asyncio.wait_for(channel.channel_ready(), SECONDS)
        yield DevicePluginStub(channel)


def offers(count: int, name: str = GPU) -> "Offered":
    return Offered(name, count)


@dataclass(frozen=True)
class Offered:
    """Whether the kubelet knows so many healthy devices of a resource."""

    name: str
    count: int

    def __call__(self, resources: Mapping[str, ResourceView]) -> bool:
        return (
            self.name in resources
            and resources[self.name].connected
            and (resources[self.name].allocatable == self.count)
        )


async def test_the_kubelet_sees_every_resource(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer(), an_offer(3, name="nvidia.com/other")):
        resources = await kubelet.wait_for(lambda r: offers(2)(r) and offers(3, "nvidia.com/other")(r), SECONDS)

    assert resources[GPU].numa_nodes == {"GPU-0": (0,), "GPU-1": (0,)}
    assert resources[GPU].prefers


async def test_a_change_reaches_the_kubelet(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()) as served:
        await kubelet.wait_for(offers(2), SECONDS)

        served.serve(an_offer(sick=[1]))
        resources = await kubelet.wait_for(offers(1), SECONDS)

    assert resources[GPU].unhealthy == {"GPU-1"}


async def test_a_change_reaches_every_open_stream(tmp_path: Path) -> None:
    async with serving(tmp_path, an_offer(), register=False) as served, plugin(tmp_path) as stub:
        streams = [stub.ListAndWatch(api_pb2.Empty(), timeout=SECONDS) for _ in range(3)]
        first = [len((await anext(aiter(s))).devices) for s in streams]
        streams[0].cancel()

        served.serve(an_offer(5))
        second = [len((await anext(aiter(s))).devices) for s in streams[1:]]

    assert first == [2, 2, 2]
    assert second == [5, 5]


async def test_an_unchanged_list_is_not_sent_again(tmp_path: Path) -> None:
    async with serving(tmp_path, an_offer(), register=False) as served, plugin(tmp_path) as stub:
        stream = aiter(stub.ListAndWatch(api_pb2.Empty(), timeout=SECONDS))
        await anext(stream)

        served.serve(an_offer())
        served.serve(an_offer(1))

        assert len((await anext(stream)).devices) == 1


async def test_a_stream_ends_when_its_kubelet_hangs_up(tmp_path: Path) -> None:
    async with serving(tmp_path, an_offer(), register=False) as served, plugin(tmp_path) as stub:
        stream = stub.ListAndWatch(api_pb2.Empty(), timeout=SECONDS)
        await anext(aiter(stream))
        stream.cancel()

        service = served.fleet._running[GPU].server.service
        async with asyncio.timeout(SECONDS):
            while service.streams:
                await asyncio.sleep(0.01)


async def test_a_kubelet_that_restarts_is_registered_with_again(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()):
        await kubelet.wait_for(offers(2), SECONDS)

        for _ in range(3):
            await kubelet.restart()
            await kubelet.wait_for(offers(2), SECONDS)

    assert len(kubelet.registrations) == 4


async def test_a_kubelet_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path, an_offer()) as served:
        await served.until("does not exist")
        async with Kubelet(tmp_path) as kubelet:
            await kubelet.wait_for(offers(2), SECONDS)
            await served.until("")


async def test_a_deleted_socket_of_ours_is_made_anew(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()):
        await kubelet.wait_for(offers(2), SECONDS)

        (tmp_path / socket_name(GPU)).unlink()
        async with asyncio.timeout(SECONDS):
            while len(kubelet.registrations) < 2:
                await asyncio.sleep(0.01)
        await kubelet.wait_for(offers(2), SECONDS)

        assert (tmp_path / socket_name(GPU)).is_socket()


async def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    async with grpc_server_that_dies(tmp_path / socket_name(GPU)):
        pass
    async with Kubelet(tmp_path) as kubelet:
        (tmp_path / socket_name(GPU)).touch()
        async with serving(tmp_path, an_offer()):
            await kubelet.wait_for(offers(2), SECONDS)


@asynccontextmanager
async def grpc_server_that_dies(path: Path) -> AsyncIterator[None]:
    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield
    await server.stop(None)


async def test_a_refused_registration_is_tried_again(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet:
        kubelet.refuse_registrations("the node is being drained")
        async with serving(tmp_path, an_offer()) as served:
            await served.until("the node is being drained")

            kubelet.refuse_registrations(None)
            await kubelet.wait_for(offers(2), SECONDS)
            await served.until("")


async def test_two_daemons_on_one_node_are_told_apart(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()) as first:
        await kubelet.wait_for(offers(2), SECONDS)
        async with serving(tmp_path, an_offer()) as second:
            await second.until("another Tasuki daemon on this node already serves nvidia.com/gpu")

        await first.until("")
        assert kubelet.resources()[GPU].allocatable == 2


async def test_devices_of_a_live_plugin_are_not_taken_over(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet:
        async with serving(tmp_path, an_offer(2, name="nvidia.com/theirs", replicas=4)):
            await kubelet.wait_for(offers(8, "nvidia.com/theirs"), SECONDS)
            async with serving(tmp_path, an_offer()) as served:
                await served.until("hands out the same devices as nvidia.com/gpu; remove one of the two")
                assert GPU not in kubelet.resources()

        async with serving(tmp_path, an_offer()) as served:
            await kubelet.wait_for(offers(2), SECONDS)
            await served.until("")


async def test_a_plugin_that_takes_the_devices_later_is_an_error_that_says_so(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()) as served:
        await kubelet.wait_for(offers(2), SECONDS)
        async with (
            serving(tmp_path, an_offer(name="nvidia.com/x"), register=False),
            plugin(tmp_path, "nvidia.com/x") as theirs,
        ):
            stream = theirs.ListAndWatch(api_pb2.Empty(), timeout=SECONDS)
            await anext(aiter(stream))
            await served.until("hands out the same devices as nvidia.com/gpu; remove one of the two")
        await served.until("")


class Foreign:
    """Another vendor's plugin for some devices, which answers preferences in its own way."""

    def __init__(self, devices: Sequence[str], preference: str) -> None:
        self._devices = devices
        self._preference = preference

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "v1beta1.DevicePlugin",
            {
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                    self.ListAndWatch,
                    api_pb2.Empty.FromString,
                    api_pb2.ListAndWatchResponse.SerializeToString,
                ),
                "GetPreferredAllocation": grpc.unary_unary_rpc_method_handler(
                    self.GetPreferredAllocation,
                    api_pb2.PreferredAllocationRequest.FromString,
                    api_pb2.PreferredAllocationResponse.SerializeToString,
                ),
            },
        )

    async def ListAndWatch(
        self, request: api_pb2.Empty, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[api_pb2.ListAndWatchResponse]:
        yield api_pb2.ListAndWatchResponse(devices=[api_pb2.Device(ID=d, health="Healthy") for d in self._devices])
        await asyncio.Event().wait()

    async def GetPreferredAllocation(
        self, request: api_pb2.PreferredAllocationRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> api_pb2.PreferredAllocationResponse:
        if self._preference == "unimplemented":
            await context.abort(grpc.StatusCode.UNIMPLEMENTED)
        if self._preference == "empty":
            return api_pb2.PreferredAllocationResponse()
        if self._preference == "slow":
            await asyncio.sleep(SECONDS)
        (asked,) = request.container_requests
        if not set(asked.available_deviceIDs) <= set(self._devices):
            await context.abort(grpc.StatusCode.UNKNOWN, "unknown device")
        chosen = api_pb2.ContainerPreferredAllocationResponse(deviceIDs=asked.available_deviceIDs)
        return api_pb2.PreferredAllocationResponse(container_responses=[chosen])


@asynccontextmanager
async def foreign(folder: Path, devices: Sequence[str], preference: str) -> AsyncIterator[None]:
    server = grpc.aio.server()
    plugin = Foreign(devices, preference)
    server.add_generic_rpc_handlers((plugin.handlers(),))
    server.add_insecure_port(f"unix:{folder / 'foreign.sock'}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


@pytest.mark.parametrize("preference", ["named", "unimplemented", "empty"])
@pytest.mark.parametrize("theirs", [["GPU-1"], ["GPU-1::0", "GPU-1::1"]], ids=["whole", "shared"])
async def test_a_foreign_plugin_for_one_of_our_devices_is_found(
    tmp_path: Path, preference: str, theirs: list[str]
) -> None:
    async with Kubelet(tmp_path), foreign(tmp_path, theirs, preference), serving(tmp_path, an_offer()) as served:
        await served.until("(foreign.sock) hands out the same devices as nvidia.com/gpu")


@pytest.mark.parametrize("preference", ["named", "unimplemented", "empty"])
async def test_a_foreign_plugin_for_other_devices_is_left_alone(tmp_path: Path, preference: str) -> None:
    async with (
        Kubelet(tmp_path) as kubelet,
        foreign(tmp_path, ["FPGA-0"], preference),
        serving(tmp_path, an_offer()) as served,
    ):
        await kubelet.wait_for(offers(2), SECONDS)
        await served.until("")


async def test_a_neighbour_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, foreign(tmp_path, ["FPGA-0"], "slow"), serving(tmp_path, an_offer()):
        # Half of the neighbour's time.
        await kubelet.wait_for(offers(2), SECONDS / 2)


@pytest.mark.parametrize("_time", range(10))
async def test_a_granted_allocation_reaches_a_kubelet_that_hangs_up_with_the_stream(tmp_path: Path, _time: int) -> None:
    one = api_pb2.AllocateRequest(container_requests=[api_pb2.ContainerAllocateRequest(devices_ids=["GPU-0"])])
    async with serving(tmp_path, an_offer(), register=False) as served, plugin(tmp_path) as stub:
        stream = aiter(stub.ListAndWatch(api_pb2.Empty(), timeout=SECONDS))
        await anext(stream)
        call = asyncio.ensure_future(stub.Allocate(one, timeout=SECONDS))
        while "allocated" not in served.told:
            await asyncio.sleep(0)
        served.fleet._running[GPU].server.stop()
        # The real kubelet closes the whole connection when the stream ends: what is not answered by then is lost. The
        # server closes it as well, and a client that has something to send then takes that for an error of the stream.
        with suppress(grpc.aio.AioRpcError):
            async for _ in stream:
                pass

        assert call.done()
        assert dict((await call).container_responses[0].envs) == {"GOT": "GPU-0"}


async def test_nothing_is_served_any_more_after_a_stop(tmp_path: Path) -> None:
    async with serving(tmp_path, an_offer(), register=False) as served:
        await served.until("")
        await served.fleet.stop()

        served.serve(an_offer(name="nvidia.com/late"))
        await asyncio.sleep(0.1)

        assert not (tmp_path / socket_name("nvidia.com/late")).exists()


async def test_a_stream_that_the_kubelet_ends_is_registered_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_DROPPED_SECONDS", 0.1)
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()):
        await kubelet.wait_for(offers(2), SECONDS)

        await kubelet.endpoint(GPU).close()
        async with asyncio.timeout(SECONDS):
            while len(kubelet.registrations) < 2:
                await asyncio.sleep(0.01)
        await kubelet.wait_for(offers(2), SECONDS)


async def test_a_withdrawn_resource_falls_to_zero_at_once(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()) as served:
        await kubelet.wait_for(offers(2), SECONDS)

        served.serve()
        resources = await kubelet.wait_for(lambda r: r[GPU].capacity == 0, SECONDS)
        async with asyncio.timeout(SECONDS):
            while f"{GPU} withdrawn" not in served.told:
                await asyncio.sleep(0.01)

        assert resources[GPU].capacity == 0
        assert not (tmp_path / socket_name(GPU)).exists()


async def test_a_resource_that_comes_back_while_it_is_withdrawn_is_served_again(tmp_path: Path) -> None:
    async with Kubelet(tmp_path) as kubelet, serving(tmp_path, an_offer()) as served:
        await kubelet.wait_for(offers(2), SECONDS)

        served.serve()
        served.serve(an_offer(3))
        await kubelet.wait_for(offers(3), SECONDS)


async def test_allocate_answers_each_container(tmp_path: Path) -> None:
    async with serving(tmp_path, an_offer(), register=False) as served, plugin(tmp_path) as stub:
        answer = await stub.Allocate(
            api_pb2.AllocateRequest(
                container_requests=[
                    api_pb2.ContainerAllocateRequest(devices_ids=["GPU-1"]),
                    api_pb2.ContainerAllocateRequest(devices_ids=["GPU-0"]),
                ]
            ),
            timeout=SECONDS,
        )

    assert [dict(c.envs) for c in answer.container_responses] == [{"GOT": "GPU-1"}, {"GOT": "GPU-0"}]
    assert "allocated" in served.told
    assert served.metrics.registry.get_sample_value("tasuki_slices_allocated_total", {"resource": GPU}) == 2


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        pytest.param(
            "Allocate",
            api_pb2.AllocateRequest(container_requests=[api_pb2.ContainerAllocateRequest(devices_ids=["GPU-9"])]),
            "invalid allocation request for 'nvidia.com/gpu': unknown device",
            id="an unknown slice",
        ),
        pytest.param(
            "GetPreferredAllocation",
            api_pb2.PreferredAllocationRequest(
                container_requests=[
                    api_pb2.ContainerPreferredAllocationRequest(available_deviceIDs=["GPU-0"], allocation_size=2)
                ]
            ),
            "only 1 are available",
            id="more than there are",
        ),
        pytest.param(
            "PreStartContainer",
            api_pb2.PreStartContainerRequest(devices_ids=["GPU-9"]),
            "has no slice 'GPU-9'",
            id="start of an unknown slice",
        ),
    ],
)
async def test_a_request_that_cannot_be_granted_is_refused_with_the_reason(
    tmp_path: Path, method: str, request_: object, message: str
) -> None:
    async with serving(tmp_path, an_offer(), register=False) as served, plugin(tmp_path) as stub:
        await anext(aiter(stub.ListAndWatch(api_pb2.Empty(), timeout=SECONDS)))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await getattr(stub, method)(request_, timeout=SECONDS)

    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert message in str(refusal.value.details())
    counted = {"resource": GPU, "method": method, "outcome": "refused"}
    assert served.metrics.registry.get_sample_value("tasuki_requests_total", counted) == 1


async def test_a_start_of_a_slice_that_is_gone_is_refused_with_its_kinds_reason(tmp_path: Path) -> None:
    async def start(_: Resource, slices: Mapping[str, Slice], slice_ids: Sequence[str]) -> None:
        assert not {*slices} & {*slice_ids}
        raise RefusedError("region 0 is being repaired")

    repaired = replace(an_offer(), start=start)
    async with serving(tmp_path, repaired, register=False), plugin(tmp_path) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.PreStartContainer(api_pb2.PreStartContainerRequest(devices_ids=["GPU-9"]), timeout=SECONDS)

    assert "region 0 is being repaired" in str(refusal.value.details())


async def test_a_preference_survives_slices_that_are_gone(tmp_path: Path) -> None:
    wanted = api_pb2.ContainerPreferredAllocationRequest(
        available_deviceIDs=["GPU-9", "GPU-1", "GPU-0"], allocation_size=1
    )
    async with serving(tmp_path, an_offer(), register=False), plugin(tmp_path) as stub:
        await anext(aiter(stub.ListAndWatch(api_pb2.Empty(), timeout=SECONDS)))
        answer = await stub.GetPreferredAllocation(
            api_pb2.PreferredAllocationRequest(container_requests=[wanted]), timeout=SECONDS
        )

    assert list(answer.container_responses[0].deviceIDs) == ["GPU-0"]


async def test_calls_under_way_at_a_stop_are_answered(tmp_path: Path) -> None:
    one = api_pb2.AllocateRequest(container_requests=[api_pb2.ContainerAllocateRequest(devices_ids=["GPU-0"])])
    async with plugin_of(tmp_path) as (served, stub):
        calls = [stub.Allocate(one, timeout=SECONDS) for _ in range(200)]
        await calls[0]
        await served.fleet.stop()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    answered = [o for o in outcomes if isinstance(o, api_pb2.AllocateResponse)]
    failed = [o for o in outcomes if not isinstance(o, api_pb2.AllocateResponse)]
    assert answered
    assert all(dict(a.container_responses[0].envs) == {"GOT": "GPU-0"} for a in answered)
    # What was not taken in any more fails as it does with a server that is gone: the kubelet rejects the pod.
    refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert {f.code() for f in failed if isinstance(f, grpc.aio.AioRpcError)} <= refused
    assert all(isinstance(f, grpc.aio.AioRpcError) for f in failed)


@asynccontextmanager
async def plugin_of(folder: Path) -> AsyncIterator[tuple[Served, "DevicePluginAsyncStub"]]:
    async with serving(folder, an_offer(), register=False) as served, plugin(folder) as stub:
        yield served, stub


async def test_a_folder_that_does_not_exist_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    async with serving(folder, an_offer(), register=False) as served:
        await served.until("does not exist; is the kubelet's folder for device plugins mounted?")
        folder.mkdir()
        await served.until("")


async def test_a_socket_path_that_is_too_long_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    async with serving(folder, an_offer(), register=False) as served:
        await served.until("use a shorter folder for --kubelet-socket")
