"""Files of an origin, read by way of a bucket; read `CachedFiles` first."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from objectcache.client.keeping import Keeping, Kept, Piece, span_in
from objectcache.client.origin import Origin
from objectcache.client.read_through import ReadThrough

Given = TypeVar("Given")
Made = TypeVar("Made")


class CachedFiles:
    """Of one origin and one bucket, for any number of threads; paths are as the origin spells them.

    Attributes:
        origin: Where they are.
        cache: What stands before it.
    """

    def __init__(self, origin: Origin, keeping: Keeping, cache: ReadThrough, threads: int) -> None:
        """With at most so many threads for one call."""
        self.origin = origin
        self.cache = cache
        self._keeping = keeping
        self._threads = threads

    def kept(self, path: str, found: Mapping[str, Any]) -> Kept | None:
        """What a file is kept as, given its `info`; None if it is not."""
        return self._keeping.kept(self.origin.url(path), found)

    def looked_up(self, path: str) -> Kept | None:
        """What a file is kept as now; of one that never changes, what the cache says, if it does."""
        if self._keeping.version == "none":
            name = self._unversioned(path)
            size_bytes = self.cache.stated(name)
            if size_bytes is not None:
                return Kept(name, size_bytes)
        return self.kept(path, self.origin.info(path))

    def is_unchanged(self, path: str, kept: Kept) -> bool:
        """Whether a file is still the one that it was before it was read, so that no torn copy is kept."""
        if self._keeping.version == "none":
            return True
        try:
            return self.kept(path, self.origin.info_anew(path)) == kept
        except Exception:  # noqa: BLE001 - origins raise errors of their own, and what was read is good for its reader
            return False

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        if self._keeping.version == "none":
            return self._trusted(path, start, end)
        return self.read_kept(path, self.kept(path, self.origin.info(path)), start, end)

    def read_kept(self, path: str, kept: Kept | None, start: int | None, end: int | None) -> bytes:
        """As `read`, of a file that was looked up before."""
        if kept is None:
            return self.origin.read(path, start, end)
        first, last = span_in(kept.size_bytes, start, end)
        if first == last and kept.size_bytes:
            return b""
        settled = functools.partial(self.is_unchanged, path, kept)
        reads = [
            functools.partial(self.cache.read, piece, span, functools.partial(self.load, path, kept, piece), settled)
            for piece, span in kept.parts(first, last)
        ]
        return reads[0]() if len(reads) == 1 else b"".join(self.each(lambda read: read(), reads))

    def read_ranges(self, wanted: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | Exception]:
        """Several at once; each file is looked up once."""
        if self._keeping.version == "none":
            return list(self.each(returning(lambda each: self._trusted(*each)), wanted))
        paths = sorted({path for path, _, _ in wanted})

        def look(path: str) -> Kept | None:
            return self.kept(path, self.origin.info(path))

        kept = dict(zip(paths, self.each(returning(look), paths), strict=True))

        def one(path: str, start: int | None, end: int | None) -> bytes:
            found = kept[path]
            if isinstance(found, Exception):
                raise found
            return self.read_kept(path, found, start, end)

        return list(self.each(returning(lambda each: one(*each)), wanted))

    def names(self, paths: Sequence[str]) -> set[str]:
        """Of all objects that files are kept as now."""
        return set().union(*self.each(self._names, paths))

    def forget(self, names: Iterable[str]) -> None:
        """Delete objects of files that were written.

        A versioned name of a file that changed is asked for by nobody, so that no time is lost with a cache that is
        away; one without a version would be served.
        """

        def one(name: str) -> None:
            if self._keeping.version == "none" or self.cache.may_ask:
                self.cache.forget(name)

        for _ in self.each(one, sorted(names)):
            pass

    def each(self, work: Callable[[Given], Made], given: Sequence[Given]) -> Iterator[Made]:
        """Several at once, in their order."""
        with ThreadPoolExecutor(max(1, min(self._threads, len(given))), "tasukicache") as pool:
            yield from pool.map(work, given)

    def _unversioned(self, path: str) -> str:
        return self._keeping.unversioned(self.origin.url(path))

    def _names(self, path: str) -> set[str]:
        try:
            kept = self.kept(path, self.origin.info(path))
        except OSError:
            kept = None
        of_pieces = set() if kept is None else {piece.name for piece in kept.pieces()}
        return of_pieces | ({self._unversioned(path)} if self._keeping.version == "none" else set())

    def _trusted(self, path: str, start: int | None, end: int | None) -> bytes:
        """Of a file that never changes: the cache is asked first, and the origin nothing if the cache has it."""
        if end is not None and (end < 0 or (start or 0) < 0):
            start, end = span_in(self.origin.info(path)["size"], start, end)
        if end is not None and (start or 0) >= end:
            return b""
        look = self.cache.look(self._unversioned(path), start or 0, end)
        if look.content is not None:
            return look.content
        kept = self.kept(path, self.origin.info(path))
        if kept is None:
            return self.origin.read(path, start, end)
        (piece,) = kept.pieces()
        load = functools.partial(self.load, path, kept, piece)
        settled = functools.partial(self.is_unchanged, path, kept)
        return self.cache.bring(piece, span_in(kept.size_bytes, start, end), load, settled, look)

    def load(self, path: str, kept: Kept, piece: Piece, start: int, end: int) -> bytes:
        """Bytes of a piece, from the origin."""
        if (piece.first + start, piece.first + end) == (0, kept.size_bytes):
            return self.origin.read(path)
        return self.origin.read(path, piece.first + start, piece.first + end)


def returning(work: Callable[[Given], Made]) -> Callable[[Given], Made | Exception]:
    """One that returns its error, as fsspec's calls with many paths do."""

    def answer(given: Given) -> Made | Exception:
        try:
            return work(given)
        except Exception as error:  # noqa: BLE001 - handed to the caller, who asked for it
            return error

    return answer
