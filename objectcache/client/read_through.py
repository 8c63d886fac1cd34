"""Reading by way of the cache, which may fail in any way without a reader noticing more than its own speed."""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from typing import Final

from objectcache.client.client import CacheClient
from objectcache.client.errors import CacheError
from objectcache.client.health import Health
from objectcache.client.keeping import Piece

log: Final = logging.getLogger(__name__)

_WARN_SECONDS: Final = 60.0
_MOST_LANDINGS: Final = 1024


@dataclass(frozen=True, slots=True)
class Counts:
    """What one process read so far.

    Attributes:
        hits: Parts of files that came from the cache, of `hit_bytes`.
        misses: That the cache did not have.
        failures: Questions and writes that the cache did not answer as it should.
        skipped: Reads that did not ask, because the cache had just failed several times.
        kept: Objects put, of `kept_bytes`.
        origin_bytes: Read from the origin.
    """

    hits: int = 0
    hit_bytes: int = 0
    misses: int = 0
    failures: int = 0
    skipped: int = 0
    kept: int = 0
    kept_bytes: int = 0
    origin_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What the cache has.

    Attributes:
        content: None if it has nothing, or did not say.
        is_missing: Whether it said that it has nothing.
        landed: How many pieces this process had brought from the origin when it was asked.
    """

    content: bytes | None
    is_missing: bool
    landed: int = 0


@dataclass(slots=True)
class _Own:
    """Of one process; a fork's child begins with another, whose locks nobody holds."""

    pid: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    health: Health = field(default_factory=Health)
    counts: Counts = Counts()
    flights: dict[str, "Future[bytes]"] = field(default_factory=dict)
    landed: int = 0
    # By name, the number of the landing; of the last ones only.
    landings: OrderedDict[str, int] = field(default_factory=OrderedDict)
    warned: float | None = None
    unsaid: int = 0


# Reads bytes of a piece, counted from its beginning, from the origin.
Load = Callable[[int, int], bytes]
# Whether the origin still has what was read from it.
Settled = Callable[[], bool]


class ReadThrough:
    """A bucket in front of an origin, for any number of threads."""

    def __init__(self, client: CacheClient, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.client: Final = client
        self._monotonic = monotonic
        self._processes_own = _Own(os.getpid())

    @property
    def counts(self) -> Counts:
        return self._own().counts

    @property
    def may_ask(self) -> bool:
        """Whether the cache is not being left alone, as after it did not answer."""
        return self._own().health.may_ask(self._monotonic())

    def look(self, name: str, start: int = 0, end: int | None = None) -> Look:
        """Ask the cache alone."""
        own = self._own()
        landed = own.landed
        if not self.may_ask:
            self._count(skipped=1)
            return Look(None, is_missing=False)
        try:
            found = self.client.get(name, start, end)
        except CacheError as error:
            self._failed(error)
            return Look(None, is_missing=False)
        with own.lock:
            own.health = own.health.answered()
        if found is None:
            self._count(misses=1)
        else:
            self._count(hits=1, hit_bytes=len(found))
        return Look(found, is_missing=found is None, landed=landed)

    def stated(self, name: str) -> int | None:
        """An object's size in bytes; None if the cache does not say."""
        if not self.may_ask:
            return None
        try:
            found = self.client.head(name)
        except CacheError as error:
            self._failed(error)
            return None
        return None if found is None else found.size_bytes

    def read(self, piece: Piece, span: tuple[int, int], load: Load, settled: Settled) -> bytes:
        """A part of a piece.

        What the cache does not have is read from the origin: the whole piece, which is then put, if the cache said
        that it does not have it; the part alone if the cache is in no state to keep it. Threads that want the same
        piece wait for the first one's read.

        Args:
            piece: An object.
            span: Of it, from its beginning.
            load: Reads from the origin; its errors are the reader's.
            settled: Asked before what was read is put.
        """
        start, end = span
        look = self.look(piece.name, start, None if span == (0, piece.size_bytes) else end)
        return self.bring(piece, span, load, settled, look)

    def bring(self, piece: Piece, span: tuple[int, int], load: Load, settled: Settled, look: Look) -> bytes:
        """As `read`, where the cache was asked before."""
        start, end = span
        is_missing = look.is_missing
        if look.content is not None:
            if len(look.content) == end - start:
                return look.content
            # Of this name there is just one right size; the next PUT replaces it.
            error = CacheError(f"{piece.name!r} has another size in the cache than at the origin")
            self._failed(error, count_only=True)
            is_missing = True
        if not is_missing or not self._may_keep(piece.size_bytes):
            return self._loaded(load, start, end)
        if self._has_landed_since(piece.name, look):
            return self.read(piece, span, load, settled)
        return self._shared(piece, load, settled)[start:end]

    def forget(self, name: str) -> None:
        """Delete an object whose file was written; what cannot be deleted is a warning.

        Who reads it in this process just now does not keep it.
        """
        own = self._own()
        with own.lock:
            own.flights.pop(name, None)
        try:
            self.client.delete(name)
        except CacheError as error:
            self._failed(error)

    def _has_landed_since(self, name: str, look: Look) -> bool:
        """Whether another thread put it after this one was told that it is missing."""
        own = self._own()
        with own.lock:
            return own.landings.get(name, 0) > look.landed

    def _may_keep(self, size_bytes: int) -> bool:
        return self._own().health.may_keep(size_bytes, self._monotonic())

    def _shared(self, piece: Piece, load: Load, settled: Settled) -> bytes:
        own = self._own()
        with own.lock:
            flight = own.flights.get(piece.name)
            first = flight is None
            if flight is None:
                flight = own.flights[piece.name] = Future()
        if not first:
            try:
                return flight.result()
            except CancelledError:
                return self._loaded(load, 0, piece.size_bytes)
        try:
            content = self._loaded(load, 0, piece.size_bytes)
            flight.set_result(content)
            if len(content) == piece.size_bytes and settled() and own.flights.get(piece.name) is flight:
                self._land(own, piece.name, content, flight)
        except Exception as error:
            if not flight.done():
                flight.set_exception(error)
            raise
        finally:
            # Whatever else ends this thread, the others do not wait for it.
            if not flight.done():
                flight.cancel()
            with own.lock:
                if own.flights.get(piece.name) is flight:
                    del own.flights[piece.name]
        return content

    def _land(self, own: _Own, name: str, content: bytes, flight: "Future[bytes]") -> None:
        if not self._keep(name, content):
            return
        with own.lock:
            is_forgotten = own.flights.get(name) is not flight
            if not is_forgotten:
                own.landed += 1
                own.landings[name] = own.landed
                while len(own.landings) > _MOST_LANDINGS:
                    own.landings.popitem(last=False)
        if is_forgotten:
            self.forget(name)

    def _loaded(self, load: Load, start: int, end: int) -> bytes:
        content = load(start, end)
        self._count(origin_bytes=len(content))
        return content

    def _keep(self, name: str, content: bytes) -> bool:
        try:
            self.client.put(name, content)
        except CacheError as error:
            own = self._own()
            with own.lock:
                own.health = own.health.not_kept(error, len(content), self._monotonic())
            self._failed(error, count_only=True)
            return False
        self._count(kept=1, kept_bytes=len(content))
        return True

    def _failed(self, error: CacheError, *, count_only: bool = False) -> None:
        """Count it, and say it at most once a minute.

        Args:
            error: The cache's.
            count_only: Whether it says nothing about whether the cache can be asked, or that was noted already.
        """
        own, now = self._own(), self._monotonic()
        with own.lock:
            if not count_only:
                own.health = own.health.failed(error, now)
            own.counts = replace(own.counts, failures=own.counts.failures + 1)
            is_due = own.warned is None or now - own.warned >= _WARN_SECONDS
            unsaid = own.unsaid
            own.warned, own.unsaid = (now, 0) if is_due else (own.warned, unsaid + 1)
        if is_due:
            log.warning("the object cache is passed by error=%r others_since_last=%d", str(error), unsaid)

    def _count(self, **more: int) -> None:
        own = self._own()
        with own.lock:
            counts = own.counts
            own.counts = replace(counts, **{name: getattr(counts, name) + number for name, number in more.items()})

    def _own(self) -> _Own:
        own = self._processes_own
        if own.pid != os.getpid():
            self._processes_own = own = _Own(os.getpid())
        return own
