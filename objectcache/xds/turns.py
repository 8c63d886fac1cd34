"""Only so many do something at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final


class Turns:
    """Whoever takes long goes on without a turn, which is somebody else's then.

    Args:
        at_once: How many have one.
        seconds: After which one ends by itself.
    """

    def __init__(self, at_once: int, seconds: float) -> None:
        self._free: Final = asyncio.Semaphore(at_once)
        self._seconds: Final = seconds

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Begins when there is one."""
        await self._free.acquire()
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._free.release()

        timer = asyncio.get_running_loop().call_later(self._seconds, end)
        try:
            yield
        finally:
            timer.cancel()
            end()
