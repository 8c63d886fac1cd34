"""The watches that keep a world current."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from sys import intern
from time import monotonic
from typing import Final, TypeVar

import msgspec

from schedext.layouts import AcceleratorNodeFound, Accelerators
from schedext.pod import TERMINAL_PHASES, Pod
from schedext.world import NodeFacts, World
from tasuki.kube import collection
from tasuki.kube.cache_node import CacheNodeStatus
from tasuki.kube.client import Kube
from tasuki.kube.collection import Change, Collection, HasMetadata, Resource
from tasuki.kube.names import ACCELERATOR_NODE_PLURAL, API_GROUP, API_VERSION, CACHE_NODE_PLURAL
from tasuki.kube.quantity import QuantityError, parse
from tasuki.kube.resources import is_extended
from tasuki.kube.watching import WatchTimes
from tasuki.routing.maglev import Maglev

S = TypeVar("S", bound=HasMetadata)
T = TypeVar("T")

# A connection can break without a word, and until that is noticed nothing is seen: 87 seconds at most, for the few
# processes that decide by what they see. A thousand nodes' own watches have more patience.
_TIMES: Final = WatchTimes(lasts_seconds=60.0, silence_seconds=15.0, most_pause_seconds=15.0)

# From the opening of a watch until it has surely brought what happened before: the server sends it at once.
_CATCH_UP_SECONDS: Final = 1.0

# How often promises and plans are looked at that end by themselves, and which zones' caches have changed: a rollout
# of all caches makes a table a second, not one for each cache.
_TICK_SECONDS: Final = 1.0

_ZONE: Final = "topology.kubernetes.io/zone"
_NODES: Final = "nodes"
_PODS: Final = "pods"
_NEEDED: Final = (_NODES, _PODS, ACCELERATOR_NODE_PLURAL)

# A pod that ends no longer matches, which the API server tells as DELETED (kubernetes, apiserver/pkg/storage/cacher,
# cacheWatcher.convertToWatchEvent); of 50,000 pods most may be finished jobs'.
_UNFINISHED: Final = ",".join(f"status.phase!={phase}" for phase in sorted(TERMINAL_PHASES))


class Watches:
    """What was seen last stands while the API server is away."""

    def __init__(
        self,
        kube: Kube,
        world: World,
        report: Callable[[str, str], None],
        uniform: Callable[[float, float], float],
        times: WatchTimes = _TIMES,
    ) -> None:
        """Prepare to watch.

        Args:
            kube: The connection.
            world: What is kept current.
            report: Told what is watched and why it is out of contact, "" when it is in contact.
            uniform: `random.uniform`, or what stands for it.
            times: How patient the watches are.
        """
        self._kube: Final = kube
        self._world: Final = world
        self._report: Final = report
        self._uniform: Final = uniform
        self._times: Final = times
        self._listed: Final[set[str]] = set()
        self._collections: Final[dict[str, Callable[[], float | None]]] = {}
        self._pods: Final = Collection(
            kube,
            Resource("", "v1", _PODS, Pod, world.demands.tracked, {"fieldSelector": _UNFINISHED}),
            times,
            uniform,
            partial(report, _PODS),
        )
        self._behind_since: float | None = None
        self._renewed: Final = asyncio.Event()

    @property
    def synced(self) -> bool:
        """Whether all was listed at least once that placing cannot do without; caches are no part of it."""
        return self._listed.issuperset(_NEEDED)

    @property
    def current(self) -> bool:
        """Whether all pods were seen as they were at the last `renew`."""
        opened_at = self._pods.opened_at
        if self._behind_since is not None and opened_at is not None and opened_at > self._behind_since:
            if monotonic() - opened_at < _CATCH_UP_SECONDS:
                return False
            self._behind_since = None
        return self._behind_since is None

    def renew(self) -> None:
        """Open the watch of pods anew: another replica has bound some, and the connection may be broken unnoticed."""
        self._behind_since = monotonic()
        self._renewed.set()

    @property
    def age_seconds(self) -> Mapping[str, float]:
        """By collection, since the API server last said something about it; only of those that it spoke of."""
        now = monotonic()
        contacts = {name: contact() for name, contact in self._collections.items()}
        return {name: now - contact for name, contact in contacts.items() if contact is not None}

    async def run(self) -> None:
        """Watch for as long as the process lives."""
        world = self._world
        nodes = Resource("", "v1", _NODES, _Node, _node_facts)
        accelerators: Resource[AcceleratorNodeFound, Accelerators | None] = Resource(
            API_GROUP, API_VERSION, ACCELERATOR_NODE_PLURAL, AcceleratorNodeFound, world.layouts.accelerators
        )
        caches = Resource(API_GROUP, API_VERSION, CACHE_NODE_PLURAL, _CacheNode, _cache_status)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(nodes, world.take_nodes))
            tasks.create_task(self._follow(accelerators, world.take_accelerators))
            tasks.create_task(self._follow_pods())
            tasks.create_task(self._follow(caches, world.take_caches))
            tasks.create_task(self._tick())
            tasks.create_task(self._keep_owners())

    async def _follow(self, resource: Resource[S, T], take: Callable[[Change[T]], None]) -> None:
        report = partial(self._report, resource.plural)
        followed = Collection(self._kube, resource, self._times, self._uniform, report)
        await self._take(resource.plural, followed, take)

    async def _follow_pods(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                following = tasks.create_task(self._take(_PODS, self._pods, self._world.take_pods))
                await self._renewed.wait()
                self._renewed.clear()
                # It goes on from the version that it has seen last.
                following.cancel()
                await asyncio.wait([following])

    async def _take(self, name: str, followed: Collection[S, T], take: Callable[[Change[T]], None]) -> None:
        self._collections[name] = lambda: followed.last_contact
        async with aclosing(followed.changes()) as changes:
            async for change in changes:
                take(change)
                self._listed.add(name)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._world.tick()

    async def _keep_owners(self) -> None:
        owners = self._world.owners
        while True:
            for zone, caches in owners.stale().items():
                owners.put(zone, await asyncio.to_thread(Maglev, caches))
            await asyncio.sleep(_TICK_SECONDS)


class _NodeMetadata(collection.Metadata, frozen=True, kw_only=True):
    labels: dict[str, str] | None = None


class _NodeStatus(msgspec.Struct, frozen=True):
    allocatable: dict[str, str | int | float] | None = None


class _Node(msgspec.Struct, frozen=True):
    metadata: _NodeMetadata
    status: _NodeStatus = _NodeStatus()


class _CacheNode(msgspec.Struct, frozen=True):
    metadata: collection.Metadata
    status: CacheNodeStatus | None = None


def _node_facts(node: _Node) -> NodeFacts:
    amounts = (node.status.allocatable or {}).items()
    return NodeFacts(
        zone=intern((node.metadata.labels or {}).get(_ZONE, "")),
        allocatable={intern(name): _count(amount) for name, amount in amounts if is_extended(name)},
    )


def _count(amount: str | float) -> int:
    """What is no amount offers nothing."""
    try:
        return int(parse(amount))
    except QuantityError:
        return 0


def _cache_status(found: _CacheNode) -> CacheNodeStatus | None:
    return found.status
