"""The store's one thread: what is asked in what order, and what a worker leaves behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from objectcache.link import BucketRules, Commit, Done, FromKeeper, List, Listed, Reserve, Sum, Summed
from objectcache.service.keeping import Keeping, Outlets
from objectcache.service.worker_link import WorkerLink
from objectcache.storage.files import DataFolder
from objectcache.storage.recovery import recover
from objectcache.store import Disk, Limits, Store


class Hearing(WorkerLink):
    """A worker that keeps what it is told."""

    def __init__(self, serial: int) -> None:
        super().__init__(0, serial, lambda *_: None)
        self.heard: list[FromKeeper] = []

    def send(self, message: FromKeeper) -> None:
        self.heard.append(message)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.heard) < count:
                await asyncio.sleep(0.001)


async def _no_workers(_: int) -> None:
    pass


@asynccontextmanager
async def keeping(folder: Path) -> AsyncIterator[tuple[Keeping, Store, BucketRules]]:
    opened = DataFolder.open(folder / "data")
    found = recover(opened, "this run", 1, lambda _: None)
    store = Store(Disk(opened, found.catalogue, found.index, {}), Limits(2**30))
    keeper = Keeping(store, Outlets(_no_workers, lambda _: None, lambda _: None))
    running = asyncio.create_task(keeper.run())
    numbers = await keeper.number_all(["bk"])
    rules = BucketRules("bk", numbers["bk"], 2**20, 0, 1.0, None, None)
    keeper.set_rules((rules,), complete=True)
    try:
        yield keeper, store, rules
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await keeper.finish()
        keeper.stop()
        opened.close()


async def test_a_sum_knows_all_that_was_answered_before(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (keeper, _, _):
        link = Hearing(1)
        for number in range(1, 21):
            keeper.ask(link, Reserve(number, "bk", 10))
            await link.until(3 * number - 2)
            done = link.heard[-1]
            assert isinstance(done, Done)
            (tmp_path / "data" / "incoming" / f"{done.object_id:016x}").write_bytes(b"0123456789")
            keeper.ask(link, Commit(number, done.object_id, "bk", b"%d" % number, 10, bytes(16)))
            await link.until(3 * number - 1)
            keeper.ask(link, Sum(number, ("bk", "no-such")))
            await link.until(3 * number)

            assert link.heard[-1] == Summed(number, (("bk", 10 * number, number, 0), ("no-such", 0, 0, 0)))


async def test_what_a_worker_asked_for_last_is_given_back_too(tmp_path: Path) -> None:
    """Also where so much waits that it takes several batches."""
    async with keeping(tmp_path) as (keeper, store, _):
        gone, other = Hearing(1), Hearing(2)
        for ticket in range(2000):
            keeper.ask(other, List(ticket, "bk", b"", b"", 1))
            if ticket % 100 == 0:
                keeper.ask(gone, Reserve(ticket, "bk", 1))
        keeper.ask(gone, Reserve(2000, "bk", 1))
        keeper.ended(gone)
        await other.until(2000)
        keeper.ask(other, Sum(2000, ("bk",)))
        await other.until(2001)

        assert [type(each) for each in other.heard] == [Listed] * 2000 + [Summed]
        assert store.look().used_bytes == 0


async def test_while_not_all_buckets_are_known_those_that_are_absent_are_not_gone(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (keeper, store, rules):
        link = Hearing(1)
        keeper.ask(link, Reserve(1, "bk", 1))
        await link.until(1)
        for complete in (False, True):
            keeper.set_rules((), complete=complete)
            keeper.ask(link, Sum(2, ()))
            await link.until(2 + complete)

            assert store._ruled.complete is complete
        keeper.set_rules((rules,), complete=True)
