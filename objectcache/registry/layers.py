"""Sending a layer: from the cache, from a fetch that is under way, or straight from the registry."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from objectcache.registry import metrics as words
from objectcache.registry.asking import BlobAsked
from objectcache.registry.cache import Cache, CacheBrokenError, Found
from objectcache.registry.config import Upstream
from objectcache.registry.digests import Digest
from objectcache.registry.errors import DigestMismatchError, RegistryError, unavailable
from objectcache.registry.fetching import Fetch, Fetches, UnspooledError, blob_call, mismatch, received
from objectcache.registry.ranges import Range, read_content_range, within
from objectcache.registry.sending import Sender
from objectcache.registry.upstream import Call, UpstreamClient

log: Final = logging.getLogger(__name__)

VERSION_HEADER: Final = MappingProxyType({"Docker-Distribution-API-Version": "registry/2.0"})
_OCTETS: Final = "application/octet-stream"


def etag(digest: Digest) -> str:
    return f'"{digest}"'


def headers_of(digest: Digest) -> dict[str, str]:
    """Of whatever has this digest."""
    return {**VERSION_HEADER, "Docker-Content-Digest": str(digest), "ETag": etag(digest)}


class Layers:
    """Sends each from where it is found first.

    Args:
        verifies_hits: Whether a whole layer from the cache is hashed while it is sent.
        corrupt: Told of each object of the cache that is not what its name says.
    """

    def __init__(
        self,
        cache: Cache,
        upstream: UpstreamClient,
        fetches: Fetches,
        *,
        verifies_hits: bool,
        corrupt: Callable[[], None],
    ) -> None:
        self._cache: Final = cache
        self._upstream: Final = upstream
        self._fetches: Final = fetches
        self._verifies_hits: Final = verifies_hits
        self._corrupt: Final = corrupt

    async def send_size(self, asked: BlobAsked, upstream: Upstream, sender: Sender) -> str:
        """Answer HEAD.

        Returns:
            The outcome, as metrics spell it.

        Raises:
            RegistryError: It cannot be had.
            ClientGoneError: Nobody takes it.
        """
        size, outcome = await self._cache.size_of(asked.digest.blob_name), words.HIT
        if size is None:
            outcome = words.PASSED
            async with self._upstream.opened(blob_call(asked, upstream, "HEAD")) as answer:
                size = answer.content_length
        await sender.begin(200, _whole_headers(asked.digest, size))
        await sender.end()
        return outcome

    async def send(self, asked: BlobAsked, upstream: Upstream, part: Range | None, sender: Sender) -> str:
        """Answer GET of the whole, or of a part; returns the outcome.

        Raises:
            RegistryError: It cannot be had, or not the rest of it.
            CacheBrokenError: The cache ceased to send within it.
            ClientGoneError: Nobody takes it.
        """
        if self._fetches.running(asked.digest) is None and await self._send_cached(asked.digest, part, sender):
            return words.HIT
        try:
            return await self._send_fetched(asked, upstream, part, sender)
        except UnspooledError:
            await self._send_passed(asked, upstream, part, sender)
            return words.PASSED

    async def _send_cached(self, digest: Digest, part: Range | None, sender: Sender) -> bool:
        """False if nothing was sent, as the cache has none that is right."""
        async with self._cache.opened(digest.blob_name, part) as found:
            if found is None:
                return False
            try:
                await self._send_found(digest, found, sender)
            except (CacheBrokenError, DigestMismatchError):
                if sender.has_begun:
                    raise
                return False
        return True

    async def _send_found(self, digest: Digest, found: Found, sender: Sender) -> None:
        if found.is_whole and self._verifies_hits:
            try:
                await _send_verified(found.pieces, digest, found.size, sender, "the cache")
            except DigestMismatchError:
                self._corrupt()
                log.warning("the cache's layer is not what its name says; removed digest=%s", digest)
                await self._cache.remove(digest.blob_name)
                raise
            return
        span = None if found.is_whole else (found.first, found.last)
        await _send_all(sender, _Head(digest, found.size, span), found.pieces)

    async def _send_fetched(self, asked: BlobAsked, upstream: Upstream, part: Range | None, sender: Sender) -> str:
        """From a fetch that is under way; one that somebody else began may fail for reasons of theirs."""
        fetch = self._fetches.join(asked, upstream)
        outcome = words.FETCHED if fetch.asked is asked else words.JOINED
        try:
            await _send_arriving(fetch, part, sender)
        except RegistryError:
            theirs = (fetch.asked.host, fetch.asked.repository) != (asked.host, asked.repository)
            if sender.has_begun or not theirs:
                raise
            await _send_arriving(self._fetches.join(asked, upstream), part, sender)
            return words.FETCHED
        return outcome

    async def _send_passed(self, asked: BlobAsked, upstream: Upstream, part: Range | None, sender: Sender) -> None:
        """Straight from the registry: what cannot be kept on its way is not stored either."""
        headers = {} if part is None else {"Range": str(part)}
        call = Call(upstream, asked.repository, f"blobs/{asked.digest}", headers=headers)
        async with self._fetches.slots.one(), self._upstream.opened(call) as answer:
            if "Content-Encoding" in answer.headers:
                raise unavailable(502, f"{asked.host} sends a layer encoded, though that was not asked for")
            pieces = received(answer, asked.host)
            if answer.status == 200:
                await _send_verified(pieces, asked.digest, answer.content_length, sender, asked.host)
                return
            span = read_content_range(answer.headers.get("Content-Range", ""))
            if part is None or span is None or within(part, span[2]) != span[:2]:
                raise unavailable(502, f"{asked.host} sends another part than it was asked for")
            first, last, size = span
            head = _Head(asked.digest, size, (first, last))
            await _send_all(sender, head, _exactly(last + 1 - first, pieces, asked.host))


def _whole_headers(digest: Digest, size: int | None) -> Mapping[str, str]:
    """Of a layer of `size` bytes; None if nobody knows."""
    length = {} if size is None else {"Content-Length": str(size)}
    return {**headers_of(digest), "Content-Type": _OCTETS, "Accept-Ranges": "bytes", **length}


@dataclass(frozen=True, slots=True)
class _Head:
    """Of a layer or of a part of it.

    Attributes:
        size: Of the layer in bytes.
        span: First and last byte, inclusive, the last less than the first where there is no such part; None for all.
    """

    digest: Digest
    size: int
    span: tuple[int, int] | None

    async def send(self, sender: Sender) -> None:
        if self.span is None:
            await sender.begin(200, _whole_headers(self.digest, self.size))
            return
        first, last = self.span
        there = f"{first}-{last}" if first <= last else "*"
        headers = {**_whole_headers(self.digest, last + 1 - first), "Content-Range": f"bytes {there}/{self.size}"}
        await sender.begin(206 if first <= last else 416, headers)


async def _send_all(sender: Sender, head: _Head, pieces: AsyncIterator[bytes]) -> None:
    """The head goes with the first piece.

    What does not come at all is then refused with a status, upon which containerd asks its next host. An answer that
    is broken off it takes up here again, three times, and gives up the whole pull
    (core/remotes/docker/httpreadseeker.go, Read).
    """
    async for piece in pieces:
        if not sender.has_begun:
            await head.send(sender)
        await sender.piece(piece)
    if not sender.has_begun:
        await head.send(sender)
    await sender.end()


async def _send_arriving(fetch: Fetch, part: Range | None, sender: Sender) -> None:
    with fetch.used():
        await fetch.started()
        whole, nothing = (0, fetch.size - 1), (0, -1)
        span = whole if part is None else within(part, fetch.size) or nothing
        head = _Head(fetch.asked.digest, fetch.size, None if span == whole else span)
        await _send_all(sender, head, fetch.pieces(*span))


async def _send_verified(
    pieces: AsyncIterator[bytes], digest: Digest, size: int | None, sender: Sender, source: str
) -> None:
    """Answer with a whole layer, its last piece only once the digest is known to be right.

    Not even the status is sent before that where there is one piece or none: an empty answer ends with its head.

    Raises:
        RegistryError: It is not what it should be; the answer has no end then.
    """
    hasher, held = digest.hasher(), b""
    async for piece in pieces:
        if held:
            await _send_piece(held, digest, size, sender)
        hasher.update(piece)
        held = piece
    if hasher.hexdigest() != digest.hexadecimal:
        raise mismatch(source, digest)
    await _send_piece(held, digest, size, sender)
    await sender.end()


async def _send_piece(piece: bytes, digest: Digest, size: int | None, sender: Sender) -> None:
    if not sender.has_begun:
        await sender.begin(200, _whole_headers(digest, size))
    await sender.piece(piece)


async def _exactly(count: int, pieces: AsyncIterator[bytes], host: str) -> AsyncIterator[bytes]:
    async for piece in pieces:
        count -= len(piece)
        if count < 0:
            break
        yield piece
    if count:
        raise unavailable(502, f"{host} sends {'more' if count < 0 else 'less'} than it said")
