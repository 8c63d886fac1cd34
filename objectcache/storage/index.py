"""The index: a hash table in shared memory, which one process writes while others read it without locks."""

import fcntl
import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from objectcache.storage.crc import crc32_of_rows
from objectcache.storage.errors import StorageError
from objectcache.storage.keys import Key

# Flags.
SUSPECT: Final = 1  # Its content is to be verified before it is first served.
PINNED: Final = 2  # It is never evicted.

_MAGIC: Final = int.from_bytes(b"tasukidx", "little")
_VERSION: Final = 1
_HEADER: Final = Struct("<QQQQ")  # magic, version, slots, epoch seconds

# One cache line. The check comes last: CRC-32 over content and check is then the same for every slot. A reader that saw
# half of a write notices by it, whatever the processor does to the order of stores.
_SLOT_BYTES: Final = 64
_CHECKED_BYTES: Final = 60
_SLOT: Final = Struct("<QQIQQ16sII")  # key, slot, object id, size, checksum, bucket, flags; the check follows
_CHECK: Final = Struct("<I")
_ENTRY: Final = Struct("<16xIQQ16sII4x")
_KEY: Final = Struct("<QQ")
_WHOLE: Final = 0x2144DF1C
_RECORD: Final = np.dtype(
    {
        "names": ["high", "low", "slot", "id", "size", "checksum", "bucket", "flags", "check"],
        "formats": ["<u8", "<u8", "<u4", "<u8", "<u8", "V16", "<u4", "<u4", "<u4"],
        "offsets": [0, 8, 16, 20, 28, 36, 52, 56, 60],
        "itemsize": _SLOT_BYTES,
    }
)
_CHECKSUM_BYTES: Final = 16
_ACCESS_BYTES: Final = 4

# No key begins with 0. A probe ends at an empty slot and goes on behind a removed one.
_EMPTY: Final = (0, 0)
_REMOVED: Final = (0, 1)

_LEAST_SLOTS: Final = 1024
_MOST_SLOTS: Final = 2**32 - 1
# Above, probes become long: half full, a hit looks at 1.5 slots and a miss at 2.5; at 70 %, at 2.2 and 6.1 (Knuth,
# The Art of Computer Programming 3, section 6.4, on linear probing).
_MOST_USED: Final = 0.7
_FILLED: Final = 0.5
# Beyond, nothing more is taken: each probe needs an empty slot to end.
_FULL: Final = 0.95

# A torn slot is whole again within nanoseconds, unless its writer was put to sleep in the middle.
_EAGER_READS: Final = 8
_MOST_READS: Final = 200

_ROWS_AT_ONCE: Final = 2**15


class IndexFormatError(StorageError):
    """A descriptor is not of an index that this version reads."""


class IndexFullError(StorageError):
    """The index has no room; it should have been rebuilt."""


class Entry(NamedTuple):
    """What the index says of an object.

    Attributes:
        slot: Where it lies; of use for `touch` and `accessed`.
        checksum: XXH3-128, 16 bytes, big-endian.
        bucket: Its number.
    """

    slot: int
    object_id: int
    size: int
    checksum: bytes
    bucket: int
    flags: int


@dataclass(frozen=True, slots=True)
class Columns:
    """Many objects, of different keys, for `fill`: one of each array makes an object.

    Attributes:
        checksums: Of 16 bytes each (dtype V16).
        accessed: Seconds since the index's epoch.
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.void]
    buckets: NDArray[np.uint32]
    flags: NDArray[np.uint32]
    accessed: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.high)


def fields_of(record: bytes) -> tuple[int, int, int, bytes, int, int]:
    """What a slot says: an Entry's fields in its order, which are cheaper than an Entry where all are taken at once."""
    return _ENTRY.unpack(record)


def slots_for(objects: int) -> int:
    """How many slots to begin with for so many objects."""
    return max(int(objects / _FILLED), _LEAST_SLOTS)


class IndexReader:
    """What a worker sees; a lookup takes no lock and never waits."""

    __slots__ = ("_access", "_access_map", "_end", "_slots", "_table", "epoch_seconds")

    def __init__(self, table: mmap.mmap, access_map: mmap.mmap, slots: int, epoch_seconds: int) -> None:
        self._table = table
        self._access_map = access_map
        self._access = memoryview(access_map).cast("I")
        self._slots = slots
        self._end = mmap.PAGESIZE + slots * _SLOT_BYTES
        self.epoch_seconds = epoch_seconds

    @classmethod
    def open(cls, fd: int) -> Self:
        """Map the index; the descriptor may be closed afterwards.

        Raises:
            IndexFormatError: It is another thing, or of another version.
        """
        slots, epoch_seconds = _read_header(fd)
        access_begin = _access_begin(slots)
        table = mmap.mmap(fd, access_begin, prot=mmap.PROT_READ)
        access = mmap.mmap(fd, slots * _ACCESS_BYTES, offset=access_begin)
        return cls(table, access, slots, epoch_seconds)

    def find(self, key: Key) -> Entry | None:
        """The object of a key, as it was at some moment since the call began."""
        record = self.record(key)
        return None if record is None else tuple.__new__(Entry, _ENTRY.unpack(record))

    def shows(self, slot: int, record: bytes) -> bool:
        """Whether a slot is still as `record` told: what it says of its key is true then, also in another index."""
        begin = (slot << 6) + mmap.PAGESIZE
        return self._table[begin : begin + 64] == record

    def record(self, key: Key) -> bytes | None:
        """The slot of a key, whole, as it was at some moment since the call began; `fields_of` reads it."""
        table = self._table
        begin = (key[1] % self._slots << 6) + mmap.PAGESIZE
        reads = 0
        while True:
            raw = table[begin : begin + 64]
            found = _KEY.unpack_from(raw)
            if found == key:
                if zlib.crc32(raw) == _WHOLE:
                    return raw
                reads += 1
                if reads > _EAGER_READS:
                    if reads > _MOST_READS:
                        return None
                    os.sched_yield()
            elif found == _EMPTY:
                return None
            else:
                begin += 64
                if begin == self._end:
                    begin = mmap.PAGESIZE

    def touch(self, slot: int, seconds: int) -> None:
        """Note that the object of a slot was read so many seconds after the epoch."""
        self._access[slot] = seconds

    def close(self) -> None:
        self._access.release()
        self._access_map.close()
        self._table.close()


class IndexWriter:
    """The keeper's side; `create` makes an empty one.

    Attributes:
        fd: Of the memory; readers in other processes open a copy of it.
        epoch_seconds: What times of access count from, in seconds since 1970.
    """

    __slots__ = ("_access", "_end", "_map", "_records", "_removed", "_slots", "_used", "epoch_seconds", "fd")

    def __init__(self, fd: int, memory: mmap.mmap, slots: int, epoch_seconds: int) -> None:
        self.fd = fd
        self.epoch_seconds = epoch_seconds
        self._map = memory
        self._slots = slots
        self._end = mmap.PAGESIZE + slots * _SLOT_BYTES
        self._records = np.ndarray((slots,), _RECORD, memory, mmap.PAGESIZE)
        self._access = np.ndarray((slots,), np.uint32, memory, _access_begin(slots))
        self._used = 0
        self._removed = 0

    @classmethod
    def create(cls, least_slots: int, *, epoch_seconds: int = 0) -> Self:
        """An empty table of at least so many slots.

        Raises:
            ValueError: There can be no such table.
            OSError: There is no memory for it.
        """
        slots = max(least_slots, _LEAST_SLOTS)
        if slots > _MOST_SLOTS:
            raise ValueError(f"an index of {slots} slots is larger than {_MOST_SLOTS}")
        total = _access_begin(slots) + slots * _ACCESS_BYTES
        fd = os.memfd_create("tasuki-index", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, total)
            # Nobody may make it shorter: whoever read behind its end would be killed.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            memory = mmap.mmap(fd, total)
        except BaseException:
            os.close(fd)
            raise
        memory[: _HEADER.size] = _HEADER.pack(_MAGIC, _VERSION, slots, epoch_seconds)
        return cls(fd, memory, slots, epoch_seconds)

    def __len__(self) -> int:
        return self._used

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def needs_rebuild(self) -> bool:
        """Whether lookups would soon be slow, for objects or for the marks of removed ones."""
        return self._used + self._removed > self._slots * _MOST_USED

    def find(self, key: Key) -> Entry | None:
        begin = self._begin_of(key)
        return None if begin is None else self._entry_at(begin)

    def put(  # noqa: PLR0913, PLR0917 (an Entry's fields, flat: this is called for each PUT)
        self, key: Key, object_id: int, size: int, checksum: bytes, bucket: int, flags: int, accessed: int = 0
    ) -> Entry | None:
        """Let a key stand for an object from now on; answers what it stood for.

        Args:
            key: As `KeyMaker` makes it.
            object_id: Never another object's, also not later.
            size: Bytes.
            checksum: 16 bytes.
            bucket: Its number.
            flags: SUSPECT, PINNED.
            accessed: Seconds since the epoch.

        Raises:
            IndexFullError: There is no room.
            ValueError: There can be no such key or checksum.
        """
        if not key[0] or len(checksum) != _CHECKSUM_BYTES:
            raise ValueError(f"key {key} or checksum {checksum.hex()!r} is not one that an index can hold")
        begin, replaced = self._place(key)
        slot = (begin - mmap.PAGESIZE) // _SLOT_BYTES
        content = _SLOT.pack(*key, slot, object_id, size, checksum, bucket, flags)
        self._access[slot] = accessed
        self._map[begin : begin + _SLOT_BYTES] = content + _CHECK.pack(zlib.crc32(content))
        return replaced

    def remove(self, key: Key) -> Entry | None:
        """Let a key stand for nothing; answers what it stood for."""
        begin = self._begin_of(key)
        if begin is None:
            return None
        entry = self._entry_at(begin)
        self._used -= 1
        if self._key_at(self._behind(begin)) != _EMPTY:
            _KEY.pack_into(self._map, begin, *_REMOVED)
            self._removed += 1
            return entry
        _KEY.pack_into(self._map, begin, *_EMPTY)
        # Nothing lies behind, so that no probe needs the marks before it either.
        begin = self._before(begin)
        while self._key_at(begin) == _REMOVED:
            _KEY.pack_into(self._map, begin, *_EMPTY)
            self._removed -= 1
            begin = self._before(begin)
        return entry

    def set_flags(self, key: Key, flags: int) -> bool:
        """Change an object's flags; False if there is none."""
        entry = self.find(key)
        if entry is None:
            return False
        accessed = int(self._access[entry.slot])
        self.put(key, entry.object_id, entry.size, entry.checksum, entry.bucket, flags, accessed)
        return True

    def touch(self, slot: int, seconds: int) -> None:
        self._access[slot] = seconds

    def accessed(self, slots: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint32]:
        """When the objects of these slots were last read, in seconds since the epoch."""
        return self._access[np.asarray(slots, np.int64)]

    def fill(self, columns: Columns) -> None:
        """Put many objects of different keys into an empty index.

        Raises:
            IndexFullError: There is no room for so many.
            ValueError: The index is not empty, or a key begins with 0.
        """
        if self._used or self._removed:
            raise ValueError(f"only an empty index is filled, and this one has {self._used} objects")
        if len(columns) > self._slots * _FULL:
            raise IndexFullError(f"{len(columns)} objects do not go into an index of {self._slots} slots")
        if not len(columns):
            return
        if not columns.high.all():
            raise ValueError("a key begins with 0, which marks free slots")
        home = (columns.low % np.uint64(self._slots)).astype(np.int64)
        order = np.argsort(home, kind="stable")
        # Each lies at its home or right behind the one before: p[i] = max(home[i], p[i-1] + 1).
        step = np.arange(len(order))
        slots = np.maximum.accumulate(home[order] - step) + step
        fitting = int(np.searchsorted(slots, self._slots))
        for first in range(0, fitting, _ROWS_AT_ONCE):
            rows = order[first : min(first + _ROWS_AT_ONCE, fitting)]
            self._write(columns, rows, slots[first : first + len(rows)])
        self._used = fitting
        for row in order[fitting:].tolist():  # Those that go round the end, a handful.
            self._put_row(columns, row)

    def rebuilt(self) -> "IndexWriter":
        """The same objects in new memory of the right size, without marks of removed ones.

        What readers touch in the old one from now on is lost.
        """
        used = np.flatnonzero(self._records["high"])
        rows = self._records[used]
        other = IndexWriter.create(slots_for(len(used)), epoch_seconds=self.epoch_seconds)
        try:
            other.fill(
                Columns(
                    high=rows["high"],
                    low=rows["low"],
                    ids=rows["id"].astype(np.int64),
                    sizes=rows["size"].astype(np.int64),
                    checksums=rows["checksum"],
                    buckets=rows["bucket"],
                    flags=rows["flags"],
                    accessed=self._access[used],
                )
            )
        except BaseException:
            other.close()
            raise
        return other

    def close(self) -> None:
        """Give the memory back; readers keep theirs."""
        del self._records, self._access
        self._map.close()
        os.close(self.fd)

    def _write(self, columns: Columns, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        records = np.zeros(len(rows), _RECORD)
        records["high"] = columns.high[rows]
        records["low"] = columns.low[rows]
        records["slot"] = slots
        records["id"] = columns.ids[rows]
        records["size"] = columns.sizes[rows]
        records["checksum"] = columns.checksums[rows]
        records["bucket"] = columns.buckets[rows]
        records["flags"] = columns.flags[rows]
        records["check"] = crc32_of_rows(records.view(np.uint8).reshape(-1, _SLOT_BYTES)[:, :_CHECKED_BYTES])
        self._access[slots] = columns.accessed[rows]
        self._records[slots] = records

    def _put_row(self, columns: Columns, row: int) -> None:
        self.put(
            (int(columns.high[row]), int(columns.low[row])),
            int(columns.ids[row]),
            int(columns.sizes[row]),
            columns.checksums[row].tobytes(),
            int(columns.buckets[row]),
            int(columns.flags[row]),
            int(columns.accessed[row]),
        )

    def _place(self, key: Key) -> tuple[int, Entry | None]:
        """Where a key is to be written, with what lies there of the same key."""
        begin = self._home(key)
        free = 0
        while (found := self._key_at(begin)) != key:
            if found == _REMOVED:
                free = free or begin
            elif found == _EMPTY:
                self._take(reused=bool(free))
                return free or begin, None
            begin = self._behind(begin)
        return begin, self._entry_at(begin)

    def _take(self, *, reused: bool) -> None:
        if reused:
            self._removed -= 1
        elif self._used + self._removed >= self._slots * _FULL:
            raise IndexFullError(f"the index has {self._used} objects in {self._slots} slots and takes no more")
        self._used += 1

    def _begin_of(self, key: Key) -> int | None:
        begin = self._home(key)
        while (found := self._key_at(begin)) != key:
            if found == _EMPTY:
                return None
            begin = self._behind(begin)
        return begin

    def _home(self, key: Key) -> int:
        return key[1] % self._slots * _SLOT_BYTES + mmap.PAGESIZE

    def _key_at(self, begin: int) -> Key:
        high, low = _KEY.unpack_from(self._map, begin)
        return high, low

    def _entry_at(self, begin: int) -> Entry:
        return Entry._make(_ENTRY.unpack_from(self._map, begin))

    def _behind(self, begin: int) -> int:
        begin += _SLOT_BYTES
        return begin if begin != self._end else mmap.PAGESIZE

    def _before(self, begin: int) -> int:
        return (begin if begin != mmap.PAGESIZE else self._end) - _SLOT_BYTES


def _access_begin(slots: int) -> int:
    """Behind the slots, where a page begins: readers map what they may write apart from what they may not."""
    pages = -(-slots * _SLOT_BYTES // mmap.PAGESIZE)
    return (1 + pages) * mmap.PAGESIZE


def _read_header(fd: int) -> tuple[int, int]:
    """Slots and epoch seconds."""
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        raise IndexFormatError(f"an index begins with {_HEADER.size} bytes, and there are {len(header)}")
    magic, version, slots, epoch_seconds = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION:
        raise IndexFormatError(
            f"this is not an index of version {_VERSION} (magic {magic:#x}, version {version}); keeper and workers "
            "must be of the same release"
        )
    length, expected = os.fstat(fd).st_size, _access_begin(slots) + slots * _ACCESS_BYTES
    if length != expected:
        raise IndexFormatError(f"an index of {slots} slots has {expected} bytes, and there are {length}")
    return slots, epoch_seconds
