"""The protocol over a real socket, without an Envoy."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from objectcache.xds.member import Member
from objectcache.xds.metrics import Metrics
from objectcache.xds.server import Discovery, DiscoveryServer
from objectcache.xds.snapshot import CLUSTER, CLUSTERS, ENDPOINTS, Catalogue, Options, fixed_resources

FIXED = fixed_resources(Options())
HERE = Member("node-a", "10.0.0.1", 8480, "z1")
THERE = Member("node-b", "10.0.0.2", 8480, "z2")
BOTH = (HERE, THERE)
ZONES = {"node-a": "z1", "node-b": "z2"}
SECONDS = 60.0


class Running:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.notes: list[str] = []
        self.discovery = Discovery(self.metrics, self.notes.append)
        self.server = DiscoveryServer(self.discovery, ("127.0.0.1", 0), None)

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def publish(self, *members: Member) -> None:
        self.discovery.publish(Catalogue(members, ZONES, FIXED))

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
            yield ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    made = Running()
    await made.server.start()
    yield made
    await made.server.stop(1.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def asked(type_url: str, *names: str, node: str = "node-a", zone: str = "", **more: Any) -> Any:
    where = base_pb2.Node(id=node, locality=base_pb2.Locality(zone=zone))
    return discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=names, node=where, **more)


async def received(call: Any) -> Any:
    async with asyncio.timeout(SECONDS):
        return await call.read()


def zones_of(response: Any) -> list[str]:
    [packed] = response.resources
    message = endpoint_pb2.ClusterLoadAssignment.FromString(packed.value)
    return [each.locality.zone for each in message.endpoints]


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(SECONDS):
        return await call.code(), await call.details()


@pytest.mark.parametrize(
    ("node", "said", "expected"),
    [
        pytest.param("node-b", "", ["z2", "z1"], id="of its node"),
        pytest.param("node-b", "z1", ["z1", "z2"], id="of its bootstrap"),
        pytest.param("stranger", "", ["z1", "z2"], id="of nobody"),
    ],
)
async def test_an_envoy_is_told_of_its_own_zone_first(
    running: Running, node: str, said: str, expected: list[str]
) -> None:
    running.publish(*BOTH)
    async with running.stub() as stub:
        call = stub.StreamAggregatedResources()
        await call.write(asked(ENDPOINTS, CLUSTER, node=node, zone=said))

        assert zones_of(await received(call)) == expected
        assert running.count("tasuki_xds_envoys_without_zone") == (node == "stranger")


async def test_nothing_is_said_before_the_caches_are_known(running: Running) -> None:
    async with running.stub() as stub:
        call = stub.StreamAggregatedResources()
        await call.write(asked(ENDPOINTS, CLUSTER))
        await until(lambda: running.discovery.connected == 1)
        assert running.count("tasuki_xds_pushes_total", type="eds") == 0

        running.publish(*BOTH)

        assert zones_of(await received(call)) == ["z1", "z2"]


async def test_a_refusal_is_noted_and_counted_until_the_envoy_goes(running: Running) -> None:
    running.publish(*BOTH)
    async with running.stub() as stub:
        call = stub.StreamAggregatedResources()
        await call.write(asked(ENDPOINTS, CLUSTER))
        sent = await received(call)
        refusal = asked(ENDPOINTS, CLUSTER, response_nonce=sent.nonce)
        refusal.error_detail.message = "endpoints are\nwrong"
        await call.write(refusal)
        await until(lambda: running.count("tasuki_xds_refusing_envoys") == 1)
        told = running.notes[-1]
        call.cancel()
        await until(lambda: running.discovery.connected == 0)

    assert "1 of 1 Envoys" in told
    assert f"'node-a' refuses eds version {sent.version_info}: endpoints are wrong" in told
    assert not running.notes[-1]
    assert running.count("tasuki_xds_refusing_envoys") == 0
    assert running.count("tasuki_xds_answers_total", type="eds", outcome="refused") == 1


async def test_a_type_that_nobody_has_is_passed_over(running: Running) -> None:
    running.publish(*BOTH)
    async with running.stub() as stub:
        call = stub.StreamAggregatedResources()
        secrets = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
        await call.write(asked(secrets, "key"))
        await call.write(asked(CLUSTERS))

        assert (await received(call)).type_url == CLUSTERS


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(asked(CLUSTERS, node=""), "node.id", id="without a node"),
        pytest.param(asked(""), "type_url", id="without a type"),
    ],
)
async def test_what_no_envoy_sends_ends_the_stream(running: Running, request_: Any, reason: str) -> None:
    running.publish(*BOTH)
    async with running.stub() as stub:
        call = stub.StreamAggregatedResources()
        await call.write(request_)

        code, details = await status_of(call)

    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert reason in details
    await until(lambda: running.discovery.connected == 0)


async def test_a_client_that_hangs_up_before_it_asks_leaves_nothing(running: Running) -> None:
    async with running.stub() as stub:
        call = stub.DeltaAggregatedResources()
        await call.done_writing()

        code, _ = await status_of(call)

    assert code == grpc.StatusCode.OK
    assert running.discovery.connected == 0


async def test_streams_end_well_when_the_server_stops(running: Running) -> None:
    running.publish(*BOTH)
    async with running.stub() as stub:
        call = stub.DeltaAggregatedResources()
        node = base_pb2.Node(id="node-a")
        await call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTERS, node=node))
        await received(call)

        await running.server.stop(5.0)

        assert (await status_of(call))[0] == grpc.StatusCode.OK


async def test_hundreds_of_envoys_are_all_told(running: Running) -> None:
    running.publish(HERE)
    async with running.stub() as stub:
        calls = [stub.StreamAggregatedResources() for _ in range(400)]
        for number, call in enumerate(calls):
            await call.write(asked(ENDPOINTS, CLUSTER, node=f"client-{number}"))
        first = [await received(call) for call in calls]
        for number, (call, sent) in enumerate(zip(calls, first, strict=True)):
            await call.write(asked(ENDPOINTS, CLUSTER, node=f"client-{number}", response_nonce=sent.nonce))
        await until(lambda: running.count("tasuki_xds_answers_total", type="eds", outcome="accepted") == 400)

        running.publish(*BOTH)
        second = [await received(call) for call in calls]

    assert {each.version_info for each in first} != {each.version_info for each in second}
    assert {tuple(zones_of(each)) for each in second} == {("z1", "z2")}
    assert running.count("tasuki_xds_members", zone="z2", state="serving") == 1


@asynccontextmanager
async def way_that_blocks(port: int, blocked: asyncio.Event) -> AsyncIterator[int]:
    """A port from which bytes are carried to and fro, until `blocked`."""
    carrying: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while content := await reader.read(4_096):
                if blocked.is_set():
                    await asyncio.Event().wait()
                writer.write(content)
        finally:
            writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        carrying.update(asyncio.create_task(each) for each in (carry(reader, back), carry(there, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in carrying:
            task.cancel()
        await asyncio.wait(carrying)


async def test_envoys_that_take_nothing_hold_up_nobody(running: Running) -> None:
    blocked = asyncio.Event()
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(way_that_blocks(running.server.port, blocked))
        for number in range(33):
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{way}", options=options))
            stuck = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources()
            await stuck.write(asked(ENDPOINTS, CLUSTER, node=f"stuck-{number}"))
        await until(lambda: running.discovery.connected == 33)
        blocked.set()
        # Too much for all the buffers on the way.
        running.publish(*(Member(f"node-{number}", "10.0.0.1", 8480) for number in range(100_000)))
        await asyncio.sleep(0.1)  # for all of them to be sent to
        running.publish(*BOTH)
        stub = await stack.enter_async_context(running.stub())
        call = stub.StreamAggregatedResources()
        await call.write(asked(ENDPOINTS, CLUSTER))

        assert zones_of(await received(call)) == ["z1", "z2"]


async def test_an_address_that_is_taken_says_so(running: Running) -> None:
    other = DiscoveryServer(running.discovery, ("127.0.0.1", running.server.port), None)

    with pytest.raises(OSError, match="choose another address"):
        await other.start()
