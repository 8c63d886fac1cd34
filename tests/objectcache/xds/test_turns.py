import asyncio
from contextlib import suppress

from objectcache.xds.turns import Turns

ENDLESS = 3_600.0


class Working:
    """Begins with a turn each, and goes on until told to end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[str] = []
        self.may_end = asyncio.Event()

    async def work(self, name: str) -> None:
        async with self.turns.turn():
            self.begun.append(name)
            await self.may_end.wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_so_many_begin_and_the_next_ones_when_these_end() -> None:
    working = Working(Turns(2, ENDLESS))

    tasks = [asyncio.create_task(working.work(name)) for name in "abc"]
    await settled()
    before = list(working.begun)
    working.may_end.set()
    await asyncio.gather(*tasks)

    assert before == ["a", "b"]
    assert working.begun == ["a", "b", "c"]


async def test_whoever_takes_long_holds_up_nobody_and_gives_its_turn_back_once() -> None:
    # Longer than a busy machine needs for a few steps of the loop.
    working = Working(Turns(1, 0.5))

    slow = asyncio.create_task(working.work("slow"))
    next_ = asyncio.create_task(working.work("next"))
    async with asyncio.timeout(30):
        while working.begun != ["slow", "next"]:
            await asyncio.sleep(0.001)
        working.may_end.set()
        await asyncio.gather(slow, next_)
    working.may_end.clear()
    last = [asyncio.create_task(working.work(name)) for name in ("one", "two")]
    await settled()
    after = list(working.begun)
    working.may_end.set()
    await asyncio.gather(*last)

    assert after == ["slow", "next", "one"]


async def test_whoever_goes_away_gives_its_turn_back() -> None:
    working = Working(Turns(1, ENDLESS))
    gone = asyncio.create_task(working.work("gone"))
    waiting = asyncio.create_task(working.work("waiting"))
    await settled()

    waiting.cancel()
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    working.may_end.set()
    await working.work("next")

    assert working.begun == ["gone", "next"]
