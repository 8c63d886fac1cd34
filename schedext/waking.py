"""Causing the event that makes the scheduler look at waiting pods again."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

import msgspec

from tasuki.kube.backoff import Backoff
from tasuki.kube.client import Kube
from tasuki.kube.errors import ForbiddenError, InvalidError, KubeError, NotFoundError
from tasuki.kube.names import ROOM_FREED

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WakingTimes:
    """How patient we are.

    Attributes:
        settle_seconds: After room was freed, for the scheduler to hear of it by itself and to ask again.
        between_seconds: Between two events that we cause.
        tidy_seconds: Between two looks for pods that wait no more.
        unseen_seconds: A pod that no watch knows so long after it was asked about is gone.
        forget_seconds: A pod that was not asked about for so long waits no more: the scheduler tries every pod again
            after five minutes at the latest (kubernetes, DefaultPodMaxInUnschedulablePodsDuration).
        first_pause_seconds: Before the first attempt after a failure.
        most_pause_seconds: Before any attempt.
    """

    settle_seconds: float = 1.0
    between_seconds: float = 2.0
    tidy_seconds: float = 10.0
    unseen_seconds: float = 60.0
    forget_seconds: float = 600.0
    first_pause_seconds: float = 1.0
    most_pause_seconds: float = 10.0


DEFAULT_WAKING_TIMES: Final = WakingTimes()
_MOST_WAITING: Final = 10_000


class Waiting:
    """The pods that were refused for want of room, each with when that was last."""

    def __init__(self, times: WakingTimes, most: int = _MOST_WAITING) -> None:
        self._times: Final = times
        self._most: Final = most
        # In the order of the refusals.
        self._refused: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._refused)

    def refused(self, uid: str, at: float) -> None:
        self._refused.pop(uid, None)
        self._refused[uid] = at
        if len(self._refused) > self._most:
            del self._refused[next(iter(self._refused))]

    def gone(self, uid: str) -> None:
        self._refused.pop(uid, None)

    def tidy(self, now: float, is_known: Callable[[str], bool]) -> None:
        """Forget the pods that were deleted, and those that the scheduler has long tried again."""
        times = self._times
        self._refused = {
            uid: at
            for uid, at in self._refused.items()
            if now - at < (times.forget_seconds if is_known(uid) else times.unseen_seconds)
        }

    def any_since(self, freed_at: float) -> bool:
        """Whether a pod waits that was not asked about since room was freed."""
        return next(iter(self._refused.values()), float("inf")) <= freed_at


@dataclass(frozen=True, slots=True)
class _Freed:
    """Room that nobody was woken for yet: from when to when, and on which node last."""

    first_at: float
    last_at: float
    node: str

    def after(self, at: float) -> "_Freed | None":
        """What of it was freed later."""
        return _Freed(self.last_at, self.last_at, self.node) if self.last_at > at else None


class Waker:
    """Writes an annotation on a node when there is room for pods that the scheduler does not try again by itself.

    It tries what an extender refused again at any event of the cluster, else after five minutes. Of much room it hears
    when we do, and asks again. But what frees room may be no event (a reservation that ended), or its event may have
    reached the scheduler before it reached us, so that we refused once more. Both look the same: room was freed, and a
    while later a pod that was refused before has still not been asked about. A node's changed annotation is an event
    (kubernetes, pkg/scheduler/eventhandlers.go, nodeSchedulingPropertiesChange).
    """

    def __init__(
        self,
        kube: Kube,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        outcome: Callable[[str], None],
        times: WakingTimes = DEFAULT_WAKING_TIMES,
    ) -> None:
        """Prepare.

        Args:
            kube: The connection.
            clock: `time.monotonic`.
            now: The time of day that is written.
            outcome: Told `touched` or `failed` for each attempt.
            times: How patient we are.
        """
        self._kube: Final = kube
        self._clock: Final = clock
        self._now: Final = now
        self._outcome: Final = outcome
        self._times: Final = times
        self._waiting: Final = Waiting(times)
        # Only the one replica that is asked has anybody waiting, so that chance need not spread the attempts.
        self._backoff: Final = Backoff(times.first_pause_seconds, times.most_pause_seconds, max)
        self._freed: _Freed | None = None
        self._wake: Final = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many pods wait for room."""
        return len(self._waiting)

    def refused(self, uid: str) -> None:
        """There was not enough room for the pod now, on all nodes or on some."""
        self._waiting.refused(uid, self._clock())

    def fitted(self, uid: str) -> None:
        """The pod was refused nowhere for want of room."""
        self._waiting.gone(uid)

    def gone(self, uid: str) -> None:
        """The pod has a node, or there is no such pod any more."""
        self._waiting.gone(uid)

    def room_freed(self, node: str) -> None:
        """There is more room on the node than before."""
        if not self._waiting:
            return
        at = self._clock()
        self._freed = _Freed(self._freed.first_at if self._freed is not None else at, at, node)
        self._wake.set()

    async def run(self, is_known: Callable[[str], bool]) -> None:
        """Wake until cancelled.

        Args:
            is_known: Whether there is such a pod, as far as the watches have shown it.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._times.tidy_seconds):
                    await self._wake.wait()
            self._wake.clear()
            self._waiting.tidy(self._clock(), is_known)
            while (freed := self._freed) is not None:
                settled = freed.first_at + self._times.settle_seconds - self._clock()
                await asyncio.sleep(settled if settled > 0 else await self._wake_for(freed, is_known))

    async def _wake_for(self, freed: _Freed, is_known: Callable[[str], bool]) -> float:
        """Touch the node if somebody waits; how long to pause after that."""
        self._waiting.tidy(self._clock(), is_known)
        if not self._waiting.any_since(freed.first_at):
            self._freed = freed.after(freed.first_at)
            return 0.0
        sent_at = self._clock()
        try:
            await self._touch(freed.node)
        except (NotFoundError, InvalidError):
            # The node is gone, and its room with it.
            pass
        except KubeError as error:
            self._outcome("failed")
            log.warning("waiting pods were not woken, again later node=%s error=%s", freed.node, _text(error))
            asked_for = min(error.retry_after_seconds, self._times.most_pause_seconds)
            return max(self._backoff.next_seconds(), asked_for)
        else:
            self._outcome("touched")
        self._backoff.reset()
        # One event is for all the room that was freed before it.
        self._freed = self._freed and self._freed.after(sent_at)
        return self._times.between_seconds

    async def _touch(self, node: str) -> None:
        text = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {"metadata": {"annotations": {ROOM_FREED: text}}}
        await self._kube.call("PATCH", f"/api/v1/nodes/{quote(node)}", _Done, body)


def _text(error: KubeError) -> str:
    if isinstance(error, ForbiddenError) and error.status == 403:
        return f"{error}; grant our service account the verb patch on nodes"
    return str(error)


class _Done(msgspec.Struct, frozen=True):
    """An answer of which nothing matters."""
