"""The engine of the cache: what workers ask for becomes a transaction, then the index, then answers; read `Store`."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from objectcache.link import (
    Abandon,
    BucketRules,
    Commit,
    Damaged,
    Done,
    List,
    Listed,
    Refused,
    Remove,
    Reserve,
    Sound,
    Writable,
)
from objectcache.room.accounts import Account, Accounts, Ages, Reservation
from objectcache.room.order import Batch, Candidate, Order, Sieve
from objectcache.room.victims import Holding, NoRoom, Reason, Space, Take, ahead, make_room, too_large
from objectcache.storage.catalogue import Catalogue, CatalogueError, CatalogueFullError, CatalogueReadOnlyError, Row
from objectcache.storage.files import DataFolder, create_incoming
from objectcache.storage.index import PINNED, SUSPECT, Entry, IndexWriter
from objectcache.storage.keys import Key, KeyMaker

Message = Reserve | Commit | Abandon | Remove | List | Damaged | Sound
Answer = Done | Refused | Listed
DiskState = Literal["ok", "full", "read_only", "broken"]

# One transaction takes no more, so that an index that is nearly due for a rebuild cannot overflow in one.
_MOST_AT_ONCE: Final = 200
# Of a step of `tick`: some 5 ms, most of it for removing files of which each may take half a millisecond.
_EVICTED_AT_ONCE: Final = 16
_WALKED_AT_ONCE: Final = 500
_CANDIDATES: Final = 64
# A walk over all objects that notes when they were read begins no sooner after the one before.
_WALK_SECONDS: Final = 600
# A bucket that is gone from the rules by mistake keeps its objects for so long.
_GRACE_SECONDS: Final = 600
# A disk without any room gets so much back.
_EMERGENCY_PART: Final = 0.02
_PROBE: Final = b"\0" * 4096

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_STATUSES: Final[dict[DiskState, int]] = {"ok": 0, "full": 507, "read_only": 503, "broken": 503}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a worker said; `worker` is the keeper's number for it, never another's later."""

    worker: int
    message: Message


@dataclass(frozen=True, slots=True)
class Limits:
    """As in `Space`."""

    capacity_bytes: int
    low: float = 0.90
    high: float = 0.95
    floor_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """What a store stands on, as `recover` leaves it; `usage` is bytes, objects and pinned bytes by bucket's number."""

    folder: DataFolder
    catalogue: Catalogue
    index: IndexWriter
    usage: dict[int, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class View:
    """What others may know of a store; a value, published by `tick`.

    Attributes:
        accounts: By bucket's number, of those that hold or reserve anything.
        names: Of these buckets.
        usable_bytes: Of the capacity, less than all where other users of the disk leave less.
        evicted: Objects, by bucket's number and reason.
        put_ages: Of evicted objects, counted by AGE_BOUNDS; `read_ages` since they were last read, or put.
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


@dataclass(frozen=True, slots=True)
class _Object:
    """One that is to go."""

    key: Key
    object_id: int
    bucket: int
    size_bytes: int
    pinned: bool


@dataclass(slots=True)
class _Changes:
    """What a transaction will have done to index and files.

    Attributes:
        entries: None for what is gone.
        gone: Files to be removed afterwards.
        published: Files to be removed if it fails.
        reservations: As they were before.
    """

    ids: list[int] = field(default_factory=list)
    entries: dict[Key, Entry | None] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    reservations: dict[int, Reservation | None] = field(default_factory=dict)
    evicted: list[tuple[Reason, Row, int]] = field(default_factory=list)


class Store:
    """Synchronous, of one thread. If `generation` moved in a call, workers get `index` before anything is answered.

    A transaction's changes become visible after its commit and in this order: index, files, answers. So what was
    answered is kept, whatever happens; and whoever still follows the old index finds no file, never other content.

    Attributes:
        index: The one that counts.
        generation: How often there was a new one.
        damaged: How many objects were found damaged.
        view: As of the last `tick`.
    """

    def __init__(self, disk: Disk, limits: Limits, order: Callable[[], Order] = Sieve) -> None:
        self.index = disk.index
        self.generation = 0
        self.damaged = 0
        self._folder = disk.folder
        self._catalogue = disk.catalogue
        self._keys = KeyMaker(disk.catalogue.header.secret)
        self._limits = limits
        self._accounts = Accounts(disk.usage)
        self._order = order
        self._orders: dict[int, Order] = {}
        self._rules: dict[str, BucketRules] = {}
        self._by_number: dict[int, BucketRules] = {}
        self._names: dict[int, str] = {}
        self._gone_since: dict[int, int] = {}
        self._changes = _Changes()
        self._space = Space(limits.capacity_bytes)
        self._old_indexes: list[IndexWriter] = []
        self._emptying = False
        self._disk: DiskState = "ok"
        self._disk_error = ""
        # What is out of the index but not yet off the disk, which did not take it.
        self._owed: dict[int, _Object] = {}
        self._garbage: set[int] = set()
        self._evicted: Counter[tuple[int, Reason]] = Counter()
        self._put_ages = Ages()
        self._read_ages = Ages()
        # The walk that notes accesses: bucket's number and id behind which it goes on, when it and the last one began.
        self._walk = (0, 0)
        self._walk_began = 0
        self._walked_since = 0
        self.view = self._viewed()

    @property
    def writable(self) -> Writable:
        return Writable(_STATUSES[self._disk], self._disk_error)

    def number_of(self, bucket: str) -> int:
        """For BucketRules; never another bucket's.

        Raises:
            CatalogueError: The disk does not take a new one.
        """
        return self._catalogue.number_of(bucket)

    def set_rules(self, rules: Sequence[BucketRules], now: int) -> None:
        """Quotas and shares of now; what exceeds them goes in `tick`, or when others need it.

        Raises:
            CatalogueError: The names of buckets cannot be read.
        """
        self._rules = {each.name: each for each in rules}
        self._by_number = {each.number: each for each in rules}
        self._names = {number: name for name, number in self._catalogue.buckets().items()}
        gone = self._names.keys() - self._by_number.keys()
        self._gone_since = {number: self._gone_since.get(number, now) for number in sorted(gone)}

    def handle(self, batch: Sequence[Asked], now: int) -> list[Answer | None]:
        """Do what was asked, in order; an answer, or None where none is due, for each.

        Args:
            batch: In the order of arrival.
            now: Seconds since 1970.
        """
        answers: list[Answer | None] = []
        for first in range(0, len(batch), _MOST_AT_ONCE):
            part = batch[first : first + _MOST_AT_ONCE]
            answers += self._handle_part(part, now)
        return answers

    def _handle_part(self, part: Sequence[Asked], now: int) -> list[Answer | None]:
        self._measure()
        self._rebuild_if_due()
        if self._disk in {"read_only", "broken"}:
            return [self._without_disk(each) for each in part]
        done: list[Answer | None] = []
        fresh = sum(isinstance(each.message, Reserve) and not each.message.object_id for each in part)
        error = self._transaction(
            lambda: done.extend(self._answer(each.worker, each.message, now) for each in part), fresh, now
        )
        return done if error is None else [self._without_disk(each) for each in part]

    def worker_ended(self, worker: int) -> None:
        """What it had reserved is free again, and what it had begun to write is gone."""
        for object_id in self._accounts.reserved_by(worker):
            self._release(object_id)

    def took_index(self) -> None:
        """All workers have the new index: the old one's memory is given back."""
        for each in self._old_indexes:
            each.close()
        self._old_indexes.clear()

    def tick(self, now: int) -> bool:
        """A step of what nobody waits for, some milliseconds; whether there is more to do at once."""
        self._measure()
        if self._disk != "ok":
            self._recover(now)
        more = False
        if self._disk == "ok":
            self._sweep()
            more = self._evict_ahead(now) | self._note_accesses(now)
            self._rebuild_if_due()
        self.view = self._viewed()
        return more

    def close(self, *, clean: bool) -> None:
        """Nobody asks any more.

        Args:
            clean: Whether the next start may trust what is here; false if the disk was in trouble, whatever is given.

        Raises:
            CatalogueError: It could not be closed cleanly.
            OSError: The content of objects may not outlive a loss of power.
        """
        self.took_index()
        self.index.close()
        sound = clean and self._disk == "ok" and not self._owed and not self._garbage
        if sound:
            try:
                self._folder.sync()
            except OSError:
                self._catalogue.close(clean=False)
                raise
        self._catalogue.close(clean=sound)

    # Transactions.

    def _transaction(self, work: Callable[[], None], fresh: int, now: int) -> CatalogueError | None:
        """All of it, or nothing and why."""
        self._changes = _Changes()
        self._accounts.begin()
        try:
            with self._catalogue.changes():
                self._changes.ids = list(self._catalogue.take_ids(fresh)) if fresh else []
                work()
        except CatalogueError as error:
            self._accounts.take_back()
            for object_id, before in self._changes.reservations.items():
                self._accounts.reserve(object_id, before)
            self._remove_files(self._changes.published)
            self._trouble(error)
            return error
        self._apply(now)
        return None

    def _apply(self, now: int) -> None:
        for key, entry in self._changes.entries.items():
            if entry is None:
                self.index.remove(key)
            elif (found := self.index.find(key)) is not None and found.object_id == entry.object_id:
                # `put` would forget when it was read.
                self.index.set_flags(key, entry.flags)
            else:
                self.index.put(key, *entry[1:])
        self._remove_files(self._changes.gone)
        for reason, row, accessed in self._changes.evicted:
            self._evicted[row.bucket, reason] += 1
            self._put_ages.add(now - row.created)
            self._read_ages.add(now - max(row.created, accessed))

    def _remove_files(self, ids: Sequence[int]) -> None:
        try:
            self._folder.remove(ids)
        except OSError as error:
            # All were tried; those that are there are tried again.
            self._garbage.update(ids)
            self._trouble(error)

    def _trouble(self, error: CatalogueError | OSError) -> None:
        if isinstance(error, CatalogueFullError) or (isinstance(error, OSError) and error.errno in _FULL):
            self._disk = "full"
        elif isinstance(error, CatalogueReadOnlyError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
            self._disk = "read_only"
        else:
            self._disk = "broken"
        self._disk_error = f"the cache's disk takes no objects ({self._disk}): {error}"

    # Answers.

    def _answer(self, worker: int, message: Message, now: int) -> Answer | None:
        match message:
            case Reserve():
                return self._reserve(worker, message, now)
            case Commit():
                return self._commit(worker, message, now)
            case Remove():
                return self._remove(message)
            case List():
                return self._list(message)
            case Abandon():
                found = self._accounts.reservation(message.object_id)
                if found is not None and found.worker == worker:
                    self._accounts.reserve(message.object_id, None)
            case Damaged():
                self._damage(message)
            case Sound():
                self._clear(message)
        return None

    def _without_disk(self, asked: Asked) -> Answer | None:
        """What nothing needs to be written for is done; what was to be committed is given up."""
        message = asked.message
        match message:
            case Commit() | Abandon():
                found = self._accounts.reservation(message.object_id)
                if found is not None and found.worker == asked.worker:
                    self._release(message.object_id)
            case List():
                with suppress(CatalogueError):
                    return self._list(message)
            case Damaged():
                self._damage_without_disk(message)
            case Reserve() | Remove() | Sound():
                pass
        if isinstance(message, Abandon | Damaged | Sound):
            return None
        return Refused(message.ticket, _STATUSES[self._disk] or 503, self._disk_error)

    def _reserve(self, worker: int, asked: Reserve, now: int) -> Answer:
        rules = self._rules.get(asked.bucket)
        if rules is None:
            return _no_rules(asked.ticket, asked.bucket)
        if self._disk != "ok":
            return Refused(asked.ticket, _STATUSES[self._disk], self._disk_error)
        before = self._accounts.reservation(asked.object_id) if asked.object_id else None
        if asked.object_id and (before is None or (before.worker, before.bucket) != (worker, rules.number)):
            return _not_reserved(asked.ticket, asked.object_id)
        pinned = asked.pinned if before is None else before.pinned
        need = asked.size_bytes - (0 if before is None else before.size_bytes)
        if need < 0 or (before is not None and need == 0):
            return Done(asked.ticket, asked.object_id) if before else Refused(asked.ticket, 400, "a size below 0")
        reason = self._pin_refused(rules, need) if pinned else ""
        refused = NoRoom(507, reason) if reason else self._find_room(rules, need, asked.size_bytes, now)
        if refused is not None:
            return Refused(asked.ticket, refused.status, refused.reason)
        object_id = asked.object_id or self._changes.ids.pop(0)
        self._changes.reservations.setdefault(object_id, before)
        self._accounts.reserve(object_id, Reservation(worker, rules.number, asked.size_bytes, pinned))
        return Done(asked.ticket, object_id)

    def _commit(self, worker: int, asked: Commit, now: int) -> Answer:
        reserved = self._accounts.reservation(asked.object_id)
        if reserved is None or reserved.worker != worker:
            return _not_reserved(asked.ticket, asked.object_id)
        refusal, key, found = self._commit_refused(reserved, asked)
        if refusal is not None:
            self._release(asked.object_id)
            return refusal
        try:
            self._folder.publish(asked.object_id)
        except OSError as error:
            self._release(asked.object_id)
            self._remove_files([asked.object_id])
            if not isinstance(error, FileNotFoundError):
                self._trouble(error)
            return Refused(
                asked.ticket, _STATUSES[self._disk] or 503, f"object {asked.object_id} was not kept: {error}"
            )
        self._changes.published.append(asked.object_id)
        if found is not None:
            self._drop(_object(key, found))
        flags = PINNED if asked.pinned else 0
        number = reserved.bucket
        self._catalogue.insert(
            Row(asked.object_id, number, asked.name, asked.size_bytes, asked.checksum, now, 0, flags)
        )
        self._accounts.add(number, asked.size_bytes, pinned=asked.pinned)
        self._changes.entries[key] = Entry(0, asked.object_id, asked.size_bytes, asked.checksum, number, flags)
        self._accounts.reserve(asked.object_id, None)
        return Done(asked.ticket, asked.object_id, replaced=found is not None)

    def _commit_refused(self, reserved: Reservation, asked: Commit) -> tuple[Refused | None, Key, Entry | None]:
        rules = self._rules.get(asked.bucket)
        key = self._keys.key(asked.bucket, asked.name)
        found = self._find(key)
        refusal: Refused | None = None
        if rules is None or rules.number != reserved.bucket:
            refusal = _no_rules(asked.ticket, asked.bucket)
        elif not 0 <= asked.size_bytes <= reserved.size_bytes:
            text = f"{asked.size_bytes} bytes came, and {reserved.size_bytes} were reserved; send the object again"
            refusal = Refused(asked.ticket, 507, text)
        elif asked.if_absent and found is not None:
            refusal = Refused(asked.ticket, 412, "there is such an object, and If-None-Match is *")
        elif asked.if_match and (found is None or found.checksum not in asked.if_match):
            refusal = _no_match(asked.ticket)
        elif asked.pinned:
            own = reserved.size_bytes if reserved.pinned else 0
            replaced = found.size if found is not None and found.flags & PINNED else 0
            reason = self._pin_refused(rules, asked.size_bytes - own - replaced)
            refusal = Refused(asked.ticket, 507, reason) if reason else None
        return refusal, key, found

    def _remove(self, asked: Remove) -> Answer:
        if asked.bucket not in self._rules:
            return _no_rules(asked.ticket, asked.bucket)
        key = self._keys.key(asked.bucket, asked.name)
        found = self._find(key)
        if found is None:
            return Refused(asked.ticket, 404, "no such object")
        if asked.if_match and found.checksum not in asked.if_match:
            return _no_match(asked.ticket)
        self._drop(_object(key, found))
        return Done(asked.ticket, replaced=True)

    def _list(self, asked: List) -> Answer:
        rules = self._rules.get(asked.bucket)
        if rules is None:
            return _no_rules(asked.ticket, asked.bucket)
        found = self._catalogue.page(rules.number, asked.prefix, asked.after, asked.limit + 1)
        return Listed(asked.ticket, tuple(found[: asked.limit]), more=len(found) > asked.limit)

    def _damage(self, said: Damaged) -> None:
        key = self._keys.key(said.bucket, said.name)
        found = self._find(key)
        # Another object may have taken its name meanwhile.
        if found is not None and found.object_id == said.object_id:
            self._drop(_object(key, found))
            self.damaged += 1

    def _damage_without_disk(self, said: Damaged) -> None:
        key = self._keys.key(said.bucket, said.name)
        found = self.index.find(key)
        if found is not None and found.object_id == said.object_id:
            self._hide(_object(key, found))
            self.damaged += 1

    def _clear(self, said: Sound) -> None:
        key = self._keys.key(said.bucket, said.name)
        found = self._find(key)
        if found is not None and found.object_id == said.object_id:
            flags = found.flags & ~SUSPECT
            self._catalogue.set_flags([(flags, found.object_id)])
            self._changes.entries[key] = found._replace(flags=flags)

    # Room.

    def _find(self, key: Key) -> Entry | None:
        """As it will be once the transaction is committed."""
        changed = self._changes.entries
        return changed[key] if key in changed else self.index.find(key)

    def _find_room(self, rules: BucketRules, need: int, size_bytes: int, now: int) -> NoRoom | None:
        account = self._accounts.of(rules.number)
        asking = account.holding(rules.name, rules.quota_bytes, rules.weight)
        if refusal := too_large(asking, size_bytes, self._space):
            return refusal
        if (
            account.used_bytes + need <= rules.quota_bytes
            and self._accounts.used_bytes + need <= self._space.usable_bytes
        ):
            return None
        while takes := make_room(rules.number, need, self._holdings() | {rules.number: asking}, self._space):
            if isinstance(takes, NoRoom):
                return takes
            # Whole objects go, so that the first step may free what others were to give: plan anew after each.
            if self._evict(takes[0], now) < takes[0].size_bytes:
                return NoRoom(507, f"no room for {need} bytes in bucket {rules.name!r}: too little can go; try again")
            asking = self._accounts.of(rules.number).holding(rules.name, rules.quota_bytes, rules.weight)
        return None

    def _pin_refused(self, rules: BucketRules, need: int) -> str:
        account = self._accounts.of(rules.number)
        pinned = account.pinned_bytes + account.reserved_pinned_bytes
        if pinned + need <= rules.pinned_bytes:
            return ""
        return (
            f"no room for {need} more pinned bytes in bucket {rules.name!r}: {pinned} of {rules.pinned_bytes} are "
            "pinned; remove pinned objects or put this one without Tasuki-Pinned"
        )

    def _holdings(self) -> dict[int, Holding]:
        found = {}
        for number, account in self._accounts.all().items():
            rules = self._by_number.get(number)
            name = self._names.get(number, f"number {number}")
            quota, weight = (0, None) if rules is None else (rules.quota_bytes, rules.weight)
            found[number] = account.holding(name, quota, weight)
        return found

    def _evict(self, take: Take, now: int, most: int = 2**63) -> int:
        """Bytes that went: as many as were asked for unless it takes more than `most` objects."""
        freed = gone = looked = 0
        # By the second round nothing was read since the hand passed; one more for what the first began in the middle.
        enough = 3 * (self._accounts.of(take.bucket).objects + _CANDIDATES)
        while freed < take.size_bytes and gone < most and looked <= enough:
            for each, accessed in self._chosen(take.bucket, take.size_bytes - freed, now):
                row = self._catalogue.row(each.object_id)
                if gone < most and row is not None:
                    self._changes.evicted.append((take.reason, row, accessed))
                    self._drop(each)
                    freed += each.size_bytes
                    gone += 1
            looked += _CANDIDATES
        return freed

    def _chosen(self, bucket: int, need_bytes: int, now: int) -> list[tuple[_Object, int]]:
        """Of the next batch: those that go, with when they were last read, 0 for never."""
        order = self._orders.setdefault(bucket, self._order())
        rows = self._catalogue.candidates(bucket, order.after_id, _CANDIDATES + 1)
        ends = len(rows) <= _CANDIDATES
        rows = rows[:_CANDIDATES]
        objects: dict[int, _Object] = {}
        candidates = []
        for object_id, name, size, flags in rows:
            pinned = bool(flags & PINNED)
            if object_id in self._owed or (pinned and bucket in self._by_number):
                continue
            key = self._keys.key(self._names[bucket], name)
            accessed = self._accessed(key)
            objects[object_id] = _Object(key, object_id, bucket, size, pinned)
            candidates.append(Candidate(object_id, size, 0, min(accessed, now)))
        if not candidates:
            order.after_id = 0 if ends else rows[-1][0]
            return []
        times = {each.object_id: each.accessed for each in candidates}
        held = self._accounts.of(bucket).kept_bytes
        chosen = order.choose(Batch(candidates, ends, held), need_bytes, now)
        return [(objects[each.object_id], times[each.object_id]) for each in chosen]

    def _accessed(self, key: Key) -> int:
        """Seconds since 1970; 0 if it was never read."""
        found = self.index.find(key)
        since = int(self.index.accessed([found.slot])[0]) if found is not None else 0
        return since + self.index.epoch_seconds if since else 0

    def _drop(self, each: _Object) -> None:
        self._catalogue.delete([each.object_id])
        self._accounts.take(each.bucket, each.size_bytes, pinned=each.pinned)
        self._changes.entries[each.key] = None
        self._changes.gone.append(each.object_id)

    def _release(self, object_id: int) -> None:
        self._accounts.reserve(object_id, None)
        # What stays behind is removed at the next start.
        with suppress(OSError):
            self._folder.remove_incoming(object_id)

    # What nobody waits for.

    def _measure(self) -> None:
        free = 2**63 if not self._limits.floor_bytes else self._folder.free_bytes()
        limits = self._limits
        self._space = Space(
            limits.capacity_bytes, limits.low, limits.high, free, self._accounts.used_bytes, limits.floor_bytes
        )

    def _rebuild_if_due(self) -> None:
        if self.index.needs_rebuild:
            new = self.index.rebuilt()
            self._old_indexes.append(self.index)
            self.index = new
            self.generation += 1

    def _evict_ahead(self, now: int) -> bool:
        # Once above the high watermark, down to the low one, in as many steps as it takes.
        space = replace(self._space, high=self._space.low) if self._emptying else self._space
        holdings = self._holdings()
        takes = list(ahead(holdings, space))
        self._emptying = any(take.reason != "quota" for take in takes)
        takes += [
            Take(number, each.kept_bytes, "bucket_removed")
            for number, each in holdings.items()
            if each.weight is None and each.kept_bytes and now - self._gone_since.get(number, now) >= _GRACE_SECONDS
        ]
        if not takes:
            return False

        # Only the first, as in `_find_room`; the next step plans anew.
        def work() -> None:
            self._evict(takes[0], now, _EVICTED_AT_ONCE)

        return self._transaction(work, 0, now) is None and bool(self._changes.evicted)

    def _note_accesses(self, now: int) -> bool:
        """Lets when objects were read outlive this process, to some ten minutes."""
        if not self._walk_began:
            self._walk_began = self._walked_since = now
        if self._walk == (0, 0):
            if now - self._walk_began < _WALK_SECONDS:
                return False
            self._walked_since, self._walk_began = self._walk_began, now
        behind, after_id = self._walk
        number = next((each for each in self._accounts.all() if each >= behind), None)
        if number is None:
            self._walk = (0, 0)
            return False
        rows = self._catalogue.candidates(number, after_id if number == behind else 0, _WALKED_AT_ONCE)
        times = [(self._accessed(self._keys.key(self._names[number], name)), each) for each, name, _, _ in rows]
        read = [(seconds, each) for seconds, each in times if seconds >= self._walked_since]
        if read and self._transaction(lambda: self._catalogue.set_accessed(read), 0, now) is not None:
            return False
        self._walk = (number, rows[-1][0]) if len(rows) == _WALKED_AT_ONCE else (number + 1, 0)
        return True

    def _recover(self, now: int) -> None:
        """Whether the disk takes objects again, found out by writing to it."""
        try:
            # What went before may be room enough; if not even its rows can go, more has to.
            if self._disk == "full" and not (self._owed and self._settle()):
                self._make_emergency_room(now)
            (object_id,) = self._catalogue.take_ids(1)
            fd = create_incoming(self._folder.incoming_fd, object_id, len(_PROBE))
            try:
                os.write(fd, _PROBE)
                os.fsync(fd)
            finally:
                os.close(fd)
                self._folder.remove_incoming(object_id)
        except (OSError, CatalogueError) as error:
            self._trouble(error)
        else:
            self._disk, self._disk_error = "ok", ""

    def _make_emergency_room(self, now: int) -> None:
        """Files go before their rows: without room, SQLite could not even delete."""
        used = self._accounts.used_bytes
        space = Space(used + 1, 1 - _EMERGENCY_PART, 0, free_bytes=0, used_then_bytes=used)
        for take in ahead(self._holdings(), space):
            for each, _ in self._chosen(take.bucket, take.size_bytes, now):
                self._hide(each)
                self._folder.remove([each.object_id])

    def _hide(self, each: _Object) -> None:
        self.index.remove(each.key)
        self._owed[each.object_id] = each

    def _sweep(self) -> None:
        """What is out of the index goes from the disk too."""
        if self._garbage:
            ids = sorted(self._garbage)
            self._garbage.clear()
            self._remove_files(ids)
        if self._owed:
            self._settle()

    def _settle(self) -> bool:
        owed = list(self._owed.values())

        def work() -> None:
            self._catalogue.delete([each.object_id for each in owed])
            for each in owed:
                self._accounts.take(each.bucket, each.size_bytes, pinned=each.pinned)
                self._changes.gone.append(each.object_id)

        if self._transaction(work, 0, 0) is not None:
            return False
        self._owed.clear()
        return True

    def _viewed(self) -> View:
        accounts = self._accounts.all()
        return View(
            accounts,
            {number: self._names.get(number, f"number {number}") for number in accounts},
            self._accounts.used_bytes,
            self._limits.capacity_bytes,
            self._space.usable_bytes,
            len(self.index),
            dict(self._evicted),
            tuple(self._put_ages.counts),
            tuple(self._read_ages.counts),
            self.damaged,
            self._disk,
            self._disk_error,
        )


def _object(key: Key, entry: Entry) -> _Object:
    return _Object(key, entry.object_id, entry.bucket, entry.size, bool(entry.flags & PINNED))


def _no_rules(ticket: int, bucket: str) -> Refused:
    return Refused(ticket, 403, f"bucket {bucket!r} is in no rules of this node any more")


def _not_reserved(ticket: int, object_id: int) -> Refused:
    return Refused(ticket, 503, f"nothing is reserved for object {object_id}; send it again")


def _no_match(ticket: int) -> Refused:
    return Refused(ticket, 412, "there is no object with a checksum of If-Match")
