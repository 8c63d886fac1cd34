"""`tasuki cache warm`: brings what is under a URL into the cache before it is needed; read `main` first."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TextIO, get_args

import fsspec

from objectcache.client.address import AddressError
from objectcache.client.errors import CacheError
from objectcache.client.filesystem import BUCKET_VARIABLE, TOKEN_PATH_VARIABLE, URL_VARIABLE, CachedFileSystem
from objectcache.client.keeping import DEFAULT_BLOCK_SIZE, DEFAULT_MAX_OBJECT, KeepingError, Kept, Piece, Version
from objectcache.client.warming import Outcome, Shard, Tally, bytes_text, own_files, progress, shard, summary
from tasuki.kube.quantity import QuantityError, parse

_TERMINAL_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 10.0
_MOST_PARALLEL: Final = 256
_MOST_SHOWN_FAILURES: Final = 20
_ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks.

    Attributes:
        options: Of the origin's file system.
        max_object: In bytes.
        block_size: In bytes.
    """

    url: str
    cache: str | None
    bucket: str | None
    token_path: str | None
    options: Mapping[str, Any]
    parallel: int
    shard: Shard
    version: Version
    max_object: int
    block_size: int
    origin: str | None
    is_dry: bool


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
        cached = CachedFileSystem(
            fs=origin,
            cache_url=asked.cache,
            bucket=asked.bucket,
            token_path=asked.token_path,
            version=asked.version,
            max_object=asked.max_object,
            block_size=asked.block_size,
            origin=asked.origin,
        )
    except (AddressError, KeepingError, CacheError, ValueError, ImportError) as error:
        _say(f"tasuki cache warm: {error}")
        return 2
    with _stop_signals() as stopped:
        try:
            return _warm(asked, cached, path, stopped)
        except OSError as error:
            _say(f"tasuki cache warm: {asked.url} cannot be listed: {str(error) or type(error).__name__}")
            return 1


def read(argv: Sequence[str]) -> Asked:
    """What is asked, by arguments (without the program's name).

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki cache warm",
        description="Bring all files under a URL into the cache, as the Python client (fsspec) will look for them.",
        epilog="What is there already is left alone, so that it can be interrupted and started again.",
        allow_abbrev=False,
    )
    parser.add_argument("url", help="a file, or a folder with all below it, as fsspec spells it: s3://bucket/folder")
    parser.add_argument("--cache", metavar="URL", help=f"of the cache [{URL_VARIABLE}]")
    parser.add_argument("--bucket", metavar="NAME", help=f"of the cache [{BUCKET_VARIABLE}]")
    parser.add_argument("--token-path", metavar="PATH", help=f"of a file with a token [{TOKEN_PATH_VARIABLE}]")
    parser.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], type=_option,
        help="of the origin's file system, in JSON if it is that; may be repeated",
    )  # fmt: skip
    parser.add_argument("--parallel", metavar="COUNT", type=_parallel, default=16, help="objects at once (16)")
    parser.add_argument(
        "--shard", metavar="i/n", type=_typed(shard), default=Shard(),
        help="only this part, so that n jobs with i from 0 share the work (0/1)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only look what is missing")
    parser.add_argument(
        "--version", choices=get_args(Version), default="auto", help="as the file system that will read it (auto)"
    )
    for name, default in (("--max-object", DEFAULT_MAX_OBJECT), ("--block-size", DEFAULT_BLOCK_SIZE)):
        parser.add_argument(
            name, metavar="BYTES", type=_typed(_bytes), default=default,
            help=f"as the file system that will read it ({default // 2**20}Mi)",
        )  # fmt: skip
    parser.add_argument("--origin", metavar="PLACE", help="as the file system that will read it (by its options)")
    given = parser.parse_args(argv)
    return Asked(
        given.url, given.cache, given.bucket, given.token_path, dict(given.option), given.parallel, given.shard,
        given.version, given.max_object, given.block_size, given.origin, given.dry_run,
    )  # fmt: skip


def _warm(asked: Asked, cached: CachedFileSystem, path: str, stopped: "_Stopped") -> int:
    started = time.monotonic()
    paths = list(own_files(((each, cached.unstrip_protocol(each)) for each in cached.fs.find(path)), asked.shard))
    if not paths and asked.shard.count == 1:
        _say(f"tasuki cache warm: there is no file under {asked.url}; is it spelled right?")
        return 1
    screen = _Screen(sys.stderr, started)
    with ThreadPoolExecutor(asked.parallel, "warm") as pool:
        work, tally = _looked_at(cached, paths, pool, stopped)
        _say(f"{tally.total_objects} objects of {len(paths)} files, {bytes_text(tally.total_bytes)}")
        do = _missing if asked.is_dry else _put
        for done, outcome, error in _results(pool, work, lambda each: do(cached, each), stopped, asked.parallel):
            tally = tally.after(outcome, done.piece.size_bytes, error)
            if error is not None:
                screen.failed(done.piece.name, error)
            if tally.hopeless:
                stopped.event.set()
            screen.show(tally)
    screen.clear()
    if tally.hopeless:
        _say(f"tasuki cache warm: given up: {tally.hopeless}")
    _say(summary(tally, time.monotonic() - started, is_dry=asked.is_dry))
    if stopped.signal:
        return 128 + stopped.signal
    is_all_there = tally.objects["failed"] == 0 and tally.objects.total() == tally.total_objects
    return 0 if is_all_there else 1


def _looked_at(
    cached: CachedFileSystem, paths: Sequence[str], pool: ThreadPoolExecutor, stopped: "_Stopped"
) -> tuple[list[_Work], Tally]:
    """All objects of these files; a file that went away meanwhile is not one any more."""

    def look(path: str) -> tuple[str, Kept | None]:
        if stopped.event.is_set():
            return path, None
        try:
            return path, cached.kept(path, cached.fs.info(path))
        except FileNotFoundError:
            return path, None

    found = list(pool.map(look, paths))
    work = [_Work(path, kept, piece) for path, kept in found if kept is not None for piece in kept.pieces()]
    unkept = 0 if stopped.event.is_set() else sum(kept is None for _, kept in found)
    return work, Tally(len(work), sum(each.piece.size_bytes for each in work), unkept)


def _results(
    pool: ThreadPoolExecutor,
    work: Sequence[_Work],
    do: Callable[[_Work], Outcome],
    stopped: "_Stopped",
    parallel: int,
) -> Iterator[tuple[_Work, Outcome, Exception | None]]:
    """As they come, with only so many waiting that stopping is soon."""
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
        for future in wait(running, timeout=_TERMINAL_SECONDS, return_when=FIRST_COMPLETED).done:
            done, error = running.pop(future), future.exception()
            if isinstance(error, Exception):
                yield done, "failed", error
            elif (outcome := future.result()) is not None:
                yield done, outcome, None


def _missing(cached: CachedFileSystem, work: _Work) -> Outcome:
    stated = cached.client.head(work.piece.name)
    return "there" if stated is not None and stated.size_bytes == work.piece.size_bytes else "missing"


def _put(cached: CachedFileSystem, work: _Work) -> Outcome:
    if _missing(cached, work) == "there":
        return "there"
    piece = work.piece
    is_whole = piece.size_bytes == work.kept.size_bytes
    span = {} if is_whole else {"start": piece.first, "end": piece.end}
    content = cached.fs.cat_file(work.path, **span)
    if len(content) != piece.size_bytes or cached.kept(work.path, cached.fs.info(work.path)) != work.kept:
        raise _Changed("it changed while it was read; start again")
    for attempt in range(_ATTEMPTS):
        try:
            cached.client.put(piece.name, content)
        except CacheError as error:
            if attempt + 1 == _ATTEMPTS or getattr(error, "status", 0) not in {0, 429, 503}:
                raise
            time.sleep(min(getattr(error, "retry_seconds", 0.0), _LINE_SECONDS))
        else:
            break
    return "put"


class _Screen:
    """Progress on a terminal's last line, or as a line every ten seconds elsewhere."""

    def __init__(self, stream: TextIO, started: float) -> None:
        self._stream, self._started, self._shown = stream, started, started
        self._is_terminal = stream.isatty()
        self._failures = 0

    def show(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._shown < (_TERMINAL_SECONDS if self._is_terminal else _LINE_SECONDS):
            return
        self._shown = now
        line = progress(tally, now - self._started)
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


def _typed(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse, which else would not say what it must be."""

    def read_text(text: str) -> Any:
        try:
            return reader(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: it must be {error}") from None

    return read_text


def _bytes(text: str) -> int:
    try:
        size = parse(text)
    except QuantityError:
        size = None
    if size is None or size < 0 or size != int(size):
        raise ValueError("bytes, such as 64Mi")
    return int(size)


def _parallel(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_PARALLEL:
        raise argparse.ArgumentTypeError(f"{text!r}: it must be 1 to {_MOST_PARALLEL}")
    return int(text)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{name!r}: it must be name=value, such as anon=true")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - what a person asked for


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
