"""The watches that feed admission with what it needs of the cluster."""

import asyncio
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import msgspec

from tasuki.kube.backoff import Backoff
from tasuki.kube.client import Kube
from tasuki.kube.collection import Applied, Change, Collection, Deleted, HasMetadata, Metadata, Replaced, Resource
from tasuki.kube.errors import KubeError, UnavailableError
from tasuki.kube.resources import is_extended
from tasuki.kube.watching import DEFAULT_WATCH_TIMES, WatchTimes
from webhooks.cluster import Cluster, PriorityClass
from webhooks.nodes import NodeFacts, Taint

S = TypeVar("S", bound=HasMetadata)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClusterTimes:
    """How patient the watches are.

    Attributes:
        settle_seconds: Changes that come within this time of a publication are published together after it.
        version_seconds: After which the server is asked for its version again, or up to a fifth sooner: it may have
            been upgraded.
    """

    watch: WatchTimes = DEFAULT_WATCH_TIMES
    settle_seconds: float = 0.5
    version_seconds: float = 600.0


DEFAULT_CLUSTER_TIMES: Final = ClusterTimes()


class ClusterWatch:
    """Publishes a new `Cluster` when, and only when, something changed that admission cares about.

    A part that did not change is the same object as in the snapshot before. What was seen last stands while the API
    server is away.
    """

    def __init__(
        self,
        kube: Kube,
        changed: Callable[[Cluster], None],
        report: Callable[[str, str], None],
        uniform: Callable[[float, float], float],
        times: ClusterTimes = DEFAULT_CLUSTER_TIMES,
    ) -> None:
        """Prepare to watch.

        Args:
            kube: The connection.
            changed: Takes each snapshot; its catalogue is None, as that comes from elsewhere.
            report: Told what is watched and why it is out of contact, "" when it is in contact; for the operator, as
                admission works on without.
            uniform: `random.uniform`, or what stands for it.
            times: How patient the watches are.
        """
        self._kube: Final = kube
        self._changed: Final = changed
        self._report: Final = report
        self._uniform: Final = uniform
        self._times: Final = times
        self._nodes: Final = _Part[NodeFacts]()
        self._namespaces: Final = _Part[Mapping[str, str]]()
        self._priority_classes: Final = _Part[PriorityClass]()
        self._server_version: tuple[int, int] | None = None
        self._published = Cluster()
        self._stale = asyncio.Event()

    async def run(self) -> None:
        """Watch for as long as the process lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("nodes", _NODES, self._nodes))
            tasks.create_task(self._follow("namespaces", _NAMESPACES, self._namespaces))
            tasks.create_task(self._follow("priority classes", _PRIORITY_CLASSES, self._priority_classes))
            tasks.create_task(self._follow_version())
            tasks.create_task(self._publish_changes())

    async def _follow(self, name: str, resource: Resource[S, T], part: "_Part[T]") -> None:
        report = partial(self._report, name)
        collection = Collection(self._kube, resource, self._times.watch, self._uniform, report)
        async with aclosing(collection.changes()) as changes:
            async for change in changes:
                is_first = not part.is_seen
                if part.take(change):
                    self._note_change(is_first=is_first)

    async def _follow_version(self) -> None:
        backoff = Backoff(self._times.watch.first_pause_seconds, self._times.watch.most_pause_seconds, self._uniform)
        told: str | None = None
        while True:
            reason = ""
            try:
                version = _version((await self._kube.call("GET", "/version", _VersionAsFound)).spellings())
            except KubeError as error:
                reason = str(error)
                pause = backoff.next_seconds() + min(error.retry_after_seconds, self._times.version_seconds)
            else:
                backoff.reset()
                pause = self._uniform(self._times.version_seconds * 0.8, self._times.version_seconds)
                if version != self._server_version:
                    is_first = self._server_version is None
                    self._server_version = version
                    self._note_change(is_first=is_first)
            if reason != told:
                told = reason
                self._report("server version", reason)
            await asyncio.sleep(pause)

    def _note_change(self, *, is_first: bool) -> None:
        if is_first:
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
        cluster = Cluster(
            priority_classes=self._priority_classes.snapshot(),
            nodes=self._nodes.snapshot(),
            namespaces=self._namespaces.snapshot(),
            server_version=self._server_version,
        )
        # What changed may have changed back since.
        if cluster != self._published:
            self._published = cluster
            self._changed(cluster)


class _Part(Generic[T]):
    """One collection by name, and the snapshot of it that was published last."""

    def __init__(self) -> None:
        self.is_seen = False
        self._newest: dict[str, T] = {}
        self._snapshot: Mapping[str, T] | None = None

    def take(self, change: Change[T]) -> bool:
        """Whether it makes a difference."""
        match change:
            case Replaced(objects):
                newest = {name.name: kept for name, kept in objects.items()}
                if self.is_seen and newest == self._newest:
                    return False
                self.is_seen = True
                self._newest = newest
            case Applied(name, kept):
                if self._newest.get(name.name) == kept:
                    return False
                self._newest[name.name] = kept
            case Deleted(name):
                return self._newest.pop(name.name, None) is not None
        return True

    def snapshot(self) -> Mapping[str, T] | None:
        if self.is_seen and self._snapshot != self._newest:
            self._snapshot = self._newest.copy()
        return self._snapshot


class _VersionAsFound(msgspec.Struct, frozen=True, rename="camel"):
    major: str = ""
    minor: str = ""
    git_version: str = ""
    # A server can behave as an older one, whose features are then all that it has: KEP-4330.
    emulation_major: str = ""
    emulation_minor: str = ""

    def spellings(self) -> tuple[str, ...]:
        """The first that is one says how the server behaves."""
        return (f"{self.emulation_major}.{self.emulation_minor}", f"{self.major}.{self.minor}", self.git_version)


# `1.36`, but also `1.36+` and `v1.36.1-gke.123`.
_VERSION: Final = re.compile(r"v?([0-9]{1,9})\.([0-9]{1,9})")


def _version(spellings: tuple[str, ...]) -> tuple[int, int]:
    for text in spellings:
        if match := _VERSION.match(text):
            return int(match[1]), int(match[2])
    raise UnavailableError(f"GET /version: none of {', '.join(map(repr, spellings))} is a version")


class _LabelledMetadata(Metadata, frozen=True, kw_only=True):
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class _TaintAsFound(msgspec.Struct, frozen=True):
    key: str
    effect: str
    value: str = ""


class _NodeSpec(msgspec.Struct, frozen=True):
    taints: tuple[_TaintAsFound, ...] = ()


class _NodeSystemInfo(msgspec.Struct, frozen=True, rename="camel"):
    kubelet_version: str = ""


class _NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    node_info: _NodeSystemInfo = _NodeSystemInfo()


class _Node(msgspec.Struct, frozen=True):
    metadata: _LabelledMetadata
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _LabelledMetadata


class _PriorityClass(msgspec.Struct, frozen=True, rename="camel"):
    metadata: Metadata
    value: int = 0
    global_default: bool = False


def _node_facts(node: _Node) -> NodeFacts:
    kubelet = _VERSION.match(node.status.node_info.kubelet_version)
    amounts = [*node.status.capacity.items(), *node.status.allocatable.items()]
    extended = [(sys.intern(name), amount) for name, amount in amounts if is_extended(name)]
    resources = frozenset(name for name, amount in extended if amount != "0")
    return NodeFacts(
        name=node.metadata.name,
        labels=_labels(node),
        taints=tuple(sorted({Taint(taint.key, taint.value, taint.effect) for taint in node.spec.taints})),
        resources=resources,
        kubelet_version=(int(kubelet[1]), int(kubelet[2])) if kubelet else (0, 0),
        idle=frozenset(name for name, _ in extended) - resources,
    )


def _labels(found: _Node | _Namespace) -> Mapping[str, str]:
    # Thousands of nodes have the same few words in their labels.
    return {sys.intern(key): sys.intern(value) for key, value in found.metadata.labels.items()}


def _priority_class(found: _PriorityClass) -> PriorityClass:
    return PriorityClass(found.metadata.name, found.value, found.global_default)


_NODES: Final = Resource("", "v1", "nodes", _Node, _node_facts)
_NAMESPACES: Final = Resource("", "v1", "namespaces", _Namespace, _labels)
_PRIORITY_CLASSES: Final = Resource("scheduling.k8s.io", "v1", "priorityclasses", _PriorityClass, _priority_class)
