"""A disk that is full, without inodes or read-only costs new objects, never what is kept, and not for ever."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.objectcache.storms.disks import SmallDisk, small_disk
from tests.objectcache.storms.flights import Request, fly
from tests.objectcache.storms.nodes import Node, bucket, content, eventually

MIB: Final = 2**20
FLOOR_BYTES: Final = 16 * MIB
# Of the catalogue and its log, the folders, and what is written between two looks at the disk.
SLACK_BYTES: Final = 5 * MIB
BUCKETS: Final = (bucket("bk", "1Gi", PinnedQuota="8Mi"),)
FEW_SECONDS: Final = 10.0
# By what it was found out: by a write, or by looking.
NOTE: Final = "[!]disk "


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", f"size={96 * MIB}") as disk:
        yield disk


@pytest.fixture
def node(tmp_path: Path, disk: SmallDisk) -> Iterator[Node]:
    """With a floor, on a disk that is smaller than its capacity."""
    node = Node(tmp_path, BUCKETS, options=("--free-bytes", str(FLOOR_BYTES)), disk=disk)
    node.start()
    try:
        yield node
    finally:
        node.close()


def fill_up(disk: SmallDisk, node: Node) -> None:
    """From outside, until the cache has given all that it can."""

    def is_full() -> bool:
        disk.fill()
        return set(node.listed()) == {"pinned"}

    node.put("pinned", content(0, MIB), Tasuki_Pinned="true")
    eventually(is_full, lambda: f"{disk.free_bytes()} bytes are free\n{node.output}")
    disk.fill()


def test_a_cache_larger_than_its_disk_leaves_to_others_what_is_theirs(disk: SmallDisk, node: Node) -> None:
    statuses, free = [], []
    for serial in range(150):
        statuses.append(node.put(str(serial), content(serial, MIB)))
        free.append(disk.free_bytes())
    last = [node.get(str(serial)) == content(serial, MIB) for serial in range(149, 139, -1)]

    assert set(statuses) == {201}
    assert min(free) >= FLOOR_BYTES - SLACK_BYTES
    assert all(last)
    # What the keeper counts is told a moment later.
    eventually(lambda: node.metric("tasuki_cache_evictions_total", bucket="bk", reason="floor") > 0)


def test_many_at_once_do_not_take_what_is_others(disk: SmallDisk, node: Node) -> None:
    free = []
    for first in range(0, 128, 16):
        requests = [Request("PUT", str(serial), content(serial, MIB)) for serial in range(first, first + 16)]
        fly(node.cache.direct_port, requests, 1.0, lambda: free.append(disk.free_bytes()))
        free.append(disk.free_bytes())
        assert {each.status for each in requests} == {201}

    assert min(free) >= FLOOR_BYTES - SLACK_BYTES


def test_a_disk_that_others_fill_is_told_of_and_costs_puts_until_it_is_not_full(disk: SmallDisk, node: Node) -> None:
    for serial in range(20):
        node.put(str(serial), content(serial, MIB))
    fill_up(disk, node)

    assert node.put("small", b"x") == 507
    assert node.put("large", content(1, 4 * MIB)) == 507
    assert node.get("pinned") == content(0, MIB)
    eventually(lambda: NOTE in node.readiness(), node.readiness)
    assert node.readiness().endswith("\nready\n")
    eventually(lambda: node.metric("tasuki_cache_writable") == 0, node.readiness)

    disk.relieve()
    eventually(lambda: node.put("small", b"x") == 201, node.readiness)
    assert node.put("large", content(1, 4 * MIB)) == 201
    eventually(lambda: "[!]disk" not in node.readiness(), node.readiness)
    assert node.get("pinned") == content(0, MIB)


def test_a_cache_that_is_killed_on_a_full_disk_starts_on_it(disk: SmallDisk, node: Node) -> None:
    fill_up(disk, node)
    node.kill()
    disk.fill()
    node.close()
    node.start()

    assert node.put("small", b"x") == 507
    # What had to go so that the catalogue can be written may have been anything, but nothing half.
    assert node.get("pinned") in {content(0, MIB), None}
    assert node.incoming() == []

    disk.relieve()
    eventually(lambda: node.put("small", b"x") == 201, node.readiness)
    assert node.get("small") == b"x"


def test_uploads_that_meet_the_end_of_the_disk_leave_nothing_behind(disk: SmallDisk, node: Node) -> None:
    node.put("pinned", content(0, MIB), Tasuki_Pinned="true")
    requests = [Request("PUT", str(serial), content(serial, 4 * MIB), chunked=serial % 2 == 0) for serial in range(6)]
    fly(node.cache.direct_port, requests, 0.5, disk.fill)
    disk.relieve()

    # A refusal may be lost with the connection that it ends.
    assert {each.status for each in requests} <= {201, 507, 0}
    for each in requests:
        assert node.get(each.name) in ({each.body, None} if each.status == 201 else {None})
    eventually(lambda: node.incoming() == [], node.readiness)
    assert node.get("pinned") == content(0, MIB)
    eventually(lambda: node.metric("tasuki_cache_used_bytes") == sum(each.bytes for each in node.listed().values()))


def test_a_disk_without_inodes_makes_room_as_one_without_bytes_does(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", f"size={96 * MIB},nr_inodes=200") as disk:
        node = Node(tmp_path, BUCKETS, disk=disk)
        node.start()
        try:
            statuses = [node.put(str(serial), b"x") for serial in range(300)]
            assert 507 in statuses, "there was room for all"
            eventually(lambda: node.put("last", b"y") == 201, lambda: f"{statuses}\n{node.output}", FEW_SECONDS)

            assert node.get("last") == b"y"
        finally:
            node.close()


def test_without_an_inode_for_a_folder_an_object_is_refused_until_there_is_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", f"size={96 * MIB},nr_inodes=200") as disk:
        node = Node(tmp_path, BUCKETS, disk=disk)
        node.start()
        try:
            foreign = [disk.path / f"foreign-{number}" for number in range(disk.free_inodes() - 1)]
            for each in foreign:
                each.touch()
            # The only one left is the file's.
            assert node.put("first", b"x") == 507

            foreign[0].unlink()
            eventually(lambda: node.put("last", b"y") == 201, lambda: node.output, FEW_SECONDS)
            assert node.get("last") == b"y"
            assert node.incoming() == []
        finally:
            node.close()


def test_a_disk_that_is_read_only_at_the_start_is_waited_for(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", f"size={96 * MIB}") as disk:
        node = Node(tmp_path, BUCKETS, disk=disk)
        node.start()
        try:
            node.put("a", content(1, MIB))
            node.stop()
            node.close()
            disk.remount("ro")
            with ThreadPoolExecutor(1) as pool:
                starting = pool.submit(node.start)
                eventually(lambda: "cannot be used, it is tried again" in node.output, lambda: node.output)
                is_ready = starting.done()
                disk.remount("rw")
                starting.result()

            assert not is_ready
            assert node.get("a") == content(1, MIB)
            assert node.put("b", b"x") == 201
        finally:
            node.close()
