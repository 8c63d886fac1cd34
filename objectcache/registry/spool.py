"""Layers on their way through: files without a name, which are gone when their last reader is."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final, cast

PIECE_BYTES: Final = 512 * 2**10


class SpoolFile:
    """Room for one layer; reading and writing block, and are for a worker thread."""

    def __init__(self, spool: "Spool", file: BinaryIO, size: int) -> None:
        self._spool: Final = spool
        self._file: Final = file
        self._size: Final = size

    def close(self) -> None:
        """Once, by whoever used it last."""
        self._file.close()
        self._spool.give_back(self._size)

    def write(self, offset: int, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, offset)


async def pieces_of(file: SpoolFile, size: int) -> AsyncIterator[bytes]:
    """The whole of a file that is complete."""
    offset = 0
    while offset < size:
        piece = await asyncio.to_thread(file.read, offset, PIECE_BYTES)
        if not piece:
            raise OSError(f"the spooled layer ends at byte {offset} of {size}")
        offset += len(piece)
        yield piece


class Spool:
    """A folder on a disk, of which so much may be used.

    Attributes:
        used_bytes: By layers that are under way or still being sent.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder: Final = folder
        self._most_bytes: Final = most_bytes
        self.used_bytes = 0

    async def file(self, size: int) -> SpoolFile | None:
        """None if there is no room for so many bytes."""
        if self.used_bytes + size > self._most_bytes:
            return None
        self.used_bytes += size
        try:
            made = await asyncio.to_thread(_allocated, self._folder, size)
        except OSError:
            self.give_back(size)
            return None
        except BaseException:
            self.give_back(size)
            raise
        return SpoolFile(self, made, size)

    def give_back(self, size: int) -> None:
        self.used_bytes -= size

    def check(self) -> None:
        """Blocking.

        Raises:
            OSError: Files cannot be made there.
        """
        try:
            _allocated(self._folder, 1).close()
        except OSError as error:
            text = f"--spool-dir {self._folder} cannot be written to: {error.strerror or error}; name a writable folder"
            raise OSError(text) from error


def _allocated(folder: Path, size: int) -> BinaryIO:
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by whoever holds it last
    try:
        if size:
            # A disk that is full is to be known before the first byte goes to a client.
            os.posix_fallocate(file.fileno(), 0, size)
    except BaseException:
        file.close()
        raise
    return cast("BinaryIO", file)
