"""The HTTP server over real sockets, with TLS and without."""

import asyncio
import gc
import socket
import ssl
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tasuki.process import http_server as server_module
from tasuki.process.asgi import Asgi, AsgiScope, Receive, Send, reply
from tasuki.process.http_server import HttpServer
from tasuki.process.tls.live import LiveContext
from tests.ports import has_ipv6
from tests.tasuki.process.http_client import Client, connect
from webhooks.certificates.issuing import Times
from webhooks.certificates.minting import Mint


async def echo(_: AsgiScope, receive: Receive, send: Send) -> None:
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await reply(send, b"".join(pieces))


@dataclass(frozen=True)
class Sides:
    """Both sides' contexts; None without TLS."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


@pytest.fixture(scope="module", params=["http", "https"])
def sides(request: pytest.FixtureRequest) -> Sides:
    if request.param == "http":
        return Sides()
    mint = Mint(["127.0.0.1"], Times(), datetime.now(UTC))
    authority = mint.authority()
    served = mint.server(authority)
    live = LiveContext()
    live.load(served.certificate_pem, served.key_pem)
    return Sides(live.context, ssl.create_default_context(cadata=authority.certificate_pem.decode()))


class Running:
    def __init__(self, server: HttpServer, sides: Sides) -> None:
        self.server = server
        self.sides = sides

    async def client(self, host: str = "127.0.0.1") -> Client:
        return await connect(self.server.port, self.sides.client, host)

    async def refuses_connections(self) -> None:
        async with asyncio.timeout(5):
            while True:
                try:
                    (await self.client()).close()
                except OSError:
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(sides: Sides, host: str = "127.0.0.1", application: Asgi = echo) -> AsyncIterator[Running]:
    running = Running(HttpServer(application, (host, 0), sides.server, "echoes"), sides)
    async with asyncio.TaskGroup() as group:
        group.create_task(running.server.run())
        yield running
        running.server.stop()


@pytest.fixture
async def running(sides: Sides) -> AsyncIterator[Running]:
    async with serving(sides) as running:
        yield running


async def test_many_requests_share_a_connection(running: Running) -> None:
    client = await running.client()

    answers = [await client.ask("/", b"%d" % each) for each in range(20)]

    assert [body for _, _, body in answers] == [b"%d" % each for each in range(20)]
    assert not any("connection" in headers or "transfer-encoding" in headers for _, headers, _ in answers)
    client.close()


async def test_a_question_may_come_before_the_last_is_answered(running: Running) -> None:
    client = await running.client()
    for body in (b"one", b"two"):
        client.begin("/", len(body))
        client.writer.write(body)

    answers = [await client.answer() for _ in range(2)]

    assert [body for _, _, body in answers] == [b"one", b"two"]
    client.close()


async def test_a_broken_connection_is_not_kept(running: Running) -> None:
    client = await running.client()
    await client.ask("/", b"x")
    [connection] = [weakref.ref(each) for each in running.server.connections]

    # Without linger a socket is closed by a reset, which is what makes a connection broken.
    found: socket.socket = client.writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    async with asyncio.timeout(5):
        while running.server.connections:
            await asyncio.sleep(0.01)
    del client, found
    gc.collect()

    assert connection() is None


async def test_stopping_finishes_the_request_in_flight(sides: Sides) -> None:
    running = Running(HttpServer(echo, ("127.0.0.1", 0), sides.server, "echoes"), sides)
    served = asyncio.ensure_future(running.server.run())
    busy, idle = await running.client(), await running.client()
    await idle.ask("/", b"x")
    busy.begin("/", 3)
    busy.writer.write(b"on")
    await busy.writer.drain()
    await asyncio.sleep(0.05)

    running.server.stop()
    await running.refuses_connections()
    busy.writer.write(b"e")
    status, headers, body = await busy.answer()

    assert (status, headers["connection"], body) == (200, "close", b"one")
    assert await idle.is_closed()
    await served
    for client in (busy, idle):
        client.close()


async def test_a_connection_that_never_asks_is_closed(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_REQUEST_SECONDS", 0.5)
    async with serving(sides) as running:
        client = await running.client()
        client.writer.write(b"POST / HTTP/1.1\r\nHost:")

        assert await client.is_closed()
        client.close()


async def test_a_body_that_never_ends_is_given_up(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_REQUEST_SECONDS", 0.5)
    async with serving(sides) as running:
        client = await running.client()
        await client.ask("/", b"x")
        client.begin("/", 100)

        assert await client.is_closed()
        client.close()


async def test_a_client_that_does_not_read_its_answer_is_let_go(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_CLOSE_SECONDS", 0.05)
    given_up = asyncio.Event()

    async def endless(_: AsgiScope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        given_up.set()

    async with serving(sides, application=endless) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port, ssl=sides.client, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(given_up.wait(), 10)
        async with asyncio.timeout(10):
            while running.server.connections:
                await asyncio.sleep(0.02)
        writer.transport.abort()
        del reader


async def test_a_connection_may_rest_between_requests(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_REQUEST_SECONDS", 0.5)
    async with serving(sides) as running:
        client = await running.client()
        await client.ask("/", b"x")
        await asyncio.sleep(1.0)

        _, _, body = await client.ask("/", b"y")

        assert body == b"y"
        client.close()


def test_it_is_never_we_who_close_an_idle_connection_of_go() -> None:
    assert server_module._IDLE_SECONDS > 90


CHUNKS = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


async def test_a_body_may_come_in_many_small_chunks(running: Running) -> None:
    client = await running.client()
    client.writer.write(CHUNKS)

    for _ in range(200):
        client.writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await client.writer.drain()
        await asyncio.sleep(0)
    client.writer.write(b"0\r\n\r\n")

    async with asyncio.timeout(5):
        head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"content-length: 204801" in head
    client.close()


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"POST / HTTP/1.1\r\nX: ", id="a header"),
        pytest.param(CHUNKS + b"0\r\nX: ", id="a trailer"),
    ],
)
async def test_endless_headers_end_the_connection(running: Running, start: bytes) -> None:
    client = await running.client()
    client.writer.write(start)

    with suppress(ConnectionError):
        for _ in range(100):
            client.writer.write(b"x" * 10_000)
            await client.writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await client.reader.read()

    assert client.reader.at_eof() or client.reader.exception() is not None
    client.close()


async def test_connections_are_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_MOST_CONNECTIONS", 3)
    first = [await running.client() for _ in range(3)]

    fourth = await running.client()

    assert await fourth.is_closed()
    assert (await first[0].ask("/", b"x"))[2] == b"x"
    for client in (*first, fourth):
        client.close()


async def test_both_families_are_served_where_there_are_both() -> None:
    if not (socket.has_dualstack_ipv6() and has_ipv6()):
        pytest.skip("this system has no dual-stack sockets, or no ::1")
    async with serving(Sides(), "::") as running:
        answers = []
        for host in ("127.0.0.1", "::1"):
            client = await running.client(host)
            answers.append((await client.ask("/", b"x"))[0])
            client.close()

    assert answers == [200, 200]


async def test_an_address_in_use_is_named_with_what_it_was_for(running: Running) -> None:
    with pytest.raises(OSError, match=r"cannot serve bindings on 127\.0\.0\.1 port .*choose another address"):
        HttpServer(echo, ("127.0.0.1", running.server.port), None, "bindings")
