"""Who gets how much of the disk, and what goes for it; read `Evicting`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from objectcache.link import BucketRules
from objectcache.room.accounts import Ages
from objectcache.room.order import Batch, Candidate, Order
from objectcache.room.victims import Holding, NoRoom, Reason, Space, Take, ahead, make_room, too_large
from objectcache.storage.index import PINNED
from objectcache.store.kept import Kept, KeptObject
from objectcache.store.ruled import Ruled

# Of a step that nobody waits for: some 5 ms, most of it for removing files, which may take half a millisecond each.
_EVICTED_AT_ONCE: Final = 16
_CANDIDATES: Final = 64
# A disk without any room gets so much back.
_EMERGENCY_PART: Final = 0.02


@dataclass(frozen=True, slots=True)
class Limits:
    """As in `Space`."""

    capacity_bytes: int
    low: float = 0.90
    high: float = 0.95
    floor_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Chosen:
    """An object that goes.

    Attributes:
        accessed: When it was last read, in seconds since 1970; 0 for never. `created` as well.
    """

    kept: KeptObject
    created: int
    accessed: int


class Evicting:
    """Makes room, by the rules of `objectcache.room`.

    Attributes:
        space: As last measured.
        evicted: Objects, by bucket's number and reason.
        put_ages: Of evicted objects; `read_ages` since they were last read, or put.
    """

    def __init__(self, kept: Kept, ruled: Ruled, limits: Limits, order: Callable[[], Order]) -> None:
        self.space = Space(limits.capacity_bytes, limits.low, limits.high, floor_bytes=limits.floor_bytes)
        self.evicted: Final[Counter[tuple[int, Reason]]] = Counter()
        self.put_ages: Final = Ages()
        self.read_ages: Final = Ages()
        self._kept: Final = kept
        self._ruled: Final = ruled
        self._order: Final = order
        self._orders: Final[dict[int, Order]] = {}
        self._measured_at = -1
        self._emptying = False

    def measure(self, now: int) -> None:
        """Look at what others leave on the file system, at most once a second.

        What the cache itself puts and removes meanwhile is reckoned with.
        """
        if now == self._measured_at:
            return
        self._measured_at = now
        self._kept.check_disk()
        if self.space.floor_bytes:
            self.space = replace(
                self.space,
                free_bytes=self._kept.folder.free_bytes(),
                used_then_bytes=self._kept.accounts.used_bytes,
            )

    def holdings(self) -> dict[int, Holding]:
        return {number: self._ruled.holding(number, each) for number, each in self._kept.accounts.all().items()}

    def find_room(self, rules: BucketRules, need: int, size_bytes: int, now: int) -> NoRoom | None:
        """Why there is no room, also after others made some.

        Args:
            rules: Of the bucket that asks.
            need: Bytes in addition to what it uses.
            size_bytes: Of the whole object.
            now: Seconds since 1970.
        """
        asking = self._asking(rules)
        if refusal := too_large(asking, size_bytes, self.space):
            return refusal
        if (
            asking.used_bytes + need <= rules.quota_bytes
            and self._kept.accounts.used_bytes + need <= self.space.usable_bytes
        ):
            return None
        while takes := make_room(rules.number, need, self.holdings() | {rules.number: asking}, self.space):
            if isinstance(takes, NoRoom):
                return takes
            # Whole objects go, so that the first step may free what others were to give: plan anew after each.
            if self._evict(takes[0], now) < takes[0].size_bytes:
                return NoRoom(507, f"no room for {need} bytes in bucket {rules.name!r}: too little can go; try again")
            asking = self._asking(rules)
        return None

    def pin_refused(self, rules: BucketRules, need: int) -> str:
        """Why a bucket may not have so many more bytes pinned; empty if it may."""
        account = self._kept.accounts.of(rules.number)
        pinned = account.pinned_bytes + account.reserved_pinned_bytes
        if pinned + need <= rules.pinned_bytes:
            return ""
        return (
            f"no room for {need} more pinned bytes in bucket {rules.name!r}: {pinned} of {rules.pinned_bytes} are "
            "pinned; remove pinned objects or put this one without Tasuki-Pinned"
        )

    def came(self, kept: KeptObject) -> None:
        """An object was put."""
        self._order_of(kept.bucket).came(kept.object_id, kept.size_bytes, kept.key[1])

    def step(self, now: int) -> bool:
        """Let a few go before anybody has to wait for it; whether any went."""
        # Once above the high watermark, down to the low one, in as many steps as it takes.
        space = replace(self.space, high=self.space.low) if self._emptying else self.space
        holdings = self.holdings()
        takes = list(ahead(holdings, space))
        self._emptying = any(take.reason != "quota" for take in takes)
        takes += [
            # Objects of no bytes go as well.
            Take(number, max(1, each.kept_bytes), "bucket_removed")
            for number, each in holdings.items()
            if self._kept.accounts.of(number).objects and self._ruled.is_over(number, now)
        ]
        if not takes:
            return False

        # Only the first, as in `find_room`; the next step plans anew.
        def work() -> None:
            self._evict(takes[0], now, _EVICTED_AT_ONCE)

        return self._kept.transaction(work) is None and self._kept.has_dropped

    def make_emergency_room(self, now: int) -> None:
        """Files go before their rows: without room, SQLite could not even delete.

        Raises:
            CatalogueError: It cannot be read.
            OSError: Files cannot be removed.
        """
        used = self._kept.accounts.used_bytes
        space = Space(used + 1, 1 - _EMERGENCY_PART, 0, free_bytes=0, used_then_bytes=used)
        for take in ahead(self.holdings(), space):
            for each in self._choose(take.bucket, take.size_bytes, now):
                self._kept.hide(each.kept)
                self._kept.folder.remove([each.kept.object_id])

    def _asking(self, rules: BucketRules) -> Holding:
        return self._kept.accounts.of(rules.number).holding(rules.name, rules.quota_bytes, rules.weight)

    def _evict(self, take: Take, now: int, most: int = 2**63) -> int:
        """Bytes that went: as many as were asked for unless it takes more than `most` objects."""
        freed = gone = fruitless = 0
        # By the second round nothing was read since the hand passed; one more for what the first began in the middle.
        enough = 3 * (self._kept.accounts.of(take.bucket).objects + _CANDIDATES)
        while freed < take.size_bytes and gone < most and fruitless <= enough:
            chosen = self._choose(take.bucket, take.size_bytes - freed, now)[: most - gone]
            self._kept.drop([each.kept for each in chosen])
            for each in chosen:
                self._kept.afterwards(partial(self._count, each, take.reason, now))
                freed += each.kept.size_bytes
            gone += len(chosen)
            fruitless = 0 if chosen else fruitless + _CANDIDATES
        return freed

    def _choose(self, bucket: int, need_bytes: int, now: int) -> list[_Chosen]:
        """Of the next batch, those that go."""
        order = self._order_of(bucket)
        rows = self._kept.catalogue.candidates(bucket, order.after_id, _CANDIDATES + 1)
        ends = len(rows) <= _CANDIDATES
        rows = rows[:_CANDIDATES]
        found: dict[int, _Chosen] = {}
        for object_id, name, size, flags, created in rows:
            pinned = bool(flags & PINNED)
            if self._kept.is_hidden(object_id) or (pinned and not self._ruled.is_gone(bucket)):
                continue
            key = self._kept.keys.key(self._ruled.names[bucket], name)
            found[object_id] = _Chosen(
                KeptObject(key, object_id, bucket, size, pinned), created, self._kept.accessed(key)
            )
        if not found:
            order.after_id = 0 if ends else rows[-1][0]
            return []
        # A time of reading ahead of the clock would never be in the past of any hand.
        candidates = [
            Candidate(object_id, each.kept.size_bytes, 0, min(each.accessed, now), each.kept.key[1])
            for object_id, each in found.items()
        ]
        held = self._kept.accounts.of(bucket).kept_bytes
        return [found[each.object_id] for each in order.choose(Batch(candidates, ends, held), need_bytes, now)]

    def _order_of(self, bucket: int) -> Order:
        found = self._orders.get(bucket)
        if found is None:
            found = self._orders[bucket] = self._order()
        return found

    def _count(self, gone: _Chosen, reason: Reason, now: int) -> None:
        self.evicted[gone.kept.bucket, reason] += 1
        self.put_ages.add(now - gone.created)
        self.read_ages.add(now - max(gone.created, gone.accessed))
