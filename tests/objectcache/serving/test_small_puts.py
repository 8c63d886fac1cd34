"""What a small object that is written before there is room for it leaves behind, however its upload ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from objectcache.counters import DEFECTS
from objectcache.link import Abandon, Commit, Done, Refused, Reserve
from tests.objectcache.serving.workers import Turned, turned

ID: Final = 7


@contextmanager
def granted(folder: Path) -> Iterator[Turned]:
    """A worker with one spare id."""
    with turned(folder) as cache:
        with cache.client() as client:
            # Has it ask for ids, and itself for room.
            client.put("first", 1, b"x")
            cache.grant(ID)
        cache.heard()
        yield cache


def abandoned(cache: Turned) -> list[tuple[int, int]]:
    return [(each.object_id, each.error_number) for each in cache.heard() if isinstance(each, Abandon)]


def incoming(cache: Turned) -> list[Path]:
    return [*(cache.files.path / "incoming").iterdir()]


def commit_of(cache: Turned) -> Commit:
    [found] = [each for each in cache.heard() if isinstance(each, Commit)]
    return found


def test_a_client_that_goes_before_the_end_leaves_nothing(tmp_path: Path) -> None:
    with granted(tmp_path) as cache:
        with cache.client() as client:
            client.put("a", 10, b"half")
            under_way = cache.worker.ahead_bytes

        assert under_way == 10
        assert (cache.worker.ahead_bytes, incoming(cache), abandoned(cache)) == (0, [], [(ID, 0)])


@pytest.mark.parametrize("status", [0, 403, 412, 507])
def test_bytes_count_until_the_keeper_has_answered_whoever_has_gone(tmp_path: Path, status: int) -> None:
    with granted(tmp_path) as cache:
        with cache.client() as client:
            client.put("a", 4, b"full")
            asked = commit_of(cache)
        waiting = cache.worker.ahead_bytes
        cache.say(Refused(asked.ticket, status, "no") if status else Done(asked.ticket, ID))

        assert waiting == 4
        # The keeper has the file, or has removed it.
        assert (cache.worker.ahead_bytes, abandoned(cache)) == (0, [])


def test_a_disk_that_takes_no_file_is_told_of_to_client_and_keeper(tmp_path: Path) -> None:
    with granted(tmp_path) as cache, cache.client() as client:
        # As a file system that has become read only: nothing can be made, nor removed.
        (tmp_path / "incoming" / f"{ID:016x}").mkdir()
        client.put("a", 4, b"full")

        assert client.take().startswith(b"HTTP/1.1 503 ")
        assert abandoned(cache) == [(ID, errno.EEXIST)]
        assert (cache.worker.ahead_bytes, cache.worker.row.at[DEFECTS]) == (0, 0)


def test_a_file_that_cannot_be_removed_ends_the_connection_all_the_same(tmp_path: Path) -> None:
    with granted(tmp_path) as cache:
        with cache.client() as client:
            client.put("a", 10, b"half")
            [file] = incoming(cache)
            file.unlink()
            file.mkdir()
            client.sock.close()
            client.turn()

            assert client.connection.sock.fileno() == -1
        assert abandoned(cache) == [(ID, 0)]
        assert (cache.worker.ahead_bytes, cache.worker.row.at[DEFECTS]) == (0, 0)


def test_without_ids_room_is_asked_for_first(tmp_path: Path) -> None:
    with granted(tmp_path) as cache, cache.client() as first, cache.client() as second:
        first.put("a", 10, b"half")
        second.put("b", 10, b"half")

        assert [each.size_bytes for each in cache.heard() if isinstance(each, Reserve)] == [10]
        assert cache.worker.ahead_bytes == 10
