"""Following the pods of our node, so that slices are handed out as the scheduler extender chose them."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Final

import msgspec

from deviceplugin import bound
from deviceplugin.bound import Advice, Ask, Outcome, Pending, PodName, PodOnNode
from deviceplugin.node_status import Holder
from tasuki.devices.model import Slice
from tasuki.devices.preference import check
from tasuki.kube import collection
from tasuki.kube.client import Kube
from tasuki.kube.collection import Applied, Change, Deleted, Replaced, Resource
from tasuki.kube.errors import ForbiddenError
from tasuki.kube.names import BOUND_SLICES
from tasuki.kube.placement import PlacementError, Slices, read_slices
from tasuki.kube.quantity import QuantityError, parse
from tasuki.kube.watching import DEFAULT_WATCH_TIMES, WatchTimes

log: Final = logging.getLogger(__name__)

# The kubelet learns of a pod at the same moment as we do, and may be the faster by some milliseconds.
_EVENT_SECONDS: Final = 0.2
# The right to see pods comes with the extender's manifests; without them there is nothing to follow.
_FORBIDDEN_SECONDS: Final = 300.0


class Follower:
    """What the resources' servers ask, and tell, about choices; touched only from the event loop.

    While it is not in contact with the API server it advises and concludes nothing, since there may be pods that it
    does not know.
    """

    def __init__(self) -> None:
        self._pending = Pending()
        self._in_contact = False
        # An event did not come in time, and none has come since.
        self._is_behind = False
        self._changed = asyncio.Event()

    async def expect(self, resource: str, sizes: Collection[int]) -> None:
        """Give the event of a pod that asks for so much the time to come in, where an extender is at work.

        Once in vain, and not again before an event tells that they still come in: the kubelet admits one pod after the
        other, so that many would otherwise wait for the sum.
        """
        try:
            async with asyncio.timeout(_EVENT_SECONDS):
                while self._is_awaited(resource, sizes):
                    await self._changed.wait()
        except TimeoutError:
            self._is_behind = True
            log.info("no pod is known that asks for this resource=%s sizes=%s", resource, sizes)

    def advise(self, resource: str, available: Sequence[Slice], required: Sequence[Slice], size: int) -> Advice:
        """As `bound.advise`."""
        if not self._in_contact:
            check(available, required, size)
            return Advice(Outcome.ORDINARY, available)
        return bound.advise(self._pending, resource, available, required, size)

    def allocated(self, resource: str, slices: Sequence[Slice]) -> None:
        """As `bound.allocated`."""
        if self._in_contact:
            self._pending = bound.allocated(self._pending, resource, slices, monotonic())

    def holders_seen(self, holders: Collection[Holder], at: float) -> None:
        self._pending = bound.held(self._pending, holders, at)

    def holders_unavailable(self, at: float) -> None:
        """Nothing new is known."""

    def take(self, change: Change[PodOnNode]) -> None:
        """A change of the node's pods."""
        match change:
            case Replaced(pods):
                found = {PodName(*name): pod for name, pod in pods.items()}
                self._pending = bound.all_seen(self._pending, found, monotonic())
            case Applied(name, pod):
                self._pending = bound.seen(self._pending, PodName(*name), pod, monotonic())
            case Deleted(name):
                self._pending = bound.gone(self._pending, PodName(*name))
        self._is_behind = False
        self._wake()

    def connected(self) -> None:
        self._in_contact = True
        self._wake()

    def disconnected(self) -> None:
        self._in_contact = False
        self._wake()

    def _is_awaited(self, resource: str, sizes: Collection[int]) -> bool:
        pending = self._pending
        return (
            self._in_contact
            and not self._is_behind
            and pending.has_seen_choices
            and any(size > 0 and not bound.is_expected(pending, resource, size) for size in sizes)
        )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class BoundWatch:
    """Tells a follower of the pods of one node."""

    def __init__(
        self,
        kube: Kube,
        node_name: str,
        follower: Follower,
        note: Callable[[str], None],
        uniform: Callable[[float, float], float],
    ) -> None:
        """Prepare to watch.

        Args:
            kube: The connection.
            node_name: Our node's.
            follower: Told of every change.
            note: Told why pods cannot be watched, "" when they can; that we are not allowed to is no reason to tell.
            uniform: `random.uniform`, or what stands for it.
        """
        self._kube: Final = kube
        self._pods: Final = Resource(
            "", "v1", "pods", _Pod, _pod_on_node, selector={"fieldSelector": f"spec.nodeName={node_name}"}
        )
        self._follower: Final = follower
        self._note: Final = note
        self._uniform: Final = uniform
        self._is_forbidden = False

    async def run(self, times: WatchTimes = DEFAULT_WATCH_TIMES, forbidden_seconds: float = _FORBIDDEN_SECONDS) -> None:
        """Watch until cancelled."""
        try:
            while True:
                try:
                    await self._follow(times)
                except ForbiddenError as error:
                    self._forbidden(error)
                await asyncio.sleep(forbidden_seconds * self._uniform(0.9, 1.1))
        finally:
            self._follower.disconnected()

    async def _follow(self, times: WatchTimes) -> None:
        followed = collection.Collection(self._kube, self._pods, times, self._uniform, self._report)
        async with aclosing(followed.changes(until_forbidden=True)) as changes:
            async for change in changes:
                self._follower.take(change)

    def _report(self, reason: str) -> None:
        self._note(reason and f"devices are not handed out as the scheduler chose them: {reason}")
        if reason:
            self._follower.disconnected()
            return
        # For the first time this is told together with all pods, and afterwards when the watch goes on where it broke.
        self._follower.connected()
        if self._is_forbidden:
            log.info("pods are followed now, to hand out devices as they were chosen")
        self._is_forbidden = False

    def _forbidden(self, error: ForbiddenError) -> None:
        self._follower.disconnected()
        self._note("")
        if not self._is_forbidden:
            self._is_forbidden = True
            log.info(
                "pods are not followed; only the scheduler extender needs it, its manifests grant the right reason=%r",
                str(error),
            )


class _Metadata(collection.Metadata, frozen=True, kw_only=True, rename="camel"):
    uid: str = ""
    creation_timestamp: str | None = None
    annotations: dict[str, str] | None = None


class _Resources(msgspec.Struct, frozen=True):
    limits: dict[str, str | int | float] | None = None
    requests: dict[str, str | int | float] | None = None


class _Container(msgspec.Struct, frozen=True):
    name: str
    resources: _Resources = _Resources()


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    containers: tuple[_Container, ...] = ()
    init_containers: tuple[_Container, ...] | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    start_time: str | None = None


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()


def _pod_on_node(pod: _Pod) -> PodOnNode:
    metadata, status = pod.metadata, pod.status
    return PodOnNode(
        uid=metadata.uid,
        created=metadata.creation_timestamp or "",
        asks=tuple(_asks(pod.spec, _slices((metadata.annotations or {}).get(BOUND_SLICES, "")))),
        is_started=status.phase not in {"", "Pending"} or bool(status.start_time),
    )


def _slices(written: str) -> Slices:
    """The choice, or none if it cannot be read: whoever wrote it, it is no reason not to hand out devices."""
    try:
        return read_slices(written) if written else {}
    except PlacementError:
        return {}


def _asks(spec: _Spec, chosen: Slices) -> Iterator[Ask]:
    for container in (*(spec.init_containers or ()), *spec.containers):
        amounts = {**(container.resources.requests or {}), **(container.resources.limits or {})}
        for resource in sorted(name for name in amounts if "/" in name):
            if count := _count(amounts[resource]):
                choice = bound.choice_of(chosen.get(container.name, {}).get(resource), count)
                yield Ask(container.name, resource, count, choice)


def _count(amount: str | float) -> int:
    try:
        exact = parse(amount)
    except QuantityError:
        return 0
    return int(exact) if exact.denominator == 1 else 0
