"""The file system that files really are in."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

from objectcache.client.keeping import place_of


class Origin:
    """One of fsspec's, for a process and its forks."""

    def __init__(self, fs: Any) -> None:
        self._made = (os.getpid(), fs)

    @property
    def fs(self) -> Any:
        """In a fork's child it is another one, as file systems on an event loop do not survive a fork."""
        pid, fs = self._made
        if pid != os.getpid():
            fs = type(fs)(*fs.storage_args, **fs.storage_options)
            self._made = (os.getpid(), fs)
        return fs

    @property
    def place(self) -> str:
        return place_of(self.fs.storage_options)

    def path(self, path: str) -> str:
        """As it spells one, with a root and separators of its own."""
        return str(self.fs._strip_protocol(path))  # noqa: SLF001 - fsspec's way to wrap another

    def url(self, path: str) -> str:
        return str(self.fs.unstrip_protocol(path))

    def info(self, path: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.fs.info(path)
        return found

    def info_anew(self, path: str) -> Mapping[str, Any]:
        """From where the file is: a listing in memory would say what it said before."""
        if "refresh" in inspect.signature(self.fs.info).parameters:
            found: Mapping[str, Any] = self.fs.info(path, refresh=True)
            return found
        self.fs.invalidate_cache(path)
        return self.info(path)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """What Python's slices would take of its bytes."""
        span = {} if start is None and end is None else {"start": start, "end": end}
        return bytes(self.fs.cat_file(path, **span))
