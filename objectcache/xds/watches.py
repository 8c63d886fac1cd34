"""The caches of a cluster, as the watches of pods and nodes show them."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec

from objectcache.xds.member import LEAVING_TAINTS, CachePod, Member, NodeFacts, members, weight_of
from tasuki.kube import collection
from tasuki.kube.client import Kube
from tasuki.kube.collection import Applied, Change, Collection, HasMetadata, ObjectName, Replaced, Resource
from tasuki.kube.watching import WatchTimes

S = TypeVar("S", bound=HasMetadata)
T = TypeVar("T")

# A broken connection is noticed after 87 seconds at most; see schedext.watches.
_TIMES: Final = WatchTimes(lasts_seconds=60.0, silence_seconds=15.0, most_pause_seconds=15.0)

# Changes that come together are told together; a pod that is deleted has its preStop hook before it stops.
_GATHER_SECONDS: Final = 0.1

_ZONE: Final = "topology.kubernetes.io/zone"
PODS: Final = "pods"
NODES: Final = "nodes"
# A pod that has ended has no cache, and keeps its address in its status.
_UNFINISHED: Final = "status.phase!=Failed,status.phase!=Succeeded"


@dataclass(frozen=True, slots=True)
class Found:
    """What the cluster has.

    Attributes:
        zones: By node, of all nodes.
    """

    members: tuple[Member, ...]
    zones: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Which:
    """Which pods are caches, and how they are used.

    Attributes:
        selector: Of labels.
        port: On which they answer.
        weighted: Whether the nodes' WEIGHT_LABEL counts.
    """

    namespace: str
    selector: str
    port: int
    weighted: bool


@dataclass(frozen=True, slots=True)
class Outlets:
    """Who is told.

    Attributes:
        changed: What there is once pods and nodes are both listed, and whenever that differs.
        report: What is watched and why it is out of contact, "" when it is in contact.
    """

    changed: Callable[[Found], None]
    report: Callable[[str, str], None]


class Watches:
    """What was seen last stands while the API server is away."""

    def __init__(
        self,
        kube: Kube,
        which: Which,
        outlets: Outlets,
        uniform: Callable[[float, float], float],
        times: WatchTimes = _TIMES,
    ) -> None:
        """Prepare to watch.

        Args:
            kube: The connection.
            which: Which pods are caches.
            outlets: Who is told.
            uniform: `random.uniform`, or what stands for it.
            times: How patient the watches are.
        """
        self._kube: Final = kube
        self._which: Final = which
        self._outlets: Final = outlets
        self._uniform: Final = uniform
        self._times: Final = times
        self._pods: dict[ObjectName, CachePod] = {}
        self._nodes: dict[ObjectName, NodeFacts] = {}
        self._listed: Final[set[str]] = set()
        self._dirty: Final = asyncio.Event()
        self._told: Found | None = None

    async def run(self) -> None:
        """Watch for as long as the process lives."""
        which = self._which
        selector = {"labelSelector": which.selector, "fieldSelector": _UNFINISHED}
        pods = Resource("", "v1", PODS, _Pod, _cache_pod, selector, namespace=which.namespace)
        nodes = Resource("", "v1", NODES, _Node, partial(_node_facts, weighted=which.weighted))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(pods, self._pods))
            tasks.create_task(self._follow(nodes, self._nodes))
            tasks.create_task(self._tell())

    async def _follow(self, resource: Resource[S, T], kept: dict[ObjectName, T]) -> None:
        report = partial(self._outlets.report, resource.plural)
        followed = Collection(self._kube, resource, self._times, self._uniform, report)
        async with aclosing(followed.changes()) as changes:
            async for change in changes:
                # Most of what is told of a node is that it is as it was.
                if _take(change, kept) or resource.plural not in self._listed:
                    self._listed.add(resource.plural)
                    self._dirty.set()

    async def _tell(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._dirty.clear()
            if not self._listed.issuperset((PODS, NODES)):
                continue
            nodes = {name.name: facts for name, facts in self._nodes.items()}
            found = Found(
                members(self._pods.values(), nodes, self._which.port),
                {name: facts.zone for name, facts in nodes.items()},
            )
            if found != self._told:
                self._told = found
                self._outlets.changed(found)


def _take(change: Change[T], kept: dict[ObjectName, T]) -> bool:
    """Whether anything is different from before."""
    if isinstance(change, Replaced):
        differs = kept != change.objects
        kept.clear()
        kept.update(change.objects)
    elif isinstance(change, Applied):
        differs = kept.get(change.name) != change.object
        kept[change.name] = change.object
    else:
        differs = kept.pop(change.name, None) is not None
    return differs


class _PodMetadata(collection.Metadata, frozen=True, kw_only=True, rename="camel"):
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str = ""


class _PodStatus(msgspec.Struct, frozen=True, kw_only=True):
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: tuple[_Condition, ...] | None = None


class _Pod(msgspec.Struct, frozen=True):
    metadata: _PodMetadata
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _NodeMetadata(collection.Metadata, frozen=True, kw_only=True, rename="camel"):
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _Taint(msgspec.Struct, frozen=True):
    key: str


class _NodeSpec(msgspec.Struct, frozen=True):
    unschedulable: bool = False
    taints: tuple[_Taint, ...] | None = None


class _Node(msgspec.Struct, frozen=True):
    metadata: _NodeMetadata
    spec: _NodeSpec = _NodeSpec()


def _cache_pod(pod: _Pod) -> CachePod:
    return CachePod(
        name=pod.metadata.name,
        node=pod.spec.node_name,
        address=pod.status.pod_ip,
        created=pod.metadata.creation_timestamp or "",
        ready=any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ()),
        leaving=pod.metadata.deletion_timestamp is not None,
    )


def _node_facts(node: _Node, *, weighted: bool) -> NodeFacts:
    labels = node.metadata.labels or {}
    tainted = any(each.key in LEAVING_TAINTS for each in node.spec.taints or ())
    leaving = node.spec.unschedulable or tainted or node.metadata.deletion_timestamp is not None
    return NodeFacts(labels.get(_ZONE, ""), leaving, weight_of(labels) if weighted else 1)
