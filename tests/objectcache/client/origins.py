"""Origins that behave as real ones do."""

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem


class ListedFileSystem(MemoryFileSystem):  # type: ignore[misc] # fsspec ships no types
    """An object store: it says an ETag made of the content, and says it again from memory until asked to look anew.

    Attributes:
        looks: Paths whose `info` was asked of the store itself.
        after_read: Called when a file was read.
    """

    protocol = "listed"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.listed: dict[str, dict[str, Any]] = {}
        self.looks: list[str] = []
        self.after_read: Callable[[], object] = int

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path not in self.listed:
            self.looks.append(path)
            found = super().info(path, **kwargs)
            self.listed[path] = {**found, "ETag": hashlib.md5(super().cat_file(path)).hexdigest()}
        return self.listed[path]

    def invalidate_cache(self, path: str | None = None) -> None:
        if path is None:
            self.listed.clear()
        else:
            self.listed.pop(self._strip_protocol(path), None)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        content = bytes(super().cat_file(path, start, end, **kwargs))
        self.after_read()
        return content

    def write(self, path: str, content: bytes) -> None:
        """As somebody elsewhere does: what is listed stays."""
        MemoryFileSystem.pipe_file(self, path, content)


class RefreshingFileSystem(ListedFileSystem):
    """As `s3fs`: asked to, it looks anew and keeps the rest of what is listed."""

    protocol = "refreshing"

    def info(self, path: str, *, refresh: bool = False, **kwargs: Any) -> dict[str, Any]:
        if refresh:
            self.listed.pop(self._strip_protocol(path), None)
        return super().info(path, **kwargs)

    def invalidate_cache(self, path: str | None = None) -> None:
        raise AssertionError("all that was listed would have to be listed again")
