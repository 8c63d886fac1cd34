"""What a store does on a disk that is really full, or really read only.

The disk is mounted for no other process: each scenario runs as a program inside, by its name.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from objectcache.link import Done, Refused, Reserve
from objectcache.storage.errors import StorageError
from objectcache.storage.files import create_incoming
from objectcache.store import Limits
from tests.objectcache.storms.disks import SmallDisk, small_disk
from tests.objectcache.test_store import NOW, Cache, commit, status

SIZE: Final = 64 * 2**10
LIMITS: Final = Limits(2**40)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "size=8m") as found:
        yield found


def run_inside(disk: SmallDisk, scenario: Callable[[SmallDisk], None]) -> None:
    module = "tests.objectcache.test_store_disks"
    ended = subprocess.run(
        [disk.python, "-m", module, scenario.__name__, disk.mounted_at],
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
        # Inside, it starts at the root of all file systems.
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def started(disk: SmallDisk, limits: Limits = LIMITS) -> Cache:
    cache = Cache(disk.path / "cache", limits)
    cache.rules(bk=2**40)
    return cache


def content(serial: int) -> bytes:
    return (b"%d " % serial * SIZE)[:SIZE]


def put_all(cache: Cache, serials: range) -> list[int]:
    """As workers do: what cannot be written is abandoned. Statuses of what was refused."""
    refused = []
    for each in serials:
        reserved = cache.ask(Reserve(1, "bk", SIZE))
        if not isinstance(reserved, Done):
            refused.append(status(reserved))
        elif not is_written(cache, reserved.object_id, content(each)):
            cache.store.worker_ended(1)
            refused.append(507)
        else:
            answer = cache.ask(commit(reserved.object_id, b"%d" % each, content(each)))
            refused += [answer.status] if isinstance(answer, Refused) else []
    return refused


def is_written(cache: Cache, object_id: int, body: bytes) -> bool:
    try:
        fd = create_incoming(cache.folder.incoming_fd, object_id, len(body))
    except OSError:
        return False
    try:
        return os.write(fd, body) == len(body)
    except OSError:
        return False
    finally:
        os.close(fd)


def fill_it(disk: SmallDisk) -> None:
    cache = started(disk)
    assert put_all(cache, range(40)) == []
    disk.fill()
    assert set(put_all(cache, range(100, 140))) == {507}

    # Rows need room as well: the catalogue meets the end, too.
    empty = [name for name in (b"%d " % each * 100 for each in range(2000)) if not status(cache.put(name, b""))]

    assert cache.store.writable.status == 507
    assert [each for each in range(40) if cache.get(b"%d" % each) != content(each)] == []
    assert [name for name in empty if cache.get(name) != b""] == []
    for second in range(1, 10):
        cache.store.tick(NOW + second)
    assert cache.store.writable.status == 0
    assert 0 < cache.used()[0] == cache.files() < 40 * SIZE
    disk.relieve()
    assert put_all(cache, range(200, 210)) == []
    cache.close()
    again = started(disk)
    assert (again.report.before, again.used()[0]) == ("closed", again.files())


def keep_the_floor(disk: SmallDisk) -> None:
    cache = started(disk, Limits(2**40, floor_bytes=2 * 2**20))
    for each in range(150):
        cache.now += 1
        cache.store.tick(cache.now)
        assert put_all(cache, range(each, each + 1)) == []

    assert disk.free_bytes() > 2**20


def put_one(disk: SmallDisk) -> None:
    cache = started(disk)
    assert put_all(cache, range(1)) == []
    cache.close()


def start_on_a_read_only_disk(disk: SmallDisk) -> None:
    with pytest.raises((StorageError, OSError), match=r"(?i)read-?only"):
        started(disk)


def find_it_again(disk: SmallDisk) -> None:
    assert started(disk).get(b"0") == content(0)


def test_on_a_full_disk_what_was_answered_stays_and_afterwards_it_goes_on(disk: SmallDisk) -> None:
    run_inside(disk, fill_it)


def test_a_cache_that_keeps_its_floor_never_meets_a_full_disk(disk: SmallDisk) -> None:
    run_inside(disk, keep_the_floor)


def test_a_disk_that_is_read_only_starts_no_cache_and_costs_no_object(disk: SmallDisk) -> None:
    run_inside(disk, put_one)
    disk.remount("ro")
    run_inside(disk, start_on_a_read_only_disk)
    disk.remount("rw")
    run_inside(disk, find_it_again)


if __name__ == "__main__":
    scenarios = (fill_it, keep_the_floor, put_one, start_on_a_read_only_disk, find_it_again)
    mounted_at = Path(sys.argv[2])
    inside = SmallDisk(mounted_at, mounted_at, 0, Path(sys.executable))
    {each.__name__: each for each in scenarios}[sys.argv[1]](inside)
