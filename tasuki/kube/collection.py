"""Following one collection of the Kubernetes API as it changes, for as long as the process lives."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec

from tasuki.kube.backoff import Backoff
from tasuki.kube.client import METADATA_ONLY, Kube
from tasuki.kube.errors import ForbiddenError, GoneError, InvalidError, KubeError, NotFoundError, UnavailableError
from tasuki.kube.objects import UNREADABLE, WatchEvent
from tasuki.kube.watching import WatchTimes

log: Final = logging.getLogger(__name__)

# As client-go's pager: a page of 500 nodes of 15 kB is 7.5 MB.
_PAGE_LIMIT: Final = 500
# How many objects are decoded before the event loop's other tasks have a turn.
_AT_ONCE: Final = 25
# A server that names a longer time than this is not believed.
_LONGEST_RETRY_AFTER_SECONDS: Final = 300.0


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the collection itself needs; a wire type's own metadata inherits it."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class HasMetadata(Protocol):
    @property
    def metadata(self) -> Metadata: ...


S = TypeVar("S", bound=HasMetadata)
T = TypeVar("T")


class ObjectName(NamedTuple):
    """Within its collection; the namespace is empty for what has none."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Resource(Generic[S, T]):
    """Which collection, and what is kept of each of its objects.

    Attributes:
        group: Empty for the core group.
        plural: `nodes`.
        wire: The fields to decode; the fewer, the less an event costs.
        keep: Makes of them what is kept; must not raise.
        selector: `fieldSelector`, `labelSelector`.
        metadata_only: Let the server send nothing but metadata, where nothing else is decoded.
        namespace: Whose objects; a Role suffices to follow them. Empty for those of the whole cluster.
    """

    group: str
    version: str
    plural: str
    wire: type[S]
    keep: Callable[[S], T]
    selector: Mapping[str, str] = field(default_factory=dict)
    metadata_only: bool = False
    namespace: str = ""

    @property
    def path(self) -> str:
        group = f"/apis/{self.group}" if self.group else "/api"
        namespace = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{group}/{self.version}{namespace}/{self.plural}"


@dataclass(frozen=True, slots=True)
class Replaced(Generic[T]):
    """The collection was listed: these objects there are, and no others."""

    objects: Mapping[ObjectName, T]


@dataclass(frozen=True, slots=True)
class Applied(Generic[T]):
    """An object is new or changed."""

    name: ObjectName
    object: T


@dataclass(frozen=True, slots=True)
class Deleted:
    name: ObjectName


Change: TypeAlias = Replaced[T] | Applied[T] | Deleted


class Collection(Generic[S, T]):
    """A list, then a watch of it; the objects themselves are for the caller to hold.

    An object that cannot be read changes nothing: of one that was readable before, the last readable state stands
    until the next list.

    Attributes:
        synced: Whether the collection was listed completely at least once.
        last_contact: When the server last said something about it (monotonic); None until then.
        opened_at: When the server last opened a watch of it (monotonic); None until then.
        unreadable: How often an object was passed over because it could not be read.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource[S, T],
        times: WatchTimes,
        uniform: Callable[[float, float], float],
        report: Callable[[str], None],
    ) -> None:
        """Prepare to follow.

        Args:
            kube: The connection.
            resource: What is followed.
            times: How patient the watch is.
            uniform: `random.uniform`, or what stands for it.
            report: Told why the server is not in contact, and "" when it is; only when that changes.
        """
        self.synced = False
        self.last_contact: float | None = None
        self.opened_at: float | None = None
        self.unreadable = 0
        self._kube: Final = kube
        self._resource: Final = resource
        self._times: Final = times
        self._uniform: Final = uniform
        self._report: Final = report
        self._decoder: Final = msgspec.json.Decoder(resource.wire)
        self._told: str | None = None
        self._complaints: set[str] = set()
        self._listing: _Listing[T] | None = None
        self._watched: _Watched | None = None
        self._version = ""
        # Whether the server may be another than before.
        self._is_in_doubt = False
        self._resuming: Final = Backoff(times.first_pause_seconds, times.most_pause_seconds, uniform)
        # Lists are dear: these pauses are short again only after a watch that lasted.
        self._relisting: Final = Backoff(times.first_pause_seconds, times.most_pause_seconds, uniform)

    async def changes(self, *, until_forbidden: bool = False) -> AsyncGenerator[Change[T], None]:
        """First `Replaced`, then each change; `Replaced` again where changes may have been missed.

        Never ends. A broken connection, an absent API server, a resource version that has expired: it comes back.
        Close it (`contextlib.aclosing`) when done.

        Raises:
            ForbiddenError: With `until_forbidden`, when we are not allowed to follow the collection; untold otherwise.
        """
        while True:
            self._watched = None
            try:
                if self._version and self._is_in_doubt:
                    await self._compare()
                if not self._version:
                    yield await self._list()
                lasts = max(1, int(self._uniform(self._times.lasts_seconds, self._times.lasts_seconds * 1.2)))
                query = {**self._resource.selector, "resourceVersion": self._version, "timeoutSeconds": str(lasts)}
                silence = lasts + self._times.silence_seconds
                async with self._kube.watch(self._resource.path, query, silence, self._accept("")) as events:
                    watched = self._watched = _Watched(since=monotonic())
                    self.opened_at = watched.since
                    self._in_contact()
                    async for event in events:
                        change = self._change(event)
                        watched.events += 1
                        if change is not None:
                            yield change
                        if watched.events % _AT_ONCE == 0:
                            await asyncio.sleep(0)
                pause = self._pause_after_end(watched)
            except KubeError as error:
                if until_forbidden and isinstance(error, ForbiddenError) and error.status == 403:
                    raise
                pause = self._pause_after(error)
            await asyncio.sleep(pause)

    async def _list(self) -> Replaced[T]:
        """Page by page, at one version; a failure keeps the pages that are there already."""
        # Without a resource version, so that it is never older than what was seen before; that is also what makes
        # servers heed the limit (https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list).
        listing = self._listing = self._listing or _Listing()
        while True:
            query = {**self._resource.selector, "limit": str(_PAGE_LIMIT)}
            if listing.token:
                query["continue"] = listing.token
            path = f"{self._resource.path}?{urlencode(query)}"
            page = await self._kube.call("GET", path, _Page, accept=self._accept("List"))
            if not page.metadata.resource_version:
                raise UnavailableError(f"GET {self._resource.path}: the answer is no list, it has no resourceVersion")
            self.last_contact = monotonic()
            await self._read(page, listing)
            if not page.metadata.continue_:
                break
            listing.token = page.metadata.continue_
        self._listing = None
        self._is_in_doubt = False
        self._version = listing.version
        self.synced = True
        self._in_contact()
        return Replaced(listing.objects)

    async def _compare(self) -> None:
        """List anew if the server knows less than we have seen, as after its store was restored from a backup.

        A watch from a version that is yet to come is not refused: it brings nothing until the server has come so far.
        """
        path = f"{self._resource.path}?{urlencode({**self._resource.selector, 'limit': '1'})}"
        page = await self._kube.call("GET", path, _Page, accept=self._accept("List"))
        self._is_in_doubt = False
        if _is_older(page.metadata.resource_version, self._version):
            log.warning(
                "the API server is back with an older state, all is listed anew %s version=%s seen=%s",
                self._resource.plural,
                page.metadata.resource_version,
                self._version,
            )
            self._version = ""
            self._listing = None

    def _accept(self, kind: str) -> str:
        return METADATA_ONLY.format(kind) if self._resource.metadata_only else "application/json"

    async def _read(self, page: "_Page", listing: "_Listing[T]") -> None:
        # Should the pages differ, whatever changed after the first comes again in the watch.
        listing.version = listing.version or page.metadata.resource_version
        for number, raw in enumerate(page.items or (), 1):
            found = self._decode(raw)
            if found is not None:
                listing.objects[_name(found.metadata)] = self._resource.keep(found)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _change(self, event: WatchEvent) -> Change[T] | None:
        self.last_contact = monotonic()
        self._resuming.reset()
        if event.type in {"ADDED", "MODIFIED"}:
            found = self._decode(event.object)
            metadata = found.metadata if found is not None else _metadata(event.object)
        else:
            found = None
            metadata = _metadata(event.object)
        self._version = metadata.resource_version or self._version
        if found is not None:
            return Applied(_name(metadata), self._resource.keep(found))
        if event.type == "DELETED" and metadata.name:
            return Deleted(_name(metadata))
        return None

    def _decode(self, raw: msgspec.Raw) -> S | None:
        try:
            return self._decoder.decode(raw)
        except UNREADABLE as error:
            self.unreadable += 1
            if str(error) not in self._complaints:
                self._complaints.add(str(error))
                name = "/".join(filter(None, _name(_metadata(raw))))
                plural = self._resource.plural
                log.warning("objects that cannot be read are passed over %s first=%s error=%s", plural, name, error)
            return None

    def _pause_after_end(self, watched: "_Watched") -> float:
        """The server ended the watch, as it was asked to; it is taken up at once, but never in a tight loop."""
        lasted = monotonic() - watched.since
        if not watched.events and lasted < self._times.first_pause_seconds:
            # As client-go's "very short watch": something on the way cuts it, and changes would never be seen.
            return self._pause_after(UnavailableError(f"WATCH {self._resource.path}: ended as soon as it had begun"))
        self._calm(lasted)
        return self._resuming.next_seconds() if lasted < self._times.first_pause_seconds else 0.0

    def _pause_after(self, error: KubeError) -> float:
        watched = self._watched
        if watched is not None:
            self._calm(monotonic() - watched.since)
        # A watch that broke before it brought anything would perhaps break again at the same event.
        fruitless = watched is not None and not watched.events
        if fruitless or isinstance(error, (GoneError, InvalidError, NotFoundError)):
            self._version = ""
            self._listing = None
            pause = self._relisting.next_seconds()
        else:
            self._is_in_doubt = True
            pause = self._resuming.next_seconds()
        if not isinstance(error, GoneError):
            self._tell(self._reason(error))
        return pause + min(error.retry_after_seconds, _LONGEST_RETRY_AFTER_SECONDS)

    def _calm(self, lasted: float) -> None:
        if lasted >= self._times.first_pause_seconds:
            self._resuming.reset()
        if lasted >= self._times.most_pause_seconds:
            self._relisting.reset()

    def _reason(self, error: KubeError) -> str:
        if isinstance(error, ForbiddenError) and error.status == 403:
            group = self._resource.group or '""'
            wanted = f"the verbs list and watch on {self._resource.plural} of the API group {group}"
            if self._resource.namespace:
                wanted += f" in the namespace {self._resource.namespace}"
            return f"{error}; grant our service account {wanted}"
        return str(error)

    def _in_contact(self) -> None:
        self.last_contact = monotonic()
        self._tell("")

    def _tell(self, reason: str) -> None:
        if reason == self._told:
            return
        if reason:
            log.warning("a watch broke, it is taken up again %s error=%s", self._resource.plural, reason)
        elif self._told:
            log.info("a watch was taken up again %s", self._resource.plural)
        self._told = reason
        self._report(reason)


@dataclass(slots=True)
class _Listing(Generic[T]):
    """A list of which the pages up to `token` are there."""

    token: str = ""
    version: str = ""
    objects: dict[ObjectName, T] = field(default_factory=dict)


@dataclass(slots=True)
class _Watched:
    """A watch that the server has opened."""

    since: float
    events: int = 0


class _PageMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list; each item is decoded apart, so that a bad one spoils no other."""

    metadata: _PageMeta
    items: tuple[msgspec.Raw, ...] | None = None


class _Bare(msgspec.Struct, frozen=True):
    metadata: Metadata = Metadata()


def _is_older(version: str, seen: str) -> bool:
    """Versions are whole numbers that can be compared (KEP-5504); of what is none, nobody knows."""
    return version.isdecimal() and seen.isdecimal() and int(version) < int(seen)


_BARE: Final = msgspec.json.Decoder(_Bare)


def _metadata(raw: msgspec.Raw) -> Metadata:
    """Of an object of which no more is wanted, or can be read."""
    try:
        return _BARE.decode(raw).metadata
    except UNREADABLE:
        return Metadata()


def _name(metadata: Metadata) -> ObjectName:
    return ObjectName(metadata.namespace, metadata.name)
