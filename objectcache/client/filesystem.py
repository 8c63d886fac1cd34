"""Any file system of fsspec with the cache in front of it; read `CachedFileSystem` first."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.callbacks import NoOpCallback
from fsspec.implementations.chained import ChainedFileSystem

from objectcache.client.address import AddressError
from objectcache.client.client import DEFAULT_TIMEOUT_SECONDS, CacheClient
from objectcache.client.files import CachedFile, WrittenFile
from objectcache.client.keeping import DEFAULT_BLOCK_SIZE, DEFAULT_MAX_OBJECT, Keeping, Version
from objectcache.client.origin import Origin
from objectcache.client.read_through import Counts, ReadThrough
from objectcache.client.reading import CachedFiles, returning

URL_VARIABLE: Final = "TASUKI_CACHE_URL"
BUCKET_VARIABLE: Final = "TASUKI_CACHE_BUCKET"
# pfio's own, so that one mount serves both.
TOKEN_PATH_VARIABLE: Final = "PFIO_HTTP_BEARER_TOKEN_PATH"  # noqa: S105 - where one is

_READ_AHEAD_BYTES: Final = 4 * 2**20

Place = str | os.PathLike[str]


class CachedFileSystem(ChainedFileSystem):  # type: ignore[misc] # fsspec ships no types
    """Reads come from the cache if it has them, else from the origin; everything else is the origin's.

    `fsspec.open("tasukicache::s3://bucket/key")` in a pod with the annotation `tasuki.dev/cache` takes nothing else.
    The cache never fails a read: without an answer, or with another than expected, the origin is read.

    A file of at most `max_object` bytes is one object. A miss reads it whole, also where only a part was asked for, and
    puts it. Larger files are kept in blocks. With `version="auto"` each read first asks the origin's `info` (for an
    object store that is one small request, unless its listing is in memory), and a file that changed is another object.
    With `version="none"` a hit asks the origin nothing, a changed file is served as it was, and large files are read
    from the origin.

    Writes go to the origin, then the object is deleted. Somebody who read the old content just before may still put it
    after that; with `auto` nobody will ask for it.
    """

    protocol = "tasukicache"

    def __init__(  # noqa: PLR0913 - what a user may set, by the names that fsspec's own have
        self,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        *,
        cache_url: str | None = None,
        bucket: str | None = None,
        token_path: str | None = None,
        version: Version = "auto",
        max_object: int = DEFAULT_MAX_OBJECT,
        block_size: int = DEFAULT_BLOCK_SIZE,
        origin: str | None = None,
        threads: int = 16,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        fo: str | None = None,  # noqa: ARG002 - added to every chain
        **storage_options: Any,
    ) -> None:
        """Nothing is sent or read yet.

        Args:
            target_protocol: Of the origin; `target_options` are its options.
            target_options: Of these, those that say which place it is become part of every object's name.
            fs: The origin itself, instead of both.
            cache_url: TASUKI_CACHE_URL unless given.
            bucket: TASUKI_CACHE_BUCKET unless given.
            token_path: PFIO_HTTP_BEARER_TOKEN_PATH unless given; empty for no token.
            version: `auto` or `none`.
            max_object: In bytes.
            block_size: In bytes.
            origin: The place, in letters of your own; for origins that are the same under different options.
            threads: For calls with many paths or ranges; 1 for an origin that takes one at a time.
            timeout_seconds: For each step with the cache.
            fo: What fsspec adds to a chain; not used.
            storage_options: For fsspec's own.

        Raises:
            AddressError: The cache's URL or bucket is not given, or cannot be one.
            KeepingError: A size or the version cannot be such.
            ValueError: The origin is given twice or not at all, or there are no threads.
        """
        super().__init__(**storage_options)
        if (fs is None) == (target_protocol is None):
            raise ValueError("give either target_protocol (with target_options) or fs: the origin")
        if threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        if fs is None:
            fs = fsspec.filesystem(target_protocol, **(target_options or {}))
        if token_path is None:
            token_path = os.environ.get(TOKEN_PATH_VARIABLE)
        client = CacheClient(
            _given("cache_url", cache_url, URL_VARIABLE),
            _given("bucket", bucket, BUCKET_VARIABLE),
            token_path=token_path or None,
            timeout_seconds=timeout_seconds,
        )
        made = Origin(fs)
        keeping = Keeping(version, max_object, block_size, made.place if origin is None else origin)
        self.files = CachedFiles(made, keeping, ReadThrough(client), threads)
        self._strip_protocol = self._stripped  # type: ignore[method-assign] # as fsspec's own that wrap another do

    @property
    def fs(self) -> Any:
        """The origin."""
        return self.files.origin.fs

    @property
    def counts(self) -> Counts:
        """What this process read by way of this file system."""
        return self.files.cache.counts

    # Paths.

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Of a chain's first part, which names no origin; that of an instance is `_stripped`."""
        if isinstance(path, list | tuple):
            return [cls._strip_protocol(each) for each in path]
        return os.fspath(path).removeprefix(f"{cls.protocol}://").removeprefix(f"{cls.protocol}::")

    def _stripped(self, path: Any) -> Any:
        if isinstance(path, list | tuple):
            return [self._stripped(each) for each in path]
        return self.files.origin.path(type(self)._strip_protocol(path))  # noqa: SLF001 - its own

    def unstrip_protocol(self, name: str) -> str:
        return self.files.origin.url(self._strip_protocol(name))

    # Reads.

    def cat_file(self, path: Place, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Bytes of a file; with options of the origin's own (such as another version) the cache is passed by."""
        path = str(self._strip_protocol(path))
        if kwargs:
            return bytes(self.fs.cat_file(path, start=start, end=end, **kwargs))
        return self.files.read(path, start, end)

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Sequence[int | None] | int | None,
        ends: Sequence[int | None] | int | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Many ranges, several at once; each file's `info` is asked once."""
        if max_gap is not None:
            raise NotImplementedError("ranges are not merged; leave max_gap out")
        if not isinstance(paths, list):
            raise TypeError(f"paths is {type(paths).__name__}; it must be a list")
        firsts = starts if isinstance(starts, Sequence) else [starts] * len(paths)
        lasts = ends if isinstance(ends, Sequence) else [ends] * len(paths)
        if not len(firsts) == len(lasts) == len(paths):
            raise ValueError(f"{len(paths)} paths come with {len(firsts)} starts and {len(lasts)} ends; give as many")
        wanted = list(zip(self._strip_protocol(paths), firsts, lasts, strict=True))
        if kwargs:
            found = list(self.files.each(returning(lambda each: self.cat_file(*each, **kwargs)), wanted))
        else:
            found = self.files.read_ranges(wanted)
        if on_error == "raise":
            for each in found:
                if isinstance(each, Exception):
                    raise each
        return found

    def cat(
        self,
        path: str | list[str],
        recursive: bool = False,  # noqa: FBT001, FBT002 - fsspec's
        on_error: str = "raise",
        **kwargs: Any,
    ) -> bytes | dict[str, bytes | Exception]:
        """As fsspec's, several files at once."""
        paths: list[str] = self.expand_path(path, recursive=recursive, **kwargs)
        only = self._strip_protocol(path) if isinstance(path, str) else None
        if len(paths) == 1 and only is not None and paths[0] == only and not recursive:
            return self.cat_file(paths[0], **kwargs)
        found = dict(zip(paths, self.files.each(returning(self.cat_file), paths), strict=True))
        errors = [each for each in found.values() if isinstance(each, Exception)]
        if errors and on_error == "raise":
            raise errors[0]
        if on_error == "omit":
            return {name: each for name, each in found.items() if not isinstance(each, Exception)}
        return found

    def get_file(self, rpath: str, lpath: Any, callback: Any = None, outfile: Any = None, **kwargs: Any) -> None:
        """Download a file, piece by piece."""
        path = self._strip_protocol(rpath)
        is_plain = not kwargs and outfile is None and isinstance(lpath, str | os.PathLike)
        kept = self.files.kept(path, self.files.origin.info(path)) if is_plain else None
        if kept is None:
            given = {"callback": callback, "outfile": outfile}
            self.fs.get_file(path, lpath, **{key: each for key, each in given.items() if each is not None}, **kwargs)
            return
        progress = callback or NoOpCallback()
        progress.set_size(kept.size_bytes)
        target = Path(lpath)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in kept.pieces():
                progress.relative_update(file.write(self.files.read_kept(path, kept, piece.first, piece.end)))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,  # noqa: FBT001, FBT002 - fsspec's
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        if mode != "rb":
            options = {"block_size": block_size, "cache_options": cache_options}
            given = {name: value for name, value in options.items() if value is not None}
            names = self.files.names([path])
            file = self.fs._open(path, mode, autocommit=autocommit, **given, **kwargs)  # noqa: SLF001 - as `Origin.path`
            return WrittenFile(file, path, lambda: self.files.forget(names | self.files.names([path])))
        if kwargs.keys() - {"cache_type", "size"}:
            return self.fs.open(path, mode, **kwargs)
        kept = self.files.looked_up(path)
        if kept is None:
            return self.fs.open(path, mode, **kwargs)
        kwargs.pop("size", None)
        return CachedFile(
            self, path, functools.partial(self.files.read_kept, path, kept), kept.size_bytes,
            block_size=block_size or _READ_AHEAD_BYTES, cache_options=cache_options, **kwargs,
        )  # fmt: skip

    # Writes.

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        if self._intrans:
            super().pipe_file(path, value, mode=mode, **kwargs)
            return
        more = {} if mode == "overwrite" else {"mode": mode}
        with self._writing(path):
            self.fs.pipe_file(path, value, **more, **kwargs)

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        path = self._strip_protocol(rpath)
        if self._intrans:
            super().put_file(lpath, path, *args, **kwargs)
            return
        with self._writing(path):
            self.fs.put_file(lpath, path, *args, **kwargs)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:  # noqa: FBT001, FBT002 - fsspec's
        path = self._strip_protocol(path)
        with self._writing(path):
            self.fs.touch(path, truncate=truncate, **kwargs)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        target = self._strip_protocol(path2)
        with self._writing(target):
            self.fs.cp_file(self._strip_protocol(path1), target, **kwargs)

    def mv(
        self,
        path1: str,
        path2: str,
        recursive: bool = False,  # noqa: FBT001, FBT002 - fsspec's
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """One file is moved as the origin does it, which may be at once; several are copied and removed."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if recursive or not self.fs.isfile(source) or self.fs.isdir(target):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        with self._writing(source, target):
            self.fs.mv(source, target, **kwargs)

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        with self._writing(path):
            self.fs.rm_file(path)

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: FBT001, FBT002 - fsspec's
        names = self.files.names(self.expand_path(path, recursive=recursive, maxdepth=maxdepth))
        try:
            self.fs.rm(self._strip_protocol(path), recursive=recursive, maxdepth=maxdepth)
        finally:
            self.files.forget(names)

    @contextmanager
    def _writing(self, *paths: str) -> Iterator[None]:
        """While the origin is written: afterwards, also after a failure, the objects of before and after are deleted.

        Those of after too, as a file can get the time and size that it once had.
        """
        names = self.files.names(paths)
        try:
            yield
        finally:
            self.files.forget(names | self.files.names(paths))

    def invalidate_cache(self, path: str | None = None) -> None:
        """Of listings, which are the origin's; objects stay."""
        self.fs.invalidate_cache(None if path is None else self._strip_protocol(path))


def _of_origin(name: str) -> Any:
    """A method that the origin answers, with paths as the origin spells them."""

    def method(self: CachedFileSystem, path: Any = "", *args: Any, **kwargs: Any) -> Any:
        return getattr(self.fs, name)(self._strip_protocol(path), *args, **kwargs)

    method.__name__ = name
    return method


# What is no read and no write of content; an origin often has better ways than fsspec's base class.
for _name in (
    "ls", "info", "exists", "lexists", "isdir", "isfile", "find", "glob", "walk", "du", "created", "modified",
    "checksum", "ukey", "sign", "mkdir", "makedirs", "rmdir",
):  # fmt: skip
    setattr(CachedFileSystem, _name, _of_origin(_name))


def _given(option: str, value: str | None, variable: str) -> str:
    found = os.environ.get(variable) if value is None else value
    if not found:
        raise AddressError(
            f"neither {option} nor {variable} is set; the annotation tasuki.dev/cache sets the variable in a pod's "
            "containers (that of the bucket if it names just one)"
        )
    return found
