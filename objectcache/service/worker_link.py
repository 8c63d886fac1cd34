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
# A worker does nothing that takes longer than a few milliseconds; one that is stuck is ended.
_TAKE_SECONDS: Final = 30.0
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
    """

    def __init__(self, number: int, serial: int, heard: Callable[["WorkerLink", FromWorker], None]) -> None:
        self.number: Final = number
        self.serial: Final = serial
        self._heard: Final = heard
        self._unsent: Final[deque[tuple[bytes, int]]] = deque()
        self._to_send: Final = asyncio.Event()
        self._taken: dict[int, asyncio.Future[None]] = {}
        self._tickets = 0
        self._ended = False

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
        taken = self._taken[self._tickets] = asyncio.get_running_loop().create_future()
        self._unsent.append((frame(NewIndex(self._tickets)), index))
        self._to_send.set()
        try:
            async with asyncio.timeout(_TAKE_SECONDS):
                await taken
        except TimeoutError:
            log.warning("a worker does not take the new index worker=%d", self.number)
        finally:
            self._taken.pop(self._tickets, None)

    async def run(self, command: WorkerCommand, listener: socket.socket) -> int:
        """Start the process, and carry messages until it ends; returns its exit status."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            handed = (listener.fileno(), theirs.fileno(), command.counters)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "objectcache.serving", *map(str, handed), command.log_level, command.log_format,
                pass_fds=handed, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            theirs.close()
            sending = asyncio.create_task(self._send_all(ours))
            try:
                await self._receive_all(ours)
                return await process.wait()
            finally:
                self._ended = True
                sending.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await sending
                for taken in self._taken.values():
                    if not taken.done():
                        taken.set_result(None)
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()

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
                    if (taken := self._taken.get(found.ticket)) is not None and not taken.done():
                        taken.set_result(None)
                else:
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
