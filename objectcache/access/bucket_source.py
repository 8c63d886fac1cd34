"""The buckets in force: from a file and from CacheBuckets, with the namespaces' labels that their selectors need."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from sys import intern
from typing import Final, TypeVar

import msgspec

from objectcache.access.buckets import MOST_BUCKETS, Bucket, read_buckets, read_cache_bucket
from tasuki.kube.client import Kube
from tasuki.kube.collection import Applied, Change, Collection, Deleted, HasMetadata, Metadata, Replaced, Resource
from tasuki.kube.names import API_GROUP, API_VERSION, CACHE_BUCKET_KIND, CACHE_BUCKET_PLURAL
from tasuki.kube.watching import DEFAULT_WATCH_TIMES, WatchTimes
from tasuki.process.document import ConfigError
from tasuki.process.file_source import DEFAULT_PACE, FileSource, Pace
from tasuki.process.sentences import shortened

S = TypeVar("S", bound=HasMetadata)
T = TypeVar("T")

# What is told of, as /readyz spells it.
BUCKETS_FILE: Final = "buckets file"
NAMESPACES: Final = "namespaces"
DEFINITIONS: Final = "buckets"

_LONGEST_NOTE: Final = 4_000


@dataclass(frozen=True, slots=True)
class Defined:
    """All that the rules of buckets follow from.

    Attributes:
        buckets: By name.
        namespaces: Labels by name; empty while no bucket asks for them.
        complete: Whether a bucket that is absent was certainly taken away. While it is not, what is stored of absent
            buckets must stay: their definitions may only not have been read yet.
    """

    buckets: Mapping[str, Bucket]
    namespaces: Mapping[str, Mapping[str, str]]
    complete: bool


@dataclass(frozen=True, slots=True)
class BucketSources:
    """Where buckets are defined.

    Attributes:
        file: None for no file.
        objects: Where CacheBuckets are; None where they are not used.
        namespaces: Where namespaces are; None without a cluster.
    """

    file: Path | None = None
    objects: Kube | None = None
    namespaces: Kube | None = None


@dataclass(frozen=True, slots=True)
class SourceTimes:
    """How patient the sources are.

    Attributes:
        settle_seconds: Changes that come within this time of a publication are published together after it.
    """

    watch: WatchTimes = DEFAULT_WATCH_TIMES
    pace: Pace = DEFAULT_PACE
    settle_seconds: float = 0.5


DEFAULT_SOURCE_TIMES: Final = SourceTimes()


class Buckets:
    """Publishes what is defined whenever it changed; what was read last stands while a source is away or is wrong."""

    def __init__(
        self,
        sources: BucketSources,
        changed: Callable[[Defined], None],
        report: Callable[[str, str], None],
        uniform: Callable[[float, float], float],
        times: SourceTimes = DEFAULT_SOURCE_TIMES,
    ) -> None:
        """Nothing is read before `run`.

        Args:
            sources: Where buckets are defined.
            changed: Takes what is defined: at first as soon as a source has spoken, then whenever it changed.
            report: Told of which source, and why it is not in force or out of contact, "" when all is well. None of it
                keeps the cache from serving the buckets that are known.
            uniform: `random.uniform`, or what stands for it.
            times: How patient the sources are.
        """
        self._sources: Final = sources
        self._changed: Final = changed
        self._report: Final = report
        self._uniform: Final = uniform
        self._times: Final = times
        self._merged: Final = _Merged(needs_file=sources.file is not None, needs_objects=sources.objects is not None)
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._wants_namespaces: Final = asyncio.Event()
        self._stale: Final = asyncio.Event()
        self._published: Defined | None = None
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_changes())
            if self._sources.file is not None:
                report = partial(self._report, BUCKETS_FILE)
                file = FileSource(self._sources.file, _read, self._take_file, report, self._times.pace)
                tasks.create_task(file.run())
            if self._sources.objects is not None:
                tasks.create_task(self._follow(self._sources.objects, _CACHE_BUCKETS, self._take_objects))
            if self._sources.namespaces is not None:
                tasks.create_task(self._follow_namespaces(self._sources.namespaces))

    async def _follow(self, kube: Kube, resource: Resource[S, T], take: Callable[[Change[T]], None]) -> None:
        report = partial(self._report, resource.plural)
        followed = Collection(kube, resource, self._times.watch, self._uniform, report)
        async with aclosing(followed.changes()) as changes:
            async for change in changes:
                take(change)

    async def _follow_namespaces(self, kube: Kube) -> None:
        """From when the first bucket asks for labels, to the end: watching on costs less than knowing when not to."""
        await self._wants_namespaces.wait()
        await self._follow(kube, _NAMESPACES, self._take_namespaces)

    def _take_file(self, buckets: Mapping[str, Bucket]) -> None:
        self._merged.file = buckets
        self._note_change()

    def _take_objects(self, change: Change["Bucket | _Unusable"]) -> None:
        self._merged.take(change)
        self._note_change()

    def _take_namespaces(self, change: Change[Mapping[str, str]]) -> None:
        match change:
            case Replaced(objects):
                self._namespaces = {name.name: labels for name, labels in objects.items()}
            case Applied(name, labels):
                if self._namespaces.get(name.name) == labels:
                    return
                self._namespaces[name.name] = labels
            case Deleted(name):
                self._namespaces.pop(name.name, None)
        self._note_change()

    def _note_change(self) -> None:
        if self._published is None:
            self._publish()
        else:
            self._stale.set()

    async def _publish_changes(self) -> None:
        while True:
            await self._stale.wait()
            self._publish()
            await asyncio.sleep(self._times.settle_seconds)

    def _publish(self) -> None:
        self._stale.clear()
        buckets, complete, problems = self._merged.result()
        needing = sorted(name for name, bucket in buckets.items() if bucket.needs_labels)
        if needing:
            self._wants_namespaces.set()
        if needing and self._sources.namespaces is None:
            why = f"bucket {needing[0]!r} selects namespaces by labels, which are not known without a cluster"
            self._tell(NAMESPACES, f"{why}; name its namespaces instead")
        elif self._sources.namespaces is None:
            self._tell(NAMESPACES, "")
        self._tell(DEFINITIONS, shortened("; ".join(problems), _LONGEST_NOTE))
        defined = Defined(buckets, self._namespaces.copy() if needing else {}, complete)
        # What changed may have changed back since.
        if defined != self._published:
            self._published = defined
            self._changed(defined)

    def _tell(self, name: str, problem: str) -> None:
        if self._told.get(name, "") != problem:
            self._told[name] = problem
            self._report(name, problem)


@dataclass(frozen=True, slots=True)
class _Unusable:
    """A CacheBucket that defines no bucket."""

    problem: str


@dataclass(slots=True)
class _Merged:
    """Both sources' buckets as one.

    Attributes:
        file: None until it was read.
        objects: The last usable definition of each CacheBucket that is there; None until they were listed.
        unusable: What is wrong with the newest definition of some of them.
    """

    needs_file: bool
    needs_objects: bool
    file: Mapping[str, Bucket] | None = None
    objects: dict[str, Bucket] | None = None
    unusable: dict[str, str] = field(default_factory=dict)

    def take(self, change: Change[Bucket | _Unusable]) -> None:
        match change:
            case Replaced(objects):
                before = self.objects or {}
                self.objects = {each.name: before[each.name] for each in objects if each.name in before}
                self.unusable = {}
                for each, found in objects.items():
                    self._apply(each.name, found)
            case Applied(name, found):
                self._apply(name.name, found)
            case Deleted(name):
                if self.objects is not None:
                    self.objects.pop(name.name, None)
                self.unusable.pop(name.name, None)

    def _apply(self, name: str, found: Bucket | _Unusable) -> None:
        assert self.objects is not None  # a collection is listed first
        if isinstance(found, _Unusable):
            self.unusable[name] = found.problem
        else:
            self.objects[name] = found
            self.unusable.pop(name, None)

    def result(self) -> tuple[Mapping[str, Bucket], bool, list[str]]:
        """The buckets, whether those are all, and what is wrong with others."""
        file, objects = self.file or {}, self.objects or {}
        problems = [
            f"{self.unusable[name]}{'; what was in force stays in force' if name in objects else ''}"
            for name in sorted(self.unusable)
        ]
        problems += [
            f"{CACHE_BUCKET_KIND} {name!r} counts for nothing, the file defines this bucket; remove one of the two"
            for name in sorted(file.keys() & (objects.keys() | self.unusable.keys()))
        ]
        merged = {**objects, **file}
        complete = not (self.needs_file and self.file is None) and not (self.needs_objects and self.objects is None)
        complete = complete and self.unusable.keys() <= merged.keys()
        if len(merged) > MOST_BUCKETS:
            over = sorted(merged.keys() - file.keys())[MOST_BUCKETS - len(file) :]
            problems.append(
                f"there are {len(merged)} buckets, at most {MOST_BUCKETS} are served; "
                f"{CACHE_BUCKET_KIND} {over[0]!r} and those after it by name count for nothing, remove some"
            )
            merged = {name: merged[name] for name in merged.keys() - set(over)}
            complete = False
        return merged, complete, problems


def _read(content: bytes | None) -> Mapping[str, Bucket]:
    if content is None:
        raise ConfigError("there is no such file; mount the buckets' ConfigMap there (an empty file has no buckets)")
    return read_buckets(content)


class _CacheBucket(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class _LabelledMetadata(Metadata, frozen=True, kw_only=True):
    labels: dict[str, str] | None = None


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _LabelledMetadata


def _bucket(found: _CacheBucket) -> Bucket | _Unusable:
    try:
        return read_cache_bucket(found.metadata.name, bytes(found.spec))
    except ConfigError as error:
        return _Unusable(str(error))


def _labels(found: _Namespace) -> Mapping[str, str]:
    return {intern(key): intern(value) for key, value in (found.metadata.labels or {}).items()}


_CACHE_BUCKETS: Final = Resource(API_GROUP, API_VERSION, CACHE_BUCKET_PLURAL, _CacheBucket, _bucket)
_NAMESPACES: Final = Resource("", "v1", "namespaces", _Namespace, _labels, metadata_only=True)
