"""The distribution API, read-only: an ASGI application; read `Application.__call__` first."""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType
from typing import Final

from objectcache.registry import metrics as words
from objectcache.registry.asking import (
    Asked,
    BlobAsked,
    ListAsked,
    ManifestAsked,
    TagAsked,
    VersionAsked,
    next_link,
    read_asked,
)
from objectcache.registry.cache import Cache, CacheBrokenError, Found
from objectcache.registry.config import Upstream, Upstreams
from objectcache.registry.digests import Digest
from objectcache.registry.errors import NO_HEADERS, UNSUPPORTED, RegistryError, unavailable
from objectcache.registry.fetching import Fetch, Fetches, UnspooledError, blob_call, mismatch, received
from objectcache.registry.manifests import MOST_BYTES, essence
from objectcache.registry.metrics import Metrics
from objectcache.registry.ranges import Range, read_range, within
from objectcache.registry.resolving import Manifest, Resolver
from objectcache.registry.sending import ClientGoneError, Sender
from objectcache.registry.slots import Slots
from objectcache.registry.upstream import Call, UpstreamClient, read_bounded
from tasuki.process.asgi import AsgiScope, Receive, Send, reply_and_close
from tasuki.process.sentences import shown

log: Final = logging.getLogger(__name__)

_VERSION: Final = MappingProxyType({"Docker-Distribution-API-Version": "registry/2.0"})
_JSON: Final = MappingProxyType({**_VERSION, "Content-Type": "application/json"})
_OCTETS: Final = "application/octet-stream"

_KINDS: Final[Mapping[type[Asked], str]] = MappingProxyType(
    {
        VersionAsked: words.VERSION,
        BlobAsked: words.BLOB,
        ManifestAsked: words.MANIFEST,
        TagAsked: words.TAG,
        ListAsked: words.LIST,
    }
)

# Clients that send none at all get what a registry would give them for it.
_ANY: Final = "*/*"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where images are from."""

    cache: Cache
    upstream: UpstreamClient
    resolver: Resolver
    fetches: Fetches


@dataclass(frozen=True, slots=True)
class Manners:
    """How clients are served.

    Attributes:
        verifies_hits: Whether a whole layer from the cache is hashed while it is sent.
        stall_seconds: How long a client may take nothing.
        most_streams: How many layers are sent at once, of which each takes up to some 2 MiB of memory.
    """

    verifies_hits: bool = True
    stall_seconds: float = 60.0
    most_streams: int = 128


@dataclass(frozen=True, slots=True)
class _Request:
    """What is answered, and how it was asked."""

    is_head: bool
    headers: Mapping[str, str]
    sender: Sender

    @property
    def accept(self) -> str:
        return self.headers.get("accept", "") or _ANY

    def range_of(self, etag: str) -> Range | None:
        """The part that is asked for; None for the whole."""
        if self.is_head or self.headers.get("if-range", etag) != etag:
            return None
        return read_range(self.headers.get("range", ""))

    def has(self, etag: str) -> bool:
        """Whether the client says that it has it already."""
        return etag in [each.strip().removeprefix("W/") for each in self.headers.get("if-none-match", "").split(",")]


class Application:
    """Answers what reads, and nothing else."""

    def __init__(self, sources: Sources, metrics: Metrics, manners: Manners) -> None:
        self._cache: Final = sources.cache
        self._upstream: Final = sources.upstream
        self._resolver: Final = sources.resolver
        self._fetches: Final = sources.fetches
        self._metrics: Final = metrics
        self._manners: Final = manners
        self._streams: Final = Slots(manners.most_streams, "the mirror sends as many layers at once as it may")
        self._upstreams: Upstreams = MappingProxyType({})

    def use(self, upstreams: Upstreams) -> None:
        """Mirror these from now on."""
        self._upstreams = upstreams
        self._upstream.forget_tokens()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            await self._refuse_writing(scope, receive, send)
            return
        sender = Sender(send, self._manners.stall_seconds)
        request = _Request(scope["method"] == "HEAD", _headers(scope), sender)
        kind, outcome, began = words.UNKNOWN, words.ERROR, monotonic()
        try:
            async with sender.watching(receive):
                asked = read_asked(
                    scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1"), self._upstreams
                )
                kind = _KINDS[type(asked)]
                outcome = await self._answer(asked, request)
        except RegistryError as error:
            outcome = await self._fail(scope, sender, error)
        except CacheBrokenError as error:
            outcome = await self._fail(scope, sender, unavailable(503, f"the cache broke off: {error}"))
        except ClientGoneError:
            outcome = words.GONE
        except Exception:
            log.exception("a defect ended a request path=%s", shown(scope["path"]))
            outcome = await self._fail(scope, sender, unavailable(500, "a defect of the mirror"))
            outcome = words.ERROR
        finally:
            self._metrics.answered(kind, outcome, sender.sent_bytes, monotonic() - began)

    async def _refuse_writing(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        self._metrics.answered(words.UNKNOWN, words.REFUSED, 0, 0.0)
        error = RegistryError(405, UNSUPPORTED, "the mirror is only read; push to the registry itself")
        await reply_and_close(send, error.body(), status=405, unread=receive)
        log.debug("refused method=%s path=%s", shown(scope["method"]), shown(scope["path"]))

    async def _fail(self, scope: AsgiScope, sender: Sender, error: RegistryError) -> str:
        level = logging.WARNING if error.status >= 500 else logging.DEBUG
        log.log(level, "no image path=%s status=%d reason=%r", shown(scope["path"]), error.status, str(error))
        if sender.has_begun:
            # Left without its end, so that the server closes the connection and nobody takes it for whole.
            return words.BROKEN
        await sender.whole(error.status, {**_JSON, **error.headers}, error.body())
        return words.UNAVAILABLE if error.status >= 500 else words.REFUSED

    async def _answer(self, asked: Asked, request: _Request) -> str:
        match asked:
            case VersionAsked():
                await request.sender.whole(200, _JSON, b"{}")
                return words.HIT
            case BlobAsked():
                upstream = self._upstreams[asked.host]
                return await (self._blob_size if request.is_head else self._blob)(asked, upstream, request)
            case ManifestAsked():
                return await self._manifest(asked, self._upstreams[asked.host], request)
            case TagAsked():
                return await self._tag(asked, self._upstreams[asked.host], request)
            case ListAsked():
                return await self._list(asked, self._upstreams[asked.host], request)

    async def _blob_size(self, asked: BlobAsked, upstream: Upstream, request: _Request) -> str:
        size, outcome = await self._cache.size_of(asked.digest.blob_name), words.HIT
        if size is None:
            outcome = words.PASSED
            async with self._upstream.opened(blob_call(asked, upstream, "HEAD")) as answer:
                size = answer.content_length
        length = {} if size is None else {"Content-Length": str(size)}
        await request.sender.begin(200, {**_blob_headers(asked.digest), **length})
        await request.sender.end()
        return outcome

    async def _blob(self, asked: BlobAsked, upstream: Upstream, request: _Request) -> str:
        etag = _etag(asked.digest)
        part = request.range_of(etag)
        if request.has(etag):
            # The digest is the content; whoever has it need not hear whether a registry still has it too.
            await _not_modified(request.sender, asked.digest)
            return words.HIT
        async with self._streams.one():
            return await self._send_blob(asked, upstream, part, request.sender)

    async def _send_blob(self, asked: BlobAsked, upstream: Upstream, part: Range | None, sender: Sender) -> str:
        if self._fetches.running(asked.digest) is None:
            async with self._cache.opened(asked.digest.blob_name, part) as found:
                if found is not None:
                    await self._send_found(asked.digest, found, sender)
                    return words.HIT
        try:
            return await self._send_fetched(asked, upstream, part, sender)
        except UnspooledError:
            await self._send_passed(asked, upstream, part, sender)
            return words.PASSED

    async def _send_found(self, digest: Digest, found: Found, sender: Sender) -> None:
        if found.is_whole and self._manners.verifies_hits:
            await _begin(sender, digest, found.size, None)
            try:
                await _send_verified(found.pieces, digest, found.size, sender, "the cache")
            except RegistryError:
                self._metrics.corrupt.inc()
                log.warning("the cache's layer is not what its name says; removed digest=%s", digest)
                await self._cache.remove(digest.blob_name)
                raise
            await sender.end()
            return
        await _begin(sender, digest, found.size, None if found.is_whole else (found.first, found.last))
        async for piece in found.pieces:
            await sender.piece(piece)
        await sender.end()

    async def _send_fetched(self, asked: BlobAsked, upstream: Upstream, part: Range | None, sender: Sender) -> str:
        """From a fetch that is under way; one that somebody else began may fail for reasons of theirs."""
        fetch = self._fetches.join(asked, upstream)
        outcome = words.FETCHED if fetch.asked is asked else words.JOINED
        try:
            await self._send_arriving(fetch, part, sender)
        except RegistryError:
            theirs = (fetch.asked.host, fetch.asked.repository) != (asked.host, asked.repository)
            if sender.has_begun or not theirs:
                raise
            await self._send_arriving(self._fetches.join(asked, upstream), part, sender)
            return words.FETCHED
        return outcome

    async def _send_arriving(self, fetch: Fetch, part: Range | None, sender: Sender) -> None:
        with fetch.used():
            await fetch.started()
            first, last = await _begin_part(sender, fetch.asked.digest, fetch.size, part)
            async for piece in fetch.pieces(first, last):
                await sender.piece(piece)
            await sender.end()

    async def _send_passed(self, asked: BlobAsked, upstream: Upstream, part: Range | None, sender: Sender) -> None:
        """Straight from the registry: what cannot be kept on its way is not stored either."""
        headers = {} if part is None else {"Range": str(part)}
        call = Call(upstream, asked.repository, f"blobs/{asked.digest}", headers=headers)
        async with self._fetches.slots.one(), self._upstream.opened(call) as answer:
            if "Content-Encoding" in answer.headers:
                raise unavailable(502, f"{asked.host} sends a layer encoded, though that was not asked for")
            pieces, size = received(answer, asked.host), answer.content_length
            if answer.status == 206:
                span = {"Content-Range": answer.headers.get("Content-Range", "")}
                length = {} if size is None else {"Content-Length": str(size)}
                await sender.begin(206, {**_blob_headers(asked.digest), **span, **length})
                async for piece in pieces:
                    await sender.piece(piece)
            else:
                await _begin(sender, asked.digest, size, None)
                await _send_verified(pieces, asked.digest, size, sender, asked.host)
            await sender.end()

    async def _manifest(self, asked: ManifestAsked, upstream: Upstream, request: _Request) -> str:
        if request.has(_etag(asked.digest)):
            await _not_modified(request.sender, asked.digest)
            return words.HIT
        manifest = await self._resolver.manifest(asked, upstream, request.accept)
        await _send_manifest(manifest, request)
        return words.HIT if manifest.was_cached else words.FETCHED

    async def _tag(self, asked: TagAsked, upstream: Upstream, request: _Request) -> str:
        found = await self._resolver.tag(asked, upstream, request.accept)
        digest, warning = found.resolved.digest, {"Warning": found.warning} if found.warning else NO_HEADERS
        outcome = words.STALE if found.warning else words.HIT if found.was_remembered else words.FETCHED
        if request.is_head:
            length = {"Content-Type": found.resolved.media_type, "Content-Length": str(found.resolved.size)}
            await request.sender.begin(200, {**_headers_of(digest), **length, **warning})
            await request.sender.end()
            return outcome
        manifest = await self._resolver.manifest(
            ManifestAsked(asked.host, asked.repository, digest), upstream, request.accept
        )
        await _send_manifest(manifest, request, warning)
        return outcome

    async def _list(self, asked: ListAsked, upstream: Upstream, request: _Request) -> str:
        headers = {"Accept": request.accept}
        async with self._upstream.opened(
            Call(upstream, asked.repository, asked.path, query=asked.query, headers=headers)
        ) as answer:
            content = await read_bounded(answer, asked.host, MOST_BYTES)
            kind = essence(answer.headers.get("Content-Type", "")) or "application/json"
            link = next_link(answer.headers.get("Link", ""), asked)
            applied = answer.headers.get("OCI-Filters-Applied", "")
        more = {"Link": link} if link else {}
        if applied == "artifactType":
            more["OCI-Filters-Applied"] = applied
        await request.sender.whole(200, {**_VERSION, "Content-Type": kind, **more}, content)
        return words.PASSED


def _headers(scope: AsgiScope) -> dict[str, str]:
    """By name in lower case; a header that is sent twice is a list."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


def _headers_of(digest: Digest) -> dict[str, str]:
    return {**_VERSION, "Docker-Content-Digest": str(digest), "ETag": _etag(digest)}


def _blob_headers(digest: Digest) -> dict[str, str]:
    return {**_headers_of(digest), "Content-Type": _OCTETS, "Accept-Ranges": "bytes"}


async def _not_modified(sender: Sender, digest: Digest) -> None:
    await sender.begin(304, _headers_of(digest))
    await sender.end()


async def _begin_part(sender: Sender, digest: Digest, size: int, part: Range | None) -> tuple[int, int]:
    """Begin an answer of a layer or of a part; first and last byte of what is to follow, inclusive."""
    span = within(part, size) if part is not None else None
    if part is None or span == (0, size - 1):
        await _begin(sender, digest, size, None)
        return 0, size - 1
    await _begin(sender, digest, size, span or (0, -1))
    return span or (0, -1)


async def _begin(sender: Sender, digest: Digest, size: int | None, span: tuple[int, int] | None) -> None:
    """The head of a layer of `size` bytes (None if nobody knows) or of a part of it.

    The span's last byte is inclusive, and less than the first where there is no such part.
    """
    headers = _blob_headers(digest)
    if span is None:
        await sender.begin(200, headers if size is None else {**headers, "Content-Length": str(size)})
        return
    first, last = span
    there = f"{first}-{last}" if first <= last else "*"
    more = {"Content-Range": f"bytes {there}/{size}", "Content-Length": str(last - first + 1)}
    await sender.begin(206 if first <= last else 416, {**headers, **more})


async def _send_verified(
    pieces: AsyncIterator[bytes], digest: Digest, size: int | None, sender: Sender, source: str
) -> None:
    """Send a whole layer, its last piece only once the digest is known to be right.

    Raises:
        RegistryError: It is not what it should be; the answer has no end then.
    """
    hasher, held, arrived = digest.hasher(), b"", 0
    async for piece in pieces:
        if held:
            await sender.piece(held)
        hasher.update(piece)
        arrived += len(piece)
        held = piece
    if hasher.hexdigest() != digest.hexadecimal or (size is not None and arrived != size):
        raise mismatch(source, digest)
    await sender.piece(held)


async def _send_manifest(manifest: Manifest, request: _Request, more: Mapping[str, str] = NO_HEADERS) -> None:
    headers = {**_headers_of(manifest.digest), "Content-Type": manifest.media_type, **more}
    await request.sender.whole(200, headers, manifest.content)
