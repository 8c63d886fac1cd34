"""A cache that is told to end: what is under way is finished, and nobody is sent there."""

import socket
from pathlib import Path

import pytest

from tests.objectcache.service.nodes import node, until
from tests.objectcache.wires import Wire

BIG = bytes(range(256)) * 2**14


def answers_close(wire: Wire) -> bool:
    wire.ask("GET", "/v1/objects/bk/kept")
    return wire.answer()[1].get("connection") == "close"


def test_what_is_asked_for_before_the_end_is_answered_and_what_is_kept_is_trusted(tmp_path: Path) -> None:
    with node(tmp_path) as cache, Wire(cache.direct_port) as putting, Wire(cache.direct_port) as getting:
        cache.request("PUT", "/v1/objects/bk/big", BIG)
        putting.ask("PUT", "/v1/objects/bk/last", f"Content-Length: {len(BIG)}", body=BIG[:1000])
        getting.ask("GET", "/v1/objects/bk/big")
        until(lambda: len(cache.incoming()) == 1)
        cache.process.terminate()
        until(lambda: "stopping" in cache.page("/readyz"))
        putting.send(BIG[1000:])

        assert getting.answer()[2] == BIG
        status, headers, _ = putting.answer()
        assert (status, headers["connection"]) == (201, "close")
        assert cache.process.wait(30) == 0

    with node(tmp_path) as cache:
        assert cache.request("GET", "/v1/objects/bk/last")[2] == BIG
        assert "before=closed" in cache.output.read_text()


def test_while_others_learn_that_it_ends_requests_are_taken_and_connections_given_back(tmp_path: Path) -> None:
    with node(tmp_path, options=["--drain-seconds", "8"]) as cache, Wire(cache.direct_port) as known:
        cache.request("PUT", "/v1/objects/bk/kept", b"kept")
        assert not answers_close(known)
        cache.process.terminate()
        until(lambda: "not ready" in cache.page("/readyz"))
        with Wire(cache.direct_port) as fresh:
            assert answers_close(fresh)
            assert answers_close(known)
            assert known.is_closed()

        assert cache.process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", cache.direct_port))


def test_a_client_that_never_ends_is_not_waited_for_when_it_is_told_twice(tmp_path: Path) -> None:
    with node(tmp_path, workers=2) as cache, Wire(cache.direct_port) as wire:
        workers = cache.workers()
        wire.ask("PUT", "/v1/objects/bk/last", "Content-Length: 2", body=b"x")
        until(lambda: len(cache.incoming()) == 1)
        cache.process.terminate()
        until(lambda: "stopping" in cache.page("/readyz"))
        cache.process.terminate()

        assert cache.process.wait(30) == 1
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in workers), "workers stay behind")
