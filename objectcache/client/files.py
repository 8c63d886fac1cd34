"""Files of a cached file system that are open."""

import io
from collections.abc import Callable
from typing import Any, Self

from fsspec.spec import AbstractBufferedFile


class CachedFile(AbstractBufferedFile):  # type: ignore[misc] # fsspec ships no types
    """A file that is open for reading; what it reads next is read ahead."""

    def __init__(self, fs: Any, path: str, read: Callable[[int, int], bytes], size_bytes: int, **kwargs: Any) -> None:
        self._read_span = read
        super().__init__(fs, path, "rb", size=size_bytes, **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._read_span(start, end)


class WrittenFile(io.IOBase):
    """The origin's file, open for writing; once it is closed, what the cache has of it is deleted.

    Within a transaction that is once it is committed.
    """

    def __init__(self, file: Any, path: str, forget: Callable[[], None]) -> None:
        self._file = file
        self.path = path
        self._forget = forget

    def __getattr__(self, name: str) -> Any:
        if name == "_file":
            raise AttributeError(name)
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def write(self, content: Any) -> int:
        return int(self._file.write(content))

    def read(self, size: int = -1) -> bytes:
        return bytes(self._file.read(size))

    def flush(self, *args: Any) -> None:
        if not self.closed:
            self._file.flush(*args)

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def truncate(self, size: int | None = None) -> int:
        return int(self._file.truncate(size))

    def readable(self) -> bool:
        return bool(self._file.readable())

    def writable(self) -> bool:
        return bool(self._file.writable())

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._file.close()
        finally:
            self._forget()

    def commit(self) -> None:
        try:
            self._file.commit()
        finally:
            self._forget()

    def discard(self) -> None:
        self._file.discard()
