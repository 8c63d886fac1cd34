"""Objects that are asked for all the time are answered as all others are."""

from pathlib import Path

import pytest

from objectcache.counters import DEFECTS
from objectcache.link import Damaged
from objectcache.serving.at_hand import OFTEN
from objectcache.serving.connection import SMALL_BYTES
from objectcache.storage.index import SUSPECT
from tests.objectcache.serving.workers import turned

SIZES = [1, SMALL_BYTES, SMALL_BYTES + 1, 2**17]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_popular_is_read_once_and_answered_alike(tmp_path: Path, size: int) -> None:
    content = bytes(range(1, 256)) * (size // 255 + 1)
    with turned(tmp_path) as cache, cache.client() as client:
        cache.put("a", content[:size])
        found = [client.get("a") for _ in range(OFTEN + 2)]
        # Nobody could open it now.
        cache.files.remove([1])
        found += [client.get("a") for _ in range(3)]

        assert found == [content[:size]] * (OFTEN + 5)
        assert cache.counted_bytes() == size * (OFTEN + 5)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_popular_is_gone_as_soon_as_it_is_replaced_or_removed(tmp_path: Path, size: int) -> None:
    before, after = b"b" * size, b"a" * (size + 1)
    with turned(tmp_path) as cache, cache.client() as client:
        cache.put("a", before)
        found = {client.get("a") for _ in range(OFTEN + 2)}
        cache.put("a", after)
        replaced = {client.get("a") for _ in range(OFTEN + 2)}
        cache.remove("a")
        removed = client.get("a")
        cache.put("a", before)

        assert (found, replaced, removed) == ({before}, {after}, None)
        assert client.get("a") == before


def test_the_files_of_what_was_popular_are_closed(tmp_path: Path) -> None:
    with turned(tmp_path) as cache, cache.client() as client:
        for name in "abc":
            cache.put(name, bytes(SMALL_BYTES + 1))
            for _ in range(OFTEN + 2):
                client.get(name)
        kept = cache.open_files()
        cache.remove("a")
        cache.requests.end_turn()
        cache.requests.end_turn()

        assert kept == 3
        assert cache.open_files() == 0


@pytest.mark.parametrize("size", SIZES)
def test_what_is_damaged_as_it_becomes_popular_is_told_of(tmp_path: Path, size: int) -> None:
    with turned(tmp_path) as cache, cache.client() as client:
        cache.put("a", bytes(size))
        # The first of them is not a repeat.
        for _ in range(OFTEN):
            client.get("a")
        [file] = (tmp_path / "data").glob("*/*")
        file.unlink()
        # Can be opened, and not be read.
        file.mkdir()
        client.ask("a")

        assert [each.object_id for each in cache.heard() if isinstance(each, Damaged)] == [1]
        assert cache.worker.row.at[DEFECTS] == 0
        assert client.connection.is_closed
    file.rmdir()


def test_what_became_suspect_is_not_answered_unverified(tmp_path: Path) -> None:
    with turned(tmp_path) as cache, cache.client() as client:
        cache.put("a", b"content")
        for _ in range(OFTEN + 2):
            client.get("a")
        cache.index.set_flags(cache.worker.keys.key("bk", b"a"), SUSPECT)
        client.ask("a")

        # A thread reads it first.
        assert client.has_nothing()


def test_a_bucket_that_may_be_read_no_more_is_refused(tmp_path: Path) -> None:
    with turned(tmp_path) as cache, cache.client() as client:
        cache.put("a", b"content")
        for _ in range(OFTEN + 2):
            client.get("a")
        cache.worker.knowledge.rules = {}
        client.ask("a")

        assert client.take().startswith(b"HTTP/1.1 403 ")
