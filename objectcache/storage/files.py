"""The folder of a cache: where the files of objects lie, and how they come and go."""

import ctypes
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from objectcache.storage.errors import StorageError

# What is synced when an object is published: nothing; its content; that, and the folders' entries.
Durability = Literal["never", "data", "full"]

CATALOGUE: Final = "catalogue.sqlite"

_DATA: Final = "data"
_INCOMING: Final = "incoming"
# So many objects in a row lie in one folder, and there are so many folders: what is put together lies together on the
# disk, and a folder is made for many objects.
_IN_A_ROW_BITS: Final = 8
_SHARD_MASK: Final = 0xFFF
# Far beyond all that could have been handed out, and far from the end.
_MOST_ID: Final = 2**62
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Besides data and incoming: the catalogue with what SQLite keeps beside it, earlier ones, and what a new file system
# contains.
_OWN: Final = re.compile(r"catalogue\.(?:sqlite|broken-[0-9]{1,9})(?:-wal|-shm|-journal)?|lost\+found")
_BROKEN: Final = re.compile(r"catalogue\.broken-([0-9]{1,9})(?:-wal|-shm|-journal)?")
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_NAMES: Final = re.compile(r"[0-9a-f]{16}(?:\n[0-9a-f]{16})*")
_SHARD: Final = re.compile(r"[0-9a-f]{3}")
_BESIDE: Final = ("", "-wal", "-journal")

# Smaller files find out soon enough that the disk is full.
_ALLOCATED_BYTES: Final = 2**20
# The file system cannot allocate ahead, which costs nothing but an early answer.
_NO_ALLOCATION: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class FolderError(StorageError):
    """A folder cannot be a cache's."""


class FolderTakenError(FolderError):
    """Another cache uses it."""


class ForeignFolderError(FolderError):
    """It holds what is not the cache's."""


def open_data(path: Path) -> int:
    """What `open_object` needs; of a folder that a DataFolder has prepared."""
    return os.open(path / _DATA, _FOLDER)


def open_incoming(path: Path) -> int:
    """What `create_incoming` needs; of a folder that a DataFolder has prepared."""
    return os.open(path / _INCOMING, _FOLDER)


def open_object(data_fd: int, object_id: int) -> int:
    """A descriptor to read an object by; its content stays even if it is removed meanwhile.

    Raises:
        FileNotFoundError: It was removed.
        OSError: It cannot be opened.
    """
    return os.open(_place(object_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=data_fd)


def create_incoming(incoming_fd: int, object_id: int, size: int) -> int:
    """A descriptor to write an object's content by, with room for so many bytes if they are many.

    Raises:
        OSError: Nothing was created; ENOSPC, EDQUOT or EFBIG if there is no room.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_name(object_id), flags, _FILE_MODE, dir_fd=incoming_fd)
    if size < _ALLOCATED_BYTES:
        return fd
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno in _NO_ALLOCATION:
            return fd
        os.close(fd)
        remove_incoming(incoming_fd, object_id)
        raise
    return fd


def remove_incoming(incoming_fd: int, object_id: int) -> None:
    """Give up an object that was not committed; one that is not there is fine."""
    with suppress(FileNotFoundError):
        os.unlink(_name(object_id), dir_fd=incoming_fd)


class DataFolder:
    """The keeper's hold on the folder; nobody else has one of the same folder. All methods wait for the disk."""

    __slots__ = ("_data_fd", "_durability", "_fd", "_incoming_fd", "path")

    def __init__(self, path: Path, descriptors: tuple[int, int, int], durability: Durability) -> None:
        self.path = path
        self._fd, self._data_fd, self._incoming_fd = descriptors
        self._durability = durability

    @classmethod
    def open(cls, path: Path, durability: Durability = "never") -> Self:
        """Take the folder; made if there is none, but not what it lies in.

        The lock is the descriptor's: a child that was forked without exec would hold it too.

        Raises:
            FolderTakenError: Another process has it.
            ForeignFolderError: It holds other things.
            FolderError: It cannot be used.
        """
        descriptors: list[int] = []
        try:
            _make(path, None)
            descriptors.append(os.open(path, _FOLDER & ~os.O_NOFOLLOW))
            _lock(descriptors[0], path)
            _refuse_read_only(descriptors[0], path)
            _refuse_foreign(descriptors[0], path)
            for name in (_DATA, _INCOMING):
                _make(Path(name), descriptors[0])
                descriptors.append(os.open(name, _FOLDER, dir_fd=descriptors[0]))
            _shards(descriptors[1], path)
        except BaseException as error:
            for each in descriptors:
                os.close(each)
            if isinstance(error, OSError):
                raise FolderError(f"folder {path} cannot be a cache's: {error}") from error
            raise
        top, data, incoming = descriptors
        return cls(path, (top, data, incoming), durability)

    @property
    def catalogue_path(self) -> Path:
        return self.path / CATALOGUE

    @property
    def data_fd(self) -> int:
        """For `open_object`."""
        return self._data_fd

    @property
    def incoming_fd(self) -> int:
        """For `create_incoming`."""
        return self._incoming_fd

    def publish(self, object_id: int) -> None:
        """Move an object from `incoming` to its place, as durably as this folder's policy says.

        Raises:
            FileNotFoundError: It is not in `incoming`.
            OSError: It stays there, or is at its place without surely outliving a loss of power.
        """
        name = _name(object_id)
        if self._durability != "never":
            _sync(name, self._incoming_fd, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._move(object_id)
        except FileNotFoundError:
            os.stat(name, dir_fd=self._incoming_fd, follow_symlinks=False)
            _make(Path(_shard(object_id)), self._data_fd)
            self._move(object_id)
            if self._durability == "full":
                os.fsync(self._data_fd)
        if self._durability == "full":
            _sync(_shard(object_id), self._data_fd, _FOLDER)
            os.fsync(self._incoming_fd)

    def remove(self, ids: Iterable[int]) -> None:
        """Remove published objects; those that are not there are fine.

        Raises:
            OSError: The first that there was; all were tried.
        """
        _remove_all((self._data_fd, _place(each)) for each in ids)

    def remove_incoming(self, object_id: int) -> None:
        """Give up an object that was not committed; one that is not there is fine."""
        remove_incoming(self._incoming_fd, object_id)

    def clear_incoming(self) -> int:
        """Remove all that was not committed; answers the largest id of it, or 0.

        Raises:
            ForeignFolderError: There are other things.
            OSError: As `remove`.
        """
        ids = self._ids_in(self._incoming_fd, Path(_INCOMING))
        _remove_all((self._incoming_fd, _name(each)) for each in ids.tolist())
        return int(ids.max(initial=0))

    def ids(self) -> Iterator[NDArray[np.int64]]:
        """The ids of all published objects, a folder's at a time, in no order.

        Raises:
            ForeignFolderError: There are other things.
        """
        for name in _shards(self._data_fd, self.path):
            fd = os.open(name, _FOLDER, dir_fd=self._data_fd)
            try:
                ids = self._ids_in(fd, Path(_DATA, name))
            finally:
                os.close(fd)
            strange = ids[(ids >> _IN_A_ROW_BITS) & _SHARD_MASK != int(name, 16)]
            if len(strange):
                raise self._foreign(Path(_DATA, name), _name(int(strange[0])))
            yield ids

    def clear(self) -> None:
        """Remove all objects."""
        self.clear_incoming()
        for ids in self.ids():
            self.remove(ids.tolist())

    def set_catalogue_aside(self) -> str:
        """Rename the catalogue, for a person to look at; answers its new name. Of earlier ones none stays."""
        earlier = {name: int(found[1]) for name in _names(self._fd) if (found := _BROKEN.fullmatch(name))}
        _remove_all((self._fd, name) for name in earlier)
        aside = f"catalogue.broken-{max(earlier.values(), default=0) + 1}"
        for beside in _BESIDE:
            with suppress(FileNotFoundError):
                os.rename(CATALOGUE + beside, aside + beside, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        _remove_all([(self._fd, f"{CATALOGUE}-shm")])
        return aside

    def free_bytes(self) -> int:
        """What may still be written."""
        found = os.fstatvfs(self._fd)
        return found.f_bavail * found.f_frsize

    def is_read_only(self) -> bool:
        """Whether the file system takes no changes; some are remounted so after an error."""
        return _is_read_only(self._fd)

    def total_bytes(self) -> int:
        """How large the file system is, less what only root may use."""
        found = os.fstatvfs(self._fd)
        return (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize

    def sync(self) -> None:
        """Wait until all that was written to the file system outlives a loss of power.

        Raises:
            OSError: It does not.
        """
        if ctypes.CDLL(None, use_errno=True).syncfs(self._fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(self.path))

    def close(self) -> None:
        """Let others have the folder."""
        for fd in (self._incoming_fd, self._data_fd, self._fd):
            os.close(fd)

    def _move(self, object_id: int) -> None:
        name, place = _name(object_id), _place(object_id)
        os.rename(name, place, src_dir_fd=self._incoming_fd, dst_dir_fd=self._data_fd)

    def _ids_in(self, fd: int, where: Path) -> NDArray[np.int64]:
        names = _names(fd)
        joined = "\n".join(names)
        if names and not _NAMES.fullmatch(joined):
            raise self._foreign(where, next(name for name in names if not _NAME.fullmatch(name)))
        ids = np.frombuffer(bytes.fromhex(joined), ">u8").astype(np.int64)
        impossible = ids[(ids < 1) | (ids > _MOST_ID)]
        if len(impossible):
            raise self._foreign(where, f"{int(impossible[0]) & (2**64 - 1):016x}")
        return ids

    def _foreign(self, where: Path, name: str) -> ForeignFolderError:
        return _foreign(self.path / where, name)


def _name(object_id: int) -> str:
    return f"{object_id:016x}"


def _shard(object_id: int) -> str:
    return f"{object_id >> _IN_A_ROW_BITS & _SHARD_MASK:03x}"


def _place(object_id: int) -> str:
    return f"{object_id >> _IN_A_ROW_BITS & _SHARD_MASK:03x}/{object_id:016x}"


def _names(fd: int) -> list[str]:
    return os.listdir(fd)


def _foreign(folder: Path, name: str) -> ForeignFolderError:
    return ForeignFolderError(
        f"folder {folder} holds {name!r}, which is not a cache's; move it away, or give the cache a folder of its own"
    )


def _make(path: Path, fd: int | None) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, _FOLDER_MODE, dir_fd=fd)


def _shards(data_fd: int, path: Path) -> list[str]:
    """The folders of objects that there are, sorted."""
    found = []
    with os.scandir(data_fd) as entries:
        for entry in entries:
            if not _SHARD.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                raise _foreign(path / _DATA, entry.name)
            found.append(entry.name)
    return sorted(found)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderTakenError(
            f"folder {path} is used by another cache; stop that one, or give each a folder of its own"
        ) from error


def _is_read_only(fd: int) -> bool:
    return bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)


def _refuse_read_only(fd: int, path: Path) -> None:
    # SQLite would only say that it cannot open a file.
    if _is_read_only(fd):
        raise FolderError(
            f"folder {path} is on a file system that is mounted read-only; find out why (dmesg), and remount it rw"
        )


def _refuse_foreign(fd: int, path: Path) -> None:
    with os.scandir(fd) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name in {_DATA, _INCOMING}:
                fits = entry.is_dir(follow_symlinks=False)
            elif entry.name == "lost+found":
                fits = True
            else:
                fits = _OWN.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)
            if not fits:
                raise _foreign(path, entry.name)


def _sync(name: str, folder_fd: int, flags: int) -> None:
    fd = os.open(name, flags, dir_fd=folder_fd)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.fsync(fd)
        else:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def _remove_all(files: Iterable[tuple[int, str]]) -> None:
    first: OSError | None = None
    for folder_fd, name in files:
        try:
            os.unlink(name, dir_fd=folder_fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            first = first or error
    if first is not None:
        raise first
