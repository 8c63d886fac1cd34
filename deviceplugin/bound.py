"""Which slices the scheduler extender chose for the container that the kubelet allocates for.

The kubelet's GetPreferredAllocation names no pod: only ids and a size. So the choice that a pod carries is followed
where it is certain whose call it is, or where that makes no difference.

A pod counts from when it is bound until its status has a start time. The kubelet allocates for all containers of a pod
when it admits it, and sets the start time after that (kubernetes, pkg/kubelet/kubelet.go: HandlePodAdditions, then
SyncPod; pkg/kubelet/status/status_manager.go). A container that was served unnoticed is thus forgotten within seconds.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from deviceplugin.node_status import Holder
from tasuki.devices.model import Slice, index_order
from tasuki.devices.preference import check

# Between Allocate's answer and the kubelet's list that has it, with room for a slow node.
LISTED_AFTER_SECONDS: Final = 5.0
_CERTAIN: Final = float("inf")

# How many slices of which device, sorted by device.
Choice = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """What one container asks for of one resource.

    Attributes:
        choice: As many slices as are asked for; None if nobody chose.
    """

    container: str
    resource: str
    count: int
    choice: Choice | None = None


class PodName(NamedTuple):
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class PodOnNode:
    """A pod that is bound to our node.

    Attributes:
        created: RFC 3339.
        asks: In the order in which the kubelet allocates: init containers and sidecars first, then the others.
        is_started: The kubelet has allocated all that it ever will.
    """

    uid: str
    created: str
    asks: tuple[Ask, ...]
    is_started: bool = False


class _Given(NamedTuple):
    uid: str
    container: str
    resource: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A pod that is not started, and since when it is known, on the caller's clock."""

    pod: PodOnNode
    since: float


@dataclass(frozen=True, slots=True)
class Pending:
    """The pods that the kubelet has yet to allocate for; a new one for each change.

    Attributes:
        has_seen_choices: Whether any pod ever carried a choice, so that there is an extender.
    """

    has_seen_choices: bool = False
    waiting: Mapping[PodName, _Waiting] = field(default_factory=dict)
    # When it was concluded from an Allocate that a container was served; `_CERTAIN` if the kubelet listed it.
    given: Mapping[_Given, float] = field(default_factory=dict)


def seen(pending: Pending, name: PodName, pod: PodOnNode, at: float) -> Pending:
    """A pod is new or has changed."""
    before = pending.waiting.get(name)
    waiting = {key: known for key, known in pending.waiting.items() if key != name}
    if pod.asks and not pod.is_started:
        waiting[name] = _Waiting(pod, before.since if before and before.pod.uid == pod.uid else at)
    has_choice = any(ask.choice is not None for ask in pod.asks)
    return _tidied(replace(pending, waiting=waiting, has_seen_choices=pending.has_seen_choices or has_choice))


def all_seen(pending: Pending, pods: Mapping[PodName, PodOnNode], at: float) -> Pending:
    """These pods there are, and no others."""
    remaining = {name: known for name, known in pending.waiting.items() if name in pods}
    pending = replace(pending, waiting=remaining)
    for name, pod in pods.items():
        pending = seen(pending, name, pod, at)
    return _tidied(pending)


def gone(pending: Pending, name: PodName) -> Pending:
    """A pod is not there any more."""
    return _tidied(replace(pending, waiting={key: known for key, known in pending.waiting.items() if key != name}))


def held(pending: Pending, holders: Collection[Holder], at: float) -> Pending:
    """What the kubelet answered to a question of that time.

    It confirms or refutes what was concluded from Allocate. Of a pod that was not known yet when it was asked it says
    nothing: an earlier pod may have had the same name.
    """
    listed = {(holder.namespace, holder.pod, holder.container, holder.resource) for holder in holders}
    given = dict(pending.given)
    for name, known in pending.waiting.items():
        for ask in known.pod.asks:
            key = _Given(known.pod.uid, ask.container, ask.resource)
            if known.since <= at and (*name, ask.container, ask.resource) in listed:
                given[key] = _CERTAIN
            elif given.get(key, _CERTAIN) <= at - LISTED_AFTER_SECONDS:
                del given[key]
    return replace(pending, given=given)


def allocated(pending: Pending, resource: str, slices: Sequence[Slice], at: float) -> Pending:
    """The kubelet was handed slices: conclude for whom, if that is certain enough until it lists its pods.

    Of several containers with this same choice it is the oldest pod's, as they are alike. Where a container without a
    choice may have got them by chance nothing is concluded, since too many candidates mislead nobody.
    """
    candidates = _candidates(pending, resource, len(slices))
    choice = _choice(Counter(a_slice.device.id for a_slice in slices))
    matching = [each for each in candidates if each.ask.choice == choice]
    if not matching or any(each.ask.choice is None for each in candidates):
        return pending
    oldest = matching[0]
    return replace(pending, given={**pending.given, _Given(oldest.uid, oldest.ask.container, resource): at})


def is_expected(pending: Pending, resource: str, size: int) -> bool:
    """Whether any container is known that the kubelet may ask so much for."""
    return bool(_candidates(pending, resource, size))


class Outcome(StrEnum):
    """How a preference came about: one choice was followed, several bound it, or none did."""

    FOLLOWED = "followed"
    UNION = "union"
    ORDINARY = "ordinary"


@dataclass(frozen=True, slots=True)
class Advice:
    """The slices among which the ordinary policy is to choose, at least as many as are asked for."""

    outcome: Outcome
    slices: Sequence[Slice]


def advise(pending: Pending, resource: str, available: Sequence[Slice], required: Sequence[Slice], size: int) -> Advice:
    """Narrow the available slices to what the extender chose for whoever asks.

    Candidates are all containers that ask for exactly so many and are not known to have been served. Within a pod the
    kubelet allocates for one after the other, so it is the first of each pod that asks. If these have all the same
    choice, it is followed exactly. If they differ, it cannot be known whose call it is; but whoever it is, what it
    takes was meant for one of them, and so what others were not promised is left alone: it stays within all their
    devices. A candidate without a choice may want anything, and a choice that can no longer be had binds nobody.

    Slices that must be included are what an init container of the same pod had.

    Raises:
        PreferenceError: No choice could satisfy the request.
    """
    check(available, required, size)
    candidates = _candidates(pending, resource, size)
    choices = [each.ask.choice for each in candidates if each.ask.choice is not None]
    if choices and len(choices) == len(candidates):
        first_choices = {each.ask.choice for each in candidates if each.is_first}
        if len(first_choices) == 1:
            exactly = _exactly(choices[0], available, required)
            if exactly is not None:
                return Advice(Outcome.FOLLOWED, exactly)
        else:
            devices = {device for choice in choices for device, _ in choice}
            must = {a_slice.id for a_slice in required}
            within = [each for each in available if each.device.id in devices or each.id in must]
            if len(within) >= size:
                return Advice(Outcome.UNION, within)
    return Advice(Outcome.ORDINARY, available)


class _Candidate(NamedTuple):
    """A container that the kubelet may be asking for; `is_first` among those of its pod."""

    uid: str
    ask: Ask
    is_first: bool


def _candidates(pending: Pending, resource: str, size: int) -> list[_Candidate]:
    """The oldest pods' first."""
    pods = sorted(pending.waiting.items(), key=lambda item: (item[1].pod.created, item[0]))
    return [
        _Candidate(known.pod.uid, ask, n == 0)
        for _, known in pods
        for n, ask in enumerate(_unserved(pending, known.pod, resource, size))
    ]


def _unserved(pending: Pending, pod: PodOnNode, resource: str, size: int) -> Iterator[Ask]:
    for ask in pod.asks:
        wanted = ask.resource == resource and ask.count == size
        if wanted and _Given(pod.uid, ask.container, resource) not in pending.given:
            yield ask


def _exactly(choice: Choice, available: Sequence[Slice], required: Sequence[Slice]) -> list[Slice] | None:
    """So many slices of these devices, the required ones among them; None if they cannot be had."""
    must = {a_slice.id for a_slice in required}
    in_order = sorted(available, key=lambda each: (each.id not in must, index_order(each.device), each.replica))
    chosen: list[Slice] = []
    for device, count in choice:
        of_device = list(islice((each for each in in_order if each.device.id == device), count))
        if len(of_device) < count:
            return None
        chosen += of_device
    return chosen if must <= {each.id for each in chosen} else None


def choice_of(counts: Mapping[str, int] | None, count: int) -> Choice | None:
    """A choice as it is kept; None unless it is of as many slices as are asked for."""
    return _choice(counts) if counts and sum(counts.values()) == count else None


def _choice(counts: Mapping[str, int]) -> Choice:
    return tuple(sorted(counts.items()))


def _tidied(pending: Pending) -> Pending:
    """Without conclusions on pods that do not wait any more."""
    uids = {known.pod.uid for known in pending.waiting.values()}
    if all(key.uid in uids for key in pending.given):
        return pending
    return replace(pending, given={key: at for key, at in pending.given.items() if key.uid in uids})
