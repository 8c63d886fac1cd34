"""The one thread that changes what is kept: what workers ask for is gathered into batches, each one transaction."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from objectcache.link import BucketRules, FromKeeper, Sum, Summed, Writable
from objectcache.service.worker_link import WorkerLink
from objectcache.storage.catalogue import CatalogueError
from objectcache.store import Answer, Asked, Message, Store, View

T = TypeVar("T")

# Between two looks at what nobody waits for.
_TICK_SECONDS: Final = 0.5
# One batch; the rest is the next one's.
_MOST_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class Outlets:
    """Who is told what.

    Attributes:
        hand_over: Gives all workers another index by its descriptor, and returns when they have it.
        tell: Tells all workers.
        disk: Told why the disk takes nothing; empty when it does.
    """

    hand_over: Callable[[int], Coroutine[Any, Any, None]]
    tell: Callable[[FromKeeper], None]
    disk: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Rules:
    """As `Store.set_rules` takes them."""

    buckets: tuple[BucketRules, ...]
    complete: bool


class Keeping:
    """Runs the store; nothing of it is touched by another thread than its own.

    Attributes:
        writable: As the workers were last told.
    """

    def __init__(self, store: Store, outlets: Outlets) -> None:
        self._store: Final = store
        self._outlets: Final = outlets
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="store")
        # None after the last message of a worker that has ended.
        self._asked: Final[deque[tuple[WorkerLink, Message | Sum | None]]] = deque()
        self._rules: _Rules | None = None
        self._refused_rules: _Rules | None = None
        self._wake: Final = asyncio.Event()
        self._generation = store.generation
        self.writable = store.writable
        self._problem = ""

    @property
    def view(self) -> View:
        """As of the last tick, or half a second ago."""
        return self._store.view

    @property
    def index_fd(self) -> int:
        """For a new worker."""
        return self._store.index.fd

    def ask(self, link: WorkerLink, message: Message | Sum) -> None:
        """Have it done with the next batch, and the worker answered."""
        self._asked.append((link, message))
        self._wake.set()

    def ended(self, link: WorkerLink) -> None:
        """A worker has ended: what it had reserved is nobody's."""
        self._asked.append((link, None))
        self._wake.set()

    def set_rules(self, rules: tuple[BucketRules, ...], *, complete: bool) -> None:
        """Of all buckets that are known; what was asked after this goes by them, `complete` as in `Store.set_rules`."""
        self._rules = _Rules(rules, complete)
        self._wake.set()

    async def number_all(self, names: Sequence[str]) -> dict[str, int]:
        """The buckets' numbers; of those that the disk does not take anew, none."""
        return await self._do(partial(self._numbers, names))

    async def do(self, work: Callable[[Store], T]) -> T:
        """Have something done to the store between two batches."""
        return await self._do(partial(work, self._store))

    async def run(self) -> None:
        """Until cancelled."""
        next_tick = 0.0
        while True:
            await self._pause(next_tick - time.monotonic())
            while self._asked or self._rules is not None:
                await self._batch()
            if time.monotonic() >= next_tick:
                if self._refused_rules is not None:
                    self._rules, self._refused_rules = self._refused_rules, None
                more = await self._do(partial(self._store.tick, int(time.time())))
                await self._hand_over()
                self._tell_writable()
                # What is left is gone on with at once, but those who wait go first.
                next_tick = time.monotonic() + (0 if more else _TICK_SECONDS)

    async def finish(self) -> None:
        """Do what was asked before the last worker ended, and close; the next start trusts what is there.

        Raises:
            CatalogueError: It could not be closed cleanly.
        """
        while self._asked:
            await self._batch()
        await self._do(partial(self._store.close, clean=True))

    def stop(self) -> None:
        """Wait until nothing of the store is being used, whatever became of who asked; blocks for a batch at most."""
        self._thread.shutdown(cancel_futures=True)

    async def _pause(self, seconds: float) -> None:
        if not self._wake.is_set() and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return
        self._wake.clear()

    async def _batch(self) -> None:
        rules, self._rules = self._rules, None
        taken = [self._asked.popleft() for _ in range(min(len(self._asked), _MOST_AT_ONCE))]
        answers = await self._do(partial(self._handle, rules, [(link.serial, message) for link, message in taken]))
        # An object that only the new index has must not be told of before everybody has that.
        await self._hand_over()
        for (link, _), answer in zip(taken, answers, strict=True):
            if answer is not None:
                link.send(answer)
        self._tell_writable()

    def _handle(
        self, rules: _Rules | None, taken: Sequence[tuple[int, Message | Sum | None]]
    ) -> Sequence[Answer | Summed | None]:
        """An answer, or None where none is due, for each that was taken."""
        now = int(time.time())
        if rules is not None:
            try:
                self._store.set_rules(rules.buckets, now, complete=rules.complete)
            except CatalogueError:
                # The disk is in trouble; again with the next tick.
                self._refused_rules = rules
        asked = [(serial, message) for serial, message in taken if message is not None and not isinstance(message, Sum)]
        changed = iter(self._store.handle([Asked(serial, message) for serial, message in asked], now) if asked else ())
        # All that came before is in a sum, and perhaps some of what came with it.
        view = self._store.look() if any(isinstance(message, Sum) for _, message in taken) else self._store.view
        answers: list[Answer | Summed | None] = []
        for serial, message in taken:
            if message is None:
                # All that it said was handled, in this batch at the latest.
                self._store.worker_ended(serial)
                answers.append(None)
            else:
                answers.append(_summed(message, view) if isinstance(message, Sum) else next(changed))
        return answers

    def _numbers(self, names: Sequence[str]) -> dict[str, int]:
        found = {}
        for name in names:
            try:
                found[name] = self._store.number_of(name)
            except CatalogueError:
                # The disk takes nothing new; buckets that it knows go on.
                continue
        return found

    async def _hand_over(self) -> None:
        if self._store.generation != self._generation:
            self._generation = self._store.generation
            await self._outlets.hand_over(self._store.index.fd)
            await self._do(self._store.took_index)

    def _tell_writable(self) -> None:
        found = self._store.writable
        if found != self.writable:
            self.writable = found
            self._outlets.tell(Writable(found.status, found.reason))
        problem = found.reason or self._store.view.problem
        if problem != self._problem:
            self._problem = problem
            self._outlets.disk(problem)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _summed(asked: Sum, view: View) -> Summed:
    numbers = {name: number for number, name in view.names.items()}
    found = []
    for name in sorted(asked.buckets):
        account = view.accounts.get(numbers.get(name, -1))
        kept = (account.kept_bytes, account.objects, account.pinned_bytes) if account is not None else (0, 0, 0)
        found.append((name, *kept))
    return Summed(asked.ticket, tuple(found))
