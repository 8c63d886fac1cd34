"""Programming as it is done: one image at a time on each card, never broken off, read back, and told of."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from deviceplugin.config.model import FpgaImplementation, FpgaProgrammer
from deviceplugin.config.values import canonical_id
from deviceplugin.fpga import Family, Fpgas, Region
from deviceplugin.programming import images
from deviceplugin.programming.choosing import Programmers
from deviceplugin.programming.programmer import ProgrammingError
from deviceplugin.programming.readback import Readback

log: Final = logging.getLogger(__name__)

# Each card's programming takes a thread for seconds; more cards than this wait for one another.
_THREADS: Final = 20


@dataclass(frozen=True, slots=True)
class Programmed:
    """How one programming went.

    Attributes:
        reason: Why it failed; empty if it did not.
    """

    region: str
    function: str
    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """An image that a region is to hold.

    Attributes:
        finished: Called in the event loop once programming has ended, whether or not anybody still waits for it.
        rewrite: Write the image even if it is there already, to end a manager's error state.
    """

    region: Region
    function: str
    implementation: FpgaImplementation
    options: FpgaProgrammer
    limit_seconds: float
    finished: Callable[[Programmed], None]
    rewrite: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What programming needs of the host.

    Attributes:
        bitstreams: The folder of images.
    """

    readback: Readback
    programmers: Programmers
    bitstreams: Path


class Workbench:
    """Programs regions; coroutines belong to one event loop, `scan` and `freshened` to one worker thread at a time."""

    def __init__(
        self, host: Host, spawn: Callable[[Coroutine[Any, Any, Programmed]], "asyncio.Task[Programmed]"]
    ) -> None:
        """Take a way to start tasks that last as long as the daemon: programming outlives the call that wanted it."""
        self._host: Final = host
        self._spawn: Final = spawn
        self._locks: Final[dict[str, asyncio.Lock]] = {}
        self._stopping = False
        # Never shut down: a process that ends waits for its threads, and so for what is being programmed.
        self._threads: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="fpga")
        # Below, each attribute is written by one side only, and whole: the event loop's first, then the scans'.
        self._busy: frozenset[str] = frozenset()
        self._ended: Mapping[str, int] = {}
        self._fresh: Mapping[str, tuple[str, int]] = {}
        self._remembered: Mapping[str, str] = {}
        self._scans = 0
        self._newest = 0
        self._before: Mapping[str, Region] = {}

    def stop(self) -> None:
        """Begin no more programming; what is under way goes on to its end."""
        self._stopping = True

    def images(self) -> frozenset[str]:
        """What is in the folder of bitstreams; blocks.

        Raises:
            NoFolderError: There is none.
            ImageError: It cannot be listed.
        """
        return images.names(self._host.bitstreams)

    def families(self, options: FpgaProgrammer) -> frozenset[Family]:
        return self._host.programmers.families(options)

    def scan(self, look: Callable[[], Fpgas]) -> Fpgas:
        """Look at all regions; those of a card that is being programmed by us meanwhile are as they were before.

        A manager in the middle of its work, or a port in reset, is not sick.
        """
        self._scans += 1
        number, busy = self._scans, self._busy
        found = look()
        touched = busy | self._busy | {card for card, scan in self._ended.items() if scan >= number}
        regions = tuple(
            self._before.get(region.device.id, region) if region.card in touched else region for region in found.regions
        )
        self._newest = number
        self._before = {region.device.id: region for region in regions}
        return replace(found, regions=regions)

    def freshened(self, found: Fpgas) -> Fpgas:
        """A scan's findings with what was read from regions since."""
        return replace(found, regions=tuple(self._freshened(region) for region in found.regions))

    def _freshened(self, region: Region) -> Region:
        id_ = region.device.id
        loaded, scan = self._fresh.get(id_, ("", -1))
        if scan >= self._newest:
            return replace(region, loaded=loaded)
        if region.family is Family.FPGA_REGION and id_ in self._remembered:
            return replace(region, loaded=self._remembered[id_])
        return region

    async def loaded(self, region: Region) -> str:
        """What a region holds, once nobody programs its card.

        Raises:
            ProgrammingError: It cannot be read.
        """
        async with self._lock(region):
            return await self._read(region)

    async def ensure(self, job: Job, permit: Callable[[], None]) -> Programmed | None:
        """Have a region hold an image; None if it does already.

        Cancelling this ends the waiting, not the programming: half an image is worse than the wrong one.

        Args:
            job: What is to be done.
            permit: Called when programming is about to begin; what it raises, this raises.

        Raises:
            ProgrammingError: What the region holds cannot be read, or the daemon is stopping.
        """
        lock = self._lock(job.region)
        await lock.acquire()
        handed_over = False
        try:
            if await self._read(job.region) == job.implementation.id and not job.rewrite:
                return None
            if self._stopping:
                raise ProgrammingError("the daemon is stopping, and begins nothing more")
            permit()
            task = self._spawn(self._program(job, lock))
            handed_over = True
        finally:
            if not handed_over:
                lock.release()
        return await asyncio.shield(task)

    def _lock(self, region: Region) -> asyncio.Lock:
        return self._locks.setdefault(region.card, asyncio.Lock())

    async def _read(self, region: Region) -> str:
        remembered = self._remembered.get(region.device.id, "")
        loop = asyncio.get_running_loop()
        loaded = await loop.run_in_executor(self._threads, self._host.readback.loaded, region, remembered)
        self._note(region, loaded)
        return canonical_id(loaded)

    def _note(self, region: Region, loaded: str) -> None:
        self._fresh = {**self._fresh, region.device.id: (loaded, self._scans)}

    async def _program(self, job: Job, lock: asyncio.Lock) -> Programmed:
        """Do it, holding the card's lock, which is released at the end."""
        card, started = job.region.card, time.monotonic()
        self._busy |= {card}
        log.info("programming region=%s function=%s", job.region.device.id, job.function)
        try:
            loop = asyncio.get_running_loop()
            loaded, reason = await loop.run_in_executor(self._threads, self._written, job)
        except Exception as error:
            # The outermost frame of its task: what escapes here would end the daemon, and the kubelet's retry again.
            log.exception("programming ended with an internal error region=%s", job.region.device.id)
            loaded, reason = "", f"internal error: {error!r}"
        finally:
            self._busy -= {card}
            self._ended = {**self._ended, card: self._scans}
            lock.release()
        self._note(job.region, loaded)
        kept = {id_: held for id_, held in self._remembered.items() if id_ != job.region.device.id}
        self._remembered = kept if reason else {**kept, job.region.device.id: job.implementation.id}
        seconds = time.monotonic() - started
        done = Programmed(job.region.device.id, job.function, seconds, reason)
        if reason:
            log.warning("programming failed region=%s function=%s reason=%r", done.region, done.function, reason)
        else:
            log.info("programmed region=%s function=%s seconds=%.1f", done.region, done.function, seconds)
        job.finished(done)
        return done

    def _written(self, job: Job) -> tuple[str, str]:
        """Write the image; what the region holds afterwards, and why that is a failure. Blocks."""
        readback, wanted = self._host.readback, job.implementation.id
        reason = ""
        try:
            image = images.checked(self._host.bitstreams, job.region, job.implementation)
            programmer = self._host.programmers.choose(job.options, job.region.family, job.limit_seconds)
            programmer.program(job.region, image, wanted)
        except ProgrammingError as error:
            reason = str(error)
        try:
            loaded = readback.loaded(job.region, "" if reason else wanted)
        except ProgrammingError as error:
            return "", "; ".join(filter(None, (reason, str(error))))
        if not reason and canonical_id(loaded) != wanted:
            reason = f"it holds {loaded or 'nothing'} after {job.implementation.bitstream} was written, not {wanted}"
        return loaded, reason
