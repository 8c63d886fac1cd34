"""The catalogue: what is kept, in SQLite, so that it outlives the process."""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from objectcache.storage.errors import StorageError
from objectcache.storage.index import SUSPECT
from objectcache.storage.keys import SECRET_BYTES

_VERSION: Final = 1

# Pages of 4 KiB: a checkpoint, which syncs, every 16 MiB of changes.
_CHECKPOINT_PAGES: Final = 4096
# Of the write-ahead log once a checkpoint is through: one large transaction must not keep the disk full.
_MOST_WAL_BYTES: Final = 32 * 2**20
_CACHE_KIB: Final = 32 * 1024
_ROWS_AT_ONCE: Final = 10_000
_BUSY_SECONDS: Final = 5.0

# SQLite compares BLOBs bytewise (sqlite.org/datatype3.html, section 4.1). An index ends with the row's id, so that
# `by_bucket` gives a bucket's objects by ascending id: about as they were put, since workers have ids in store.
_SCHEMA: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE buckets (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE) STRICT",
    """CREATE TABLE objects (
        id INTEGER PRIMARY KEY CHECK (id > 0),
        bucket INTEGER NOT NULL,
        name BLOB NOT NULL,
        size INTEGER NOT NULL CHECK (size >= 0),
        checksum BLOB NOT NULL CHECK (length(checksum) = 16),
        created INTEGER NOT NULL,
        accessed INTEGER NOT NULL,
        flags INTEGER NOT NULL
    ) STRICT""",
    "CREATE UNIQUE INDEX by_name ON objects (bucket, name)",
    "CREATE INDEX by_bucket ON objects (bucket)",
)

_FIELDS: Final = "id, bucket, name, size, checksum, created, accessed, flags"

_PAGE: Final = (
    "SELECT name, size, checksum, created FROM objects INDEXED BY by_name "
    "WHERE bucket = ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"
)
_PAGE_TO_LAST: Final = (
    "SELECT name, size, checksum, created FROM objects INDEXED BY by_name "
    "WHERE bucket = ? AND name >= ? ORDER BY name LIMIT ?"
)


class CatalogueError(StorageError):
    """The catalogue does not do what it was asked for; nothing of it is half done."""


class CatalogueBrokenError(CatalogueError):
    """Its content makes no sense."""


class CatalogueVersionError(CatalogueError):
    """It was written by another release."""


class CatalogueUnavailableError(CatalogueError):
    """It does not work for now, for reasons outside of it."""


class CatalogueFullError(CatalogueUnavailableError):
    """There is no room on the disk."""


class CatalogueReadOnlyError(CatalogueUnavailableError):
    """The disk takes no changes."""


class CatalogueDiskError(CatalogueUnavailableError):
    """The disk does not read or write."""


class CatalogueBusyError(CatalogueUnavailableError):
    """Another process holds it."""


# By SQLite's result code, extended or primary (sqlite.org/rescode.html); the rest are CatalogueError.
_ERRORS: Final[dict[int, type[CatalogueError]]] = {
    # Its sectors cannot be read: no other attempt will do better.
    sqlite3.SQLITE_IOERR_READ: CatalogueBrokenError,
    sqlite3.SQLITE_IOERR_CORRUPTFS: CatalogueBrokenError,
    sqlite3.SQLITE_FULL: CatalogueFullError,
    sqlite3.SQLITE_READONLY: CatalogueReadOnlyError,
    sqlite3.SQLITE_IOERR: CatalogueDiskError,
    sqlite3.SQLITE_CANTOPEN: CatalogueDiskError,
    sqlite3.SQLITE_PERM: CatalogueDiskError,
    sqlite3.SQLITE_CORRUPT: CatalogueBrokenError,
    sqlite3.SQLITE_NOTADB: CatalogueBrokenError,
    sqlite3.SQLITE_BUSY: CatalogueBusyError,
    sqlite3.SQLITE_LOCKED: CatalogueBusyError,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One object.

    Attributes:
        id: Never another object's.
        bucket: Its number.
        size: Bytes.
        checksum: XXH3-128 of the content, 16 bytes, big-endian.
        created: Seconds since 1970, as is `accessed`.
        flags: SUSPECT, PINNED, as in the index.
    """

    id: int
    bucket: int
    name: bytes
    size: int
    checksum: bytes
    created: int
    accessed: int
    flags: int = 0


# As a row comes from SQLite: the fields of Row in their order.
RawRow = tuple[int, int, bytes, int, bytes, int, int, int]


@dataclass(frozen=True, slots=True)
class Header:
    """What a catalogue was made with, and who used it last.

    Attributes:
        secret: For `KeyMaker`.
        boot_id: Of the run of the operating system that its last user lived in; empty if it had none.
        clean: Whether that user closed it with all content safely on the disk.
    """

    secret: bytes
    boot_id: str
    clean: bool

    def __repr__(self) -> str:
        return f"Header(boot_id={self.boot_id!r}, clean={self.clean})"


class Catalogue:
    """One connection, for one thread at a time; all methods wait for the disk, and raise a CatalogueError.

    Changes belong into `with catalogue.changes():`, which makes one transaction of them; outside, each is its own.
    """

    __slots__ = ("_changing", "_connection", "_last_id", "_path", "_taken", "header")

    def __init__(self, connection: sqlite3.Connection, path: Path, header: Header, last_id: int) -> None:
        self._connection = connection
        self._path = path
        self.header = header
        self._last_id = last_id
        self._taken = last_id
        self._changing = False

    @classmethod
    def open(cls, path: Path, *, first_id: int = 1) -> Self:
        """Open a catalogue, or make one if there is none.

        Args:
            path: Of the file.
            first_id: The least id that a new one hands out.

        Raises:
            CatalogueError: It cannot be used; CatalogueBrokenError and CatalogueVersionError if it never will be.
        """
        with _translated(path):
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            with _translated(path):
                _prepare(connection)
                if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    _create(connection, first_id - 1)
                header, last_id = _meta(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, header, last_id)

    @contextmanager
    def changes(self) -> Iterator[None]:
        """One transaction: all of what is done inside, or nothing if it or its commit raises."""
        if self._changing:
            raise CatalogueError(f"changes of catalogue {self._path} are already being made")
        with _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
        self._changing = True
        try:
            yield
            with _translated(self._path):
                if self._taken != self._last_id:
                    # What was handed out in a transaction that failed stays handed out.
                    self._set_meta("last_id", self._taken)
                self._connection.execute("COMMIT")
            self._last_id = self._taken
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._changing = False

    def take_ids(self, count: int) -> range:
        """Ids that were never handed out; they count as handed out even if nothing is ever put under them.

        Inside of `changes` none of them may be used for anything that others see before those are committed.
        """
        first = self._taken + 1
        self._taken += count
        if not self._changing:
            with self.changes():
                pass
        return range(first, first + count)

    def insert(self, row: Row) -> None:
        """Add an object; a row of the same bucket and name goes."""
        self._execute(
            f"INSERT OR REPLACE INTO objects ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (constant)
            (row.id, row.bucket, row.name, row.size, row.checksum, row.created, row.accessed, row.flags),
        )

    def delete(self, ids: Iterable[int]) -> None:
        """Remove objects; ids that are not there are fine."""
        self._execute_many("DELETE FROM objects WHERE id = ?", [(each,) for each in ids])

    def set_accessed(self, times: Sequence[tuple[int, int]]) -> None:
        """Note when objects were last read: seconds since 1970, id."""
        self._execute_many("UPDATE objects SET accessed = ? WHERE id = ?", times)

    def set_flags(self, flags: Sequence[tuple[int, int]]) -> None:
        """Change flags: flags, id."""
        self._execute_many("UPDATE objects SET flags = ? WHERE id = ?", flags)

    def row(self, object_id: int) -> Row | None:
        found = self._execute(f"SELECT {_FIELDS} FROM objects WHERE id = ?", (object_id,)).fetchone()  # noqa: S608 (constant)
        return None if found is None else Row(*found)

    def rows(self) -> Iterator[list[RawRow]]:
        """All objects, ascending by id, in batches; for the start, where nothing changes meanwhile."""
        with _translated(self._path):
            cursor = self._connection.execute(f"SELECT {_FIELDS} FROM objects ORDER BY id")  # noqa: S608 (constant)
        while True:
            with _translated(self._path):
                batch: list[RawRow] = cursor.fetchmany(_ROWS_AT_ONCE)
            if not batch:
                return
            yield batch

    def stretch(self, after_id: int, limit: int) -> list[tuple[int, int, bytes, int, bytes, int]]:
        """Objects, ascending by id: id, bucket, name, size, checksum, flags."""
        return self._execute(
            "SELECT id, bucket, name, size, checksum, flags FROM objects WHERE id > ? ORDER BY id LIMIT ?",
            (after_id, limit),
        ).fetchall()

    def candidates(self, bucket_number: int, after_id: int, limit: int) -> list[tuple[int, bytes, int, int, int]]:
        """Objects of a bucket, ascending by id: id, name, size, flags, created."""
        return self._execute(
            "SELECT id, name, size, flags, created FROM objects INDEXED BY by_bucket WHERE bucket = ? AND id > ? "
            "ORDER BY id LIMIT ?",
            (bucket_number, after_id, limit),
        ).fetchall()

    def page(self, bucket_number: int, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, int, bytes, int]]:
        """Objects whose names begin with `prefix` and come after `after`, bytewise: name, size, checksum, created."""
        # No name lies between another and that with a null behind it.
        begin, end = max(prefix, after + b"\0"), _behind(prefix)
        if end is None:
            return self._execute(_PAGE_TO_LAST, (bucket_number, begin, limit)).fetchall()
        return self._execute(_PAGE, (bucket_number, begin, end, limit)).fetchall()

    def buckets(self) -> dict[str, int]:
        """Numbers by name, of all buckets that there ever were."""
        return dict(self._execute("SELECT name, number FROM buckets ORDER BY number").fetchall())

    def number_of(self, bucket: str) -> int:
        """A bucket's number, which is never another's; made if there is none."""
        found = self._execute("SELECT number FROM buckets WHERE name = ?", (bucket,)).fetchone()
        if found is None:
            found = self._execute("INSERT INTO buckets (name) VALUES (?) RETURNING number", (bucket,)).fetchone()
        return int(found[0])

    def note(self, name: str) -> int:
        """What `set_note` kept; 0 if it kept nothing."""
        found = self._execute("SELECT value FROM meta WHERE key = ?", (name,)).fetchone()
        return found[0] if found is not None and isinstance(found[0], int) else 0

    def set_note(self, name: str, number: int) -> None:
        """Keep a number under a name that is none of the catalogue's own."""
        self._set_meta(name, number)

    def raise_last_id(self, least: int) -> None:
        """Never hand out an id up to this one."""
        if least > self._taken:
            self.take_ids(least - self._taken)

    def check(self, *, thoroughly: bool) -> None:
        """Read all of it; of a million objects, some tenths of a second, and thoroughly some seconds.

        Args:
            thoroughly: Also compare what is there twice: damage there shows only when a row is changed.

        Raises:
            CatalogueBrokenError: It is damaged.
        """
        (said,) = self._execute(f"PRAGMA {'integrity' if thoroughly else 'quick'}_check(1)").fetchone()
        if said != "ok":
            raise CatalogueBrokenError(f"catalogue {self._path} is damaged: {said}")

    def use(self, boot_id: str, *, suspect: bool) -> None:
        """Note who uses it from now on, before anything else changes; surely on the disk when this returns.

        Args:
            boot_id: Of this run of the operating system.
            suspect: Whether the content of all objects so far is to be verified before it is served.
        """
        with self._safely():
            if suspect:
                self._execute("UPDATE objects SET flags = flags | ?", (SUSPECT,))
            self._set_meta("boot_id", boot_id)
            self._set_meta("clean", 0)
        self.header = Header(self.header.secret, boot_id, clean=False)

    def close(self, *, clean: bool) -> None:
        """Close it.

        Args:
            clean: Whether it is sure that all objects' content is on the disk: then the next start trusts it.
        """
        try:
            if clean:
                with self._safely():
                    self._set_meta("clean", 1)
        finally:
            with _translated(self._path):
                self._connection.close()

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Changes that outlive a loss of power, which those of synchronous=NORMAL need not."""
        self._execute("PRAGMA synchronous = FULL")
        try:
            with self.changes():
                yield
        finally:
            self._execute("PRAGMA synchronous = NORMAL")

    def _set_meta(self, key: str, value: str | int) -> None:
        self._execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        self._check_changing()
        # Not `_translated`: this is called for each PUT, and that would take as long as SQLite itself.
        try:
            return self._connection.execute(statement, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _translation(error, self._path) from error

    def _execute_many(self, statement: str, values: Sequence[tuple[int, ...]]) -> None:
        """One transaction, also outside of `changes`."""
        if not self._changing:
            with self.changes():
                self._execute_many(statement, values)
            return
        self._check_changing()
        try:
            self._connection.executemany(statement, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _translation(error, self._path) from error

    def _check_changing(self) -> None:
        """A full disk ends a transaction; what came next would be kept without what came before."""
        if self._changing and not self._connection.in_transaction:
            raise CatalogueError(f"changes of catalogue {self._path} have failed already and are not gone on with")

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors, as with a full disk (sqlite.org/lang_transaction.html).
        if self._connection.in_transaction:
            with _translated(self._path):
                self._connection.execute("ROLLBACK")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _translation(error, path) from error


def _translation(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> CatalogueError:
    if isinstance(error, UnicodeDecodeError):  # Of damaged text, also where SQLite only cites it in an error.
        return CatalogueBrokenError(f"catalogue {path} has text that is none: {error}")
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    kind = _ERRORS.get(code) or _ERRORS.get(code & 0xFF, CatalogueError)
    name: str = getattr(error, "sqlite_errorname", type(error).__name__)
    return kind(f"catalogue {path}: {error} ({name})")


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        f"journal_size_limit = {_MOST_WAL_BYTES}",
        f"cache_size = -{_CACHE_KIB}",
        # Some distributions build SQLite so that it writes zeros over what is deleted.
        "secure_delete = OFF",
        "temp_store = MEMORY",
        "trusted_schema = OFF",
        "cell_size_check = ON",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _create(connection: sqlite3.Connection, last_id: int) -> None:
    # With its first commit safely on the disk, nothing follows from it that a loss of power could take back.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO meta (key, value) VALUES (?, ?)",
        [
            ("version", _VERSION),
            ("secret", secrets.token_bytes(SECRET_BYTES)),
            ("boot_id", ""),
            ("clean", 1),
            ("last_id", last_id),
        ],
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA synchronous = NORMAL")


def _meta(connection: sqlite3.Connection, path: Path) -> tuple[Header, int]:
    """The header and the last id that was handed out."""
    try:
        meta: dict[str, object] = dict(connection.execute("SELECT key, value FROM meta"))
    except sqlite3.OperationalError as error:
        # No such table, or text that is none.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
            raise
        raise CatalogueBrokenError(f"catalogue {path} is not one: {error}") from error
    version = meta.get("version")
    if version != _VERSION:
        raise CatalogueVersionError(f"catalogue {path} is of version {version!r}, and this release reads {_VERSION}")
    match meta:
        case {"secret": bytes(secret), "boot_id": str(boot_id), "clean": 0 | 1 as clean, "last_id": int(last_id)} if (
            len(secret) == SECRET_BYTES and last_id >= 0
        ):
            return Header(secret, boot_id, clean=bool(clean)), last_id
    raise CatalogueBrokenError(f"catalogue {path} lacks some of what each has: it has {sorted(meta)}")


def _behind(prefix: bytes) -> bytes | None:
    """The least name that is larger than all with this prefix; None if there is none."""
    shorter = prefix.rstrip(b"\xff")
    return shorter[:-1] + bytes((shorter[-1] + 1,)) if shorter else None
