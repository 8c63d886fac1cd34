"""A worker's event loop: accepts connections, tells them what happened, lets them send in turn."""

import logging
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from heapq import nsmallest
from math import inf
from operator import itemgetter
from select import EPOLLIN, EPOLLOUT
from typing import Final

from objectcache.counters import ACCEPTED, OPEN, TURNED_AWAY
from objectcache.link import Drain
from objectcache.serving.connection import Connection, Handler, State
from objectcache.serving.keeper_link import KeeperGoneError
from objectcache.serving.worker import Worker

log: Final = logging.getLogger(__name__)

_MOST_EVENTS: Final = 256
_ACCEPT_AT_ONCE: Final = 64
_BACKLOG: Final = 4096
# While the last requests end, that is looked at so often.
_END_SECONDS: Final = 0.05
# So many connections that may be closed for others are looked for at once, since all are looked at for it.
_ROOM_AT_ONCE: Final = 64
# Deadlines are looked at so often.
_TICK_SECONDS: Final = 1.0
# Sent at most before events are looked at again.
_ROUND_BYTES: Final = 16 * 2**20


class Loop:
    """Runs until the keeper ends or drains it."""

    def __init__(self, worker: Worker, listener: socket.socket, handler: Handler, most_connections: int) -> None:
        self._worker: Final = worker
        self._listener: Final = listener
        self._handler: Final = handler
        self._most: Final = most_connections
        self._epoll: Final = select.epoll()
        self._connections: Final[dict[int, Connection]] = {}
        # Those that were idle for longest when that was last looked at, the longest last.
        self._longest_idle: list[tuple[float, Connection]] = []
        self._own: Final[dict[int, Callable[[], None]]] = {}
        self._accepting = False
        self._accepts_until = inf
        self._ends_at = inf
        worker.interest = self._set_interest

    def drain(self, asked: Drain) -> None:
        """Take new connections for some time, and end when the last request is answered, or some time after that."""
        self._accepts_until = self._worker.now + asked.accepting_seconds
        self._ends_at = self._accepts_until + asked.finishing_seconds

    def run(self) -> None:
        """Until drained.

        Raises:
            KeeperGoneError: Nobody is left to change anything.
        """
        worker = self._worker
        keeper = worker.keeper.socket.fileno()
        self._own[keeper] = worker.keeper.receive
        self._own[worker.threads.fd] = worker.threads.finish
        for fd in self._own:
            self._epoll.register(fd, EPOLLIN)
        # Only now: whoever came before would have been told that there is nothing.
        self._listener.listen(_BACKLOG)
        self._accept_again()
        next_tick = worker.now + _TICK_SECONDS
        keeper_interest = EPOLLIN
        # What was said before there was a loop, such as that the index is here.
        worker.keeper.flush()
        while not self._is_over():
            events = self._epoll.poll(self._patience(next_tick), _MOST_EVENTS)
            worker.tick()
            self._tell_all(events)
            if worker.resumed:
                resumed, worker.resumed = worker.resumed, []
                for connection in resumed:
                    worker.guard(connection, connection.resume)
            if worker.queue:
                self._send()
            worker.keeper.flush()
            wanted = EPOLLIN | (EPOLLOUT if worker.keeper.wants_to_write else 0)
            if wanted != keeper_interest:
                keeper_interest = wanted
                self._epoll.modify(keeper, wanted)
            if worker.now >= next_tick:
                next_tick = worker.now + _TICK_SECONDS
                self._tick()

    def close(self) -> None:
        for connection in [*self._connections.values()]:
            connection.close()
        # What they gave up, the keeper should know; if it is gone, it knows.
        with suppress(KeeperGoneError):
            self._worker.keeper.flush()
        self._worker.threads.close()
        self._epoll.close()

    def _tell_all(self, events: list[tuple[int, int]]) -> None:
        accept = False
        find, guard = self._connections.get, self._worker.guard
        for fd, mask in events:
            connection = find(fd)
            if connection is not None:
                guard(connection, _called_for(connection, mask))
            elif fd in self._own:
                self._own[fd]()
            else:
                accept = accept or fd == self._listener.fileno()
        # Last: an event that was waiting for a connection that is closed now must not meet a new one of its number.
        if accept and self._accepting:
            self._accept()

    def _send(self) -> None:
        worker, pace = self._worker, self._worker.pace
        if pace is None:
            worker.queue.round(worker.step, _ROUND_BYTES)
        elif (most := pace.most(worker.now)) > 0:
            pace.take(worker.queue.round(worker.step, min(most, _ROUND_BYTES)))

    def _is_over(self) -> bool:
        """Whether the worker was told to end, and all requests have ended, or their time has."""
        now = self._worker.now
        if now < self._accepts_until:
            return False
        if self._accepting:
            # Those that wait are answered; whoever comes later is refused and can try elsewhere at once.
            self._accept()
            self._accept_no_more()
            self._listener.shutdown(socket.SHUT_RDWR)
            return False
        return now >= self._ends_at or all(each.state is State.IDLE for each in self._connections.values())

    def _patience(self, next_tick: float) -> float:
        if self._worker.resumed:
            return 0
        if self._worker.queue:
            return 0 if self._worker.pace is None else self._worker.pace.wait_seconds
        if not self._accepting and self._ends_at < inf:
            return _END_SECONDS
        return max(0.0, min(next_tick, self._accepts_until) - self._worker.now)

    # New connections.

    def _accept(self) -> None:
        worker = self._worker
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                # It has gone already.
                continue
            except OSError as error:
                log.warning("cannot accept a connection error=%r", error.strerror)
                # EMFILE and its like: what waits is still there when something has ended, or at the next tick.
                if not self._make_room():
                    self._accept_no_more()
                return
            worker.row.at[ACCEPTED] += 1
            if len(self._connections) >= self._most and not self._make_room():
                worker.row.at[TURNED_AWAY] += 1
                sock.close()
                continue
            sock.setblocking(False)
            connection = Connection(sock, worker, self._handler)
            self._connections[connection.fd] = connection
            self._epoll.register(connection.fd, EPOLLIN)
            worker.row.at[OPEN] += 1

    def _accept_again(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._epoll.register(self._listener.fileno(), EPOLLIN)

    def _accept_no_more(self) -> None:
        if self._accepting:
            self._accepting = False
            self._epoll.unregister(self._listener.fileno())

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest."""
        for again in (False, True):
            if again:
                idle = [(each.idle_since, each) for each in self._connections.values() if each.state is State.IDLE]
                self._longest_idle = nsmallest(_ROOM_AT_ONCE, idle, itemgetter(0))[::-1]
            while self._longest_idle:
                since, connection = self._longest_idle.pop()
                # Those that were busy since, and all others, are idle for a shorter time.
                if connection.state is State.IDLE and connection.idle_since == since:
                    connection.close()
                    return True
        return False

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
        for connection in [each for each in self._connections.values() if each.deadline < now]:
            connection.late()
        self._handler.end_turn()
        if now < self._accepts_until:
            self._accept_again()


def _called_for(connection: Connection, mask: int) -> Callable[[], None]:
    if mask & EPOLLIN:
        return connection.readable
    return connection.writable if mask & EPOLLOUT else connection.break_off
