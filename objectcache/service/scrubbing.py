"""Every now and then, all that is kept is compared with its checksums; read `Scrubber.run`."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from objectcache.link import Damaged, Sound
from objectcache.storage.checking import Candidate, scrub
from objectcache.storage.errors import StorageError
from objectcache.storage.files import open_data
from objectcache.store import Asked, Store, Stretch, Unverified
from objectcache.store import Message as Said

log: Final = logging.getLogger(__name__)

T = TypeVar("T")

# As a worker, for the store; workers' numbers begin with 1.
_NOBODY: Final = 0
# What the store is asked for at once: half a millisecond of its thread, which others wait for.
_STRETCH: Final = 256
# After so much, what was found is told, and the place noted: a restart costs no more.
_MOST_BYTES: Final = 256 * 2**20
# What opening a file counts as; a disk is as busy with a small object as with so many bytes of a large one.
_FILE_BYTES: Final = 64 * 2**10
# Shorter waits are saved up.
_LEAST_WAIT_SECONDS: Final = 0.02
_RETRY_SECONDS: Final = 60.0
_DAY_SECONDS: Final = 86_400

# As the store notes them.
_PLACE: Final = "scrub.place"
_BEGAN: Final = "scrub.began"
_ENDED: Final = "scrub.ended"


class Keeper(Protocol):
    """Runs the store."""

    async def do(self, work: Callable[[Store], T]) -> T:
        """Have this done to the store, by its one thread."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is done, and how often.

    Attributes:
        days: From the beginning of a round to the next one's, unless a round takes longer.
        bytes_per_second: At most.
        retry_seconds: After the disk could not be read.
    """

    days: float = 7.0
    bytes_per_second: float = 32 * 2**20
    retry_seconds: float = _RETRY_SECONDS


class Scrubber:
    """Walks over all objects, the suspect ones first, and tells the store which are sound and which are not.

    Its place outlives the process, so that a cache that is restarted daily still gets to the newest.

    Attributes:
        verified: Objects that were read to their end or were found damaged, since the process began.
        verified_bytes: Of these.
        damaged: How many of them the store removed for it; not those that were gone anyway.
        round_began: When this round began, or the last one, in seconds since 1970; 0 if there was none.
        round_ended: As `round_began`; before it while a round is under way.
        problem: Why nothing goes on; empty if it does.
    """

    def __init__(self, keeper: Keeper, folder: Path, pace: Pace, clock: Callable[[], float] = time.time) -> None:
        self.verified = 0
        self.verified_bytes = 0
        self.damaged = 0
        self.round_began = 0
        self.round_ended = 0
        self.problem = ""
        self._keeper: Final = keeper
        self._folder: Final = folder
        self._pace: Final = pace
        self._clock: Final = clock
        self._ended: Final = threading.Event()

    async def run(self) -> None:
        """Until cancelled; the thread that reads ends with the chunk that it is at."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="scrub")
        try:
            while True:
                try:
                    await self._rounds(thread)
                except (StorageError, OSError) as error:
                    self.problem = str(error)
                    log.warning("objects cannot be verified, it is tried again error=%r", self.problem)
                    await asyncio.sleep(self._pace.retry_seconds)
        finally:
            self._ended.set()
            # Not waited for: a read of a bad sector may take a minute, and the thread has a descriptor of its own.
            thread.shutdown(wait=False, cancel_futures=True)

    async def _rounds(self, thread: ThreadPoolExecutor) -> None:
        self.round_began = await self._keeper.do(lambda store: store.noted(_BEGAN))
        self.round_ended = await self._keeper.do(lambda store: store.noted(_ENDED))
        # Until they are verified, whoever reads them first waits for it.
        await self._walk(thread, 0, suspects_only=True)
        while True:
            place = 0
            if self.round_ended < self.round_began:
                place = await self._keeper.do(lambda store: store.noted(_PLACE))
            else:
                self.problem = ""
                await self._until_due()
                await self._begin()
            await self._walk(thread, place, suspects_only=False)
            self.round_ended = max(int(self._clock()), self.round_began)
            await self._keeper.do(lambda store: store.note(_ENDED, self.round_ended))
            log.info(
                "all objects were verified since_start=%d damaged=%d seconds=%d",
                self.verified, self.damaged, self.round_ended - self.round_began,
            )  # fmt: skip

    async def _until_due(self) -> None:
        """In pieces: the clock may be set meanwhile, and time in which the node sleeps counts."""
        while (left := self.round_began + self._pace.days * _DAY_SECONDS - self._clock()) > 0:
            # A clock that was in the future when the last round began must not put off the next for years.
            if left > self._pace.days * _DAY_SECONDS:
                return
            await asyncio.sleep(min(left, self._pace.retry_seconds))

    async def _begin(self) -> None:
        # Above the end of the round before also within a second of it.
        began = max(int(self._clock()), 1)
        if began <= self.round_ended <= began + 1:
            began = self.round_ended + 1

        def note(store: Store) -> None:
            store.note(_PLACE, 0)
            store.note(_ENDED, 0)
            store.note(_BEGAN, began)

        await self._keeper.do(note)
        self.round_began, self.round_ended = began, 0

    async def _walk(self, thread: ThreadPoolExecutor, place: int, *, suspects_only: bool) -> None:
        while True:
            found: Stretch = await self._keeper.do(partial(_stretch, place))
            objects = [each for each in found.objects if each.suspect or not suspects_only]
            for part in _parts(objects):
                await self._verify(thread, part)
                if not suspects_only:
                    await self._keeper.do(partial(_note_place, part[-1].object_id))
            place = found.upto_id
            if found.is_last:
                return

    async def _verify(self, thread: ThreadPoolExecutor, objects: Sequence[Unverified]) -> None:
        reading = partial(_damages, self._folder, objects, self._pace.bytes_per_second, self._ended)
        damages = await asyncio.get_running_loop().run_in_executor(thread, reading)
        self.problem = ""
        said: list[Said] = []
        for each in objects:
            damage = damages.get(each.object_id)
            if damage:
                said.append(Damaged(each.object_id, each.bucket, each.name, damage))
            elif damage is not None and each.suspect:
                said.append(Sound(each.object_id, each.bucket, each.name))
        if said:
            removed = await self._keeper.do(partial(_tell, said, int(self._clock())))
            if removed:
                first = next(damage for damage in damages.values() if damage)
                log.warning("damaged objects were removed objects=%d first=%r", removed, first)
            self.damaged += removed
        self.verified += len(damages)
        self.verified_bytes += sum(each.size_bytes for each in objects if each.object_id in damages)


def _tell(said: Sequence[Said], now: int, store: Store) -> int:
    """How many of the damaged objects were still there."""
    before = store.damaged
    store.handle([Asked(_NOBODY, each) for each in said], now)
    return store.damaged - before


def _stretch(place: int, store: Store) -> Stretch:
    return store.stretch(place, _STRETCH)


def _note_place(place: int, store: Store) -> None:
    store.note(_PLACE, place)


def _parts(objects: Sequence[Unverified]) -> Iterator[list[Unverified]]:
    """Not many bytes each, of one object at least."""
    part: list[Unverified] = []
    size = 0
    for each in objects:
        if part and size + each.size_bytes > _MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(each)
        size += each.size_bytes
    if part:
        yield part


def _damages(
    folder: Path, objects: Sequence[Unverified], bytes_per_second: float, ended: threading.Event
) -> dict[int, str]:
    """By id, of those that were read to the end: how each differs from what was put, empty if it does not.

    Blocking, for as long as the rate demands: from a thread.

    Raises:
        OSError: The folder cannot be read.
    """
    found: dict[int, str] = {}
    owed_seconds = 0.0
    candidates = [Candidate(each.object_id, each.size_bytes, each.checksum) for each in objects]
    data_fd = open_data(folder)
    steps = scrub(data_fd, candidates, bytes_per_second)
    try:
        for step in steps:
            owed_seconds += step.wait_seconds
            if step.done:
                found[step.object_id] = step.damage
                owed_seconds += _FILE_BYTES / bytes_per_second
            if owed_seconds >= _LEAST_WAIT_SECONDS or ended.is_set():
                if ended.wait(owed_seconds):
                    return found
                owed_seconds = 0.0
        ended.wait(owed_seconds)
        return found
    finally:
        steps.close()
        os.close(data_fd)
