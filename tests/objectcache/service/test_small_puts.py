"""Small bodies are written before there is room for them; that leaves nothing behind and takes nothing from others."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.objectcache.service.nodes import Node, node, until
from tests.objectcache.wires import Wire

SMALL = bytes(range(256)) * 256
KIB = 2**10


def target(name: str) -> str:
    return f"/v1/objects/bk/{name}"


def is_clean(cache: Node, used_bytes: int) -> None:
    until(lambda: cache.incoming() == [])
    until(lambda: cache.count("used_bytes") == used_bytes, f"{cache.count('used_bytes')} bytes are used")


def test_many_small_objects_come_by_many_connections_and_are_all_kept(tmp_path: Path) -> None:
    with node(tmp_path, workers=2) as cache:
        with connected(cache, 8) as wires:
            for number in range(40):
                for at, wire in enumerate(wires):
                    body = SMALL[: 1000 * number + at]
                    wire.ask("PUT", target(f"{number}-{at}"), f"Content-Length: {len(body)}", body=body)
                assert {wire.answer()[0] for wire in wires} == {201}

        for number in range(40):
            for at in range(8):
                assert cache.request("GET", target(f"{number}-{at}"))[2] == SMALL[: 1000 * number + at]
        is_clean(cache, sum(1000 * number + at for number in range(40) for at in range(8)))


def test_a_client_that_goes_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with node(tmp_path) as cache:
        with_ids(cache)
        for size in (0, 1, 20_000):
            wire = Wire(cache.direct_port)
            wire.ask("PUT", target("half"), "Content-Length: 60000", body=SMALL[:size])
            until(lambda: len(cache.incoming()) == 1)
            wire.sock.close()
            is_clean(cache, 3)
        assert cache.request("GET", target("half"))[0] == 404


def test_a_worker_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    with node(tmp_path) as cache:
        with_ids(cache)
        with connected(cache, 4) as wires:
            for number, wire in enumerate(wires):
                wire.ask("PUT", target(f"half-{number}"), "Content-Length: 60000", body=SMALL[:20_000])
            until(lambda: len(cache.incoming()) == 4)
            os.kill(cache.workers()[0], signal.SIGKILL)

        is_clean(cache, 3)
        cache.wait_ready()
        assert cache.request("PUT", target("next"), SMALL)[0] == 201
        assert cache.request("GET", target("next"))[2] == SMALL


def test_without_room_they_are_refused_after_the_body_and_then_before_it(tmp_path: Path) -> None:
    buckets = ({"Name": "bk", "BucketQuota": "100Ki", "PinnedQuota": "90Ki", "AllowNamespaces": ["research"]},)
    with node(tmp_path, buckets=buckets) as cache:
        pinned = SMALL + SMALL[: 16 * KIB]
        assert cache.request("PUT", target("pinned"), pinned, {"Tasuki-Pinned": "true"})[0] == 201
        with_ids(cache)
        with Wire(cache.direct_port) as wire:
            wire.ask("PUT", target("a"), "Content-Length: 40000", body=SMALL[:40_000])
            refused = wire.answer()
            # The body was taken, so that the connection goes on.
            wire.ask("PUT", target("a"), "Content-Length: 40000", "Expect: 100-continue")
            again = wire.answer()

        assert (refused[0], again[0]) == (507, 507)
        assert cache.incoming() == []
        assert cache.request("PUT", target("small"), b"fits")[0] == 201
        assert cache.request("GET", target("pinned"))[2] == pinned


def test_a_precondition_that_fails_costs_nothing(tmp_path: Path) -> None:
    with node(tmp_path) as cache:
        with_ids(cache)

        assert cache.request("PUT", target("ids"), SMALL, {"If-None-Match": "*"})[0] == 412
        assert cache.request("GET", target("ids"))[2] == b"ids"
        is_clean(cache, 3)


@contextmanager
def connected(cache: Node, count: int) -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Wire(cache.direct_port)) for _ in range(count)]


def with_ids(cache: Node) -> None:
    """The first PUT of a worker has its ids come."""
    assert cache.request("PUT", target("ids"), b"ids")[0] == 201
