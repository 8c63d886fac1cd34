"""The keeper's side of the link to one worker, and the worker's process."""

import asyncio
import logging
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from objectcache.link import Frames, FromKeeper, FromWorker, NewIndex, TookIndex, frame
from tasuki.process.logging import LogFormat

log: Final = logging.getLogger(__name__)

# A larger buffer would be a mapping of its own each time.
_RECEIVE_BYTES: Final = 2**16
# What is longer is sent alone, since the rest of it would be copied over and over.
_JOINED_BYTES: Final = 2**16
# A worker does nothing that takes longer than a few milliseconds, but it may just be starting.
_TAKE_SECONDS: Final = 30.0
# From the end of its link to the end of its process.
_END_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """What a worker's process is started with.

    Attributes:
        counters: Descriptor of the counters' memory.
    """

    counters: int
    log_level: str
    log_format: LogFormat


class WorkerLink:
    """Lives as long as its process.

    Attributes:
        number: Which of the workers, from 0.
        serial: Of the process, never another's later.
        answers: Whether it has all that it needs to answer requests.
    """

    def __init__(
        self,
        number: int,
        serial: int,
        heard: Callable[["WorkerLink", FromWorker], None],
        take_seconds: float = _TAKE_SECONDS,
    ) -> None:
        """Nothing runs before `run`.

        Args:
            number: Of the worker.
            serial: Of the process.
            heard: Told of each message.
            take_seconds: A worker that needs longer to take an index is stuck, and ended.
        """
        self.number: Final = number
        self.serial: Final = serial
        self.answers = False
        self._heard: Final = heard
        self._take_seconds: Final = take_seconds
        self._frames: Final = Frames(FromWorker)
        self._socket: socket.socket | None = None
        self._unsent: Final[deque[tuple[bytes | memoryview, int]]] = deque()
        # Called by the loop: soon, or when the socket takes more.
        self._will_flush = False
        self._waits_to_write = False
        self._over: Final = asyncio.Event()
        self._taken: dict[int, asyncio.Future[None]] = {}
        self._tickets = 0
        self._ended = False
        self._is_stuck = False

    def send(self, message: FromKeeper) -> None:
        """Let it be sent, in the order of these calls; lost if the worker ends before."""
        self._queue(frame(message), -1)

    def give_index(self, index: int) -> None:
        """Give a new worker its first index, by its descriptor."""
        self._queue(frame(NewIndex(0)), index)

    async def hand_over(self, index: int) -> None:
        """Give the worker another index, by its descriptor; returns when it has it, or has ended."""
        if self._ended:
            return
        self._tickets += 1
        ticket = self._tickets
        taken = self._taken[ticket] = asyncio.get_running_loop().create_future()
        self._queue(frame(NewIndex(ticket)), index)
        try:
            async with asyncio.timeout(self._take_seconds):
                await asyncio.shield(taken)
        except TimeoutError:
            log.error("a worker is ended, it does not take the new index worker=%d", self.number)  # noqa: TRY400 - no defect
            self._is_stuck = True
            self._over.set()
            # Until it has ended, it could answer from the old one.
            await taken
        finally:
            self._taken.pop(ticket, None)

    async def run(self, command: WorkerCommand, listener: socket.socket) -> int:
        """Start the process, and carry messages until it ends; returns its exit status.

        Raises:
            OSError: It cannot be started.
        """
        try:
            return await self._run(command, listener)
        finally:
            self._ended = True
            for taken in self._taken.values():
                if not taken.done():
                    taken.set_result(None)

    async def _run(self, command: WorkerCommand, listener: socket.socket) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            handed = (listener.fileno(), theirs.fileno(), command.counters)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "objectcache.serving", *map(str, handed), command.log_level, command.log_format,
                pass_fds=handed, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            theirs.close()
            self._begin(ours)
            try:
                await self._over.wait()
                if not self._is_stuck:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_END_SECONDS):
                            return await process.wait()
            finally:
                self._end()
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
                status = await process.wait()
        return status

    # Bytes.

    def _begin(self, ours: socket.socket) -> None:
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._receive)
        self._flush()

    def _end(self) -> None:
        """Carry nothing more, also while the process is still to end: a socket that has ended is ready all the time."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket = None
        self._over.set()

    def _receive(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._end()
            return
        try:
            for message in self._frames.feed(data):
                self._take(cast("FromWorker", message))
        except Exception:
            # This worker is ended for it, and the others go on.
            log.exception("the link to a worker is broken worker=%d", self.number)
            self._end()

    def _take(self, found: FromWorker) -> None:
        if isinstance(found, TookIndex):
            self.answers = True
            if (taken := self._taken.get(found.ticket)) is not None and not taken.done():
                taken.set_result(None)
        self._heard(self, found)

    def _queue(self, data: bytes, descriptor: int) -> None:
        """Have it sent, together with all else that is said in this turn of the loop."""
        self._unsent.append((data, descriptor))
        if self._socket is not None and not (self._will_flush or self._waits_to_write):
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        if self._socket is None:
            return
        try:
            is_full = self._send_all(self._socket)
        except OSError as error:
            if not isinstance(error, ConnectionError):
                # What was not sent, somebody would wait for.
                log.error("the link to a worker is broken worker=%d error=%r", self.number, str(error))  # noqa: TRY400 - no defect
            self._end()
            return
        if is_full != self._waits_to_write:
            self._waits_to_write = is_full
            loop = asyncio.get_running_loop()
            if is_full:
                loop.add_writer(self._socket, self._flush)
            else:
                loop.remove_writer(self._socket)

    def _send_all(self, ours: socket.socket) -> bool:
        """Whether the socket is full, and something is left."""
        while self._unsent:
            data, descriptor = self._unsent.popleft()
            if descriptor < 0 and self._unsent and len(data) < _JOINED_BYTES:
                data = b"".join([data, *self._plain()])
            try:
                sent = ours.send(data) if descriptor < 0 else socket.send_fds(ours, [data], [descriptor])
            except BlockingIOError:
                self._unsent.appendleft((data, descriptor))
                return True
            if sent < len(data):
                # The descriptor went with the first byte.
                self._unsent.appendleft((memoryview(data)[sent:], -1))
        return False

    def _plain(self) -> list[bytes | memoryview]:
        """What else can go with it at once."""
        found = []
        while self._unsent and self._unsent[0][1] < 0:
            found.append(self._unsent.popleft()[0])
        return found
