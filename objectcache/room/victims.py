"""Which buckets give up how many bytes so that others fit, or why they do not; read `make_room` first."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from objectcache.room.shares import Demand, fair_shares

Reason = Literal["share", "quota", "watermark", "floor", "bucket_removed"]

TOO_LARGE: Final = 413
NO_ROOM: Final = 507


@dataclass(frozen=True, slots=True)
class Holding:
    """What a bucket holds.

    Attributes:
        kept_bytes: Of its objects.
        fixed_bytes: Of those, how many are of pinned objects, which never go.
        reserved_bytes: Promised to objects under way.
        quota_bytes: What it may hold.
        weight: Of its share; None for a bucket that is in no rules any more: it has no share, and its pins are void.
    """

    name: str
    kept_bytes: int
    fixed_bytes: int
    reserved_bytes: int
    quota_bytes: int
    weight: float | None

    @property
    def used_bytes(self) -> int:
        return self.kept_bytes + self.reserved_bytes

    @property
    def loose_bytes(self) -> int:
        """Could go."""
        return self.kept_bytes if self.weight is None else self.kept_bytes - self.fixed_bytes


@dataclass(frozen=True, slots=True)
class Space:
    """How much disk there is.

    Attributes:
        capacity_bytes: What the cache may use.
        low: To which part of it the cache is emptied once more than `high` of it is in use.
        high: As `low`.
        free_bytes: What the file system had left, for whoever writes first, when the cache used `used_then_bytes`.
        used_then_bytes: As `free_bytes`; what is in use now may differ.
        floor_bytes: How much of the file system is left to the node's other users.
    """

    capacity_bytes: int
    low: float = 0.90
    high: float = 0.95
    free_bytes: int = 2**63
    used_then_bytes: int = 0
    floor_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        """How much all objects may use together."""
        return max(0, min(self.capacity_bytes, self.used_then_bytes + self.free_bytes - self.floor_bytes))

    @property
    def is_short(self) -> bool:
        """Whether other users of the file system, not the capacity, are what limits."""
        return self.usable_bytes < self.capacity_bytes


@dataclass(frozen=True, slots=True)
class Take:
    """Bytes that a bucket gives up, and for what."""

    bucket: int
    size_bytes: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class NoRoom:
    status: int
    reason: str


def make_room(bucket: int, need_bytes: int, holdings: Mapping[int, Holding], space: Space) -> tuple[Take, ...] | NoRoom:
    """What has to go before a bucket gets more bytes.

    What exceeds its own quota goes from the bucket itself. Then buckets in no rules give all, and those above their
    share what is above; a bucket at or under its share loses nothing to another. What is still lacking, because others
    have pinned it or are writing it, the bucket gives up itself.

    Args:
        bucket: One of `holdings`, and in the rules.
        need_bytes: In addition to what it uses.
        holdings: Of all buckets.
        space: Of the disk.
    """
    asking = holdings[bucket]
    if refusal := too_large(asking, need_bytes, space):
        return refusal
    own = max(0, asking.used_bytes + need_bytes - asking.quota_bytes)
    if own > asking.loose_bytes:
        return NoRoom(NO_ROOM, _stuck(asking, need_bytes))
    used = sum(each.used_bytes for each in holdings.values())
    usable = space.usable_bytes
    lacking = used + need_bytes - own - usable
    takes = [Take(bucket, own, "quota")] if own else []
    if lacking <= 0:
        return tuple(takes)
    wanting = replace(asking, kept_bytes=asking.kept_bytes - own, reserved_bytes=asking.reserved_bytes + need_bytes)
    found = _above({**holdings, bucket: wanting}, usable, lacking, "floor" if space.is_short else "share")
    takes += found
    lacking -= sum(take.size_bytes for take in found)
    from_own = own + sum(take.size_bytes for take in found if take.bucket == bucket)
    if lacking > asking.loose_bytes - from_own:
        return NoRoom(NO_ROOM, _full(asking, need_bytes))
    if lacking > 0:
        takes.append(Take(bucket, lacking, "share"))
    return tuple(takes)


def too_large(asking: Holding, size_bytes: int, space: Space) -> NoRoom | None:
    """Why an object would not fit if there were no other."""
    if size_bytes > asking.quota_bytes:
        return NoRoom(
            TOO_LARGE,
            f"{size_bytes} bytes are more than bucket {asking.name!r} may hold ({asking.quota_bytes}); raise its quota "
            "or put less",
        )
    if size_bytes > space.capacity_bytes:
        return NoRoom(
            TOO_LARGE, f"{size_bytes} bytes are more than this node's cache may hold ({space.capacity_bytes})"
        )
    return None


def ahead(holdings: Mapping[int, Holding], space: Space) -> tuple[Take, ...]:
    """What goes without anybody waiting for it.

    Whatever exceeds a quota; and above the high watermark, or with too little left to others, what is above the shares
    of the low watermark.
    """
    takes = [
        Take(number, min(over, each.loose_bytes), "quota")
        for number, each in sorted(holdings.items())
        if each.weight is not None and (over := each.used_bytes - each.quota_bytes) > 0 and each.loose_bytes
    ]
    left = {
        take.bucket: replace(holdings[take.bucket], kept_bytes=holdings[take.bucket].kept_bytes - take.size_bytes)
        for take in takes
    }
    after = {**holdings, **left}
    used = sum(each.used_bytes for each in after.values())
    usable = space.usable_bytes
    if used > int(usable * space.high):
        low = int(usable * space.low)
        takes += _above(after, low, used - low, "floor" if space.is_short else "watermark")
    return tuple(takes)


def shares(holdings: Mapping[int, Holding], usable_bytes: int) -> dict[int, int]:
    """What each bucket may keep when they compete; nothing for those in no rules."""
    demands = {
        number: Demand(each.used_bytes, each.quota_bytes, each.weight)
        for number, each in holdings.items()
        if each.weight is not None
    }
    return dict.fromkeys(holdings, 0) | fair_shares(usable_bytes, demands)


def _above(holdings: Mapping[int, Holding], usable: int, lacking: int, reason: Reason) -> list[Take]:
    """What is above its share, up to so many bytes: first of buckets in no rules, then of those furthest above."""
    entitled = shares(holdings, usable)
    above = {number: min(each.used_bytes - entitled[number], each.loose_bytes) for number, each in holdings.items()}
    takes = []
    for number in sorted(above, key=lambda number: (holdings[number].weight is not None, -above[number], number)):
        size = min(above[number], lacking)
        if size > 0:
            gone = holdings[number].weight is None
            takes.append(Take(number, size, "bucket_removed" if gone else reason))
            lacking -= size
    return takes


def _stuck(asking: Holding, need_bytes: int) -> str:
    return (
        f"no room for {need_bytes} bytes in bucket {asking.name!r}: of its quota of {asking.quota_bytes} bytes "
        f"{asking.fixed_bytes} are pinned and {asking.reserved_bytes} are being written; remove pinned objects or try "
        "again"
    )


def _full(asking: Holding, need_bytes: int) -> str:
    # A client is not to learn which other buckets there are; what they hold is in the metrics, for the operator.
    return (
        f"no room for {need_bytes} bytes in bucket {asking.name!r}: this node's cache is full, and nothing in it may "
        f"go for them; the bucket itself has {asking.used_bytes} bytes here ({asking.fixed_bytes} pinned, "
        f"{asking.reserved_bytes} being written): remove some of its objects, or try again later"
    )
