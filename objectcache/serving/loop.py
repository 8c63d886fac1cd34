"""A worker's event loop: accepts connections, tells them what happened, lets them send in turn."""

import logging
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from objectcache.counters import ACCEPTED, OPEN, TURNED_AWAY
from objectcache.serving.connection import Connection, Handler, State
from objectcache.serving.worker import Worker

log: Final = logging.getLogger(__name__)

_MOST_EVENTS: Final = 256
_ACCEPT_AT_ONCE: Final = 64
# Deadlines are looked at so often.
_TICK_SECONDS: Final = 1.0
# Sent at most before events are looked at again.
_ROUND_BYTES: Final = 16 * 2**20


class Loop:
    """Runs until the keeper ends or drains it."""

    def __init__(self, worker: Worker, listener: socket.socket, handler: Handler) -> None:
        self._worker: Final = worker
        self._listener: Final = listener
        self._handler: Final = handler
        self._epoll: Final = select.epoll()
        self._connections: Final[dict[int, Connection]] = {}
        self._accepting = False
        self._ends_at: float | None = None
        self._pace: Final = Pace(worker.setup.bytes_per_second)
        worker.interest = self._set_interest

    def drain(self, seconds: float) -> None:
        """Take no new connections, and end when the last request is answered, or after so long."""
        self._ends_at = self._worker.now + seconds
        if self._accepting:
            self._accepting = False
            self._epoll.unregister(self._listener.fileno())

    def run(self) -> None:
        """Until drained.

        Raises:
            KeeperGoneError: Nobody is left to change anything.
        """
        worker = self._worker
        own: dict[int, Callable[[int], None]] = {
            self._listener.fileno(): self._accept,
            worker.keeper.socket.fileno(): self._hear,
            worker.threads.fd: lambda _mask: worker.threads.finish(),
        }
        self._epoll.register(worker.keeper.socket.fileno(), select.EPOLLIN)
        self._epoll.register(worker.threads.fd, select.EPOLLIN)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._accepting = True
        next_tick = worker.now + _TICK_SECONDS
        keeper_interest = select.EPOLLIN
        while not self._is_over():
            events = self._epoll.poll(self._patience(next_tick), _MOST_EVENTS)
            worker.tick()
            for fd, mask in events:
                connection = self._connections.get(fd)
                if connection is not None:
                    _tell(connection, mask)
                elif fd in own:
                    own[fd](mask)
            if worker.resumed:
                resumed, worker.resumed = worker.resumed, []
                for connection in resumed:
                    connection.resume()
            if worker.queue and (most := self._pace.most(worker.now)) > 0:
                self._pace.take(worker.queue.round(Connection.step, min(most, _ROUND_BYTES)))
            worker.keeper.flush()
            wanted = select.EPOLLIN | (select.EPOLLOUT if worker.keeper.wants_to_write else 0)
            if wanted != keeper_interest:
                keeper_interest = wanted
                self._epoll.modify(worker.keeper.socket.fileno(), wanted)
            if worker.now >= next_tick:
                next_tick = worker.now + _TICK_SECONDS
                self._tick()

    def close(self) -> None:
        for connection in [*self._connections.values()]:
            connection.close()
        # What they gave up, the keeper should know.
        with suppress(Exception):
            self._worker.keeper.flush()
        self._worker.threads.close()
        self._epoll.close()

    def _is_over(self) -> bool:
        if self._ends_at is None:
            return False
        busy = any(
            each.state not in (State.READING, State.LINGERING) or each.received for each in self._connections.values()
        )
        return not busy or self._worker.now >= self._ends_at

    def _patience(self, next_tick: float) -> float:
        if self._worker.resumed:
            return 0
        if self._worker.queue:
            return self._pace.wait_seconds
        return max(0.0, min(next_tick, self._ends_at or next_tick) - self._worker.now)

    def _hear(self, mask: int) -> None:
        if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._worker.keeper.receive()

    def _accept(self, _mask: int) -> None:
        worker = self._worker
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # EMFILE and its like: what is open may end; what waits is still there then.
                log.warning("cannot accept a connection error=%r", error.strerror)
                self._make_room()
                return
            worker.row.at[ACCEPTED] += 1
            if len(self._connections) >= worker.setup.most_connections and not self._make_room():
                worker.row.at[TURNED_AWAY] += 1
                sock.close()
                continue
            sock.setblocking(False)
            connection = Connection(sock, worker, self._handler)
            self._connections[connection.fd] = connection
            self._epoll.register(connection.fd, select.EPOLLIN)
            worker.row.at[OPEN] += 1

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest."""
        idle = [each for each in self._connections.values() if each.state is State.READING and not each.received]
        if not idle:
            return False
        min(idle, key=lambda each: each.deadline).close()
        return True

    def _set_interest(self, connection: Connection, mask: int) -> None:
        if mask >= 0:
            self._epoll.modify(connection.fd, mask)
            return
        if self._connections.pop(connection.fd, None) is not None:
            self._worker.row.at[OPEN] -= 1
            with suppress(OSError):
                self._epoll.unregister(connection.fd)

    def _tick(self) -> None:
        now = self._worker.now
        late = [each for each in self._connections.values() if each.deadline < now]
        for connection in late:
            connection.late()


class Pace:
    """How many bytes may be sent now, of so many a second; 0 is any number."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate: Final = bytes_per_second
        self._left = float(bytes_per_second) / 10
        self._then = 0.0

    @property
    def wait_seconds(self) -> float:
        """Until something may be sent."""
        if not self._rate or self._left > 0:
            return 0.0
        return min(1.0, -self._left / self._rate + 0.001)

    def most(self, now: float) -> int:
        if not self._rate:
            return _ROUND_BYTES
        # A tenth of a second's worth at once.
        self._left = min(self._rate / 10, self._left + (now - self._then) * self._rate) if self._then else self._left
        self._then = now
        return int(self._left)

    def take(self, sent: int) -> None:
        self._left -= sent


def _tell(connection: Connection, mask: int) -> None:
    if mask & select.EPOLLIN:
        connection.readable()
    elif mask & select.EPOLLOUT:
        connection.writable()
    elif mask & (select.EPOLLHUP | select.EPOLLERR):
        connection.break_off()
