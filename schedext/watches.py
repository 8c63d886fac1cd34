"""The watches that keep a world current."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from sys import intern
from time import monotonic
from typing import Final, TypeVar

import msgspec

from schedext.demand import is_extended
from schedext.layouts import AcceleratorNodeFound, Accelerators
from schedext.pod import TERMINAL_PHASES, Pod
from schedext.world import NodeFacts, World
from tasuki.kube import collection
from tasuki.kube.cache_node import CacheNodeStatus
from tasuki.kube.client import Kube
from tasuki.kube.collection import Change, Collection, HasMetadata, Resource
from tasuki.kube.names import ACCELERATOR_NODE_PLURAL, API_GROUP, API_VERSION, CACHE_NODE_PLURAL
from tasuki.kube.quantity import QuantityError, parse
from tasuki.kube.watching import DEFAULT_WATCH_TIMES, WatchTimes

S = TypeVar("S", bound=HasMetadata)
T = TypeVar("T")

# How often promises and plans are looked at that end by themselves.
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
        times: WatchTimes = DEFAULT_WATCH_TIMES,
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

    @property
    def synced(self) -> bool:
        """Whether all was listed at least once that placing cannot do without; caches are no part of it."""
        return self._listed.issuperset(_NEEDED)

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
        pods = Resource("", "v1", _PODS, Pod, world.demands.tracked, {"fieldSelector": _UNFINISHED})
        accelerators: Resource[AcceleratorNodeFound, Accelerators | None] = Resource(
            API_GROUP, API_VERSION, ACCELERATOR_NODE_PLURAL, AcceleratorNodeFound, world.layouts.accelerators
        )
        caches = Resource(API_GROUP, API_VERSION, CACHE_NODE_PLURAL, _CacheNode, _cache_status)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(nodes, world.take_nodes))
            tasks.create_task(self._follow(accelerators, world.take_accelerators))
            tasks.create_task(self._follow(pods, world.take_pods))
            tasks.create_task(self._follow(caches, world.take_caches))
            tasks.create_task(self._tick())

    async def _follow(self, resource: Resource[S, T], take: Callable[[Change[T]], None]) -> None:
        name = resource.plural
        report = partial(self._report, name)
        followed = Collection(self._kube, resource, self._times, self._uniform, report)
        self._collections[name] = lambda: followed.last_contact
        async with aclosing(followed.changes()) as changes:
            async for change in changes:
                take(change)
                self._listed.add(name)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._world.tick()


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
