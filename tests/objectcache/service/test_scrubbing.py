"""Objects are verified in the background, at their pace, and what is damaged goes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from objectcache.link import Done
from objectcache.service.scrubbing import Pace, Scrubber
from objectcache.storage.index import SUSPECT
from objectcache.store import Limits, Store
from tests.objectcache.test_store import NOW, Cache

T = TypeVar("T")

DAY = 86_400
FAST = Pace(days=7, bytes_per_second=2**40, retry_seconds=0.005)


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


class StoreThread:
    """A store that is asked one thing after the other; `before` may change it first."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.before: Callable[[], None] = lambda: None

    async def do(self, work: Callable[[Store], T]) -> T:
        await asyncio.sleep(0)
        self.before()
        return work(self.cache.store)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    found = started(tmp_path / "cache")
    yield found
    with suppress(Exception):
        found.kill()


def started(path: Path, boot: str = "boot") -> Cache:
    cache = Cache(path, Limits(2**40), boot)
    cache.rules(bk=2**40)
    return cache


def put(cache: Cache, count: int, size: int = 100) -> list[int]:
    ids = []
    for each in range(count):
        answer = cache.put(b"%d" % each, bytes([each % 256]) * size)
        assert isinstance(answer, Done)
        ids.append(answer.object_id)
    return ids


def file_of(cache: Cache, object_id: int) -> Path:
    (found,) = (cache.path / "data").glob(f"*/{object_id:016x}")
    return found


def suspects(cache: Cache) -> int:
    return sum(each.suspect for each in cache.store.stretch(0, 10_000).objects)


@asynccontextmanager
async def scrubbing(
    cache: Cache | StoreThread, pace: Pace = FAST, clock: Clock | None = None
) -> AsyncIterator[Scrubber]:
    keeper = cache if isinstance(cache, StoreThread) else StoreThread(cache)
    scrubber = Scrubber(keeper, keeper.cache.path, pace, clock or Clock())
    running = asyncio.create_task(scrubber.run())
    try:
        yield scrubber
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


async def test_a_round_reads_everything_and_what_is_sound_stays(cache: Cache) -> None:
    put(cache, 600)

    async with scrubbing(cache) as scrubber:
        await until(lambda: scrubber.round_ended >= scrubber.round_began > 0)

    assert (scrubber.verified, scrubber.verified_bytes, scrubber.damaged) == (600, 60_000, 0)
    assert cache.used() == (60_000, 600)


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 100], ids=["empty", "short", "other bytes"])
async def test_a_damaged_object_goes(cache: Cache, damage: bytes) -> None:
    ids = put(cache, 3)
    file_of(cache, ids[1]).write_bytes(damage)

    async with scrubbing(cache) as scrubber:
        await until(lambda: scrubber.round_ended > 0)

    assert (scrubber.damaged, cache.store.damaged, cache.used()) == (1, 1, (200, 2))
    assert (cache.get(b"0"), cache.get(b"1")) == (bytes(100), None)


async def test_an_object_that_was_replaced_while_it_was_read_is_not_damaged(cache: Cache) -> None:
    ids = put(cache, 1)
    file_of(cache, ids[0]).write_bytes(b"damaged")
    thread = StoreThread(cache)

    def replace() -> None:
        if scrubber.round_began:
            cache.put(b"0", b"another")

    async with scrubbing(thread) as scrubber:
        thread.before = replace
        await until(lambda: scrubber.round_ended > 0)
        thread.before = lambda: None

    assert (scrubber.damaged, cache.store.damaged, cache.get(b"0")) == (0, 0, b"another")


async def test_after_a_crash_of_the_system_suspects_are_cleared_at_once_though_no_round_is_due(tmp_path: Path) -> None:
    cache = started(tmp_path / "cache")
    clock = Clock()
    put(cache, 5)
    async with scrubbing(cache, clock=clock) as scrubber:
        await until(lambda: scrubber.round_ended > 0)
    cache.kill()
    cache = started(tmp_path / "cache", boot="another")
    file_of(cache, cache.store.stretch(0, 1).objects[0].object_id).write_bytes(b"lost")
    assert suspects(cache) == 5

    async with scrubbing(cache, clock=clock) as scrubber:
        await until(lambda: scrubber.verified == 5)

    entry = cache.store.index.find(cache.store._kept.keys.key("bk", b"4"))
    assert entry is not None
    assert not entry.flags & SUSPECT
    assert (suspects(cache), cache.used(), scrubber.damaged) == (0, (400, 4), 1)
    cache.kill()


async def test_the_next_round_waits_for_its_day(cache: Cache) -> None:
    put(cache, 2)
    clock = Clock()

    async with scrubbing(cache, clock=clock) as scrubber:
        await until(lambda: scrubber.round_ended > 0)
        clock.now += 6 * DAY
        await asyncio.sleep(0.03)
        assert scrubber.verified == 2
        clock.now += DAY
        await until(lambda: scrubber.verified == 4)


async def test_a_round_goes_on_after_a_restart_where_it_was(cache: Cache) -> None:
    ids = put(cache, 4, size=1000)
    first = StoreThread(cache)
    slow = Pace(bytes_per_second=2**40, retry_seconds=0.005)

    async with scrubbing(first, slow) as scrubber:
        await until(lambda: scrubber.round_began > 0)
    cache.store.note("scrub.began", NOW)
    cache.store.note("scrub.ended", 0)
    cache.store.note("scrub.place", ids[2])

    async with scrubbing(cache) as scrubber:
        await until(lambda: scrubber.round_ended > 0)

    assert scrubber.verified == 1


async def test_a_rate_is_kept_and_whoever_cancels_does_not_wait_for_it(cache: Cache) -> None:
    put(cache, 2, size=2**20)

    # A megabyte takes eleven days.
    async with scrubbing(cache, Pace(bytes_per_second=1)) as scrubber:
        await until(lambda: scrubber.round_began > 0)
        await asyncio.sleep(0.05)

    assert scrubber.verified == 0


async def test_a_folder_that_cannot_be_read_is_tried_again(cache: Cache) -> None:
    put(cache, 2)
    away = cache.path / "away"
    (cache.path / "data").rename(away)

    async with scrubbing(cache) as scrubber:
        await until(lambda: bool(scrubber.problem))
        away.rename(cache.path / "data")
        await until(lambda: scrubber.round_ended > 0)

    assert (scrubber.verified, scrubber.problem, cache.used()) == (2, "", (200, 2))


async def test_a_clock_that_was_ahead_does_not_put_off_the_next_round(cache: Cache) -> None:
    put(cache, 1)
    cache.store.note("scrub.began", NOW + 1000 * DAY)
    cache.store.note("scrub.ended", NOW + 1000 * DAY + 1)

    async with scrubbing(cache) as scrubber:
        await until(lambda: scrubber.verified == 1)
