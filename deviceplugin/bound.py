"""Which slices the scheduler extender chose for the container that the kubelet allocates for.

The kubelet's GetPreferredAllocation names no pod: only ids and a size. But it allocates for one pod after the other, in
the order in which the API server tells of them, us as well; so it is known whose turn it is.

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
    """The kubelet was handed slices: conclude for whom, which holds until it lists its pods.

    It is the first that these were chosen for; if they were chosen for nobody, whoever's turn it was got others than
    were chosen for it.
    """
    candidates = _candidates(pending, resource, len(slices))
    if not candidates:
        return pending
    choice = _choice(Counter(a_slice.device.id for a_slice in slices))
    uid, ask = next((each for each in candidates if each.ask.choice == choice), candidates[0])
    return replace(pending, given={**pending.given, _Given(uid, ask.container, resource): at})


def is_expected(pending: Pending, resource: str, size: int) -> bool:
    """Whether any container is known that the kubelet may ask so much for."""
    return bool(_candidates(pending, resource, size))


class Outcome(StrEnum):
    """How a preference came about: a choice was followed, or none could be."""

    FOLLOWED = "followed"
    ORDINARY = "ordinary"


@dataclass(frozen=True, slots=True)
class Advice:
    """The slices among which the ordinary policy is to choose, at least as many as are asked for."""

    outcome: Outcome
    slices: Sequence[Slice]


def advise(pending: Pending, resource: str, available: Sequence[Slice], required: Sequence[Slice], size: int) -> Advice:
    """Narrow the available slices to what the extender chose for whoever asks.

    Candidates are all containers that ask for exactly so many and are not known to have been served. The first of them
    whose choice can be had gets it: whole, because slices of several choices may be what none of them may have
    together. Were it another's call after all, the two have changed places, and nobody else is concerned.

    Where it is the turn of one without a choice, or no choice can be had any more, what others were promised is left
    alone as far as there is enough besides.

    Slices that must be included are what an init container of the same pod had.

    Raises:
        PreferenceError: No choice could satisfy the request.
    """
    check(available, required, size)
    candidates = _candidates(pending, resource, size)
    for _, ask in candidates:
        if ask.choice is None:
            break
        if (exactly := _exactly(ask.choice, available, required)) is not None:
            return Advice(Outcome.FOLLOWED, exactly)
    unpromised = _unpromised(pending, resource, available, required, candidates[0] if candidates else None)
    return Advice(Outcome.ORDINARY, unpromised if len(unpromised) >= size else available)


class _Candidate(NamedTuple):
    """A container that the kubelet may be asking for."""

    uid: str
    ask: Ask


def _candidates(pending: Pending, resource: str, size: int) -> list[_Candidate]:
    """In the order in which the kubelet allocates, as far as that is known."""
    return [each for each in _unserved(pending, resource) if each.ask.count == size]


def _unserved(pending: Pending, resource: str) -> Iterator[_Candidate]:
    """The kubelet takes pods as the API server tells of them; those of one list by age, as HandlePodAdditions does."""
    for _, known in sorted(pending.waiting.items(), key=lambda item: (item[1].since, item[1].pod.created, item[0])):
        for ask in known.pod.asks:
            if ask.resource == resource and _Given(known.pod.uid, ask.container, resource) not in pending.given:
                yield _Candidate(known.pod.uid, ask)


def _unpromised(
    pending: Pending, resource: str, available: Sequence[Slice], required: Sequence[Slice], but: _Candidate | None
) -> list[Slice]:
    """What nobody but this one was promised; the slices of a device are alike."""
    left: Counter[str] = Counter()
    for each in _unserved(pending, resource):
        left.update(dict(each.ask.choice or ()) if each != but else {})
    must = {a_slice.id for a_slice in required}
    found = []
    for a_slice in available:
        if a_slice.id not in must and left[a_slice.device.id] > 0:
            left[a_slice.device.id] -= 1
        else:
            found.append(a_slice)
    return found


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
