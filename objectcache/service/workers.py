"""The worker processes: started, started again when they end, and drained."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from objectcache.counters import Counters
from objectcache.link import Drain, FromKeeper, FromWorker
from objectcache.service.worker_link import WorkerCommand, WorkerLink

log: Final = logging.getLogger(__name__)

# A worker that ends is started again after so long, the longer the sooner it ended.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
_HEALTHY_SECONDS: Final = 60.0


def listeners(address: tuple[str, int], count: int) -> list[socket.socket]:
    """Sockets of one address, one for each worker; the system spreads connections over them (SO_REUSEPORT).

    They do not listen: each worker lets its own do so when it can answer.

    Raises:
        OSError: Nothing can listen there.
    """
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made: list[socket.socket] = []
    try:
        for number in range(count):
            made.append(_listener(family, host, port, is_first=not number))
            port = int(made[0].getsockname()[1])
    except OSError as error:
        for each in made:
            each.close()
        raise OSError(f"cannot serve objects on {host} port {port}: {error}; choose another address") from error
    return made


def _listener(family: socket.AddressFamily, host: str, port: int, *, is_first: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The first would otherwise share the port with another cache that serves there.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(not is_first))
        # Connections inherit these two.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        made.bind((host, port))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        made.close()
        raise
    return made


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told what of workers.

    Attributes:
        greet: Sends a new worker what it has to know first.
        heard: Told of each message.
        ended: Told of a worker that has ended, whose reservations are nobody's now.
    """

    greet: Callable[[WorkerLink], None]
    heard: Callable[[WorkerLink, FromWorker], None]
    ended: Callable[[WorkerLink], None]


class Workers:
    """All of them.

    Attributes:
        restarts: How many ended that should not have.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        command: WorkerCommand,
        counters: Counters,
        hooks: Hooks,
    ) -> None:
        """Nothing runs before `run`.

        Args:
            sockets: One for each worker.
            command: What they are started with.
            counters: Of which each has a row.
            hooks: Who is told what.
        """
        self._sockets: Final = sockets
        self._command: Final = command
        self._counters: Final = counters
        self._hooks: Final = hooks
        self._links: Final[dict[int, WorkerLink]] = {}
        self._draining = asyncio.Event()
        self._serial = 0
        self.restarts = 0

    @property
    def links(self) -> Iterable[WorkerLink]:
        return [*self._links.values()]

    def tell(self, message: FromKeeper) -> None:
        for link in self._links.values():
            link.send(message)

    async def run(self) -> None:
        """Until drained."""
        async with asyncio.TaskGroup() as group:
            for number, listener in enumerate(self._sockets):
                group.create_task(self._keep(number, listener))

    async def hand_over(self, index: int) -> None:
        """Give all workers another index; returns when they have it."""
        await asyncio.gather(*(link.hand_over(index) for link in self.links))

    def drain(self, accepting_seconds: float, finishing_seconds: float) -> None:
        """Let workers end; see `Drain`."""
        self._draining.set()
        self.tell(Drain(accepting_seconds, finishing_seconds))

    async def _keep(self, number: int, listener: socket.socket) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._draining.is_set():
            began = time.monotonic()
            self._serial += 1
            link = WorkerLink(number, self._serial, self._hooks.heard)
            self._links[number] = link
            self._hooks.greet(link)
            try:
                status = await link.run(self._command, listener)
            except OSError as error:
                log.error("a worker cannot be started worker=%d error=%r", number, str(error))  # noqa: TRY400 - no more to say
                status = -1
            del self._links[number]
            self._counters.restarted(number)
            self._hooks.ended(link)
            if self._draining.is_set():
                break
            self.restarts += 1
            log.error("a worker has ended worker=%d status=%d restart_seconds=%g", number, status, pause)
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - began > _HEALTHY_SECONDS else pause
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._draining.wait()
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        listener.close()
