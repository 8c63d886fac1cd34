"""`tasuki cache warm`: brings what is under a URL into the cache before it is needed; read `main` first."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TextIO

import fsspec

from objectcache.client.address import AddressError
from objectcache.client.errors import CacheError
from objectcache.client.filesystem import CachedFileSystem
from objectcache.client.keeping import KeepingError, Kept, Piece
from objectcache.client.names import escaped, routing_key
from objectcache.client.reading import CachedFiles, returning
from objectcache.client.warm_options import Asked, read
from objectcache.client.warming import Outcome, Owners, Tally, bytes_text, own_files, progress, summary

_TERMINAL_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 10.0
_MOST_SHOWN_FAILURES: Final = 20
_ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True)
class _Work:
    """One object to be there: a piece of a file, which was such when it was looked at."""

    path: str
    kept: Kept
    piece: Piece


class _Changed(Exception):  # noqa: N818 - not an error of ours
    """The file changed while it was read."""


def main(argv: Sequence[str]) -> int:
    """Warm the cache; 0 if all is there, 1 if something is not, 2 for bad arguments, 128 and the signal after one.

    It may be started again at any time: what is there is left alone. The first SIGINT or SIGTERM lets what is under way
    end, the second one ends at once.
    """
    asked = read(argv)
    try:
        origin, path = fsspec.url_to_fs(asked.url, **asked.options)
        files = CachedFileSystem(
            fs=origin,
            cache_url=asked.cache,
            bucket=asked.bucket,
            token_path=asked.token_path,
            version=asked.version,
            max_object=asked.max_object,
            block_size=asked.block_size,
            origin=asked.origin,
        ).files
    except (AddressError, KeepingError, CacheError, ValueError, ImportError, OSError) as error:
        _say(f"tasuki cache warm: {error}")
        return 2
    with _stop_signals() as stopped:
        try:
            return _warm(asked, files, path, stopped)
        except OSError as error:
            _say(f"tasuki cache warm: {asked.url} cannot be listed: {str(error) or type(error).__name__}")
            return 1


def _warm(asked: Asked, files: CachedFiles, path: str, stopped: "_Stopped") -> int:
    started = time.monotonic()
    origin = files.origin
    paths = list(own_files(((each, origin.url(each)) for each in origin.fs.find(path)), asked.shard))
    if not paths and asked.shard.count == 1:
        _say(f"tasuki cache warm: there is no file under {asked.url}; is it spelled right?")
        return 1
    screen = _Screen(sys.stderr)
    with ThreadPoolExecutor(asked.parallel, "warm") as pool:
        found = _look(files, paths, pool, stopped, screen).part(asked.owners, files.cache.client.bucket)
        tally = found.tally
        screen.clear()
        _say(f"{tally.total_objects} objects of {len(paths)} files, {bytes_text(tally.total_bytes)}")
        for failed, why in found.failures.items():
            tally = tally.after("failed", 0, why)
            screen.failed(failed, why)
        do = _missing if asked.is_dry else _put
        for ended in _results(pool, found.work, lambda each: do(files, each), stopped, asked.parallel):
            if ended is not None:
                tally = tally.after(ended.outcome, ended.work.piece.size_bytes, ended.error)
                if ended.error is not None:
                    screen.failed(ended.work.piece.name, ended.error)
                if tally.hopeless:
                    stopped.event.set()
            screen.show(progress(tally, time.monotonic() - started))
    screen.clear()
    if tally.hopeless:
        _say(f"tasuki cache warm: given up: {tally.hopeless}")
    _say(summary(tally, time.monotonic() - started, is_dry=asked.is_dry))
    if stopped.signal:
        return 128 + stopped.signal
    is_all_there = tally.objects["failed"] == 0 and tally.objects.total() == tally.total_objects
    return 0 if is_all_there else 1


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is to do, and by their paths the files of which that cannot be said."""

    work: Sequence[_Work]
    failures: Mapping[str, Exception]
    unkept_files: int

    @property
    def tally(self) -> Tally:
        total_bytes = sum(each.piece.size_bytes for each in self.work)
        return Tally(len(self.work) + len(self.failures), total_bytes, self.unkept_files)

    def part(self, owners: Owners, bucket: str) -> "_Found":
        work = owners.part(self.work, lambda each: routing_key(bucket, escaped(each.piece.name)))
        return replace(self, work=work)


def _look(
    files: CachedFiles, paths: Sequence[str], pool: ThreadPoolExecutor, stopped: "_Stopped", screen: "_Screen"
) -> _Found:
    """All objects of these files; a file that went away meanwhile is not one any more."""

    def look(path: str) -> Kept | None:
        return files.kept(path, files.origin.info(path))

    work, failures, unkept = list[_Work](), dict[str, Exception](), 0
    for number, (path, kept) in enumerate(zip(paths, pool.map(returning(look), paths), strict=True)):
        if stopped.event.is_set():
            break
        if isinstance(kept, Kept):
            work += (_Work(path, kept, piece) for piece in kept.pieces())
        elif kept is None:
            unkept += 1
        elif not isinstance(kept, FileNotFoundError):
            failures[path] = kept
        screen.show(f"{number + 1}/{len(paths)} files looked at")
    return _Found(work, failures, unkept)


@dataclass(frozen=True, slots=True)
class _Ended:
    """One object's end."""

    work: _Work
    outcome: Outcome
    error: Exception | None = None


def _results(
    pool: ThreadPoolExecutor,
    work: Sequence[_Work],
    do: Callable[[_Work], Outcome],
    stopped: "_Stopped",
    parallel: int,
) -> Iterator[_Ended | None]:
    """As they come, with only so many waiting that stopping is soon; None after a while in which none came."""
    left, running = iter(work), dict[Future[Outcome | None], _Work]()

    def begin(each: _Work) -> Outcome | None:
        return None if stopped.event.is_set() else do(each)

    while True:
        while len(running) < 2 * parallel and not stopped.event.is_set():
            each = next(left, None)
            if each is None:
                break
            running[pool.submit(begin, each)] = each
        if not running:
            return
        ended = wait(running, timeout=_TERMINAL_SECONDS, return_when=FIRST_COMPLETED).done
        if not ended:
            yield None
        for future in ended:
            done, error = running.pop(future), future.exception()
            if isinstance(error, Exception):
                yield _Ended(done, "failed", error)
            elif (outcome := future.result()) is not None:
                yield _Ended(done, outcome)


def _missing(files: CachedFiles, work: _Work) -> Outcome:
    stated = files.cache.client.head(work.piece.name)
    return "there" if stated is not None and stated.size_bytes == work.piece.size_bytes else "missing"


def _put(files: CachedFiles, work: _Work) -> Outcome:
    if _missing(files, work) == "there":
        return "there"
    content = files.load(work.path, work.kept, work.piece, 0, work.piece.size_bytes)
    if len(content) != work.piece.size_bytes or not files.is_unchanged(work.path, work.kept):
        raise _Changed("it changed while it was read; start again")
    for attempt in range(_ATTEMPTS):
        try:
            files.cache.client.put(work.piece.name, content)
        except CacheError as error:
            if attempt + 1 == _ATTEMPTS or getattr(error, "status", 0) not in {0, 429, 503}:
                raise
            time.sleep(min(getattr(error, "retry_seconds", 0.0), _LINE_SECONDS))
        else:
            break
    return "put"


class _Screen:
    """Progress on a terminal's last line, or as a line every ten seconds elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._shown = stream, time.monotonic()
        self._is_terminal = stream.isatty()
        self._failures = 0

    def show(self, line: str) -> None:
        now = time.monotonic()
        if now - self._shown < (_TERMINAL_SECONDS if self._is_terminal else _LINE_SECONDS):
            return
        self._shown = now
        self._stream.write(f"\r{line}\x1b[K" if self._is_terminal else f"{line}\n")
        self._stream.flush()

    def failed(self, name: str, error: Exception) -> None:
        self._failures += 1
        if self._failures > _MOST_SHOWN_FAILURES:
            return
        self.clear()
        _say(f"{name!r}: {str(error) or type(error).__name__}")
        if self._failures == _MOST_SHOWN_FAILURES:
            _say("other failures are only counted")

    def clear(self) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class _Stopped:
    """Whether to begin nothing more, and the signal that said so; 0 if none did."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal = 0


@contextmanager
def _stop_signals() -> Iterator[_Stopped]:
    """Where this is the main thread; elsewhere signals are the caller's."""
    stopped = _Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def on_signal(number: int, _: object) -> None:
        if stopped.signal:
            os._exit(128 + number)
        stopped.signal = number
        stopped.event.set()
        _say("stopping after what is under way; once more to stop at once")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - what a person asked for


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
