"""The object cache as the mirror sees it: whatever goes wrong with it is a miss, and counted."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import aiohttp
from yarl import URL

from objectcache.registry.digests import Digest
from objectcache.registry.ranges import Range, read_content_range
from tasuki.process.sentences import shortened

log: Final = logging.getLogger(__name__)

# A projected token lives for ten minutes at least and is replaced when four fifths of that are over.
_TOKEN_SECONDS: Final = 10.0
_MOST_TOKEN_BYTES: Final = 16 * 2**10
# While it does not answer at all, requests do not wait for it one after the other.
_PAUSE_SECONDS: Final = 2.0
# The slowest that an object may be taken in, beside half a minute for anything.
_LEAST_BYTES_PER_SECOND: Final = 2**20
_PUT_SECONDS: Final = 30.0
_LONGEST_REASON: Final = 200

# How a request to the cache ended, as it is counted.
OUTCOMES: Final = ("hit", "miss", "stored", "removed", "refused", "away")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where things are stored.

    Attributes:
        url: Of the cache, without what is below it.
        token_file: Read again whenever it is older than ten seconds; None for no token.
    """

    url: str
    name: str
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """An object, or a part of one.

    Attributes:
        size: Of the whole object in bytes.
        first: Byte of what `pieces` yields.
        last: Inclusive; less than `first` for nothing.
    """

    size: int
    first: int
    last: int
    pieces: AsyncIterator[bytes]

    @property
    def is_whole(self) -> bool:
        return self.first == 0 and self.last == self.size - 1


class CacheBrokenError(Exception):
    """The cache ceased to send within an object."""


class Cache:
    """One bucket.

    Args:
        report: Told why it cannot be used; empty if it can.
        count: Told each outcome.
        silent_seconds: How long it may send nothing.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        bucket: Bucket,
        report: Callable[[str], None],
        count: Callable[[str], None],
        silent_seconds: float = 10.0,
    ) -> None:
        self._session: Final = session
        self._objects: Final = f"{bucket.url.rstrip('/')}/v1/objects/{bucket.name}/"
        self._token_file: Final = bucket.token_file
        self._report: Final = report
        self._count: Final = count
        self._silent_seconds: Final = silent_seconds
        self._timeout: Final = aiohttp.ClientTimeout(
            total=None, sock_connect=min(3.0, silent_seconds), sock_read=silent_seconds
        )
        self._token = ""
        self._token_read = float("-inf")
        self._asked_again = float("-inf")

    @asynccontextmanager
    async def opened(self, name: str, part: Range | None = None) -> AsyncIterator[Found | None]:
        """An object to be read; None if it is not to be had, for whatever reason.

        Raises:
            CacheBrokenError: From `pieces`.
        """
        headers = {"Range": str(part)} if part is not None else {}
        answer = await self._ask("GET", name, headers)
        if answer is None:
            yield None
            return
        try:
            found = _found(answer, part) if answer.status in {200, 206, 416} else None
            self._tell(answer, "hit" if found else "refused" if answer.status != 404 else "miss")
            yield found
        finally:
            # Closed, not released: what is left of a large object is not read for nothing.
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()

    async def size_of(self, name: str) -> int | None:
        """Bytes of an object; None if it is not to be had."""
        answer = await self._ask("HEAD", name, {})
        if answer is None:
            return None
        answer.release()
        size = answer.content_length if answer.status == 200 else None
        self._tell(answer, "hit" if size is not None else "refused" if answer.status != 404 else "miss")
        return size

    async def read(self, name: str, most_bytes: int) -> bytes | None:
        """A small object; None if it is not to be had."""
        try:
            async with asyncio.timeout(self._silent_seconds), self.opened(name) as found:
                if found is None or found.size > most_bytes:
                    return None
                return b"".join([piece async for piece in found.pieces])
        except (CacheBrokenError, TimeoutError) as error:
            self._away(error)
            return None

    async def put(self, name: str, digest: Digest, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> bool:
        """Store an object; the cache refuses one that does not have this digest."""
        headers = {"Content-Length": str(size), "Content-Digest": digest.content_digest}
        try:
            async with asyncio.timeout(_PUT_SECONDS + size / _LEAST_BYTES_PER_SECOND):
                answer = await self._ask("PUT", name, headers, pieces)
        except TimeoutError as error:
            self._away(error)
            return False
        if answer is None:
            return False
        answer.close() if answer.status >= 300 else answer.release()
        self._tell(answer, "stored" if answer.status == 201 else "refused")
        return answer.status == 201

    async def put_small(self, name: str, digest: Digest, content: bytes) -> bool:
        async def one() -> AsyncIterator[bytes]:
            yield content

        return await self.put(name, digest, len(content), one)

    async def remove(self, name: str) -> None:
        """An object that is not what its name says."""
        answer = await self._ask("DELETE", name, {})
        if answer is not None:
            answer.release()
            self._tell(answer, "removed" if answer.status in {204, 404} else "refused")

    async def _ask(
        self,
        method: str,
        name: str,
        headers: Mapping[str, str],
        pieces: Callable[[], AsyncIterator[bytes]] | None = None,
    ) -> aiohttp.ClientResponse | None:
        if monotonic() < self._asked_again:
            self._count("away")
            return None
        try:
            return await self._session.request(
                method,
                URL(self._objects + name, encoded=True),
                headers={**headers, **await self._authorization(), "Accept-Encoding": "identity"},
                data=pieces() if pieces is not None else None,
                # Refused before it is sent, where the bucket has no room for it.
                expect100=pieces is not None,
                allow_redirects=False,
                timeout=self._timeout,
            )
        except (aiohttp.ClientError, OSError) as error:
            self._away(error)
            return None

    async def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        if monotonic() - self._token_read > _TOKEN_SECONDS:
            self._token = await asyncio.to_thread(_read_token, self._token_file)
            self._token_read = monotonic()
        return {"Authorization": f"Bearer {self._token}"}

    def _away(self, error: Exception) -> None:
        self._asked_again = monotonic() + _PAUSE_SECONDS
        self._count("away")
        self._report(f"the cache cannot be used: {shortened(_reason(error), _LONGEST_REASON)}")

    def _tell(self, answer: aiohttp.ClientResponse, outcome: str) -> None:
        self._count(outcome)
        if outcome == "refused":
            self._report(f"the cache answers {answer.method} with {answer.status}{_REMEDIES.get(answer.status, '')}")
        else:
            self._report("")


_REMEDIES: Final = {
    401: "; look at --cache-token, and whether its audience is the cache's",
    403: "; let the namespace of the mirror read and write --bucket",
    413: "; a layer is larger than the quota of --bucket",
    507: "; give --bucket a larger quota, or the cache a larger disk",
}


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _read_token(file: Path) -> str:
    """Blocking.

    Raises:
        OSError: It cannot be read, or is no token.
    """
    with file.open("rb") as opened:
        content = opened.read(_MOST_TOKEN_BYTES + 1).strip()
    if not content or len(content) > _MOST_TOKEN_BYTES or not re.fullmatch(rb"[\x21-\x7e]+", content):
        raise OSError(f"--cache-token {file} has no token in it")
    return content.decode()


def _found(answer: aiohttp.ClientResponse, part: Range | None) -> Found | None:
    """What an answer brings; None if it does not say, or brings something else than was asked for."""
    size = answer.content_length
    if answer.status == 200:
        return None if size is None else Found(size, 0, size - 1, _pieces(answer, size))
    span = read_content_range(answer.headers.get("Content-Range", ""))
    if span is None or part is None:
        return None
    first, last, whole = span
    if answer.status == 416:
        return Found(whole, 0, -1, _pieces(answer, 0)) if last < first else None
    return Found(whole, first, last, _pieces(answer, size)) if size == last + 1 - first > 0 else None


async def _pieces(answer: aiohttp.ClientResponse, size: int) -> AsyncIterator[bytes]:
    left = size
    try:
        while left and (piece := await answer.content.readany()):
            left -= len(piece)
            yield piece
    except (aiohttp.ClientError, OSError) as error:
        raise CacheBrokenError(_reason(error)) from error
    if left:
        raise CacheBrokenError(f"{left} bytes are missing")
