"""What a pod demands of a node as far as accelerators, its neighbours and its data go; read `demand` first."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

import xxhash

from schedext.pod import SIDECAR, Container, Pod, annotation, label
from tasuki.kube.names import (
    CACHE_BUCKET_PATTERN,
    CACHE_BUCKETS,
    CACHE_OBJECTS,
    DATAFLOW,
    EDGES,
    FUNCTION,
    GPU_DEVICES,
    GPU_MEMORY,
    GPU_SHARING,
    OBJECTIVE,
    PACK,
    PLAN,
    SHARED_NODE,
    SPREAD,
)
from tasuki.kube.placement import PlacementError, Slices, read_plan
from tasuki.kube.quantity import QuantityError, parse
from tasuki.kube.resources import is_extended
from tasuki.process.sentences import alternatives, shown

# Of a container's, as the kubelet's device manager counts in 64 bits, and far beyond any node's.
_MOST_SLICES: Final = 1_000_000
_MOST_EDGES: Final = 256
_MOST_BUCKETS: Final = 256
_MOST_OBJECTS: Final = 1_000

# What an edge carries if nobody says: one frame of 1920 x 1080 pixels of three bytes, thirty times a second.
DEFAULT_ITEM_BYTES: Final = 6_220_800
DEFAULT_ITEMS_PER_SECOND: Final = 30.0

_SEPARATORS: Final = re.compile(r"[,\s]+")
# As the cache has them; what is behind the slash is the request's target as it is sent, escapes and all.
_OBJECT: Final = re.compile(rf"(?P<bucket>{CACHE_BUCKET_PATTERN})/[!-~]+")
_EDGE: Final = re.compile(r"(?P<function>[^=@\s]+)(?:=(?P<bytes>[^=@\s]+)(?:@(?P<rate>[^=@\s]+))?)?")


class DemandError(ValueError):
    """The pod asks for something in words that mean nothing; the text names the field, the value and the remedy."""


class Objective(StrEnum):
    """What a place is ranked by: seconds, joules, or their geometric mean."""

    PERFORMANCE = "performance"
    EFFICIENCY = "efficiency"
    BALANCED = "balanced"


class Turn(StrEnum):
    """When a container runs: at the start, until the end beside the others, or as one of the others."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass(frozen=True, slots=True)
class Want:
    """What one container asks for of one extended resource, at least one slice."""

    container: str
    turn: Turn
    resource: str
    count: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a demand decides whether and how it fits on a node's devices; equal shapes are decided alike.

    Attributes:
        counts: Slices by resource, sorted by name: as many as the pod ever holds at once.
        largest: Of each resource, the most that one container asks for; in the order of `counts`.
        spread: Each slice of a resource is on a device of its own.
        pack: All slices of a resource are on one device.
        memory_bytes: Of each device, at least so much must be left for the pod; 0 if it does not say.
        visible_gpus: GPUs that the pod sees without requesting any, on a node that pods share; 0 for none, -1 for all.
    """

    counts: tuple[tuple[str, int], ...] = ()
    largest: tuple[int, ...] = ()
    spread: bool = False
    pack: bool = False
    memory_bytes: int = 0
    visible_gpus: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether every node's devices suit."""
        return not self.counts and not self.visible_gpus


@dataclass(frozen=True, slots=True)
class Edge:
    """To or from another function of the same chain; how long it takes does not depend on the direction."""

    function: str
    item_bytes: int = DEFAULT_ITEM_BYTES
    items_per_second: float = DEFAULT_ITEMS_PER_SECOND


@dataclass(frozen=True, slots=True)
class ChainName:
    """A chain of functions, within its namespace."""

    namespace: str
    dataflow: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A pod's place in a chain.

    Attributes:
        edges: None if the pod does not say: then to every other function of the chain, as `Edge` has it by default.
    """

    name: ChainName
    function: str
    edges: tuple[Edge, ...] | None = None


@dataclass(frozen=True, slots=True)
class NamedObjects:
    """Objects of one bucket that a pod will read.

    Attributes:
        hashes: One for each object: the XXH64 of its hash key, by which Envoy finds its owner.
    """

    bucket: str
    hashes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """Where a planner wants the pod.

    Attributes:
        until: From then on it does not matter any more.
        slices: What is kept for the pod there.
    """

    node: str
    until: datetime
    slices: Slices


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Demand:
    """All that placing a pod takes into account.

    Attributes:
        wants: In the order in which the kubelet allocates: init containers and sidecars first, then the others.
        buckets: Of the object cache, sorted.
        objects: Of some of these buckets the only objects that matter; sorted by bucket.
    """

    wants: tuple[Want, ...] = ()
    shape: Shape = Shape()
    objective: Objective = Objective.PERFORMANCE
    buckets: tuple[str, ...] = ()
    objects: tuple[NamedObjects, ...] = ()
    chain: Chain | None = None
    plan: Planned | None = None


def demand(pod: Pod) -> Demand:
    """What a pod demands.

    Raises:
        DemandError: An annotation or an amount cannot be read.
    """
    wants = tuple(_wants(pod))
    objects = _objects(annotation(pod, CACHE_OBJECTS))
    return Demand(
        wants=wants,
        shape=_shape(pod, wants),
        objective=Objective(_one_of(pod, OBJECTIVE, [each.value for each in Objective]) or Objective.PERFORMANCE),
        buckets=_buckets(pod, objects),
        objects=objects,
        chain=_chain(pod),
        plan=_plan(pod),
    )


def at_once(wants: tuple[Want, ...]) -> dict[str, int]:
    """The most slices that a pod holds at once, by resource.

    Init containers run one after the other, beside the sidecars that were started before them; what they held is
    given on to containers that start later (kubernetes, component-helpers/resource, PodRequests).
    """
    sidecars: Counter[str] = Counter()
    mains: Counter[str] = Counter()
    most: dict[str, int] = {}
    for want in wants:
        if want.turn is Turn.INIT:
            most[want.resource] = max(most.get(want.resource, 0), sidecars[want.resource] + want.count)
        else:
            (sidecars if want.turn is Turn.SIDECAR else mains)[want.resource] += want.count
    for resource, count in (sidecars + mains).items():
        most[resource] = max(most.get(resource, 0), count)
    return most


def _wants(pod: Pod) -> Iterator[Want]:
    for container in pod.spec.init_containers or ():
        yield from _of_container(container, Turn.SIDECAR if container.restart_policy == SIDECAR else Turn.INIT)
    for container in pod.spec.containers or ():
        yield from _of_container(container, Turn.MAIN)


def _of_container(container: Container, turn: Turn) -> Iterator[Want]:
    """Requests and limits of extended resources are equal; a manifest that was never defaulted may lack the first."""
    amounts = {**(container.resources.limits or {}), **(container.resources.requests or {})}
    for resource in sorted(amounts):
        if is_extended(resource) and (count := _count(container, resource, amounts[resource])):
            yield Want(container.name, turn, resource, count)


def _count(container: Container, resource: str, amount: str | float) -> int:
    try:
        exact = parse(amount)
    except QuantityError as error:
        raise DemandError(f"container {shown(container.name)}, {resource}: {error}") from error
    if exact.denominator != 1 or not 0 <= exact <= _MOST_SLICES:
        raise DemandError(
            f"container {shown(container.name)} asks for {shown(amount)} of {resource}; "
            f"it must be a whole number up to {_MOST_SLICES}"
        )
    return int(exact)


def _shape(pod: Pod, wants: tuple[Want, ...]) -> Shape:
    spread = _one_of(pod, SPREAD, ["devices", "none"]) == "devices"
    pack = _one_of(pod, PACK, ["device"]) == "device"
    if spread and pack:
        raise DemandError(f"{SPREAD}: devices and {PACK}: device contradict each other; remove one of them")
    counts = tuple(sorted(at_once(wants).items()))
    largest: dict[str, int] = {}
    for want in wants:
        largest[want.resource] = max(largest.get(want.resource, 0), want.count)
    return Shape(
        counts=counts,
        largest=tuple(largest[resource] for resource, _ in counts),
        spread=spread,
        pack=pack,
        memory_bytes=_memory(pod),
        visible_gpus=_visible_gpus(pod, wants),
    )


def _one_of(pod: Pod, name: str, allowed: list[str]) -> str:
    written = annotation(pod, name)
    if written and written not in allowed:
        raise DemandError(f"{name} is {shown(written)}; write {alternatives(allowed)}")
    return written


def _memory(pod: Pod) -> int:
    written = annotation(pod, GPU_MEMORY)
    if not written:
        return 0
    try:
        amount = parse(written)
    except QuantityError as error:
        raise DemandError(f"{GPU_MEMORY}: {error}; write for example 10Gi") from error
    if amount < 1 or amount.denominator != 1:
        raise DemandError(f"{GPU_MEMORY} is {shown(written)}; it must be a whole number of bytes, such as 10Gi")
    return int(amount)


def _visible_gpus(pod: Pod, wants: tuple[Want, ...]) -> int:
    """Of pods on shared nodes, which see GPUs without holding slices of them."""
    if annotation(pod, GPU_SHARING) != SHARED_NODE or wants:
        return 0
    named = [word for word in _SEPARATORS.split(annotation(pod, GPU_DEVICES)) if word]
    return -1 if named == ["all"] else max(1, len(named))


def _buckets(pod: Pod, objects: Sequence[NamedObjects]) -> tuple[str, ...]:
    named = {name for name in _SEPARATORS.split(annotation(pod, CACHE_BUCKETS)) if name}
    names = sorted(named.union(each.bucket for each in objects))
    if len(names) > _MOST_BUCKETS:
        where = f"{CACHE_BUCKETS} and {CACHE_OBJECTS} name" if objects else f"{CACHE_BUCKETS} names"
        raise DemandError(f"{where} {len(names)} buckets; at most {_MOST_BUCKETS} are looked at")
    return tuple(names)


# The scheduler asks twice about each pod, and about thousands of one template.
@lru_cache(maxsize=32)
def _objects(text: str) -> tuple[NamedObjects, ...]:
    words = sorted({word for word in _SEPARATORS.split(text) if word})
    if len(words) > _MOST_OBJECTS:
        raise DemandError(f"{CACHE_OBJECTS} names {len(words)} objects; at most {_MOST_OBJECTS} are looked at")
    found: defaultdict[str, list[int]] = defaultdict(list)
    for word in words:
        match = _OBJECT.fullmatch(word)
        if match is None:
            raise DemandError(
                f"{CACHE_OBJECTS}: {shown(word)} is no object; write bucket/object, such as imagenet/train/000.jpg"
            )
        # The query is no part of what Envoy hashes: the route cuts it off.
        key, _, _ = word.partition("?")
        found[match["bucket"]].append(xxhash.xxh64_intdigest(key.encode()))
    return tuple(NamedObjects(bucket, tuple(hashes)) for bucket, hashes in sorted(found.items()))


def _chain(pod: Pod) -> Chain | None:
    dataflow = label(pod, DATAFLOW)
    if not dataflow:
        return None
    edges = tuple(_edges(annotation(pod, EDGES))) or None
    return Chain(ChainName(pod.metadata.namespace, dataflow), label(pod, FUNCTION), edges)


def _edges(text: str) -> Iterator[Edge]:
    words = [word for word in _SEPARATORS.split(text) if word]
    if len(words) > _MOST_EDGES:
        raise DemandError(f"{EDGES} names {len(words)} functions; at most {_MOST_EDGES} are looked at")
    seen: set[str] = set()
    for word in words:
        match = _EDGE.fullmatch(word)
        if match is None:
            raise DemandError(
                f"{EDGES}: {shown(word)} is no edge; write function=bytes@rate, such as decode=6220800@30"
            )
        if match["function"] in seen:
            raise DemandError(f"{EDGES} names {shown(match['function'])} twice; name each function once")
        seen.add(match["function"])
        yield Edge(
            function=match["function"],
            item_bytes=int(_amount(word, match["bytes"], DEFAULT_ITEM_BYTES)),
            items_per_second=_amount(word, match["rate"], DEFAULT_ITEMS_PER_SECOND),
        )


def _amount(word: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        amount = parse(text)
    except QuantityError as error:
        raise DemandError(f"{EDGES}, {shown(word)}: {error}") from error
    if not 0 <= amount <= 10**15:
        raise DemandError(f"{EDGES}, {shown(word)}: {shown(text)} is not from 0 to 1P")
    return float(amount)


def _plan(pod: Pod) -> Planned | None:
    written = annotation(pod, PLAN)
    if not written:
        return None
    try:
        plan = read_plan(written)
        until = datetime.fromisoformat(plan.until)
    except (PlacementError, ValueError) as error:
        raise DemandError(f"{PLAN}: {error}") from error
    if until.tzinfo is None:
        raise DemandError(f"{PLAN}: until is {shown(plan.until)}; say the time zone, as in 2026-01-31T12:00:00Z")
    return Planned(plan.node, until, plan.slices)


def matches_wants(slices: Slices, wants: tuple[Want, ...]) -> bool:
    """Whether slices are what a pod's containers ask for, no more and no less."""
    asked: dict[str, dict[str, int]] = {}
    for want in wants:
        asked.setdefault(want.container, {})[want.resource] = want.count
    named: Mapping[str, Mapping[str, int]] = {
        container: {resource: sum(devices.values()) for resource, devices in resources.items()}
        for container, resources in slices.items()
    }
    return named == asked
