"""Whether the content of an object is what was put."""

import errno
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import xxhash

from objectcache.storage.errors import StorageError
from objectcache.storage.files import open_object

CHUNK_BYTES: Final = 2**20

# The disk itself says that it cannot read this, or the file system that its own check fails (xfs, btrfs: EUCLEAN).
_DAMAGE: Final = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})


class DamagedError(StorageError):
    """A file is not what was put; the text says how."""


class Candidate(NamedTuple):
    """An object to verify."""

    object_id: int
    size: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of work that was done.

    Attributes:
        wait_seconds: Before the next, so that the rate is kept.
        object_id: Which was worked on.
        done: Whether it was the object's last piece.
        damage: How it differs from what was put; empty if it does not, or not so far.
    """

    wait_seconds: float
    object_id: int
    done: bool
    damage: str = ""


def checksum_of(fd: int, size: int) -> bytes:
    """XXH3-128 of a file, 16 bytes, big-endian.

    Raises:
        DamagedError: It is not of this size, or the disk cannot read it.
        OSError: It cannot be read for another reason.
    """
    hashing = xxhash.xxh3_128()
    for chunk in _chunks(fd, size):
        hashing.update(chunk)
    return hashing.digest()


def verify(fd: int, size: int, checksum: bytes) -> None:
    """Compare a file with what the catalogue says of it.

    Raises:
        DamagedError: It is another.
        OSError: It cannot be read, for a reason that says nothing of it.
    """
    _compare(checksum_of(fd, size), checksum)


def scrub(data_fd: int, candidates: Iterable[Candidate], bytes_per_second: float) -> Generator[Step]:
    """Verify objects one after the other, a chunk a step; whoever drives this waits in between.

    An object that was removed meanwhile counts as damaged: only whoever knows what is kept can tell.

    Raises:
        OSError: The folder cannot be read, for a reason that says nothing of the object.
    """
    for candidate in candidates:
        damage = ""
        try:
            for length in _verifying(data_fd, candidate):
                yield Step(length / bytes_per_second, candidate.object_id, done=False)
        except DamagedError as error:
            damage = str(error)
        yield Step(0, candidate.object_id, done=True, damage=damage)


def _verifying(data_fd: int, candidate: Candidate) -> Iterator[int]:
    """Lengths of the chunks that were read."""
    try:
        fd = open_object(data_fd, candidate.object_id)
    except FileNotFoundError as error:
        raise DamagedError("its file is gone") from error
    except OSError as error:
        _raise_damage(error)
        raise
    try:
        # What is read here will not be read again soon: leave the page cache to those that are (Linux 6.3 and later).
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NOREUSE)
        hashing = xxhash.xxh3_128()
        for chunk in _chunks(fd, candidate.size):
            hashing.update(chunk)
            yield len(chunk)
        _compare(hashing.digest(), candidate.checksum)
    finally:
        os.close(fd)


def _chunks(fd: int, size: int) -> Iterator[memoryview]:
    found = os.fstat(fd).st_size
    if found != size:
        raise DamagedError(f"its file has {found} bytes instead of {size}")
    buffer = memoryview(bytearray(min(size, CHUNK_BYTES)))
    offset = 0
    while offset < size:
        try:
            length = os.preadv(fd, [buffer[: size - offset]], offset)
        except OSError as error:
            _raise_damage(error)
            raise
        if not length:
            raise DamagedError(f"its file ends after {offset} bytes of {size}")
        yield buffer[:length]
        offset += length


def _compare(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise DamagedError(f"its file has checksum {found.hex()} instead of {expected.hex()}")


def _raise_damage(error: OSError) -> None:
    """An error of reading that says something of the file."""
    if error.errno in _DAMAGE:
        raise DamagedError(f"its file cannot be read: {error.strerror}") from error
