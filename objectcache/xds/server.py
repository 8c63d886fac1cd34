"""The aggregated discovery service, as Envoys call it."""

# ruff: noqa: N802 - the protocol names the methods

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2

from objectcache.xds import wire
from objectcache.xds.metrics import KINDS, Metrics
from objectcache.xds.session import Answered, Delta, DeltaRequest, ProtocolError, Request, Response, StateOfTheWorld
from objectcache.xds.snapshot import Catalogue
from objectcache.xds.turns import Turns
from tasuki.process.sentences import shortened, shown

log: Final = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
RequestT = TypeVar("RequestT", Request, DeltaRequest)

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

# One stream each; a cluster of more nodes has several replicas.
_MOST_STREAMS: Final = 5_000
# An Envoy's first request names its extensions, some 50 KiB.
_MOST_REQUEST_BYTES: Final = 4 * 2**20
_FIRST_REQUEST_SECONDS: Final = 30.0
_LONGEST_REASON: Final = 500
# Each Envoy's response is bytes of its own, 200 kB with 2,000 caches: all at once they would not fit into memory.
_SENDS_AT_ONCE: Final = 32
# A node that is gone without a word takes longer, and holds up nobody.
_SEND_SECONDS: Final = 1.0

SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MOST_REQUEST_BYTES),
    # A node that is gone without a word is noticed within 40 seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Envoys ping as well; gRPC would hang up on whoever pings more often than every five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # A second server on the port is a mistake to be told of.
    ("grpc.so_reuseport", 0),
)


@dataclass(slots=True, eq=False)
class _Envoy:
    """One that is connected.

    Attributes:
        node: Its id; so its node's name in Kubernetes.
        said_zone: What its bootstrap says.
        wake: Set when something may have to be sent, or the stream is to end.
        reading: Whether it may still send requests.
        problem: With what it broke the protocol; empty if it did not.
        refusals: By type, why it keeps what it had.
    """

    node: str
    said_zone: str
    wake: asyncio.Event
    reading: bool = True
    problem: str = ""
    refusals: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Variant(Generic[RequestT]):
    """What tells one variant of the protocol from the other."""

    name: str
    session: Callable[[], Any]
    decode: Callable[[Any], RequestT]
    encode: Callable[[Response], bytes]


_STATE_OF_THE_WORLD: Final = _Variant("sotw", StateOfTheWorld, wire.request, wire.response)
_DELTA: Final = _Variant("delta", Delta, wire.delta_request, wire.delta_response)


class Discovery:
    """Tells every connected Envoy of its zone's snapshot, and of each change.

    Args:
        note: Told what Envoys refuse, "" when none does.
    """

    def __init__(self, metrics: Metrics, note: Callable[[str], None]) -> None:
        self._metrics: Final = metrics
        self._note: Final = note
        self._catalogue: Catalogue | None = None
        self._published_at = 0.0
        self._envoys: Final[set[_Envoy]] = set()
        self._closing = False
        self._sending: Final = Turns(_SENDS_AT_ONCE, _SEND_SECONDS)
        metrics.follow_age(self._age_seconds)
        metrics.unknown_zone.set_function(self._without_zone)

    def publish(self, catalogue: Catalogue) -> None:
        """Tell this from now on; until the first, Envoys wait and keep what they have."""
        self._catalogue = catalogue
        self._published_at = time.monotonic()
        self._metrics.told(catalogue.members)
        self._wake_all()

    def close(self) -> None:
        """End every stream; its Envoy keeps what it has and connects to another replica."""
        self._closing = True
        self._wake_all()

    @property
    def connected(self) -> int:
        return len(self._envoys)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service's methods; responses are bytes already."""
        stream = grpc.stream_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamAggregatedResources": stream(
                    self.StreamAggregatedResources, discovery_pb2.DiscoveryRequest.FromString, None
                ),
                "DeltaAggregatedResources": stream(
                    self.DeltaAggregatedResources, discovery_pb2.DeltaDiscoveryRequest.FromString, None
                ),
            },
        )

    async def StreamAggregatedResources(self, requests: AsyncIterator[Any], context: Context) -> None:
        await self._serve(_STATE_OF_THE_WORLD, requests, context)

    async def DeltaAggregatedResources(self, requests: AsyncIterator[Any], context: Context) -> None:
        await self._serve(_DELTA, requests, context)

    async def _serve(self, variant: _Variant[Any], requests: AsyncIterator[Any], context: Context) -> None:
        try:
            async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
                first = await anext(aiter(requests), None)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came; send one first")
        if first is None:
            return
        if not first.node.id:
            text = "the first request has no node.id; set it in the bootstrap, or start Envoy with --service-node"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        session = variant.session()
        with self._connected(variant.name, first.node) as envoy:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(variant, envoy, session, first, requests))
                await self._write(variant, envoy, session, context)
                reading.cancel()
        if envoy.problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, envoy.problem)

    async def _read(
        self, variant: _Variant[Any], envoy: _Envoy, session: Any, first: Any, requests: AsyncIterator[Any]
    ) -> None:
        try:
            self._take(envoy, session, variant.decode(first))
            envoy.wake.set()
            async for message in requests:
                self._take(envoy, session, variant.decode(message))
                envoy.wake.set()
        except ProtocolError as error:
            envoy.problem = str(error)
        finally:
            envoy.reading = False
            envoy.wake.set()

    async def _write(self, variant: _Variant[Any], envoy: _Envoy, session: Any, context: Context) -> None:
        while not self._closing and envoy.reading:
            envoy.wake.clear()
            catalogue = self._catalogue
            if catalogue is not None:
                zone = catalogue.zone_of(envoy.node, envoy.said_zone)
                for response in session.responses(catalogue.snapshot(zone)):
                    async with self._sending.turn():
                        await context.write(variant.encode(response))
                    self._metrics.pushed(response.type_url)
                    log.debug(
                        "sent type=%s version=%s resources=%d node=%s zone=%s",
                        KINDS[response.type_url], response.version, len(response.resources), shown(envoy.node),
                        shown(zone),
                    )  # fmt: skip
            await envoy.wake.wait()

    def _take(self, envoy: _Envoy, session: Any, request: Request | DeltaRequest) -> None:
        if request.type_url and request.type_url not in KINDS:
            # Envoys may be configured for more than we have; those parts go without.
            log.warning("a type that nobody has here type=%s node=%s", shown(request.type_url), shown(envoy.node))
            return
        answer: Answered | None = session.take(request)
        if answer is None:
            return
        kind = KINDS[request.type_url]
        self._metrics.answered(request.type_url, answer.outcome)
        if answer.outcome == "refused":
            reason = shortened(" ".join(answer.reason.split()), _LONGEST_REASON)
            log.error(
                "an Envoy refuses what it is sent, and keeps what it had node=%s type=%s version=%s reason=%s",
                shown(envoy.node), kind, answer.version, reason,
            )  # fmt: skip
            envoy.refusals[kind] = f"version {answer.version}: {reason}"
            self._tell_refusals()
        elif answer.outcome == "accepted" and envoy.refusals.pop(kind, ""):
            self._tell_refusals()

    def _tell_refusals(self) -> None:
        refusing = sorted((each for each in self._envoys if each.refusals), key=lambda each: each.node)
        self._metrics.refusing.set(len(refusing))
        if not refusing:
            self._note("")
            return
        kind, reason = next(iter(refusing[0].refusals.items()))
        counted = f"{len(refusing)} of {len(self._envoys)} Envoys refuse what they are sent, and keep what they had"
        self._note(f"{counted}; {shown(refusing[0].node)} refuses {kind} {reason}")

    @contextmanager
    def _connected(self, variant: str, node: Any) -> Iterator[_Envoy]:
        envoy = _Envoy(node.id, node.locality.zone, asyncio.Event())
        self._envoys.add(envoy)
        self._metrics.envoys.labels(variant).inc()
        log.info("connected node=%s variant=%s", shown(envoy.node), variant)
        try:
            yield envoy
        finally:
            self._envoys.discard(envoy)
            self._metrics.envoys.labels(variant).dec()
            if envoy.refusals:
                self._tell_refusals()
            log.info("disconnected node=%s variant=%s", shown(envoy.node), variant)

    def _wake_all(self) -> None:
        for envoy in self._envoys:
            envoy.wake.set()

    def _age_seconds(self) -> float:
        return time.monotonic() - self._published_at if self._catalogue is not None else float("nan")

    def _without_zone(self) -> int:
        """Called from the collector's thread."""
        catalogue = self._catalogue
        if catalogue is None or not any(member.zone for member in catalogue.members):
            return 0
        return sum(not catalogue.zone_of(each.node, each.said_zone) for each in tuple(self._envoys))


class DiscoveryServer:
    """Listens for Envoys.

    Args:
        address: Host and port; port 0 lets the system choose, see `port`.
        credentials: For TLS; None for gRPC without it.
    """

    def __init__(
        self, discovery: Discovery, address: tuple[str, int], credentials: grpc.ServerCredentials | None
    ) -> None:
        self._discovery: Final = discovery
        self._address: Final = address
        self._credentials: Final = credentials
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: Nothing can listen there.
        """
        server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=_MOST_STREAMS)
        server.add_generic_rpc_handlers((self._discovery.handlers(),))
        host, port = self._address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                self.port = server.add_insecure_port(where)
            else:
                self.port = server.add_secure_port(where, self._credentials)
        except RuntimeError as error:  # what gRPC raises, with no reason in it
            raise OSError(f"cannot serve Envoys on {where}: {error}; choose another address") from error
        await server.start()
        self._server = server
        log.info("serving Envoys port=%d tls=%s", self.port, self._credentials is not None)

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Let every stream end, at the latest after so long."""
        self._discovery.close()
        if self._server is not None:
            await self._server.stop(grace_seconds)
