"""Layers that the cache lacks: each fetched once, sent to all who want it, and then stored."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

import aiohttp

from objectcache.registry.asking import BlobAsked
from objectcache.registry.cache import Cache
from objectcache.registry.config import Upstream
from objectcache.registry.digests import Digest, Hasher
from objectcache.registry.errors import BLOB_UNKNOWN, UNAVAILABLE, DigestMismatchError, RegistryError, unavailable
from objectcache.registry.ranges import read_content_range
from objectcache.registry.slots import Slots
from objectcache.registry.spool import PIECE_BYTES, Spool, SpoolFile, pieces_of
from objectcache.registry.upstream import Call, UpstreamClient

log: Final = logging.getLogger(__name__)

# The slowest that a registry may send, beside a while for anything: a layer that drips in holds up all who want it,
# whom their runtimes' next host might serve.
_LEAST_BYTES_PER_SECOND: Final = 32 * 2**10
_PATIENCE_SECONDS: Final = 60.0

# What a connection has to bring before it breaks off, for the rest to be asked for by another one.
_WORTH_RESUMING_BYTES: Final = 2**20

# How a fetch ended, as it is counted.
FETCHED: Final = "fetched"
CORRUPT: Final = "corrupt"
FAILED: Final = "failed"
UNSPOOLED: Final = "unspooled"
FETCH_OUTCOMES: Final = (FETCHED, CORRUPT, FAILED, UNSPOOLED)


class UnspooledError(Exception):
    """A layer that cannot be kept on its way: too large for the room there is, or of unknown size."""


class BrokenOffError(RegistryError):
    """The registry ended a layer before its end; the rest may be had by asking again."""


class Fetch:
    """A layer on its way.

    Attributes:
        asked: By whom it was begun.
        size: In bytes, once `started`.
    """

    def __init__(self, asked: BlobAsked) -> None:
        self.asked: Final = asked
        self.size = 0
        self._file: SpoolFile | None = None
        self._arrived = 0
        self._is_verified = False
        self._error: RegistryError | UnspooledError | None = None
        self._moved = asyncio.Event()
        self._users = 0

    @contextmanager
    def used(self) -> Iterator[None]:
        """To be entered at once: the layer is there until its last user leaves."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0 and self._file is not None:
                self._file.close()
                self._file = None

    async def started(self) -> None:
        """Wait until its size is known, and where there are no bytes to come until that is known to be right.

        Raises:
            RegistryError: It cannot be had.
            UnspooledError: It has to be fetched in another way.
        """
        while self._file is None or not (self.size or self._is_verified):
            if self._error is not None:
                raise self._error
            await self._moved.wait()

    async def pieces(self, first: int, last: int) -> AsyncIterator[bytes]:
        """The bytes from `first` to `last`, inclusive, as they arrive.

        The layer's last byte comes only once the digest is known to be right, so that nobody ever has the whole of a
        wrong one, and of a small layer the first byte too.

        Raises:
            RegistryError: They will not come.
        """
        assert self._file is not None
        while first <= last:
            if first < self._released:
                count = min(PIECE_BYTES, self._released - first, last + 1 - first)
                piece = await asyncio.to_thread(self._file.read, first, count)
                first += len(piece)
                yield piece
            elif self._error is not None:
                raise self._error
            else:
                await self._moved.wait()

    @property
    def _released(self) -> int:
        """How many bytes may be sent.

        A small layer is worth waiting for: refused as a whole, containerd has it from its next host. With wrong bytes
        that it has already the pull fails.
        """
        if self._is_verified:
            return self._arrived
        return 0 if self.size <= PIECE_BYTES else min(self._arrived, self.size - 1)

    def begin(self, file: SpoolFile, size: int) -> None:
        self._file, self.size = file, size
        self._move()

    def arrive(self, count: int) -> None:
        self._arrived += count
        self._move()

    def verify(self) -> None:
        self._is_verified = True
        self._move()

    def fail(self, error: RegistryError | UnspooledError) -> None:
        """The first reason is the one that is told; what is whole and right cannot fail any more."""
        if not self._is_verified and self._error is None:
            self._error = error
        self._move()

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


@dataclass(frozen=True, slots=True)
class Outlets:
    """What is told of fetches.

    Attributes:
        ended: Told how each ended.
        received: Told how many bytes a registry sent.
    """

    ended: Callable[[str], None]
    received: Callable[[int], None]


class Fetches:
    """One a digest at a time, so many altogether.

    They go on when nobody waits any more: most often the same node asks again, or the next one does.

    Args:
        group: Owns them.

    Attributes:
        slots: One is taken by whatever receives a layer.
    """

    def __init__(
        self, group: asyncio.TaskGroup, parts: tuple[UpstreamClient, Cache, Spool], most: int, outlets: Outlets
    ) -> None:
        self._group: Final = group
        self._upstream, self._cache, self._spool = parts
        self.slots: Final = Slots(most, "the mirror fetches as many layers at once as it may")
        self._outlets: Final = outlets
        self._running: Final[dict[Digest, Fetch]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def running(self, digest: Digest) -> Fetch | None:
        return self._running.get(digest)

    def join(self, asked: BlobAsked, upstream: Upstream) -> Fetch:
        """The one that is under way, or a new one."""
        fetch = self._running.get(asked.digest)
        if fetch is None:
            fetch = self._running[asked.digest] = Fetch(asked)
            self._group.create_task(self._run(fetch, upstream))
        return fetch

    async def _run(self, fetch: Fetch, upstream: Upstream) -> None:
        digest = fetch.asked.digest
        outcome = FAILED
        try:
            with fetch.used():
                async with self.slots.one():
                    outcome = await self._fetch(fetch, upstream)
        except DigestMismatchError as error:
            outcome = CORRUPT
            log.error("the registry sent something else host=%s digest=%s", upstream.host, digest)  # noqa: TRY400 - no defect of ours
            fetch.fail(error)
        except UnspooledError as error:
            outcome = UNSPOOLED
            log.warning("a layer is not kept host=%s digest=%s reason=%r", upstream.host, digest, str(error))
            fetch.fail(error)
        except RegistryError as error:
            log.warning("fetch failed host=%s digest=%s reason=%r", upstream.host, digest, str(error))
            fetch.fail(error)
        except OSError as error:
            log.error("the spool failed digest=%s error=%r", digest, str(error))  # noqa: TRY400 - the sentence says it all
            fetch.fail(unavailable(503, "the mirror's own disk failed"))
        except Exception:
            log.exception("a defect ended a fetch digest=%s", digest)
            fetch.fail(unavailable(500, "a defect of the mirror"))
        finally:
            del self._running[digest]
            fetch.fail(unavailable(503, "the mirror is stopping"))
            self._outlets.ended(outcome)

    async def _fetch(self, fetch: Fetch, upstream: Upstream) -> str:
        asked = fetch.asked
        async with self._upstream.opened(blob_call(asked, upstream)) as answer:
            size = answer.content_length
            if answer.status != 200 or size is None or "Content-Encoding" in answer.headers:
                raise UnspooledError("the registry does not say its size")
            file = await self._spool.file(size)
            if file is None:
                raise UnspooledError(f"there is no room for {size} bytes in the spool")
            fetch.begin(file, size)
            receipt = _Receipt(fetch, file, asked.digest.hasher())
            rest = await self._receive(receipt, answer)
        while rest is not None:
            rest = await self._resume(receipt, upstream, rest)
        if receipt.hasher.hexdigest() != asked.digest.hexadecimal:
            raise mismatch(asked.host, asked.digest)
        fetch.verify()
        stored = await self._cache.put(asked.digest.blob_name, asked.digest, size, lambda: pieces_of(file, size))
        log.debug("fetched host=%s digest=%s bytes=%d stored=%s", upstream.host, asked.digest, size, stored)
        return FETCHED

    async def _resume(self, receipt: "_Receipt", upstream: Upstream, broken: BrokenOffError) -> BrokenOffError | None:
        """Ask for what is missing; what a registry sends in its place is no help."""
        asked, size, offset = receipt.fetch.asked, receipt.fetch.size, receipt.offset
        log.info("a layer is resumed host=%s digest=%s at=%d bytes=%d", upstream.host, asked.digest, offset, size)
        call = replace(blob_call(asked, upstream), headers={"Range": f"bytes={offset}-"})
        async with self._upstream.opened(call) as answer:
            span = read_content_range(answer.headers.get("Content-Range", ""))
            if answer.status != 206 or span != (offset, size - 1, size) or "Content-Encoding" in answer.headers:
                raise broken
            return await self._receive(receipt, answer)

    async def _receive(self, receipt: "_Receipt", answer: aiohttp.ClientResponse) -> BrokenOffError | None:
        """All that an answer brings; the error if the registry broke it off, and the rest is worth asking for."""
        fetch, began = receipt.fetch, receipt.offset
        host, size = fetch.asked.host, fetch.size
        try:
            async for piece in received(answer, host):
                if receipt.offset + len(piece) > size:
                    raise unavailable(502, f"{host} sends more than it said")
                await asyncio.to_thread(receipt.take, piece)
                self._outlets.received(len(piece))
                fetch.arrive(len(piece))
            if receipt.offset < size:
                raise broken_off(f"{host} broke off after {receipt.offset} of {size} bytes")
        except BrokenOffError as error:
            if receipt.offset - began < _WORTH_RESUMING_BYTES:
                raise
            return error
        return None


class _Receipt:
    """What has come of a layer, over one connection or several.

    Attributes:
        offset: Of the byte that is missing first.
    """

    def __init__(self, fetch: Fetch, file: SpoolFile, hasher: Hasher) -> None:
        self.fetch: Final = fetch
        self.hasher: Final = hasher
        self.offset = 0
        self._file: Final = file

    def take(self, piece: bytes) -> None:
        """Blocking."""
        self._file.write(self.offset, piece)
        self.hasher.update(piece)
        self.offset += len(piece)


def blob_call(asked: BlobAsked, upstream: Upstream, method: str = "GET") -> Call:
    return Call(upstream, asked.repository, f"blobs/{asked.digest}", method)


async def received(answer: aiohttp.ClientResponse, host: str) -> AsyncIterator[bytes]:
    """A body as it arrives; what counts as slow is the registry's time alone, not that of whoever takes the pieces.

    Raises:
        RegistryError: It ends before its end, or comes too slowly.
    """
    waited, arrived = 0.0, 0
    try:
        while True:
            began = monotonic()
            async with asyncio.timeout(_PATIENCE_SECONDS + arrived / _LEAST_BYTES_PER_SECOND - waited):
                piece = await answer.content.readany()
            if not piece:
                return
            waited, arrived = waited + monotonic() - began, arrived + len(piece)
            yield piece
    except TimeoutError:
        raise unavailable(504, f"{host} ceased to send, or sends too slowly") from None
    except (aiohttp.ClientError, OSError) as error:
        raise broken_off(f"{host} broke off: {type(error).__name__}") from error


def broken_off(text: str) -> BrokenOffError:
    return BrokenOffError(502, UNAVAILABLE, text)


def mismatch(host: str, digest: Digest) -> DigestMismatchError:
    return DigestMismatchError(502, BLOB_UNKNOWN, f"what {host} sends is not {digest}")
