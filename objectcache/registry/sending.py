"""Answers that a client takes at its own pace, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from objectcache.registry.spool import PIECE_BYTES
from tasuki.process.asgi import Message, Receive, Send


class ClientGoneError(Exception):
    """Nobody reads the answer any more."""


class Sender:
    """One answer to one request.

    Args:
        stall_seconds: How long a client may take nothing, before the connection is broken off.

    Attributes:
        has_begun: The status is sent, so that what goes wrong now can only be told by breaking off.
        sent_bytes: Of the body.
    """

    def __init__(self, send: Send, stall_seconds: float) -> None:
        self._send: Final = send
        self._stall_seconds: Final = stall_seconds
        self.has_begun = False
        self.sent_bytes = 0
        self._is_gone = False

    @asynccontextmanager
    async def watching(self, receive: Receive) -> AsyncIterator[None]:
        """Notice a client that goes away: uvicorn takes bytes for it as if nothing had happened."""
        watch = asyncio.ensure_future(self._watch(receive))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Raises ClientGoneError, as everything that follows: what was sent before is not taken."""
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        self.has_begun = True
        await self._put({"type": "http.response.start", "status": status, "headers": encoded})

    async def piece(self, piece: bytes) -> None:
        if self._is_gone:
            raise ClientGoneError
        await self._put({"type": "http.response.body", "body": piece, "more_body": True})
        self.sent_bytes += len(piece)

    async def end(self) -> None:
        await self._put({"type": "http.response.body", "body": b""})

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer with what is in memory already; of a large body, little more is kept for a client that stalls."""
        await self.begin(status, {**headers, "Content-Length": str(len(body))})
        for first in range(0, len(body), PIECE_BYTES):
            await self.piece(body[first : first + PIECE_BYTES])
        await self.end()

    async def _put(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send(message)
        except TimeoutError:
            raise ClientGoneError from None
