"""Clients that do not come to the end of a request's head."""

from collections.abc import Iterator

import pytest

from tests.objectcache.service.nodes import HASTY, Node, node, until
from tests.objectcache.wires import Wire


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("patient"), module=HASTY) as running:
        running.request("PUT", "/v1/objects/bk/small", b"small")
        yield running
        until(lambda: running.count("open_connections") == 0, "connections stay open")
        assert running.is_unharmed(), running.output.read_text()


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(
            [b"GET / HTTP/1.1\r\n", b"X: y\r\n", b"X: y\r\n", b"X: y\r\n", b"X: y\r\n"], id="header by header"
        ),
        pytest.param([b"\r\n"] * 9, id="empty lines"),
        pytest.param([b"\r"] + [b"\n\r"] * 8, id="halves of empty lines"),
        pytest.param([], id="nothing at all"),
    ],
)
def test_a_head_that_does_not_end_is_not_waited_for(cache: Node, pieces: list[bytes]) -> None:
    with Wire(cache.direct_port) as wire:
        wire.sock.settimeout(0.4)
        for piece in [*pieces, *[b""] * 20]:
            try:
                wire.send(piece)
                assert wire.sock.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it is waited for")


def test_a_head_that_is_begun_behind_a_request_is_not_waited_for_longer(cache: Node) -> None:
    before = cache.count("connections_timed_out_total")
    with Wire(cache.direct_port) as wire:
        wire.ask("GET", "/v1/objects/bk/small", body=b"GET /v1/ob")

        assert wire.answer()[2] == b"small"
        assert wire.is_closed()
    assert cache.count("connections_timed_out_total") == before + 1


def test_empty_lines_between_requests_do_not_end_the_connection(cache: Node) -> None:
    with Wire(cache.direct_port) as wire:
        wire.ask("GET", "/v1/objects/bk/small", body=b"\r\n")
        wire.answer()
        # Longer than a head may take.
        wire.sock.settimeout(2.5)
        with pytest.raises(TimeoutError):
            wire.is_closed()
        wire.sock.settimeout(20)
        wire.ask("GET", "/v1/objects/bk/small")

        assert wire.answer()[2] == b"small"
