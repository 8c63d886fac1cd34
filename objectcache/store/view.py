"""What others may know of a store."""

from dataclasses import dataclass
from typing import Final

from objectcache.room.accounts import Account
from objectcache.room.victims import Reason
from objectcache.store.condition import DiskState
from objectcache.store.evicting import Evicting
from objectcache.store.kept import Kept
from objectcache.store.ruled import Ruled

# A cache that may use less than such a part of its capacity is none.
_LEAST_PART: Final = 100


@dataclass(frozen=True, slots=True)
class View:
    """A value.

    Attributes:
        accounts: By bucket's number, of those that hold or reserve anything.
        names: Of these buckets.
        usable_bytes: Of the capacity, less than all where other users of the disk leave less.
        evicted: Objects, by bucket's number and reason.
        put_ages: Of evicted objects, counted by AGE_BOUNDS; `read_ages` since they were last read, or put.
        put_seconds: Of all of them together; `read_seconds` likewise.
    """

    accounts: dict[int, Account]
    names: dict[int, str]
    used_bytes: int
    capacity_bytes: int
    usable_bytes: int
    objects: int
    evicted: dict[tuple[int, Reason], int]
    put_ages: tuple[int, ...]
    read_ages: tuple[int, ...]
    damaged: int
    disk: DiskState
    disk_error: str
    put_seconds: int
    read_seconds: int

    @property
    def problem(self) -> str:
        """Why new objects find no place, for the operator; empty if they do."""
        if self.disk != "ok":
            return self.disk_error
        if self.usable_bytes < max(self.used_bytes, self.capacity_bytes // _LEAST_PART):
            return "other files on its disk leave the cache no room; remove some, or lower --capacity or --free-bytes"
        return ""


def viewed(kept: Kept, ruled: Ruled, evicting: Evicting) -> View:
    """As of now; O(buckets)."""
    accounts = kept.accounts.all()
    return View(
        accounts=accounts,
        names={number: ruled.name_of(number) for number in accounts},
        used_bytes=kept.accounts.used_bytes,
        capacity_bytes=evicting.space.capacity_bytes,
        usable_bytes=evicting.space.usable_bytes,
        objects=len(kept.index),
        evicted=dict(evicting.evicted),
        put_ages=tuple(evicting.put_ages.counts),
        read_ages=tuple(evicting.read_ages.counts),
        damaged=kept.damaged,
        disk=kept.condition.state,
        disk_error=kept.condition.error,
        put_seconds=evicting.put_ages.total_seconds,
        read_seconds=evicting.read_ages.total_seconds,
    )
