"""What clients send that mean no good, over real sockets: each request has its own answer, or none."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.objectcache.service.nodes import HASTY, Node, node
from tests.objectcache.wires import Wire

HEAD = "Host: cache\r\nAuthorization: Bearer token-of-research\r\n"
SECRET = b"of another client"
GET_SECRET = f"GET /v1/objects/bk/secret HTTP/1.1\r\n{HEAD}\r\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("attacked"), module=HASTY) as running:
        running.request("PUT", "/v1/objects/bk/secret", SECRET)
        yield running


@pytest.fixture(autouse=True)
def unharmed(cache: Node) -> Iterator[None]:
    """Whatever a test sends, the cache goes on and knows what it knew."""
    yield
    assert cache.request("GET", "/v1/objects/bk/secret")[2] == SECRET
    assert cache.is_unharmed(), cache.output.read_text()


def everything(cache: Node, *sent: bytes) -> bytes:
    """All that the cache says to it until it closes the connection."""
    with Wire(cache.direct_port) as wire:
        for piece in sent:
            try:
                wire.send(piece)
            except ConnectionError:
                break
        received = b""
        try:
            while more := wire.sock.recv(2**16):
                received += more
        except ConnectionError:
            pass
    return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", received)]


def put(headers: str, body: str = "", name: str = "smuggled") -> bytes:
    return f"PUT /v1/objects/bk/{name} HTTP/1.1\r\n{HEAD}{headers}\r\n{body}".encode()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 400, id="CL and TE"),
        pytest.param("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n", 400, id="TE and CL"),
        pytest.param("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", 501, id="another coding"),
        pytest.param("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", 501, id="two codings"),
        pytest.param("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\n", 501, id="TE twice"),
        pytest.param("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", 400, id="a space before the colon"),
        pytest.param(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 400, id="a folded line"),
        pytest.param("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n", 400, id="a control character"),
        pytest.param("Content-Length: 4\r\nContent-Length: 5\r\n", "abcd", 400, id="two lengths"),
        pytest.param("Content-Length: 4, 4\r\n", "abcd", 400, id="a list of lengths"),
        pytest.param("Content-Length: +4\r\n", "abcd", 400, id="a sign"),
        pytest.param("Content-Length: -1\r\n", "abcd", 400, id="below 0"),
        pytest.param("Content-Length: 0x4\r\n", "abcd", 400, id="another base"),
        pytest.param("Content-Length: 4\r\nContent_Length: 400\r\nX: \0\r\n", "abcd", 400, id="a NUL in a value"),
        pytest.param(f"Content-Length: {'9' * 400}\r\n", "abcd", 413, id="beyond every integer"),
        pytest.param("Content-Length: 4\nX: y\r\n", "abcd", 400, id="a line that ends in LF"),
        pytest.param("Authorization: Bearer other\r\nContent-Length: 4\r\n", "abcd", 400, id="two tokens"),
    ],
)
def test_what_two_readers_could_take_for_different_requests_is_refused_for_good(
    cache: Node, headers: str, body: str, status: int
) -> None:
    received = everything(cache, put(headers, body + GET_SECRET))

    assert statuses(received) == [status]
    assert SECRET not in received
    assert cache.request("GET", "/v1/objects/bk/smuggled")[0] == 404


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param("-1\r\nabc", id="below 0"),
        pytest.param("0x3\r\nabc\r\n0\r\n\r\n", id="another base"),
        pytest.param("3 \n\rabc\r\n0\r\n\r\n", id="ends turned round"),
        pytest.param("3\nabc\n0\n\n", id="lines that end in LF"),
        pytest.param("3\r\nabcd\r\n0\r\n\r\n", id="a chunk that is longer"),
        pytest.param("ffffffffffffffffffff\r\nabc", id="beyond every integer"),
        pytest.param("3;" + "x" * 5000 + "\r\nabc", id="a long extension"),
        pytest.param("0\r\n" + "X: y\r\n" * 3000, id="an endless trailer"),
        pytest.param("\r\n", id="no size"),
    ],
)
def test_a_body_in_bad_chunks_is_refused_for_good(cache: Node, chunks: str) -> None:
    received = everything(cache, put("Transfer-Encoding: chunked\r\n", chunks + GET_SECRET))

    assert statuses(received) == [400]
    assert SECRET not in received
    assert cache.incoming() == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST", "PATCH", "OPTIONS"])
def test_the_body_of_a_request_that_has_none_is_no_request(cache: Node, method: str) -> None:
    smuggled = GET_SECRET
    head = f"{method} /v1/objects/bk/no-such HTTP/1.1\r\n{HEAD}Connection: close\r\n"
    together = everything(cache, f"{head}Content-Length: {len(smuggled)}\r\n\r\n{smuggled}".encode())
    apart = everything(cache, f"{head}Content-Length: {len(smuggled)}\r\n\r\n".encode(), smuggled.encode())
    chunked = everything(cache, f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}".encode())

    for received in (together, apart, chunked):
        assert len(statuses(received)) == 1
        assert SECRET not in received


def test_behind_a_body_that_nobody_wants_the_next_request_is_answered(cache: Node) -> None:
    head = f"GET /v1/objects/bk/no-such HTTP/1.1\r\n{HEAD}Content-Length: 5\r\n\r\nabcde"
    with Wire(cache.direct_port) as wire:
        wire.send((head + GET_SECRET).encode())

        assert wire.answer()[0] == 404
        assert wire.answer()[2] == SECRET


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2's preface"),
        pytest.param(b"GET /v1/objects/bk/secret HTTP/2.0\r\n\r\n", 505, id="HTTP/2"),
        pytest.param(b"GET /v1/objects/bk/secret\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param(b"\0\0\0\0\r\n\r\n", 400, id="NULs"),
        pytest.param(b"GET /v1/objects/bk/a\0b HTTP/1.1\r\n\r\n", 400, id="a NUL in a name"),
        pytest.param(b"\r\n\r\n\r\n\nGET / HTTP/1.1\r\n\r\n", 400, id="odd empty lines"),
        pytest.param(b"GET  /v1/objects/bk/secret HTTP/1.1\r\n\r\n", 400, id="two spaces"),
        pytest.param(b"GET /v1/objects/bk/secret HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET http://x@/v1/objects/bk/secret HTTP/1.1\r\n\r\n", 400, id="no authority"),
        pytest.param(b"GET /v1/objects/bk/%b HTTP/1.1\r\n%b\r\n" % (b"x" * 5000, HEAD.encode()), 414, id="a long name"),
        pytest.param(b"GET /" + b"x" * 2**16, 431, id="a line of 64 KiB"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2**14, 431, id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"x" * 2**15), 431, id="a head of 32 KiB, whole"),
    ],
)
def test_what_is_no_request_of_ours_is_refused(cache: Node, sent: bytes, status: int) -> None:
    received = everything(cache, sent)

    assert statuses(received)[:1] == [status]
    assert len(statuses(received)) == 1
    assert cache.count("requests_total", status=str(status)) > 0


def test_the_hello_of_tls_is_not_waited_for_long(cache: Node) -> None:
    assert everything(cache, bytes.fromhex("16030100c8010000c40303") + bytes(range(200))) == b""


def test_a_head_may_come_byte_by_byte(cache: Node) -> None:
    with Wire(cache.direct_port) as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET_SECRET.encode():
            wire.send(bytes([byte]))

        assert wire.answer()[2] == SECRET


def test_the_largest_head_is_read(cache: Node) -> None:
    rest = 32 * 2**10 - len(GET_SECRET) - len("X: \r\n")
    large = GET_SECRET[:-2] + f"X: {'x' * rest}\r\n\r\n"
    with Wire(cache.direct_port) as wire:
        wire.send(large.encode())

        assert len(large) == 32 * 2**10
        assert wire.answer()[2] == SECRET


def test_names_lead_nowhere_else_on_the_disk(cache: Node) -> None:
    inside = {*cache.folder.rglob("*")} - {*(cache.folder / "data").rglob("*")}
    outside = {*cache.folder.parent.iterdir()}
    names = [
        "../../../escaped",
        "/../../escaped",
        "..%2f..%2fescaped",
        "%2e%2e/escaped",
        "....//escaped",
        "\\..\\escaped",
    ]
    for name in names:
        with Wire(cache.direct_port) as wire:
            wire.ask("PUT", f"/v1/objects/bk/{name}", "Content-Length: 1", body=b"x")
            assert wire.answer()[0] == 201

    assert {*cache.folder.rglob("*")} - {*(cache.folder / "data").rglob("*")} == inside
    assert {*cache.folder.parent.iterdir()} == outside
    assert all(len(each.name) == 16 and int(each.name, 16) for each in cache.object_files())


def test_garbage_behind_a_request_costs_its_sender_only(cache: Node) -> None:
    received = everything(cache, (GET_SECRET + "\x7f\0garbage\r\n\r\n" + GET_SECRET).encode())

    assert statuses(received) == [200, 400]
    assert received.count(SECRET) == 1
