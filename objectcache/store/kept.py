"""What is kept, on the disk and in the index alike, and how both change together; read `Kept`."""

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from objectcache.room.accounts import Accounts, Reservation
from objectcache.storage.catalogue import Catalogue, CatalogueError, Row
from objectcache.storage.files import DataFolder
from objectcache.storage.index import PINNED, Entry, IndexWriter
from objectcache.storage.keys import Key, KeyMaker
from objectcache.store.condition import Condition
from objectcache.store.granted import Granted

# Ids are noted on the disk before they are used, so many at once that promises of room seldom wait for that.
_IDS_AHEAD: Final = 64
# Of an entry that is not in the index yet.
_NOWHERE: Final = -1


@dataclass(frozen=True, slots=True)
class Disk:
    """What a store stands on, as `recover` leaves it; `usage` is bytes, objects and pinned bytes by bucket's number."""

    folder: DataFolder
    catalogue: Catalogue
    index: IndexWriter
    usage: dict[int, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class KeptObject:
    """One that is to go."""

    key: Key
    object_id: int
    bucket: int
    size_bytes: int
    pinned: bool


def kept_object(key: Key, entry: Entry) -> KeptObject:
    return KeptObject(key, entry.object_id, entry.bucket, entry.size, bool(entry.flags & PINNED))


@dataclass(slots=True)
class _Changes:
    """What a transaction will have done to index and files.

    Attributes:
        entries: None for what is gone.
        gone: Files to be removed afterwards.
        published: Files to be removed if it fails.
        reservations: As they were before.
        afterwards: To be called once it is committed.
    """

    entries: dict[Key, Entry | None] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    reservations: dict[int, Reservation | None] = field(default_factory=dict)
    afterwards: list[Callable[[], None]] = field(default_factory=list)


class Kept:
    """Files, catalogue, index and accounts, brought from one state to the next by transactions.

    A transaction's changes become visible after its commit and in this order: index, files, answers. So what was
    answered is kept, whatever happens; and whoever still follows the old index finds no file, never other content.

    Attributes:
        index: The one that counts.
        generation: How often there was a new one.
        damaged: How many objects were found damaged.
    """

    def __init__(self, disk: Disk) -> None:
        self.index = disk.index
        self.generation = 0
        self.damaged = 0
        self.folder: Final = disk.folder
        self.catalogue: Final = disk.catalogue
        self.accounts: Final = Accounts(disk.usage)
        self.granted: Final = Granted()
        self.keys: Final = KeyMaker(disk.catalogue.header.secret)
        self.condition: Final = Condition()
        self._ids: Final[deque[int]] = deque()
        self._changes = _Changes()
        self._old_indexes: Final[list[IndexWriter]] = []
        # What is out of the index but not yet off the disk, which did not take it.
        self._owed: Final[dict[int, KeptObject]] = {}
        self._garbage: Final[set[int]] = set()

    # Looking.

    def find(self, key: Key) -> Entry | None:
        """As it will be once the transaction is committed."""
        changed = self._changes.entries
        return changed[key] if key in changed else self.index.find(key)

    def accessed(self, key: Key) -> int:
        """Seconds since 1970; 0 if it was never read."""
        found = self.index.find(key)
        since = int(self.index.accessed([found.slot])[0]) if found is not None else 0
        return since + self.index.epoch_seconds if since else 0

    def is_hidden(self, object_id: int) -> bool:
        """Whether it is gone for everybody, though it has a row."""
        return object_id in self._owed

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left on the disk that should not be there."""
        return not self._owed and not self._garbage

    # Changing, within a transaction.

    def transaction(self, work: Callable[[], None], fresh: int = 0) -> CatalogueError | None:
        """All of it, or nothing and why.

        Args:
            work: Makes the changes.
            fresh: How many times it may call `next_id`.
        """
        self._changes = _Changes()
        self.accounts.begin()
        self.granted.begin()
        try:
            with self.catalogue.changes():
                if len(self._ids) < fresh:
                    self._ids.extend(self.catalogue.take_ids(max(fresh, _IDS_AHEAD)))
                work()
        except CatalogueError as error:
            self._take_back()
            self.condition.note(error)
            return error
        self._apply()
        return None

    def next_id(self) -> int:
        """Never another object's."""
        return self._ids.popleft()

    def reserve(self, object_id: int, reservation: Reservation) -> None:
        self._changes.reservations.setdefault(object_id, self.accounts.reservation(object_id))
        self.accounts.reserve(object_id, reservation)

    def publish(self, object_id: int) -> None:
        """Move a file to its place.

        Raises:
            OSError: It is gone; the reservation too.
        """
        try:
            self.folder.publish(object_id)
        except OSError as error:
            self.release(object_id)
            self._remove_files([object_id])
            if not isinstance(error, FileNotFoundError):
                self.condition.note(error)
            raise
        self._changes.published.append(object_id)

    def add(self, key: Key, row: Row) -> None:
        """Keep an object whose file was published; its reservation is used up."""
        self.catalogue.insert(row)
        self.accounts.add(row.bucket, row.size, pinned=bool(row.flags & PINNED))
        self.accounts.reserve(row.id, None)
        self._changes.entries[key] = Entry(_NOWHERE, row.id, row.size, row.checksum, row.bucket, row.flags)

    def drop(self, objects: Sequence[KeptObject]) -> None:
        self.catalogue.delete([each.object_id for each in objects])
        for each in objects:
            self.accounts.take(each.bucket, each.size_bytes, pinned=each.pinned)
            self._changes.entries[each.key] = None
            self._changes.gone.append(each.object_id)

    def set_flags(self, key: Key, entry: Entry, flags: int) -> None:
        self.catalogue.set_flags([(flags, entry.object_id)])
        self._changes.entries[key] = entry._replace(flags=flags)

    def count_damaged(self) -> None:
        self.damaged += 1

    def afterwards(self, work: Callable[[], None]) -> None:
        """Have it called if the transaction is committed."""
        self._changes.afterwards.append(work)

    @property
    def has_dropped(self) -> bool:
        """Whether the last transaction removed anything."""
        return bool(self._changes.gone)

    def _take_back(self) -> None:
        self.accounts.take_back()
        self.granted.take_back()
        for object_id, before in self._changes.reservations.items():
            self.accounts.reserve(object_id, before)
        published = self._changes.published
        self._changes = _Changes()
        self._remove_files(published)

    def _apply(self) -> None:
        for key, entry in self._changes.entries.items():
            if entry is None:
                self.index.remove(key)
            elif entry.slot != _NOWHERE:
                # `put` would forget when it was read.
                self.index.set_flags(key, entry.flags)
            else:
                self.index.put(key, *entry[1:])
        self._changes.entries = {}
        self._remove_files(self._changes.gone)
        for each in self._changes.afterwards:
            each()

    # Changing, without one.

    def could_not_write(self, error_number: int) -> None:
        """A worker could not write the file of an object."""
        self.condition.note_if_of_the_disk(OSError(error_number, os.strerror(error_number)))

    def release(self, object_id: int) -> None:
        """Give a reservation back, with what was written."""
        self.accounts.reserve(object_id, None)
        # What stays behind is removed at the next start.
        with suppress(OSError):
            self.folder.remove_incoming(object_id)

    def hide(self, each: KeptObject) -> None:
        """Let nobody find it; the disk gets to know later."""
        self.index.remove(each.key)
        self._owed[each.object_id] = each

    def sweep(self) -> None:
        """What is out of the index goes from the disk too."""
        ids = sorted(self._garbage)
        self._garbage.clear()
        for each in ids:
            self._remove_files([each])
        if self._owed:
            self.settle()

    def settle(self) -> bool:
        """Whether what was hidden is off the disk, and anything was."""
        owed = list(self._owed.values())
        if not owed:
            return False

        def work() -> None:
            self.catalogue.delete([each.object_id for each in owed])
            for each in owed:
                # The index may have another object by this name meanwhile.
                self.accounts.take(each.bucket, each.size_bytes, pinned=each.pinned)
                self._changes.gone.append(each.object_id)

        if self.transaction(work) is not None:
            return False
        self._owed.clear()
        return True

    def check_disk(self) -> None:
        """Notice that the file system was remounted to be read only, as some are after an error.

        Promises of room are no writes: without this, clients would send bodies that cannot be kept.
        """
        if self.condition.is_ok and self.folder.is_read_only():
            self.condition.note(OSError(errno.EROFS, os.strerror(errno.EROFS), str(self.folder.path)))

    def _remove_files(self, ids: Sequence[int]) -> None:
        try:
            self.folder.remove(ids)
        except OSError as error:
            # All were tried; those that are there are tried again.
            self._garbage.update(ids)
            self.condition.note_if_of_the_disk(error)

    # The index.

    def rebuild_if_due(self) -> None:
        if self.index.needs_rebuild:
            new = self.index.rebuilt()
            self._old_indexes.append(self.index)
            self.index = new
            self.generation += 1

    def took_index(self) -> None:
        """All workers have the new index: the old one's memory is given back."""
        for each in self._old_indexes:
            each.close()
        self._old_indexes.clear()

    def close(self, *, clean: bool) -> None:
        """As `Store.close`."""
        self.took_index()
        self.index.close()
        sound = clean and self.condition.is_ok and self.is_settled
        if sound:
            try:
                self.folder.sync()
            except OSError:
                self.catalogue.close(clean=False)
                raise
        self.catalogue.close(clean=sound)
