"""Which digest a tag last had, remembered for a short while and served for longer when the registry is away."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from objectcache.registry.config import Upstream
from objectcache.registry.digests import Digest

# Some 400 bytes each, and at most 3 KiB.
_MOST: Final = 20_000


@dataclass(frozen=True, slots=True)
class TagKey:
    """A tag as one kind of client sees it.

    Attributes:
        upstream: As it is configured: what another configuration led to, such as one with credentials, is forgotten.
        accept: The media types that the client takes: a registry may have a tag for each of them.
    """

    upstream: Upstream
    repository: str
    tag: str
    accept: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a tag leads to.

    Attributes:
        size: Of the manifest in bytes.
    """

    digest: Digest
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Remembered:
    """A tag that was resolved.

    Attributes:
        age_seconds: Since the registry said so.
        is_fresh: The registry need not be asked.
        is_servable: It may stand in for a registry that is away.
    """

    resolved: Resolved
    age_seconds: float
    is_fresh: bool
    is_servable: bool


@dataclass(slots=True)
class _Entry:
    resolved: Resolved
    at: float
    ask_after: float


class TagMemory:
    """The least recently used goes first.

    Args:
        fresh_seconds: How long the registry is not asked again.
        stale_seconds: How long the last digest stands in for a registry that is away.
        pause_seconds: How long a registry that was away is not asked again, where there is something to serve.
    """

    def __init__(
        self, fresh_seconds: float, stale_seconds: float, pause_seconds: float = 10.0, most: int = _MOST
    ) -> None:
        self._fresh_seconds: Final = fresh_seconds
        self._stale_seconds: Final = stale_seconds
        self._pause_seconds: Final = pause_seconds
        self._most: Final = most
        self._entries: OrderedDict[TagKey, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: TagKey, now: float) -> Remembered | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        age = now - entry.at
        if age >= max(self._fresh_seconds, self._stale_seconds):
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return Remembered(entry.resolved, age, age < self._fresh_seconds, age < self._stale_seconds)

    def is_paused(self, key: TagKey, now: float) -> bool:
        """Whether the registry was away a moment ago."""
        entry = self._entries.get(key)
        return entry is not None and now < entry.ask_after

    def put(self, key: TagKey, resolved: Resolved, now: float) -> None:
        self._entries[key] = _Entry(resolved, now, now)
        self._entries.move_to_end(key)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def away(self, key: TagKey, now: float) -> None:
        """The registry could not say."""
        if entry := self._entries.get(key):
            entry.ask_after = now + self._pause_seconds

    def forget(self, key: TagKey) -> None:
        """The registry says that there is no such tag, or that it is not for us."""
        self._entries.pop(key, None)
