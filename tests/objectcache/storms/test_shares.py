"""However greedy a bucket is, others keep what is theirs, while many write at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.objectcache.storms.flights import Request, fly
from tests.objectcache.storms.nodes import Node, bucket, content, eventually

CAPACITY_BYTES: Final = 24 * 2**20
QUOTA_BYTES: Final = 20 * 2**20
SIZE: Final = 256 * 2**10
# Each bucket's share of what is left below the low watermark of 90% is 7.2 MiB: 28 of these.
WITHIN_SHARE: Final = 28
BUCKETS: Final = ("greedy", "reader", "writer")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    buckets = [bucket(name, str(QUOTA_BYTES)) for name in BUCKETS]
    node = Node(tmp_path, buckets, capacity=str(CAPACITY_BYTES), workers=2)
    node.start()
    try:
        yield node
    finally:
        node.close()


def puts(name: str, first: int, count: int) -> list[Request]:
    serials = range(first, first + count)
    # A body in chunks is promised more than it has, which counts as its bucket's: only the greedy one's are.
    return [
        Request("PUT", f"{each:04}", content(each, SIZE), name, chunked=name == "greedy" and each % 3 == 0)
        for each in serials
    ]


def lost(node: Node, name: str, count: int) -> list[int]:
    return [each for each in range(count) if not node.has(f"{each:04}", name)]


def test_a_greedy_bucket_takes_nothing_from_those_within_their_share(node: Node) -> None:
    fly(node.cache.direct_port, puts("reader", 0, WITHIN_SHARE), 1.0, lambda: None)
    used, held = [], []
    statuses = []

    def look() -> None:
        used.append(node.metric("tasuki_cache_used_bytes"))
        held.append(node.held())

    for turn in range(WITHIN_SHARE // 4):
        greedy = puts("greedy", 24 * turn, 24)
        writing = puts("writer", 4 * turn, 4)
        reading = [Request("GET", f"{each:04}", bucket="reader") for each in range(4 * turn, 4 * turn + 4)]
        fly(node.cache.direct_port, [*greedy, *writing, *reading], 0.5, look)
        look()
        statuses += [each.status for each in greedy]
        assert {each.status for each in writing} == {201}
        assert all((each.status, each.found) == (200, content(int(each.name), SIZE)) for each in reading)
        assert lost(node, "writer", 4 * turn + 4) == lost(node, "reader", WITHIN_SHARE) == []

    # Where all that could go is still being written, it is refused.
    assert set(statuses) <= {201, 507}
    assert statuses.count(201) > CAPACITY_BYTES // SIZE
    assert max(used) <= CAPACITY_BYTES
    assert max(each["greedy"].bytes for each in held) <= QUOTA_BYTES
    assert_sums_are_right(node)
    for name in ("reader", "writer"):
        assert node.metric("tasuki_cache_evictions_total", bucket=name) == 0


def test_what_was_lent_is_given_back_to_whoever_is_below_its_share(node: Node) -> None:
    for turn in range(6):
        fly(node.cache.direct_port, puts("greedy", 16 * turn, 16), 1.0, lambda: None)
    eventually(lambda: node.held()["greedy"].bytes > 2 * CAPACITY_BYTES // 3, lambda: str(node.held()))
    for turn in range(WITHIN_SHARE // 4):
        requests = [*puts("reader", 4 * turn, 4), *puts("writer", 4 * turn, 4), *puts("greedy", 200 + 4 * turn, 4)]
        fly(node.cache.direct_port, requests, 1.0, lambda: None)
        assert {each.status for each in requests if each.bucket != "greedy"} == {201}

    assert lost(node, "reader", WITHIN_SHARE) == lost(node, "writer", WITHIN_SHARE) == []
    assert_sums_are_right(node)


def test_a_bucket_alone_stays_within_its_quota_and_loses_only_its_own(node: Node) -> None:
    held = []
    for turn in range(8):
        requests = puts("greedy", 16 * turn, 16)
        fly(node.cache.direct_port, requests, 0.5, lambda: held.append(node.held()["greedy"].bytes))
        assert {each.status for each in requests} == {201}
    eventually(lambda: bool(node.metric("tasuki_cache_evictions_total", bucket="greedy", reason="quota")))

    assert max(held) <= QUOTA_BYTES
    assert node.held()["greedy"].bytes > QUOTA_BYTES * 3 // 4
    assert_sums_are_right(node)


def assert_sums_are_right(node: Node) -> None:
    """What was put is here or was evicted, by every account; waits until nothing more goes by itself."""

    def agrees() -> bool:
        listed = {name: node.listed(name) for name in BUCKETS}
        bytes_of = {name: sum(each.bytes for each in found.values()) for name, found in listed.items()}
        held = node.held()
        return (
            {name: held[name].bytes for name in BUCKETS} == bytes_of
            and {name: held[name].objects for name in BUCKETS} == {name: len(found) for name, found in listed.items()}
            and node.metric("tasuki_cache_used_bytes") == sum(bytes_of.values())
            and sum(path.stat().st_size for path in node.files().values()) == sum(bytes_of.values())
            and all(
                node.metric("tasuki_cache_puts_total", bucket=name)
                == len(listed[name]) + node.metric("tasuki_cache_evictions_total", bucket=name)
                for name in BUCKETS
            )
        )

    eventually(agrees, lambda: f"{node.held()}\n{node.cache.page('/metrics')}")
