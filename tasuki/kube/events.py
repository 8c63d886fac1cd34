"""Events on our node, as `kubectl describe node` shows them."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from tasuki.kube.backoff import Backoff
from tasuki.kube.client import Kube
from tasuki.kube.errors import InvalidError, KubeError, NotFoundError
from tasuki.kube.names import EVENT_COMPONENT

log: Final = logging.getLogger(__name__)

# Events about objects without a namespace live here.
_NAMESPACE: Final = "default"
# Limits of events.k8s.io/v1 (kubernetes, pkg/apis/core/validation/events.go).
_NOTE_CHARACTERS: Final = 1024
_REASON_CHARACTERS: Final = 128
_SAME_EVENT: Final = timedelta(minutes=10)
_MOST_WAITING: Final = 64


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What happened; two that are equal are one event that happened twice.

    Attributes:
        reason: One word in CamelCase.
        note: What happened, for a person.
    """

    type: Literal["Normal", "Warning"]
    reason: str
    note: str


@dataclass(frozen=True, slots=True)
class _Sent:
    name: str
    count: int
    last: datetime


class EventRecorder:
    """Sends what was recorded, in the background.

    What repeats within ten minutes is counted up in the event that was sent first. While the API server is away,
    different occurrences wait, up to a limit.

    Attributes:
        dropped: How many were never sent, for want of room or because the server refused them.
    """

    def __init__(self, kube: Kube, node: str, uniform: Callable[[float, float], float], spacing_seconds: float) -> None:
        self._kube: Final = kube
        self._node: Final = node
        self._spacing_seconds: Final = spacing_seconds
        self._backoff: Final = Backoff(1.0, 60.0, uniform)
        self._waiting: dict[Occurrence, int] = {}
        self._sent: dict[Occurrence, _Sent] = {}
        self._recorded: Final = asyncio.Event()
        self.dropped = 0

    def record(self, occurrence: Occurrence) -> None:
        """Never waits."""
        if occurrence not in self._waiting and len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting[occurrence] = self._waiting.get(occurrence, 0) + 1
        self._recorded.set()

    async def run(self) -> None:
        """Send until cancelled, never two at once and with a pause after each."""
        while True:
            await self._recorded.wait()
            if not self._waiting:
                self._recorded.clear()
                continue
            occurrence, times = next(iter(self._waiting.items()))
            try:
                await self._send(occurrence, times, datetime.now(UTC))
            except InvalidError as error:
                log.warning("the API server refuses an event reason=%s error=%s", occurrence.reason, error)
                self.dropped += times
            except KubeError as error:
                log.warning("an event waits to be sent reason=%s error=%s", occurrence.reason, error)
                await asyncio.sleep(max(self._backoff.next_seconds(), error.retry_after_seconds))
                continue
            self._backoff.reset()
            self._forget(occurrence, times)
            await asyncio.sleep(self._spacing_seconds)

    def _forget(self, occurrence: Occurrence, times: int) -> None:
        """It may have happened again while it was sent."""
        left = self._waiting.pop(occurrence) - times
        if left > 0:
            self._waiting[occurrence] = left

    async def _send(self, occurrence: Occurrence, times: int, now: datetime) -> None:
        self._sent = {o: s for o, s in self._sent.items() if now - s.last < _SAME_EVENT}
        before = self._sent.get(occurrence)
        if before is not None:
            try:
                await self._kube.set_event_series(_NAMESPACE, before.name, before.count + times, micro_time(now))
            except NotFoundError:
                pass  # the server forgets events after an hour, or somebody removed it
            else:
                self._sent[occurrence] = _Sent(before.name, before.count + times, now)
                return
        name = f"{self._node}.{int(now.timestamp() * 1e6):x}"
        await self._kube.create_event(_NAMESPACE, event(occurrence, self._node, name, times, now))
        self._sent[occurrence] = _Sent(name, times, now)


def micro_time(moment: datetime) -> str:
    """Kubernetes' MicroTime, which is read only with exactly six digits of a second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event(occurrence: Occurrence, node: str, name: str, times: int, now: datetime) -> dict[str, object]:
    """An `events.k8s.io/v1` Event on a node.

    The kubelet gives its node's events the name for an uid, and `kubectl describe node` looks for both.
    """
    written: dict[str, object] = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "eventTime": micro_time(now),
        "type": occurrence.type,
        "reason": occurrence.reason[:_REASON_CHARACTERS],
        "action": "Observed",
        "note": shortened(occurrence.note),
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "reportingController": EVENT_COMPONENT,
        "reportingInstance": f"{EVENT_COMPONENT}-{node}"[:128],
    }
    if times > 1:
        written["series"] = {"count": times, "lastObservedTime": micro_time(now)}
    return written


def shortened(note: str) -> str:
    """A note of at most 1024 bytes, whole characters, with an ellipsis where it is cut."""
    encoded = note.encode()
    if len(encoded) <= _NOTE_CHARACTERS:
        return note
    return encoded[: _NOTE_CHARACTERS - 3].decode(errors="ignore") + "…"
