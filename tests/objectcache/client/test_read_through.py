"""Reading by way of a cache that may fail."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from objectcache.client.client import CacheClient
from objectcache.client.keeping import Piece
from objectcache.client.read_through import ReadThrough
from tests.objectcache.caches import TOKEN, RunningCache
from tests.objectcache.client.odd_server import answer, odd_server

CONTENT = b"0123456789"
PIECE = Piece("x", 0, len(CONTENT))
WHOLE = (0, len(CONTENT))


class Origin:
    """Counts what is read from it."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def load(self, start: int, end: int) -> bytes:
        self.reads.append((start, end))
        return CONTENT[start:end]


def settled() -> bool:
    return True


@pytest.fixture
def reader(cache: RunningCache) -> Iterator[ReadThrough]:
    client = CacheClient(cache.url, "bk", token=TOKEN)
    yield ReadThrough(client)
    client.close()


def test_a_miss_is_kept_and_then_a_hit(cache: RunningCache, reader: ReadThrough) -> None:
    origin = Origin()

    found = [reader.read(PIECE, span, origin.load, settled) for span in [(2, 5), (0, 10), (9, 10)]]

    assert found == [b"234", CONTENT, b"9"]
    assert origin.reads == [WHOLE]
    assert [(method, status) for method, _, status in cache.log] == [
        ("GET", 404), ("PUT", 201), ("GET", 200), ("GET", 206),
    ]  # fmt: skip
    counts = reader.counts
    assert (counts.hits, counts.misses, counts.kept, counts.hit_bytes, counts.origin_bytes) == (2, 1, 1, 11, 10)


def test_what_changed_while_it_was_read_is_not_kept(cache: RunningCache, reader: ReadThrough) -> None:
    assert reader.read(PIECE, WHOLE, Origin().load, lambda: False) == CONTENT
    assert reader.read(PIECE, WHOLE, lambda start, end: CONTENT[:4], settled) == CONTENT[:4]

    assert [method for method, _, _ in cache.log] == ["GET", "GET"]


@pytest.mark.parametrize("when", ["while it is read", "while it is put"])
def test_what_was_written_while_it_was_read_is_not_kept(cache: RunningCache, reader: ReadThrough, when: str) -> None:
    put = reader.client.put

    def load(start: int, end: int) -> bytes:
        if when == "while it is read":
            reader.forget("x")
        return CONTENT

    def slow_put(name: str, content: bytes) -> None:
        if when == "while it is put":
            reader.forget("x")
        put(name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader.client, "put", slow_put)
        assert reader.read(PIECE, WHOLE, load, settled) == CONTENT

    assert reader.client.get("x") is None


def test_an_object_of_another_size_is_replaced(cache: RunningCache, reader: ReadThrough) -> None:
    reader.client.put("x", b"torn")

    found = reader.read(PIECE, WHOLE, Origin().load, settled)

    assert found == CONTENT
    assert reader.client.get("x") == CONTENT


@pytest.mark.parametrize(("bucket", "token"), [("other", TOKEN), ("bk", "wrong")], ids=["bucket", "token"])
def test_a_refused_reader_reads_only_its_part_and_puts_nothing(cache: RunningCache, bucket: str, token: str) -> None:
    origin, reader = Origin(), ReadThrough(CacheClient(cache.url, bucket, token=token))

    assert reader.read(PIECE, (2, 4), origin.load, settled) == b"23"
    assert origin.reads == [(2, 4)]
    assert [method for method, _, _ in cache.log] == ["GET"]
    reader.client.close()


def test_a_cache_without_room_is_not_sent_the_next_object() -> None:
    script = [answer(404), answer(507, b"full\n"), answer(404), answer(404)]
    with odd_server(script) as server:
        now, origin, reader = [0.0], Origin(), ReadThrough(CacheClient(server.url, "bk"), lambda: now[0])

        found = [reader.read(PIECE, (0, 3), origin.load, settled) for _ in range(2)]

        assert found == [b"012", b"012"]
        assert origin.reads == [WHOLE, (0, 3)]
        assert [each[:3] for each in server.requests] == [b"GET", b"PUT", b"GET"]
        assert reader.counts.failures == 1
        reader.client.close()


def test_a_cache_that_is_down_is_asked_three_times_and_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now, origin = [100.0], Origin()
    reader = ReadThrough(CacheClient("http://127.0.0.1:1", "bk"), lambda: now[0])

    for _ in range(10):
        assert reader.read(PIECE, WHOLE, origin.load, settled) == CONTENT
    now[0] += 61
    reader.read(PIECE, WHOLE, origin.load, settled)

    assert (reader.counts.failures, reader.counts.skipped) == (4, 7)
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(said) == 2
    assert "127.0.0.1:1" in said[0]
    assert said[1].endswith("others_since_last=2")


def test_threads_that_miss_together_read_the_origin_once(cache: RunningCache, reader: ReadThrough) -> None:
    reads: list[int] = []
    began = threading.Event()

    def load(start: int, end: int) -> bytes:
        reads.append(1)
        began.set()
        # Until the others had time to ask; those who come too late find it in the cache.
        while len([each for each in cache.log if each[0] == "GET"]) < 4:
            threading.Event().wait(0.005)
        return CONTENT

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: reader.read(PIECE, WHOLE, load, settled), range(4)))

    assert found == [CONTENT] * 4
    assert len(reads) == 1
    assert [method for method, _, _ in cache.log].count("PUT") == 1


def test_an_error_of_the_origin_is_everybodys_and_leaves_nothing_behind(
    cache: RunningCache, reader: ReadThrough
) -> None:
    def fail(start: int, end: int) -> bytes:
        raise FileNotFoundError("gone")

    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            reader.read(PIECE, WHOLE, fail, settled)

    assert reader.read(PIECE, WHOLE, Origin().load, settled) == CONTENT


def test_forgetting_never_fails(reader: ReadThrough) -> None:
    reader.forget("nothing")
    ReadThrough(CacheClient("http://127.0.0.1:1", "bk")).forget("x")
