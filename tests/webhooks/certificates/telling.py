"""What a certificate's keeper tells."""

import asyncio
from collections.abc import Callable

from tasuki.process.tls.outlets import Outlets


class Told:
    """What was reported and noted, with a way to wait for it."""

    def __init__(self) -> None:
        self.reported = "nothing yet"
        self.noted = ""
        self.looks = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def outlets(self) -> Outlets:
        return Outlets(self._report, self._note)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    def _report(self, text: str) -> None:
        self.reported = text
        self._announce()

    def _note(self, text: str) -> None:
        self.noted = text
        self.looks += 1
        self._announce()

    def _announce(self) -> None:
        task = asyncio.ensure_future(self._wake())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
