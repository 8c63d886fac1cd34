"""Which nodes' caches were heard of lately enough to be believed."""

from collections.abc import Callable, KeysView
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tasuki.kube.cache_node import HEARTBEAT_SECONDS, CacheNodeStatus
from tasuki.kube.times import read_time

# A cache that died without a word leaves its last report behind, with `serving` in it. Two writes may fail, or be
# late by the pauses that an API server asks for, in a cache that is well; a third does not.
SILENT_SECONDS: Final = 3 * HEARTBEAT_SECONDS


@dataclass(slots=True)
class _Heard:
    """`at` is monotonic, and ours: the nodes' clocks differ."""

    observed_time: str
    at: float
    is_silent: bool = False


class Heartbeats:
    """Told of each report, says whether it counts, and later which ceased to.

    A report is as old as it says itself only when it is the first of its node; each further one was written between
    the two, whatever the node's clock says.
    """

    def __init__(self, monotonic: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._monotonic: Final = monotonic
        self._now: Final = now
        self._heard: Final[dict[str, _Heard]] = {}

    @property
    def known(self) -> KeysView[str]:
        """The nodes whose caches have reported, silent ones too."""
        return self._heard.keys()

    def take(self, node: str, status: CacheNodeStatus | None) -> CacheNodeStatus | None:
        """What counts of a node's report: all of it, or nothing if its cache is silent, or if there is none."""
        if status is None:
            self._heard.pop(node, None)
            return None
        before = self._heard.get(node)
        if before is None:
            age_seconds = self._age_seconds(status.observed_time)
            heard = _Heard(status.observed_time, self._monotonic() - age_seconds, age_seconds >= SILENT_SECONDS)
        elif before.observed_time != status.observed_time:
            heard = _Heard(status.observed_time, self._monotonic())
        else:
            heard = before
        self._heard[node] = heard
        return None if heard.is_silent else status

    def fallen_silent(self) -> list[str]:
        """Nodes of which nothing counts any more; each is named once, until it is heard again."""
        since = self._monotonic() - SILENT_SECONDS
        found = [node for node, heard in self._heard.items() if heard.at <= since and not heard.is_silent]
        for node in found:
            self._heard[node].is_silent = True
        return sorted(found)

    def _age_seconds(self, observed_time: str) -> float:
        """By the node's clock; 0 for what cannot be read, and for what is yet to come."""
        observed = read_time(observed_time)
        return 0.0 if observed is None else max(0.0, (self._now() - observed).total_seconds())
