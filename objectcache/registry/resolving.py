"""Manifests and tags: from memory, from the cache, from the registry, and from memory once more."""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import aiohttp

from objectcache.registry.asking import ManifestAsked, TagAsked
from objectcache.registry.cache import Cache
from objectcache.registry.config import Upstream
from objectcache.registry.digests import Digest, read_digest, sha256_of
from objectcache.registry.errors import MANIFEST_UNKNOWN, RegistryError, unavailable
from objectcache.registry.fetching import mismatch
from objectcache.registry.manifests import MOST_BYTES, essence, media_type_of
from objectcache.registry.single_flight import SingleFlight
from objectcache.registry.tags import Remembered, Resolved, TagKey, TagMemory
from objectcache.registry.upstream import Call, UpstreamClient, read_bounded

log: Final = logging.getLogger(__name__)

_HOUR: Final = 3600.0
_LONGEST_ACCEPT: Final = 2048
# A digest has one content, whatever a client would rather have: what one may not take is no answer to the others who
# wait for it.
_ANY_MANIFEST: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*"
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest to be sent.

    Attributes:
        was_cached: It is from the cache.
    """

    digest: Digest
    media_type: str
    content: bytes
    was_cached: bool = False


@dataclass(frozen=True, slots=True)
class TagFound:
    """What a tag leads to.

    Attributes:
        was_remembered: The registry was not asked.
        warning: For the client, if it may be out of date.
    """

    resolved: Resolved
    was_remembered: bool = False
    warning: str = ""


class Resolver:
    """Asks registries for manifests and tags, each once at a time.

    Args:
        group: Owns what several wait for.
        monotonic: In seconds.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        upstream: UpstreamClient,
        cache: Cache,
        tags: TagMemory,
        monotonic: Callable[[], float],
    ) -> None:
        self._upstream: Final = upstream
        self._cache: Final = cache
        self._tags: Final = tags
        self._monotonic: Final = monotonic
        self._manifests: Final[SingleFlight[tuple[Upstream, str, Digest], Manifest]] = SingleFlight(group)
        self._resolving: Final[SingleFlight[TagKey, Resolved]] = SingleFlight(group)

    async def manifest(self, asked: ManifestAsked, upstream: Upstream) -> Manifest:
        """A manifest whose bytes have the digest.

        Raises:
            RegistryError: It cannot be had.
        """
        key = (upstream, asked.repository, asked.digest)
        return await self._manifests.get(key, lambda: self._find(asked, upstream))

    async def _find(self, asked: ManifestAsked, upstream: Upstream) -> Manifest:
        digest = asked.digest
        content = await self._cache.read(digest.manifest_name, MOST_BYTES)
        if content is not None:
            media_type = media_type_of(content)
            if media_type and digest.is_of(content):
                return Manifest(digest, media_type, content, was_cached=True)
            log.warning("the cache's manifest is not what its name says; removed digest=%s", digest)
            await self._cache.remove(digest.manifest_name)
        return await self._fetch(asked, upstream)

    async def tag(self, asked: TagAsked, upstream: Upstream, accept: str) -> TagFound:
        """What a tag leads to, by the registry if it can say.

        Raises:
            RegistryError: The registry denies it, or is away and nothing is remembered that could stand in.
        """
        if len(accept) > _LONGEST_ACCEPT:
            raise RegistryError(400, MANIFEST_UNKNOWN, f"Accept has more than {_LONGEST_ACCEPT} characters")
        key, now = TagKey(upstream, asked.repository, asked.tag, accept), self._monotonic()
        known = self._tags.find(key, now)
        if known is not None and known.is_fresh:
            return TagFound(known.resolved, was_remembered=True)
        if known is not None and known.is_servable and self._tags.is_paused(key, now):
            return _stale(known)
        try:
            return TagFound(await self._resolving.get(key, lambda: self._resolve(key, asked)))
        except RegistryError as error:
            if error.says_gone:
                self._tags.forget(key)
                raise
            if known is None or not known.is_servable:
                raise
            self._tags.away(key, self._monotonic())
            log.warning(
                "a tag's last digest is served host=%s repository=%s tag=%s age=%.0f reason=%r",
                asked.host, asked.repository, asked.tag, known.age_seconds, str(error),
            )  # fmt: skip
            return _stale(known)

    async def _resolve(self, key: TagKey, asked: TagAsked) -> Resolved:
        """By HEAD, which registries that count pulls do not count; by GET if that does not say enough."""
        call = Call(key.upstream, asked.repository, f"manifests/{asked.tag}", "HEAD", headers={"Accept": key.accept})
        try:
            async with self._upstream.opened(call) as answer:
                resolved = _resolved(answer)
        except RegistryError as error:
            if error.status == 404:
                raise RegistryError(404, MANIFEST_UNKNOWN, str(error)) from None
            raise
        if resolved is None:
            async with self._upstream.opened(replace(call, method="GET")) as answer:
                content = await read_bounded(answer, asked.host, MOST_BYTES)
                media_type = essence(answer.headers.get("Content-Type", ""))
            if not media_type:
                raise unavailable(502, f"{asked.host} sends a manifest of no media type")
            resolved = Resolved(sha256_of(content), media_type, len(content))
            await self._store(Manifest(resolved.digest, media_type, content))
        self._tags.put(key, resolved, self._monotonic())
        return resolved

    async def _fetch(self, asked: ManifestAsked, upstream: Upstream) -> Manifest:
        digest = asked.digest
        call = Call(upstream, asked.repository, f"manifests/{digest}", headers={"Accept": _ANY_MANIFEST})
        try:
            async with self._upstream.opened(call) as answer:
                content = await read_bounded(answer, asked.host, MOST_BYTES)
                media_type = essence(answer.headers.get("Content-Type", ""))
        except RegistryError as error:
            if error.status == 404:
                raise RegistryError(404, MANIFEST_UNKNOWN, str(error)) from None
            raise
        if not digest.is_of(content):
            raise mismatch(asked.host, digest)
        manifest = Manifest(digest, media_type or media_type_of(content), content)
        if not manifest.media_type:
            raise unavailable(502, f"{asked.host} sends a manifest of no media type")
        await self._store(manifest)
        return manifest

    async def _store(self, manifest: Manifest) -> None:
        """Only if its media type can be told from its bytes later: the cache keeps nothing beside them."""
        content, digest = manifest.content, manifest.digest
        if media_type_of(content) == manifest.media_type:
            await self._cache.put_small(digest.manifest_name, digest, content)


def _resolved(answer: aiohttp.ClientResponse) -> Resolved | None:
    """What the headers of an answer to HEAD say; None if they do not say enough."""
    media_type = essence(answer.headers.get("Content-Type", ""))
    size = answer.headers.get("Content-Length", "")
    try:
        digest = read_digest(answer.headers.get("Docker-Content-Digest", ""))
    except ValueError:
        return None
    if not media_type or not (size.isascii() and size.isdigit() and len(size) < 12):
        return None
    return Resolved(digest, media_type, int(size))


def _stale(known: Remembered) -> TagFound:
    """With a warning as the distribution spec wants it ("Warnings"): code 299, no agent; containerd logs it."""
    hours = math.ceil(known.age_seconds / _HOUR * 10) / 10
    text = f"the registry is away; this tag is as it was {hours:g} hours ago"
    return TagFound(known.resolved, warning=f'299 - "{text}"')
