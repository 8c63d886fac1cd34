"""Requests that are like one before on their connection are answered as if each were the first."""

from pathlib import Path

import pytest

from objectcache.serving.at_hand import OFTEN
from objectcache.serving.connection import SMALL_BYTES
from tests.objectcache.caches import RunningCache
from tests.objectcache.service.nodes import node, until
from tests.objectcache.wires import Wire

# `other` may read bucket public, and not bk.
OURS = "token-of-research"
OTHERS = "token-of-other"


def ask(wire: Wire, target: str, token: str = OURS, *headers: str) -> tuple[int, bytes]:
    wire.ask("GET", target, *headers, token=token)
    status, _, body = wire.answer()
    return status, body


@pytest.fixture
def targets(shared_cache: RunningCache) -> tuple[str, str]:
    """Of bk and of public."""
    ours, public = "/v1/objects/bk/repeats", "/v1/objects/public/repeats"
    for target in (ours, public):
        assert shared_cache.request("PUT", target, target.encode())[0] == 201
    return ours, public


def test_a_token_is_not_taken_for_the_one_before(shared_cache: RunningCache, targets: tuple[str, str]) -> None:
    ours, public = targets
    with Wire(shared_cache.direct_port) as wire:
        found = [
            ask(wire, target, token)[0]
            for target, token in [
                (ours, OURS), (ours, OURS), (public, OTHERS), (public, OTHERS), (ours, OTHERS), (ours, OURS),
                (ours, OTHERS), (public, OTHERS), (ours, OTHERS), (ours, OURS), (ours, "wrong"), (ours, OURS),
            ]
        ]  # fmt: skip

    assert found == [200, 200, 200, 200, 403, 200, 403, 200, 403, 200, 401, 200]


def test_an_object_that_was_replaced_or_deleted_meanwhile(shared_cache: RunningCache, targets: tuple[str, str]) -> None:
    target = targets[0]
    with Wire(shared_cache.direct_port) as wire:
        before = [ask(wire, target) for _ in range(3)]
        shared_cache.request("PUT", target, b"another, which is longer than the one before it")
        replaced = [ask(wire, target) for _ in range(2)]
        shared_cache.request("DELETE", target)
        deleted = [ask(wire, target)[0] for _ in range(2)]
        shared_cache.request("PUT", target, b"")
        empty = [ask(wire, target) for _ in range(2)]

    assert before == [(200, target.encode())] * 3
    assert replaced == [(200, b"another, which is longer than the one before it")] * 2
    assert deleted == [404, 404]
    assert empty == [(200, b"")] * 2


def test_what_differs_is_heeded(shared_cache: RunningCache, targets: tuple[str, str]) -> None:
    target, body = targets[0], targets[0].encode()
    with Wire(shared_cache.direct_port) as wire:
        found = [
            ask(wire, target, OURS, *headers)
            for headers in [(), (), ("Range: bytes=0-2",), (), ('If-Match: "0"',), ("X-Any: thing",), ()]
        ]
        wire.ask("HEAD", target)
        head = wire.answer(to_head=True)
        last = ask(wire, target)

    assert [status for status, _ in found] == [200, 200, 206, 200, 412, 200, 200]
    assert found[2][1] == body[:3]
    assert (head[0], head[1]["content-length"]) == (200, str(len(body)))
    assert last == (200, body)


def test_repeats_that_are_sent_ahead_are_answered_one_by_one(
    shared_cache: RunningCache, targets: tuple[str, str]
) -> None:
    target = targets[0]
    with Wire(shared_cache.direct_port) as wire:
        ask(wire, target)
        for _ in range(50):
            wire.ask("GET", target)
        found = {wire.answer()[::2] for _ in range(50)}

    assert found == {(200, target.encode())}


@pytest.mark.parametrize("size", [1, 32 * 2**10, 32 * 2**10 + 1, 5 * 2**20])
def test_content_of_any_size_comes_back_each_time(shared_cache: RunningCache, size: int) -> None:
    target, body = f"/v1/objects/bk/sized-{size}", bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert shared_cache.request("PUT", target, body)[0] == 201
    with Wire(shared_cache.direct_port) as wire:
        found = [ask(wire, target) for _ in range(4)]

    assert all(status == 200 for status, _ in found)
    assert all(each == body for _, each in found)
    shared_cache.request("DELETE", target)


def test_a_reader_that_lags_gets_small_objects_whole(shared_cache: RunningCache) -> None:
    """The socket fills in the middle of an answer."""
    target, body = "/v1/objects/bk/lagging", b"0123456789abcdef" * 2048
    shared_cache.request("PUT", target, body)
    with Wire(shared_cache.direct_port) as wire:
        for _ in range(600):
            wire.ask("GET", target)
        found = [wire.answer() for _ in range(600)]

    assert all((status, each) == (200, body) for status, _, each in found)


def test_the_file_of_what_was_asked_for_often_is_closed_soon(tmp_path: Path) -> None:
    target, body = "/v1/objects/bk/often", bytes(SMALL_BYTES + 1)
    with node(tmp_path) as cache:
        cache.request("PUT", target, body)
        until(lambda: cache.count("open_connections") == 0)
        before = cache.descriptors()
        with Wire(cache.direct_port) as wire:
            for _ in range(2 * OFTEN):
                assert ask(wire, target) == (200, body)

        until(lambda: cache.count("open_connections") == 0)
        until(lambda: cache.descriptors() <= before)
