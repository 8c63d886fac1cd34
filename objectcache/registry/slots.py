"""Only so much at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from objectcache.registry.errors import unavailable

# A client that waits for longer is better served by its next host.
_WAIT_SECONDS: Final = 20.0


class Slots:
    """So many of them.

    Args:
        exhausted: What is wrong when there is none, for the client.
    """

    def __init__(self, most: int, exhausted: str, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._free: Final = asyncio.Semaphore(most)
        self._exhausted: Final = exhausted
        self._wait_seconds: Final = wait_seconds

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Take one, for a while.

        Raises:
            RegistryError: None is free, and none becomes so.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise unavailable(503, f"{self._exhausted}; ask the registry itself") from None
        try:
            yield
        finally:
            self._free.release()
