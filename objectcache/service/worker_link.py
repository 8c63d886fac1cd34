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

_RECEIVE_BYTES: Final = 2**20
# A worker does nothing that takes longer than a few milliseconds, but it may just be starting.
_TAKE_SECONDS: Final = 30.0
# From the end of its link to the end of its process.
_END_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.005


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
        self._unsent: Final[deque[tuple[bytes, int]]] = deque()
        self._to_send: Final = asyncio.Event()
        self._taken: dict[int, asyncio.Future[None]] = {}
        self._tickets = 0
        self._ended = False
        self._stuck: Final = asyncio.Event()

    def send(self, message: FromKeeper) -> None:
        """Let it be sent, in the order of these calls; lost if the worker ends before."""
        self._unsent.append((frame(message), -1))
        self._to_send.set()

    def give_index(self, index: int) -> None:
        """Give a new worker its first index, by its descriptor."""
        self._unsent.append((frame(NewIndex(0)), index))
        self._to_send.set()

    async def hand_over(self, index: int) -> None:
        """Give the worker another index, by its descriptor; returns when it has it, or has ended."""
        if self._ended:
            return
        self._tickets += 1
        ticket = self._tickets
        taken = self._taken[ticket] = asyncio.get_running_loop().create_future()
        self._unsent.append((frame(NewIndex(ticket)), index))
        self._to_send.set()
        try:
            async with asyncio.timeout(self._take_seconds):
                await asyncio.shield(taken)
        except TimeoutError:
            log.error("a worker is ended, it does not take the new index worker=%d", self.number)  # noqa: TRY400 - no defect
            self._stuck.set()
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
            carrying = [
                asyncio.create_task(each)
                for each in (self._receive_all(ours), self._send_all(ours), self._stuck.wait())
            ]
            try:
                # With either direction, the link has ended.
                await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
                if not self._stuck.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_END_SECONDS):
                            return await process.wait()
            finally:
                for each in carrying:
                    each.cancel()
                for error in await asyncio.gather(*carrying, return_exceptions=True):
                    if isinstance(error, Exception):
                        log.error("the link to a worker is broken worker=%d error=%r", self.number, str(error))
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
                status = await process.wait()
        return status

    async def _receive_all(self, ours: socket.socket) -> None:
        loop, frames = asyncio.get_running_loop(), Frames(FromWorker)
        while True:
            try:
                data = await loop.sock_recv(ours, _RECEIVE_BYTES)
            except ConnectionError:
                return
            if not data:
                return
            for message in frames.feed(data):
                found = cast("FromWorker", message)
                if isinstance(found, TookIndex):
                    self.answers = True
                    if (taken := self._taken.get(found.ticket)) is not None and not taken.done():
                        taken.set_result(None)
                self._heard(self, found)

    async def _send_all(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._unsent:
                data, descriptor = self._unsent.popleft()
                if descriptor >= 0:
                    data = data[await _send_with(ours, data, descriptor) :]
                elif self._unsent:
                    data = b"".join([data, *self._plain()])
                try:
                    await loop.sock_sendall(ours, data)
                except ConnectionError:
                    return

    def _plain(self) -> list[bytes]:
        """What else can go with it at once."""
        found = []
        while self._unsent and self._unsent[0][1] < 0:
            found.append(self._unsent.popleft()[0])
        return found


async def _send_with(ours: socket.socket, data: bytes, descriptor: int) -> int:
    """Send a message's beginning together with a descriptor; returns how much of it went."""
    while True:
        try:
            return socket.send_fds(ours, [data], [descriptor])
        except BlockingIOError:
            await asyncio.sleep(_RETRY_SECONDS)
        except ConnectionError:
            return len(data)
