"""Who holds how much; every change can be taken back."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from objectcache.room.victims import Holding


@dataclass(frozen=True, slots=True)
class Account:
    """One bucket's.

    Attributes:
        kept_bytes: Of its objects; `pinned_bytes` of those that are pinned.
        reserved_bytes: Promised to objects under way; `reserved_pinned_bytes` of those that will be pinned.
    """

    kept_bytes: int = 0
    objects: int = 0
    pinned_bytes: int = 0
    reserved_bytes: int = 0
    reserved_pinned_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        return self.kept_bytes + self.reserved_bytes

    def holding(self, name: str, quota_bytes: int, weight: float | None) -> Holding:
        return Holding(name, self.kept_bytes, self.pinned_bytes, self.reserved_bytes, quota_bytes, weight)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for an object under way.

    Attributes:
        worker: Who asked for it; nobody else can use it.
        bucket: Its number.
    """

    worker: int
    bucket: int
    size_bytes: int
    pinned: bool


class Accounts:
    """Of all buckets, and what is reserved.

    Attributes:
        used_bytes: Of all together.
    """

    __slots__ = ("_accounts", "_before", "_reservations", "used_bytes")

    def __init__(self, usage: Mapping[int, tuple[int, int, int]]) -> None:
        """From bytes, objects and pinned bytes of each bucket."""
        self._accounts = {number: Account(*each) for number, each in usage.items()}
        self._reservations: dict[int, Reservation] = {}
        self._before: list[tuple[int, Account | None]] = []
        self.used_bytes = sum(each.kept_bytes for each in self._accounts.values())

    def of(self, bucket: int) -> Account:
        return self._accounts.get(bucket, _NOTHING)

    def all(self) -> dict[int, Account]:
        """Those that hold something, by number."""
        return {number: each for number, each in sorted(self._accounts.items()) if each != _NOTHING}

    def reservation(self, object_id: int) -> Reservation | None:
        return self._reservations.get(object_id)

    def reserved_by(self, worker: int) -> list[int]:
        return sorted(each for each, found in self._reservations.items() if found.worker == worker)

    def reserve(self, object_id: int, reservation: Reservation | None) -> None:
        """Let an object have this room from now on; None gives it back."""
        before = self._reservations.pop(object_id, None)
        if before is not None:
            self._reserved(before, -1)
        if reservation is not None:
            self._reservations[object_id] = reservation
            self._reserved(reservation, 1)

    def add(self, bucket: int, size_bytes: int, *, pinned: bool) -> None:
        self._kept(bucket, size_bytes, 1, size_bytes if pinned else 0)

    def take(self, bucket: int, size_bytes: int, *, pinned: bool) -> None:
        self._kept(bucket, -size_bytes, -1, -size_bytes if pinned else 0)

    def begin(self) -> None:
        """From here on, `take_back` undoes what objects came and went; reservations stay as they are."""
        self._before.clear()

    def take_back(self) -> None:
        for bucket, before in reversed(self._before):
            now, then = self.of(bucket), before or _NOTHING
            self.used_bytes += then.kept_bytes - now.kept_bytes
            self._accounts[bucket] = replace(
                now, kept_bytes=then.kept_bytes, objects=then.objects, pinned_bytes=then.pinned_bytes
            )
        self._before.clear()

    def _kept(self, bucket: int, size_bytes: int, objects: int, pinned_bytes: int) -> None:
        before = self.of(bucket)
        self._before.append((bucket, before))
        self._accounts[bucket] = Account(
            before.kept_bytes + size_bytes,
            before.objects + objects,
            before.pinned_bytes + pinned_bytes,
            before.reserved_bytes,
            before.reserved_pinned_bytes,
        )
        self.used_bytes += size_bytes

    def _reserved(self, reservation: Reservation, sign: int) -> None:
        before = self.of(reservation.bucket)
        size = sign * reservation.size_bytes
        self._accounts[reservation.bucket] = Account(
            before.kept_bytes,
            before.objects,
            before.pinned_bytes,
            before.reserved_bytes + size,
            before.reserved_pinned_bytes + (size if reservation.pinned else 0),
        )
        self.used_bytes += size


# Upper bounds of ages in seconds: a minute to a quarter.
AGE_BOUNDS: Final = (60, 600, 3_600, 6 * 3_600, 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400)


class Ages:
    """A histogram of how old evicted objects were.

    Attributes:
        counts: By bucket of AGE_BOUNDS, not cumulated; the last is everything older.
        total_seconds: Of all.
    """

    __slots__ = ("counts", "total_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(AGE_BOUNDS) + 1)
        self.total_seconds = 0

    def add(self, seconds: int) -> None:
        self.counts[bisect_left(AGE_BOUNDS, seconds)] += 1
        self.total_seconds += max(0, seconds)


_NOTHING: Final = Account()
