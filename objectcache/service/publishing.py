"""Telling the cluster what this node's cache holds, by the node's CacheNode; start reading at `Publisher`."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final
from urllib.parse import quote

import msgspec

from tasuki.kube.backoff import Backoff
from tasuki.kube.cache_node import HEARTBEAT_SECONDS, BucketResidency, CacheNode, CacheNodeStatus
from tasuki.kube.client import Kube
from tasuki.kube.errors import ConflictError, KubeError, NotFoundError
from tasuki.kube.names import API_GROUP, API_VERSION, CACHE_NODE_KIND, CACHE_NODE_PLURAL
from tasuki.kube.objects import Node, ObjectMeta, OwnerReference
from tasuki.kube.watching import DEFAULT_WATCH_TIMES, WatchTimes, follow_node

log: Final = logging.getLogger(__name__)

ZONE_LABEL: Final = "topology.kubernetes.io/zone"

# Of a bucket's bytes, what is worth a write: below the least, a disk has read it before anybody asks.
MOVED_PART: Final = 0.05
MOVED_BYTES: Final = 2**30
LEAST_MOVED_BYTES: Final = 2**20

# Some 100 bytes each, in an object that every scheduler reads from every node; etcd takes 1.5 MiB. Those left out are
# the smallest, whose place matters least.
MOST_BUCKETS: Final = 2_000

_PATH: Final = f"/apis/{API_GROUP}/{API_VERSION}/{CACHE_NODE_PLURAL}"
_WRITER: Final = "?fieldManager=tasuki-cache"

Uniform = Callable[[float, float], float]


@dataclass(frozen=True, slots=True)
class Site:
    """Where the cache runs.

    Attributes:
        node_name: The node's, and so the CacheNode's.
        zone: Within which keys are spread over the caches; None for what the node's label says.
    """

    node_name: str
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the cache holds at one moment; `buckets` in any order, also those that are empty."""

    capacity_bytes: int
    used_bytes: int
    buckets: tuple[BucketResidency, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishingTimes:
    """How often the API server is bothered; 400 nodes that fill up write some ten times a second, all together.

    Attributes:
        look_seconds: Between two looks at what the cache holds.
        between_writes_seconds: From a write to the next, and up to a half more at random; serving or not, and in which
            zone, is written at once.
        most_seconds: After which it is written that nothing has changed, at the latest.
        first_pause_seconds: Before the first attempt after a failure; it doubles with each further one.
        most_pause_seconds: Before any attempt; and the most that the API server can ask for beside it.
    """

    look_seconds: float = 5.0
    between_writes_seconds: float = 30.0
    most_seconds: float = HEARTBEAT_SECONDS
    first_pause_seconds: float = 1.0
    most_pause_seconds: float = 120.0
    watch: WatchTimes = DEFAULT_WATCH_TIMES


DEFAULT_TIMES: Final = PublishingTimes()


@dataclass(frozen=True, slots=True)
class PublishingState:
    """How publishing goes, for /readyz and the metrics.

    Attributes:
        problem: Why the newest state is not published; empty if it is.
        writes: Of the status, since the start.
        failures: Attempts that failed, since the start.
    """

    problem: str
    writes: int
    failures: int


class Publisher:
    """Keeps the node's CacheNode, always as it is now, never a queue of old states.

    Nothing is written before `serve`: a cache that is back within seconds does not make every scheduler think again.
    `serve` never waits, and nothing here holds up the cache: without an API server it is tried again for ever.
    """

    def __init__(
        self,
        kube: Kube,
        site: Site,
        holdings: Callable[[], Holdings],
        uniform: Uniform,
        times: PublishingTimes = DEFAULT_TIMES,
    ) -> None:
        """Prepare to publish.

        Args:
            kube: The connection.
            site: Where we are.
            holdings: What the cache holds now; asked every few seconds.
            uniform: `random.uniform`, or what stands for it.
            times: How often the API server is bothered.

        Raises:
            ValueError: The node has no name.
        """
        if not site.node_name:
            raise ValueError("with an API server the node's name is needed: set --node-name or TASUKI_NODE_NAME")
        self._kube: Final = kube
        self._name: Final = site.node_name
        self._holdings: Final = holdings
        self._uniform: Final = uniform
        self._is_fixed: Final = site.zone is not None
        self._zone = site.zone
        self._times: Final = times
        self._node: Node | None = None
        self._serving: bool | None = None
        self._written: CacheNodeStatus | None = None
        self._written_at = 0.0
        self._written_for = ""
        self._woken: Final = asyncio.Event()
        self._left: Final = asyncio.Event()
        self._problem = "" if self._is_fixed else f"node {self._name} was not seen yet, so that its zone is unknown"
        self._writes = 0
        self._failures = 0

    @property
    def state(self) -> PublishingState:
        return PublishingState(self._problem, self._writes, self._failures)

    def serve(self) -> None:
        """The cache answers from now on."""
        self._serving = True
        self._woken.set()

    async def leave(self, most_seconds: float) -> None:
        """The cache is about to end: say so at once, and return when it is said, or after so long; for the last time.

        Needs `run` beside it.
        """
        self._serving = False
        self._woken.set()
        try:
            async with asyncio.timeout(most_seconds):
                await self._left.wait()
        except TimeoutError:
            log.warning("nobody was told that the cache ends node=%s problem=%s", self._name, self._problem)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep())
            if not self._is_fixed:
                tasks.create_task(self._follow_node())

    async def _follow_node(self) -> None:
        async with aclosing(follow_node(self._kube, self._name, self._uniform, self._times.watch)) as nodes:
            async for node in nodes:
                if node is None:
                    continue  # what is known stays true of whatever still runs here
                before, self._node = self._node_uid, node
                zone = node.metadata.labels.get(ZONE_LABEL, "")
                if (zone, node.metadata.uid) != (self._zone, before):
                    self._zone = zone
                    self._woken.set()

    async def _keep(self) -> None:
        backoff = Backoff(self._times.first_pause_seconds, self._times.most_pause_seconds, self._uniform)
        pause = self._drawn_pause()
        while True:
            wanted, node_uid = self._wanted(), self._node_uid
            # What the former node owned is collected with it, now or soon.
            written = self._written if node_uid == self._written_for else None
            if wanted is None or not is_due(wanted, written, monotonic() - self._written_at, *pause):
                await self._wait(self._times.look_seconds)
                continue
            try:
                await self._write(wanted)
            except KubeError as error:
                self._problem = str(error)
                self._failures += 1
                log.warning("what the cache holds is not published, it is tried again error=%s", error)
                # Added, not the longer of both: all nodes may have been asked for the same time.
                asked_for = min(error.retry_after_seconds, self._times.most_pause_seconds)
                await self._wait(backoff.next_seconds() + asked_for)
                continue
            self._problem = ""
            self._written, self._written_at, self._written_for = wanted, monotonic(), node_uid
            backoff.reset()
            pause = self._drawn_pause()
            if not wanted.serving:
                self._left.set()

    @property
    def _node_uid(self) -> str:
        """Empty until the node was seen."""
        return self._node.metadata.uid if self._node is not None else ""

    def _drawn_pause(self) -> tuple[float, float]:
        """Seconds to the next write, at the earliest and at the latest: thousands of nodes do not write as one."""
        times = self._times
        earliest = self._uniform(times.between_writes_seconds, times.between_writes_seconds * 1.5)
        return earliest, self._uniform(times.most_seconds * 0.8, times.most_seconds)

    async def _wait(self, seconds: float) -> None:
        """So long, or until something changed that is to be told at once."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    def _wanted(self) -> CacheNodeStatus | None:
        """None if there is nothing to say yet, or nothing any more: a successor may be at work on the node."""
        if self._serving is None or self._zone is None or self._left.is_set():
            return None
        return status(self._holdings(), self._zone, serving=self._serving, now=datetime.now(UTC))

    async def _write(self, wanted: CacheNodeStatus) -> None:
        try:
            found = await self._patch_status(wanted)
        except NotFoundError:
            if not wanted.serving:
                return  # nobody believes otherwise
            await self._create()
            found = await self._patch_status(wanted)
        self._writes += 1
        await self._own(found)

    async def _patch_status(self, wanted: CacheNodeStatus) -> ObjectMeta:
        path = f"{_PATH}/{quote(self._name)}/status{_WRITER}"
        return (await self._kube.call("PATCH", path, _Found, {"status": msgspec.to_builtins(wanted)})).metadata

    async def _create(self) -> None:
        """Still without a status. Deleting the node deletes it too."""
        node = self._node or await self._kube.node(self._name)
        made = CacheNode(metadata=ObjectMeta(name=self._name, owner_references=(_owner(node),)))
        try:
            await self._kube.call("POST", f"{_PATH}{_WRITER}", _Found, msgspec.to_builtins(made))
        except NotFoundError as error:
            text = f"the cluster does not know {API_GROUP}/{API_VERSION} {CACHE_NODE_KIND}: apply manifests/crd"
            raise NotFoundError(text, error.status, error.reason) from error
        except ConflictError:
            pass  # made meanwhile, by a predecessor that is not gone yet

    async def _own(self, found: ObjectMeta) -> None:
        """A node that was made anew has another uid, and what the former one owned would be collected."""
        if self._node is None or self._node.metadata.uid in {owner.uid for owner in found.owner_references}:
            return
        body = {"metadata": {"ownerReferences": [msgspec.to_builtins(_owner(self._node))]}}
        await self._kube.call("PATCH", f"{_PATH}/{quote(self._name)}{_WRITER}", _Found, body)


class _Found(msgspec.Struct, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


def status(holdings: Holdings, zone: str, *, serving: bool, now: datetime) -> CacheNodeStatus:
    """What is published; of very many buckets the largest."""
    held = [each for each in holdings.buckets if each.bytes > 0 or each.objects > 0]
    largest = sorted(held, key=lambda each: (-each.bytes, each.name))[:MOST_BUCKETS]
    return CacheNodeStatus(
        zone=zone,
        serving=serving,
        capacity_bytes=holdings.capacity_bytes,
        used_bytes=holdings.used_bytes,
        buckets=tuple(sorted(largest, key=lambda each: each.name)),
        observed_time=f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )


def is_due(
    wanted: CacheNodeStatus,
    written: CacheNodeStatus | None,
    age_seconds: float,
    earliest_seconds: float,
    latest_seconds: float,
) -> bool:
    """Whether it is time to write.

    Args:
        wanted: As it is.
        written: As it was written last; None if it was not.
        age_seconds: Since then.
        earliest_seconds: Before which what a bucket holds is not worth a write.
        latest_seconds: After which it is written that nothing has changed.
    """
    if written is None or (wanted.serving, wanted.zone) != (written.serving, written.zone):
        return True
    if age_seconds < earliest_seconds:
        return False
    moved = wanted.capacity_bytes != written.capacity_bytes or _have_moved(wanted.buckets, written.buckets)
    return moved or age_seconds >= latest_seconds


def _have_moved(now: Iterable[BucketResidency], before: Iterable[BucketResidency]) -> bool:
    bytes_before = {each.name: each.bytes for each in before}
    bytes_now = {each.name: each.bytes for each in now}
    return bytes_now.keys() != bytes_before.keys() or any(
        _has_moved(size, bytes_before[name]) for name, size in bytes_now.items()
    )


def _has_moved(now: int, before: int) -> bool:
    moved = abs(now - before)
    return moved > MOVED_BYTES or moved > max(LEAST_MOVED_BYTES, before * MOVED_PART)


def _owner(node: Node) -> OwnerReference:
    return OwnerReference(api_version="v1", kind="Node", name=node.metadata.name, uid=node.metadata.uid)
