"""The distribution API, read-only: an ASGI application; read `Application.__call__` first."""

import logging
from collections.abc import Mapping
from contextlib import suppress
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
from objectcache.registry.cache import CacheBrokenError
from objectcache.registry.config import Upstream, Upstreams
from objectcache.registry.digests import Digest
from objectcache.registry.errors import NO_HEADERS, UNSUPPORTED, RegistryError, unavailable
from objectcache.registry.layers import VERSION_HEADER, Layers, etag, headers_of
from objectcache.registry.manifests import MOST_BYTES, essence
from objectcache.registry.metrics import Metrics
from objectcache.registry.ranges import Range, read_range
from objectcache.registry.resolving import Manifest, Resolver
from objectcache.registry.sending import ClientGoneError, Sender
from objectcache.registry.slots import Slots
from objectcache.registry.upstream import Call, UpstreamClient, read_bounded
from tasuki.process.asgi import AsgiScope, Receive, Send, reply_and_close
from tasuki.process.sentences import shown

log: Final = logging.getLogger(__name__)

_JSON: Final = MappingProxyType({**VERSION_HEADER, "Content-Type": "application/json"})

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

    layers: Layers
    resolver: Resolver
    upstream: UpstreamClient


@dataclass(frozen=True, slots=True)
class Manners:
    """How clients are served.

    Attributes:
        stall_seconds: How long a client may take nothing.
        most_streams: How many layers are sent at once, of which each takes up to some 2 MiB of memory.
        most_documents: How many manifests and lists are under way at once, of which each takes up to some 8 MiB.
    """

    stall_seconds: float = 60.0
    most_streams: int = 128
    most_documents: int = 32


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
        self._layers: Final = sources.layers
        self._resolver: Final = sources.resolver
        self._upstream: Final = sources.upstream
        self._metrics: Final = metrics
        self._manners: Final = manners
        self._streams: Final = Slots(manners.most_streams, "the mirror sends as many layers at once as it may")
        self._documents: Final = Slots(
            manners.most_documents, "the mirror has as many manifests and lists under way as it may"
        )
        self._upstreams: Upstreams = MappingProxyType({})

    def use(self, upstreams: Upstreams) -> None:
        """Mirror these from now on."""
        self._upstreams = upstreams

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
        with suppress(ClientGoneError):
            await sender.whole(error.status, {**_JSON, **error.headers}, error.body())
        return words.UNAVAILABLE if error.status >= 500 else words.REFUSED

    async def _answer(self, asked: Asked, request: _Request) -> str:
        match asked:
            case VersionAsked():
                await request.sender.whole(200, _JSON, b"{}")
                return words.HIT
            case BlobAsked():
                return await self._blob(asked, self._upstreams[asked.host], request)
        upstream = self._upstreams[asked.host]
        async with self._documents.one():
            match asked:
                case ManifestAsked():
                    return await self._manifest(asked, upstream, request)
                case TagAsked():
                    return await self._tag(asked, upstream, request)
                case ListAsked():
                    return await self._list(asked, upstream, request)

    async def _blob(self, asked: BlobAsked, upstream: Upstream, request: _Request) -> str:
        if request.is_head:
            return await self._layers.send_size(asked, upstream, request.sender)
        if request.has(etag(asked.digest)):
            # The digest is the content; whoever has it need not hear whether a registry still has it too.
            await _not_modified(request.sender, asked.digest)
            return words.HIT
        async with self._streams.one():
            return await self._layers.send(asked, upstream, request.range_of(etag(asked.digest)), request.sender)

    async def _manifest(self, asked: ManifestAsked, upstream: Upstream, request: _Request) -> str:
        if request.has(etag(asked.digest)):
            await _not_modified(request.sender, asked.digest)
            return words.HIT
        manifest = await self._resolver.manifest(asked, upstream)
        await _send_manifest(manifest, request)
        return words.HIT if manifest.was_cached else words.FETCHED

    async def _tag(self, asked: TagAsked, upstream: Upstream, request: _Request) -> str:
        found = await self._resolver.tag(asked, upstream, request.accept)
        digest, warning = found.resolved.digest, {"Warning": found.warning} if found.warning else NO_HEADERS
        outcome = words.STALE if found.warning else words.HIT if found.was_remembered else words.FETCHED
        if request.is_head:
            length = {"Content-Type": found.resolved.media_type, "Content-Length": str(found.resolved.size)}
            await request.sender.begin(200, {**headers_of(digest), **length, **warning})
            await request.sender.end()
            return outcome
        manifest = await self._resolver.manifest(ManifestAsked(asked.host, asked.repository, digest), upstream)
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
        await request.sender.whole(200, {**VERSION_HEADER, "Content-Type": kind, **more}, content)
        return words.PASSED


def _headers(scope: AsgiScope) -> dict[str, str]:
    """By name in lower case; a header that is sent twice is a list."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


async def _not_modified(sender: Sender, digest: Digest) -> None:
    await sender.begin(304, headers_of(digest))
    await sender.end()


async def _send_manifest(manifest: Manifest, request: _Request, more: Mapping[str, str] = NO_HEADERS) -> None:
    headers = {**headers_of(manifest.digest), "Content-Type": manifest.media_type, **more}
    await request.sender.whole(200, headers, manifest.content)
