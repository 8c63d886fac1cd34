"""How a cache starts on what an earlier one left behind; read `recover`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectcache.storage.catalogue import (
    Catalogue,
    CatalogueBrokenError,
    CatalogueDiskError,
    CatalogueError,
    CatalogueFullError,
    CatalogueUnavailableError,
    RawRow,
)
from objectcache.storage.files import DataFolder
from objectcache.storage.index import PINNED, SUSPECT, Columns, IndexWriter, slots_for
from objectcache.storage.keys import KeyMaker

# How the cache before ended: there was none; by closing; by being killed; with the operating system.
Before = Literal["none", "closed", "killed", "rebooted"]

Progress = Callable[[str], None]

# A new catalogue does not know which ids an earlier one handed out: it begins where only a cache that had put 2**24
# objects a second since 1970 could have come.
_IDS_PER_SECOND_BITS: Final = 24

# An index for fewer would soon be rebuilt.
_LEAST_OBJECTS: Final = 2**15

# Without so much free, SQLite may not even be able to open the catalogue; of a small disk, a part.
_LEAST_FREE_BYTES: Final = 64 * 2**20
_LEAST_FREE_PART: Final = 1 / 16
_REMOVED_AT_ONCE: Final = 16

_MOST_SECONDS: Final = 2**32 - 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Usage(NamedTuple):
    """What a bucket holds.

    Attributes:
        bytes: Of all objects, also pinned ones.
    """

    bytes: int
    objects: int
    pinned_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was found at the start.

    Attributes:
        before: How the cache before ended.
        objects: That are kept.
        suspect: How many of them are to be verified before they are served.
        removed_files: Of no object.
        removed_rows: Objects without a file.
        lost: Why an earlier cache's objects could not be kept; empty if they could.
    """

    before: Before
    objects: int
    suspect: int
    removed_files: int
    removed_rows: int
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A cache that can go on.

    Attributes:
        usage: By bucket's number, of those that hold anything.
    """

    catalogue: Catalogue
    index: IndexWriter
    usage: dict[int, Usage]
    report: Report


def boot_id() -> str:
    """Which run of the operating system this is."""
    return _BOOT_ID.read_text("ascii").strip()


def recover(folder: DataFolder, boot: str, now_seconds: int, progress: Progress, epoch_seconds: int = 0) -> Recovered:
    """Bring files, catalogue and index to one another.

    A cache that was closed is trusted. After one that was killed, files and catalogue may each have what the other
    lacks: both go. After the operating system ended too, files may besides lack what was written to them: all objects
    become suspect. A catalogue that cannot be read costs what was kept, never the service.

    Args:
        folder: Its files.
        boot: `boot_id()`.
        now_seconds: Since 1970.
        progress: Told what is done, in sentences for a log.
        epoch_seconds: What the index's times of access count from, in seconds since 1970.

    Raises:
        CatalogueUnavailableError: The disk lets nothing be done.
        ForeignFolderError: There are files that are not a cache's.
        OSError: Files cannot be listed or removed.
    """
    newest = folder.clear_incoming()
    start = _Start(folder, boot, now_seconds, epoch_seconds, newest, progress)
    try:
        return _recover(start)
    except (CatalogueFullError, CatalogueDiskError) as error:
        if _has_room(folder):
            raise
        progress(f"removing the oldest objects, for the disk is too full to start: {error}")
        _make_room(folder)
        return _recover(replace(start, trusting=False))


@dataclass(frozen=True, slots=True)
class _Start:
    """What a start has at hand.

    Attributes:
        newest_id: Of what lay in `incoming`.
        trusting: Whether a cache that was closed is trusted.
    """

    folder: DataFolder
    boot: str
    now_seconds: int
    epoch_seconds: int
    newest_id: int
    progress: Progress
    trusting: bool = True


def _recover(start: _Start) -> Recovered:
    try:
        return _started(start, lost="")
    except CatalogueUnavailableError:
        raise
    except CatalogueError as error:
        lost = str(error)
    aside = start.folder.set_catalogue_aside()
    start.progress(f"starting with nothing: {lost}; it is now called {aside}")
    return _started(start, lost)


def _started(start: _Start, lost: str) -> Recovered:
    first_id = start.now_seconds << _IDS_PER_SECOND_BITS
    catalogue = Catalogue.open(start.folder.catalogue_path, first_id=first_id)
    try:
        before = _before(catalogue, start.boot)
        start.progress(f"checking the catalogue; the cache before: {before}")
        # Whoever meets damage while it runs cannot close the catalogue: the next start looks for all of it.
        catalogue.check(thoroughly=before in {"killed", "rebooted"})
        catalogue.raise_last_id(start.newest_id)
        catalogue.use(start.boot, suspect=before == "rebooted")
        columns = _columns(catalogue, start)
        removed_files = removed_rows = 0
        if before != "closed" or not start.trusting:
            columns, removed_files, removed_rows = _reconciled(catalogue, columns, start)
        index = IndexWriter.create(slots_for(max(len(columns), _LEAST_OBJECTS)), epoch_seconds=start.epoch_seconds)
        try:
            index.fill(columns)
        except BaseException:
            index.close()
            raise
    except BaseException:
        catalogue.close(clean=False)
        raise
    suspect = int(np.count_nonzero(columns.flags & SUSPECT))
    report = Report(before, len(columns), suspect, removed_files, removed_rows, lost)
    return Recovered(catalogue, index, _usage(columns), report)


def _before(catalogue: Catalogue, boot: str) -> Before:
    header = catalogue.header
    if not header.boot_id:
        return "none"
    if header.clean:
        return "closed"
    return "killed" if header.boot_id == boot else "rebooted"


def _columns(catalogue: Catalogue, start: _Start) -> Columns:
    """All objects of the catalogue, ascending by id.

    Raises:
        CatalogueBrokenError: Some of it could never have been written.
    """
    names = {number: name for name, number in catalogue.buckets().items()}
    maker = KeyMaker(catalogue.header.secret)
    try:
        parts = list(_parts(catalogue.rows(), names, maker, start))
        return _joined(parts)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise CatalogueBrokenError(
            f"catalogue {start.folder.catalogue_path} has rows that make no sense: {error!r}"
        ) from error


def _parts(batches: Iterator[list[RawRow]], names: dict[int, str], maker: KeyMaker, start: _Start) -> Iterator[Columns]:
    read = 0
    for batch in batches:
        ids, buckets, objects, sizes, checksums, _, accessed, flags = zip(*batch, strict=True)
        high, low = maker.keys(zip(map(names.__getitem__, buckets), objects, strict=True))
        since = np.array(accessed, np.int64) - start.epoch_seconds
        yield Columns(
            high=high,
            low=low,
            ids=np.array(ids, np.int64),
            sizes=np.array(sizes, np.int64),
            checksums=np.frombuffer(b"".join(checksums), "V16"),
            buckets=np.array(buckets, np.uint32),
            flags=np.array(flags, np.uint32),
            accessed=np.clip(since, 0, _MOST_SECONDS).astype(np.uint32),
        )
        read += len(batch)
        if read % 1_000_000 == 0:
            start.progress(f"read {read} objects of the catalogue")


def _joined(parts: list[Columns]) -> Columns:
    if not parts:
        return _NOTHING
    joined = Columns(
        high=np.concatenate([each.high for each in parts]),
        low=np.concatenate([each.low for each in parts]),
        ids=np.concatenate([each.ids for each in parts]),
        sizes=np.concatenate([each.sizes for each in parts]),
        checksums=np.concatenate([each.checksums for each in parts]),
        buckets=np.concatenate([each.buckets for each in parts]),
        flags=np.concatenate([each.flags for each in parts]),
        accessed=np.concatenate([each.accessed for each in parts]),
    )
    lengths = {len(getattr(joined, name)) for name in Columns.__slots__}
    if len(lengths) != 1 or joined.ids.min() < 1 or joined.sizes.min() < 0:
        raise ValueError("an id below 1, a size below 0 or a checksum that is not of 16 bytes")
    return joined


def _reconciled(catalogue: Catalogue, columns: Columns, start: _Start) -> tuple[Columns, int, int]:
    """The objects that have files; how many files and how many rows were removed."""
    start.progress("looking for files of no object and for objects without a file")
    files = _sorted_ids(start.folder)
    catalogue.raise_last_id(int(files.max(initial=0)))
    has_file = np.isin(columns.ids, files, assume_unique=True)
    if not has_file.all():
        catalogue.delete(columns.ids[~has_file].tolist())
    strange = files[~np.isin(files, columns.ids, assume_unique=True)]
    if len(strange):
        start.progress(f"removing {len(strange)} files of no object")
    start.folder.remove(strange.tolist())
    return _only(columns, has_file), len(strange), int(np.count_nonzero(~has_file))


def _only(columns: Columns, wanted: NDArray[np.bool_]) -> Columns:
    if wanted.all():
        return columns
    return Columns(**{name: getattr(columns, name)[wanted] for name in Columns.__slots__})


def _usage(columns: Columns) -> dict[int, Usage]:
    numbers, which = np.unique(columns.buckets, return_inverse=True)
    sizes, objects, pinned = (np.zeros(len(numbers), np.int64) for _ in range(3))
    np.add.at(sizes, which, columns.sizes)
    np.add.at(objects, which, 1)
    np.add.at(pinned, which, np.where(columns.flags & PINNED, columns.sizes, 0))
    found = zip(sizes.tolist(), objects.tolist(), pinned.tolist(), strict=True)
    return {number: Usage(*each) for number, each in zip(numbers.tolist(), found, strict=True)}


def _has_room(folder: DataFolder) -> bool:
    return folder.free_bytes() >= min(_LEAST_FREE_BYTES, folder.total_bytes() * _LEAST_FREE_PART)


def _sorted_ids(folder: DataFolder) -> NDArray[np.int64]:
    return np.sort(np.concatenate([np.empty(0, np.int64), *folder.ids()]))


def _make_room(folder: DataFolder) -> None:
    """Remove files of the oldest objects, which their rows then follow."""
    ids = _sorted_ids(folder).tolist()
    for first in range(0, len(ids), _REMOVED_AT_ONCE):
        if _has_room(folder):
            return
        folder.remove(ids[first : first + _REMOVED_AT_ONCE])


_NOTHING: Final = Columns(
    high=np.empty(0, np.uint64),
    low=np.empty(0, np.uint64),
    ids=np.empty(0, np.int64),
    sizes=np.empty(0, np.int64),
    checksums=np.empty(0, "V16"),
    buckets=np.empty(0, np.uint32),
    flags=np.empty(0, np.uint32),
    accessed=np.empty(0, np.uint32),
)
