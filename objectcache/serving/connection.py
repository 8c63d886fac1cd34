"""One client's connection: cuts what it sends into requests, and sends what they are answered with."""

import os
import socket
from enum import Enum, auto
from functools import partial
from select import EPOLLIN, EPOLLOUT
from time import monotonic
from typing import Final, Protocol

from objectcache.counters import BROKEN, SENT_BYTES, TIMED_OUT, bucket_at
from objectcache.link import Identity
from objectcache.serving.fair_queue import LEAST_BYTES
from objectcache.serving.open_file import OpenFile
from objectcache.serving.worker import Worker, is_damage
from objectcache.wire.head import Head, start_of_head

_RECEIVE_BYTES: Final = 64 * 2**10
# A bound token has 1 to 2 KiB, Envoy adds fields of its own, and object names have up to 4 KiB.
MOST_HEAD_BYTES: Final = 32 * 2**10
_END: Final = b"\r\n\r\n"
# So long a connection takes its token for what it was; a token that ended, or whose pod did, is found out then.
_KNOWN_SECONDS: Final = 1.0
# As much of a refused body is passed over, so that the client sees why it was refused.
_MOST_LINGER_BYTES: Final = 16 * 2**20
# A file is sent in pieces of this size at most: so long does one client hold up the others.
_WINDOW_BYTES: Final = 2 * 2**20
# Up to here, copying the content is cheaper than the calls that it saves.
SMALL_BYTES: Final = 32 * 2**10
# Of which one cannot say yet that a head has begun: empty lines before it are passed over.
_NOTHING: Final = frozenset({b"", b"\r"})


class State(Enum):
    """What the connection does."""

    IDLE = auto()  # waits for a request
    READING = auto()  # waits for the rest of a request's head
    RECEIVING = auto()  # takes a body
    BUSY = auto()  # waits for the keeper, a thread, or its turn to send
    SENDING = auto()  # waits until the client takes more
    LINGERING = auto()  # has answered for the last time, and passes over what still comes
    CLOSED = auto()


# CPython 3.11 looks members of an Enum up the slow way: 50 ns each, several times a request.
_IDLE: Final = State.IDLE
_READING: Final = State.READING
_RECEIVING: Final = State.RECEIVING
_BUSY: Final = State.BUSY
_SENDING: Final = State.SENDING
_LINGERING: Final = State.LINGERING
_CLOSED: Final = State.CLOSED


class Upload(Protocol):
    """Takes a body."""

    def receive(self) -> None:
        """Something has come."""

    def cancel(self) -> None:
        """Nothing more will."""


class Connection:
    """Its state says what an event means; everything else is the business of requests.

    Attributes:
        received: What was received and not used yet.
        begun: Monotonic, when the head of the request was whole.
        idle_since: Monotonic, when the last answer, or the connection, was made.
        verb: Index of VERBS.
        bucket: Number, 0 for none.
        head: Of the last request, with which the next one is compared.
        token: Of a request before; whom it names is `identity`, until `known_until` (monotonic).
        lines: Behind the request line of a plain GET with that token; empty if there was none.
        subject: Object id, bucket and name of what is sent, for the case that its file is damaged.
        upload: Of a PUT that takes its body.
    """

    __slots__ = (
        "_blocked_at", "_blocked_seconds", "_file", "_handler", "_keep_alive", "_left", "_lingered", "_object_bytes",
        "_offset", "_output", "_sent", "_status", "begun", "bucket", "deadline", "fd", "head", "identity",
        "idle_since", "interest", "known_until", "lines", "received", "sock", "state", "subject", "token", "upload",
        "verb", "worker",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, worker: Worker, handler: "Handler") -> None:
        self.sock: Final = sock
        self.fd: Final = sock.fileno()
        self.worker: Final = worker
        self._handler: Final = handler
        self.interest = EPOLLIN
        self.state = _IDLE
        self.deadline = worker.now + worker.times.head_seconds
        self.idle_since = worker.now
        self.received = b""
        self.begun = 0.0
        self.verb = 0
        self.bucket = 0
        self.head: Head | None = None
        self.token = b""
        self.identity: Identity | None = None
        self.known_until = 0.0
        self.lines = b""
        self.subject: tuple[int, str, bytes] = (0, "", b"")
        self.upload: Upload | None = None
        self._status = 0
        self._keep_alive = True
        self._output: bytes | memoryview = b""
        self._file: OpenFile | None = None
        self._offset = 0
        self._left = 0
        self._object_bytes = 0
        self._sent = 0
        self._blocked_at = 0.0
        self._blocked_seconds = 0.0
        self._lingered = 0

    # What the loop tells.

    def readable(self) -> None:
        """Something has come, or the client has ended."""
        state = self.state
        if state is _IDLE or state is _READING:
            try:
                received = self.sock.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self.break_off()
                return
            if not received:
                if state is _READING:
                    self.break_off()
                else:
                    self.close()
                return
            self._read(self.received + received if self.received else received)
        elif state is _RECEIVING and self.upload is not None:
            self.upload.receive()
        elif state is _LINGERING:
            self._pass_over()
        else:
            # It sends the next request already: later.
            self._watch(0)

    def writable(self) -> None:
        """The client takes more."""
        if self.state is _SENDING:
            self._blocked_seconds += self.worker.now - self._blocked_at
            self._wait_for_turn()
        elif self.state is _BUSY:
            self._watch(0)

    def late(self) -> None:
        """Its deadline is over."""
        if self.state in (_READING, _RECEIVING, _SENDING):
            self.worker.row.at[TIMED_OUT] += 1
        self.close()

    @property
    def is_closed(self) -> bool:
        return self.state is _CLOSED

    @property
    def is_receiving(self) -> bool:
        return self.state is _RECEIVING

    # What a request tells.

    def remember(self, token: bytes, identity: Identity) -> None:
        """Whom a token names, so that the next request with the same one need not ask."""
        if token != self.token:
            self.lines = b""
        self.token, self.identity = token, identity
        self.known_until = self.worker.now + _KNOWN_SECONDS

    def wait(self) -> None:
        """Another has to answer first, which is not the client's fault: the keeper, a thread, or other clients."""
        self.state = _BUSY
        self.deadline = self.worker.now + self.worker.times.idle_seconds

    def take_body(self) -> None:
        """What comes next is the upload's."""
        self.state = _RECEIVING
        self._watch(EPOLLIN)

    def send(self, status: int, answer: bytes, *, keep_alive: bool, object_bytes: int = 0) -> None:
        """Answer with bytes, so many of which are an object's, and take the next request."""
        self._status = status
        self._keep_alive = keep_alive and not self.worker.knowledge.draining
        self._output = answer
        self._left = 0
        self._object_bytes = object_bytes
        self._begin_sending()

    def send_file(self, status: int, head: bytes, part: tuple[OpenFile, int, int], *, keep_alive: bool) -> None:
        """Answer with a head and a part of a file, which is let go in the end: the file, offset and size."""
        self._status = status
        self._keep_alive = keep_alive and not self.worker.knowledge.draining
        self._output = head
        self._file, self._offset, self._left = part
        self._object_bytes = self._left
        self._begin_sending()

    def interim(self, answer: bytes) -> None:
        """Send `100 Continue`, unless earlier answers fill the socket: then the client has not waited for it."""
        try:
            sent = self.sock.send(answer)
        except BlockingIOError:
            return
        except OSError:
            sent = 0
        if sent < len(answer):
            self.break_off()

    def break_off(self) -> None:
        """The client has gone, or must not take what it got for whole."""
        self.worker.row.at[BROKEN] += 1
        self.close()

    def close(self) -> None:
        if self.state is _CLOSED:
            return
        self.state = _CLOSED
        if self.upload is not None:
            self.upload.cancel()
            self.upload = None
        self._close_file()
        self.worker.interest(self, -1)
        self.sock.close()

    def resume(self) -> None:
        """Go on with what was received behind the last request."""
        if self.state is _IDLE:
            self._read(self.received)

    # Sending.

    def step(self, most_bytes: int) -> int:
        """Send some more, as the fair queue asks for; see `FairQueue.round`."""
        if self.state is not _BUSY:
            return 0
        sent = 0
        try:
            if self._output:
                if 0 < self._left <= SMALL_BYTES and self._file is not None and (sent := self._send_small(self._file)):
                    return sent
                sent = self.sock.send(self._output, socket.MSG_MORE if self._left else 0)
                self._sent += sent
                if sent < len(self._output):
                    self._output = memoryview(self._output)[sent:]
                    return self._blocked(sent)
                self._output = b""
            if self._file is not None:
                return self._step_file(self._file, sent, most_bytes)
        except BlockingIOError:
            return self._blocked(sent)
        except OSError as error:
            if is_damage(error):
                self.worker.damaged(*self.subject, f"its file cannot be read: {error.strerror}")
            self.break_off()
            return sent
        self._finish()
        return sent

    def _send_small(self, file: OpenFile) -> int:
        """Send head and content with one call; 0 if the content is not at hand, so that nothing was sent."""
        content = self.worker.buffer[: self._left]
        try:
            if os.preadv(file.fd, [content], self._offset, os.RWF_NOWAIT) < self._left:
                return 0
        except OSError:
            return 0
        head = self._output
        sent = self.sock.sendmsg((head, content))
        self._sent += sent
        if sent < len(head):
            self._output = memoryview(head)[sent:]
            return self._blocked(sent)
        self._output = b""
        self._offset += sent - len(head)
        self._left -= sent - len(head)
        if self._left:
            return self._blocked(sent)
        self._finish()
        return sent

    def _step_file(self, file: OpenFile, sent: int, most_bytes: int) -> int:
        offset = self._offset
        if offset >= file.warmed:
            end = offset + min(self._left, _WINDOW_BYTES)
            if not file.is_warm(offset, end):
                self._warm(file, end)
                return sent
            file.warmed = end
        window = min(most_bytes, self._left, file.warmed - offset)
        moved = os.sendfile(self.fd, file.fd, offset, window)
        if moved == 0:
            self.worker.damaged(*self.subject, "its file is shorter than it should be")
            self.break_off()
            return sent
        self._offset += moved
        self._left -= moved
        self._sent += moved
        sent += moved
        if not self._left:
            self._finish()
            return sent
        if moved < window:
            return self._blocked(sent)
        return -1 - sent

    def _warm(self, file: OpenFile, end: int) -> None:
        """Have what comes next read from the disk, without holding up the others."""
        # The connection may be closed meanwhile, and the descriptor's number be another file's.
        file.hold()

        def warmed(error: OSError | None) -> None:
            file.let_go()
            if self.state is not _BUSY or self._file is not file:
                return
            if error is not None:
                if is_damage(error):
                    self.worker.damaged(*self.subject, f"its file cannot be read: {error.strerror}")
                self.break_off()
                return
            file.warmed = end
            self.worker.queue.push(self.bucket, self)

        self.worker.warm(file.fd, self._offset, end - self._offset, partial(self.worker.guard, self, warmed))

    def _blocked(self, sent: int) -> int:
        """The client has to take some first."""
        self.state = _SENDING
        times, now = self.worker.times, self.worker.now
        self._blocked_at = now
        left = times.patience_seconds + self._sent / times.least_bytes_per_second - self._blocked_seconds
        self.deadline = now + min(left, times.progress_seconds)
        self._watch(EPOLLOUT)
        return sent

    def _begin_sending(self) -> None:
        self._sent = 0
        self._blocked_seconds = 0.0
        worker = self.worker
        if worker.at_once <= 0 or worker.queue:
            self._wait_for_turn()
            return
        self.state = _BUSY
        sent = self.step(worker.at_once)
        if sent < 0:
            sent = -1 - sent
            self._wait_for_turn()
        worker.at_once -= max(sent, LEAST_BYTES)

    def _wait_for_turn(self) -> None:
        self.wait()
        self.worker.queue.push(self.bucket, self)

    def _finish(self) -> None:
        self._close_file()
        row = self.worker.row
        row.answered(self.verb, self._status, monotonic() - self.begun)
        if self._object_bytes:
            row.at[bucket_at(self.bucket) + SENT_BYTES] += self._object_bytes
        if self._keep_alive:
            self.state = _IDLE
            self.idle_since = self.worker.now
            self.deadline = self.idle_since + self.worker.times.idle_seconds
            if self.interest != EPOLLIN:
                self._watch(EPOLLIN)
            if self.received:
                self.worker.resumed.append(self)
            return
        self._linger()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.let_go()
            self._file = None

    # The end.

    def _linger(self) -> None:
        """Closing now would reset the connection if something still comes, and the answer with it (RFC 9112, 9.6)."""
        self.state = _LINGERING
        self._lingered = 0
        self.deadline = self.worker.now + self.worker.times.linger_seconds
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._watch(EPOLLIN)

    def _pass_over(self) -> None:
        try:
            received = self.sock.recv_into(self.worker.buffer)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._lingered += received
        if not received or self._lingered > _MOST_LINGER_BYTES:
            self.close()

    # Reading.

    def _read(self, received: bytes) -> None:
        if self._handler.again(self, received):
            return
        if received[:1] == b"\r":
            received = received[start_of_head(received, 0) :]
        end = received.find(_END, 0, MOST_HEAD_BYTES) + len(_END)
        if end >= len(_END):
            self.received = received[end:]
            self.begun = monotonic()
            self._handler.handle(self, received[:end] if self.received else received)
            return
        self.received = received
        if len(received) >= MOST_HEAD_BYTES:
            self.begun = monotonic()
            self._handler.too_large(self)
        elif self.state is _IDLE and received not in _NOTHING:
            self.state = _READING
            self.deadline = self.worker.now + self.worker.times.head_seconds

    def _watch(self, interest: int) -> None:
        if self.interest != interest:
            self.interest = interest
            self.worker.interest(self, interest)


class Handler(Protocol):
    """Answers requests."""

    def again(self, connection: Connection, received: bytes) -> bool:
        """Answer what was received if it is a request like one before; False if it has to be handled."""

    def handle(self, connection: Connection, head: bytes) -> None:
        """Answer a request, whose head this is; what of its body has come is in `connection.received`."""

    def too_large(self, connection: Connection) -> None:
        """Refuse a head that does not end."""

    def end_turn(self) -> None:
        """Another second is over."""
