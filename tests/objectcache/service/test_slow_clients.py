"""Clients that are slow, dead or too many cost themselves only, and leave nothing behind."""

import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.objectcache.service.nodes import HASTY, Node, node, until
from tests.objectcache.wires import Wire

BIG = bytes(range(256)) * 2**18


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("patient"), module=HASTY) as running:
        running.request("PUT", "/v1/objects/bk/small", b"small")
        running.request("PUT", "/v1/objects/bk/big", BIG)
        yield running


@pytest.fixture(autouse=True)
def left_as_it_was(cache: Node) -> Iterator[None]:
    """Descriptors, connections, reservations and files are those of before."""
    until(lambda: cache.count("open_connections") == 0)
    # What is counted as closed may be closed only a moment later.
    time.sleep(0.05)
    descriptors = cache.descriptors()
    yield
    until(lambda: cache.count("open_connections") == 0, "connections stay open")
    # Fewer if one of before was closed even later.
    until(lambda: cache.descriptors() <= descriptors, "descriptors stay open")
    until(lambda: cache.count("used_bytes") == len(BIG) + len(b"small"), "reservations stay")
    assert cache.incoming() == []
    assert cache.is_unharmed(), cache.output.read_text()


def get_small(cache: Node) -> None:
    assert cache.request("GET", "/v1/objects/bk/small")[2] == b"small"


def reset(wire: Wire) -> None:
    """Close it as a client that is killed in the middle."""
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.sock.close()


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        pytest.param("Content-Length: 100", b"x", id="of known size"),
        pytest.param("Transfer-Encoding: chunked", b"ff\r\nx", id="in chunks"),
        pytest.param("Transfer-Encoding: chunked", b"200000\r\n" + bytes(2**20 + 10), id="that needed more room"),
    ],
)
def test_a_body_that_stalls_is_given_up(cache: Node, header: str, sent: bytes) -> None:
    before = cache.count("connections_timed_out_total")
    with Wire(cache.direct_port) as wire:
        wire.ask("PUT", "/v1/objects/bk/stalls", header, body=sent)
        until(lambda: len(cache.incoming()) == 1)

        assert wire.is_closed()
    assert cache.count("connections_timed_out_total") == before + 1


@pytest.mark.parametrize("header", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
def test_a_client_that_is_killed_while_it_puts_leaves_nothing(cache: Node, header: str) -> None:
    wire = Wire(cache.direct_port)
    wire.ask("PUT", "/v1/objects/bk/killed", header, body=b"1f0000\r\n" + bytes(2**20 + 100))
    until(lambda: [each for each in cache.incoming() if each.stat().st_size >= 2**20])
    reset(wire)

    until(lambda: cache.incoming() == [])
    assert cache.request("GET", "/v1/objects/bk/killed")[0] == 404


def test_a_client_that_is_killed_while_it_gets_leaves_nothing(cache: Node) -> None:
    wire = Wire(cache.direct_port)
    wire.ask("GET", "/v1/objects/bk/big")
    wire.sock.recv(1000)
    reset(wire)

    get_small(cache)


def test_readers_that_take_nothing_hold_nobody_up_and_are_given_up(cache: Node) -> None:
    with ExitStack() as stack:
        readers = [stack.enter_context(Wire(cache.direct_port)) for _ in range(20)]
        for reader in readers:
            reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.ask("GET", "/v1/objects/bk/big")
        for _ in range(50):
            get_small(cache)

        until(lambda: cache.count("open_connections") == 0, "they are waited for")


def test_a_client_that_ends_its_side_still_gets_its_answer(cache: Node) -> None:
    with Wire(cache.direct_port) as wire:
        wire.ask("GET", "/v1/objects/bk/small")
        wire.sock.shutdown(socket.SHUT_WR)

        assert wire.answer()[2] == b"small"


def test_thousands_of_idle_connections_hold_nobody_up(cache: Node) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard // 2 - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle = [socket.create_connection(("127.0.0.1", cache.direct_port)) for _ in range(count)]
    try:
        for _ in range(50):
            get_small(cache)
    finally:
        for each in idle:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
