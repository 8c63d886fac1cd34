"""Many clients at once: who is turned away, and who gets how much."""

import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.objectcache.service.nodes import Node, node, until
from tests.objectcache.wires import Wire

TWO_BUCKETS = (
    {"Name": "greedy", "BucketQuota": "64Mi", "AllowNamespaces": ["research"]},
    {"Name": "modest", "BucketQuota": "64Mi", "AllowNamespaces": ["research"]},
)


def test_beyond_what_is_allowed_the_longest_idle_goes(tmp_path: Path) -> None:
    with node(tmp_path, options=["--connections", "16"]) as cache, ExitStack() as stack:
        cache.request("PUT", "/v1/objects/bk/a", b"x")
        until(lambda: cache.count("open_connections") == 0)
        wires = [stack.enter_context(Wire(cache.direct_port)) for _ in range(16)]
        # The oldest connection is not idle for longest: it has just been used.
        for wire in [*wires[1:], wires[0]]:
            wire.ask("GET", "/v1/objects/bk/a")
            wire.answer()
        fresh = [stack.enter_context(Wire(cache.direct_port)) for _ in range(8)]
        for wire in fresh:
            wire.ask("GET", "/v1/objects/bk/a")

        assert [wire.answer()[2] for wire in fresh] == [b"x"] * 8
        assert all(wire.is_closed() for wire in wires[1:9])
        for wire in [wires[0], *wires[9:]]:
            wire.ask("GET", "/v1/objects/bk/a")
            assert wire.answer()[2] == b"x"
        assert cache.is_unharmed()


def test_where_all_are_busy_the_newest_is_turned_away(tmp_path: Path) -> None:
    with node(tmp_path, options=["--connections", "16"]) as cache, ExitStack() as stack:
        wires = [stack.enter_context(Wire(cache.direct_port)) for _ in range(16)]
        for number, wire in enumerate(wires):
            wire.ask("PUT", f"/v1/objects/bk/{number}", "Content-Length: 2", body=b"x")
        until(lambda: len(cache.incoming()) == 16)

        with Wire(cache.direct_port) as another:
            assert another.is_closed()
        for wire in wires:
            wire.send(b"y")
            assert wire.answer()[0] == 201
        assert cache.count("connections_turned_away_total") == 1


def sent_while_eight_are_answered(cache: Node) -> float:
    """Bytes of the greedy bucket, while the modest one is asked."""
    before = cache.count("sent_bytes_total", bucket="greedy")
    with Wire(cache.direct_port) as wire:
        for _ in range(8):
            wire.ask("GET", "/v1/objects/modest/a")
            assert len(wire.answer()[2]) == 2**16
    return cache.count("sent_bytes_total", bucket="greedy") - before


def test_a_greedy_bucket_does_not_keep_another_from_its_share_of_a_narrow_link(tmp_path: Path) -> None:
    with node(tmp_path, buckets=TWO_BUCKETS, options=["--bandwidth", "16Mi"], kill=True) as cache:
        cache.request("PUT", "/v1/objects/greedy/a", bytes(2**20))
        cache.request("PUT", "/v1/objects/modest/a", bytes(2**16))
        stop = threading.Event()

        def take() -> None:
            # The cache is killed in the end, perhaps with questions unread.
            with suppress(ConnectionError), socket.create_connection(("127.0.0.1", cache.direct_port)) as sock:
                request = (
                    b"GET /v1/objects/greedy/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-research\r\n\r\n"
                )
                sock.sendall(request * 30)
                while not stop.is_set() and sock.recv(2**16):
                    pass

        threads = [threading.Thread(target=take, daemon=True) for _ in range(200)]
        for each in threads:
            each.start()
        until(lambda: cache.count("hits_total", bucket="greedy") >= 150)
        # At most two turns of 1.6 MiB to an answer; the 200 MiB that were asked for before wait.
        most = (8 + 1) * 2 * 2**21
        # On a busy machine this client itself may wait between an answer and the next question, but not every time.
        assert any(sent_while_eight_are_answered(cache) <= most for _ in range(5))
        stop.set()
        assert cache.is_unharmed()
