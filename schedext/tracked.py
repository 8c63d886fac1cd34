"""What is kept of a pod, and of the promise that a place is the pod's."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from sys import intern
from typing import Final
from weakref import WeakValueDictionary

from schedext.demand import Demand, DemandError, Planned, Want, demand, matches_wants
from schedext.pod import TERMINAL_PHASES, Metadata, Pod, annotation
from tasuki.kube.names import BOUND_DEVICES, BOUND_SLICES
from tasuki.kube.placement import PlacementError, Slices, read_slices
from tasuki.kube.times import read_time

# Whatever a plan says: nobody keeps devices forever by writing an annotation.
LONGEST_PLAN: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class TrackedPod:
    """A pod that concerns placing, and has not ended.

    Attributes:
        node: Empty while it is bound to none.
        demand: If it cannot be read, what its containers want, without its annotations and its chain.
        problem: Why its demand cannot be read; empty if it can.
        slices: What BOUND_SLICES of a bound pod says, if that is what its containers want; else None.
        visible: The devices that a bound pod sees without holding slices of them, by their ids.
        planned_until: From then on its plan matters no more: as the plan says, and at most LONGEST_PLAN after the
            pod's creation; None without a plan, or once it is bound.
    """

    uid: str
    namespace: str
    name: str
    node: str
    demand: Demand
    problem: str = ""
    slices: Slices | None = None
    visible: tuple[str, ...] = ()
    planned_until: datetime | None = None


@dataclass(slots=True)
class Reservation:
    """A place that is promised to a pod until it is seen bound.

    Attributes:
        expires_at: Monotonic.
    """

    pod: TrackedPod
    node: str
    slices: Slices
    visible: tuple[str, ...]
    expires_at: float


class Demands:
    """Makes equal demands one object: tens of thousands of pods come from a few templates."""

    def __init__(self) -> None:
        self._known: Final = WeakValueDictionary[tuple[object, ...], Demand]()

    def tracked(self, pod: Pod) -> TrackedPod | None:
        """What is kept of a pod; None if it concerns nobody, or has ended."""
        if pod.status.phase in TERMINAL_PHASES:
            return None
        wanted, problem = self._read(pod)
        concerns = wanted.wants or wanted.chain or wanted.plan or wanted.shape.visible_gpus or problem
        if not concerns:
            return None
        metadata, node = pod.metadata, intern(pod.spec.node_name)
        return TrackedPod(
            uid=metadata.uid or f"{metadata.namespace}/{metadata.name}",
            namespace=intern(metadata.namespace),
            name=metadata.name,
            node=node,
            demand=wanted,
            problem=problem,
            slices=_bound_slices(pod, wanted.wants) if node else None,
            visible=_bound_devices(pod) if node and wanted.shape.visible_gpus else (),
            planned_until=_planned_until(metadata, wanted.plan) if wanted.plan is not None and not node else None,
        )

    def _read(self, pod: Pod) -> tuple[Demand, str]:
        try:
            return self._one(demand(pod)), ""
        except DemandError as error:
            problem = str(error)
        try:
            # What it holds does not depend on what is written beside it.
            return self._one(demand(_bare(pod))), problem
        except DemandError:
            return Demand(), problem

    def _one(self, found: Demand) -> Demand:
        if found.plan is not None:
            # Its devices are this pod's alone.
            return found
        key = (found.wants, found.shape, found.objective, found.buckets, found.objects, found.chain)
        return self._known.setdefault(key, found)


def agrees(slices: Slices, wants: tuple[Want, ...]) -> bool:
    """Whether slices are what the containers want of each resource that they name; others' resources may be absent."""
    named = {resource for resources in slices.values() for resource in resources}
    return matches_wants(slices, tuple(want for want in wants if want.resource in named))


def _bare(pod: Pod) -> Pod:
    metadata = Metadata(name=pod.metadata.name, namespace=pod.metadata.namespace, uid=pod.metadata.uid)
    return Pod(metadata=metadata, spec=pod.spec, status=pod.status)


def _bound_slices(pod: Pod, wants: tuple[Want, ...]) -> Slices | None:
    written = annotation(pod, BOUND_SLICES)
    if not written:
        return None
    try:
        found = read_slices(written)
    except PlacementError:
        return None
    return found if found and agrees(found, wants) else None


def _bound_devices(pod: Pod) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(intern(word) for each in annotation(pod, BOUND_DEVICES).split(",") if (word := each.strip()))
    )


def _planned_until(metadata: Metadata, plan: Planned) -> datetime | None:
    created = read_time(metadata.creation_timestamp or "")
    return None if created is None else min(plan.until, created + LONGEST_PLAN)
