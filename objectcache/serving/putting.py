"""PUT: room is asked for, the body goes to a file of its own, and the keeper makes an object of it."""

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import xxhash

from objectcache.counters import PUTS, RECEIVED_BYTES, bucket_at
from objectcache.link import Abandon, Commit, Done, Refused, Reserve
from objectcache.serving.connection import Connection
from objectcache.serving.keeper_link import Answer
from objectcache.serving.worker import Worker
from objectcache.storage.files import create_incoming, remove_incoming
from objectcache.wire import answers
from objectcache.wire.chunked import ChunkedBody
from objectcache.wire.conditions import etag, put_conditions
from objectcache.wire.content_digest import digests
from objectcache.wire.head import Head, HttpError
from objectcache.wire.target import ObjectTarget

Refuse = Callable[[Connection, int, str], None]

# Received at one go, before others have their turn.
_TURN_BYTES: Final = 2**20
# A body of at most so many bytes is written before there is room for it, which is asked for as the object is kept: half
# the questions, and a wait less. All of a worker's together may be so many, which the disk has too much for a moment.
_AHEAD_BYTES: Final = 2**18
_ALL_AHEAD_BYTES: Final = 2**22
# Where there was no room for such a one, others ask first for so long.
_FULL_SECONDS: Final = 1.0
_NO_ROOM: Final = 507
# Of a body in chunks, nobody knows the size before its end: room is asked for in steps that double.
_FIRST_RESERVATION: Final = 2**18


def begin_upload(worker: Worker, connection: Connection, request: tuple[Head, ObjectTarget], refuse: Refuse) -> None:
    """Refuse what can be refused before the body is read, else ask the keeper for room.

    Args:
        worker: Of the connection.
        connection: Which may have received some of the body.
        request: That may be granted as far as its bucket goes.
        refuse: Answers with a status and a text, for the last time.

    Raises:
        HttpError: The request cannot be granted.
    """
    head, target = request
    writable = worker.knowledge.writable
    if writable.status:
        raise HttpError(writable.status, writable.reason)
    if head.content_length < 0 and not head.chunked:
        raise HttpError(411, "the size of the body is not known; send Content-Length, or Transfer-Encoding: chunked")
    quota_bytes = worker.knowledge.rules[target.bucket].quota_bytes
    if head.content_length > quota_bytes:
        raise HttpError(
            413, f"the object has {head.content_length} bytes; bucket {target.bucket} holds at most {quota_bytes}"
        )
    upload = Upload(worker, connection, request, refuse)
    connection.upload = upload
    connection.wait()
    if not upload.begin_ahead():
        upload.reserve(min(_FIRST_RESERVATION, quota_bytes) if head.chunked else head.content_length)


class Upload:
    """One body on its way."""

    def __init__(
        self, worker: Worker, connection: Connection, request: tuple[Head, ObjectTarget], refuse: Refuse
    ) -> None:
        self._worker: Final = worker
        self._connection: Final = connection
        self._head, self._target = request
        head = self._head
        self._refuse: Final = refuse
        self._conditions: Final = put_conditions(head)
        self._wanted: Final = digests(head)
        self._digests: Final = [hashlib.new(each.algorithm, usedforsecurity=False) for each in self._wanted]
        self._chunks: Final = ChunkedBody() if head.chunked else None
        self._checksum: Final = xxhash.xxh3_128()
        self._file = -1
        self._object_id = 0
        self._quota_bytes: Final = worker.knowledge.rules[self._target.bucket].quota_bytes
        # At least; of a body in chunks, as much as has come.
        self._needed = max(head.content_length, 0)
        self._reserved = 0
        self._size = 0
        self._pending: list[bytes | memoryview] = []
        self._has_ended = False
        self._ahead_bytes = 0

    # Room.

    def begin_ahead(self) -> bool:
        """Whether the body can be taken at once, and room be found later."""
        worker, size = self._worker, self._needed
        ahead = worker.ahead_bytes + size
        if self._chunks is not None or size > _AHEAD_BYTES or ahead > _ALL_AHEAD_BYTES:
            return False
        # Whoever wants to know beforehand, is told.
        if self._head.pinned or self._head.expects_continue:
            return False
        if worker.full_until and worker.full_until.get(self._target.bucket, 0.0) > worker.now:
            return False
        object_id = worker.spare_ids.take(worker.now)
        if not object_id:
            return False
        self._object_id, self._reserved, self._ahead_bytes = object_id, size, size
        worker.ahead_bytes = ahead
        if self._open():
            self._begin()
        return True

    def reserve(self, size: int) -> None:
        """Ask for room for the whole body, or for so much of one whose size is not known yet."""
        ticket = self._worker.ticket(self._connection, partial(self._granted, size))
        message = Reserve(ticket, self._target.bucket, size, self._head.pinned, self._object_id)
        self._worker.keeper.tell(message)

    def _granted(self, size: int, answer: Answer) -> None:
        if self._has_ended:
            # The client has gone meanwhile.
            if isinstance(answer, Done) and answer.object_id != self._object_id:
                self._worker.keeper.tell(Abandon(answer.object_id))
            return
        if not isinstance(answer, Done):
            if size > self._needed:
                # It was asked for more than has come, so that it need not be asked for so often.
                self.reserve(self._needed)
                return
            self._fail(*_refusal(answer))
            return
        first = not self._object_id
        self._object_id, self._reserved = answer.object_id, size
        if first and not self._open():
            return
        if self._pending:
            pending, self._pending = self._pending, []
            for piece in pending:
                if not self._write(piece):
                    return
            self._after_pieces()
            return
        self._begin()

    def _open(self) -> bool:
        expected = 0 if self._chunks is not None else self._head.content_length
        try:
            self._file = create_incoming(self._worker.incoming_fd, self._object_id, expected)
        except OSError as error:
            self._fail_to_write(error)
            return False
        return True

    def _begin(self) -> None:
        connection = self._connection
        if self._head.expects_continue and not connection.received:
            connection.interim(answers.CONTINUE)
            if connection.is_closed:
                return
        self._go_on()
        received, connection.received = connection.received, b""
        self._take(received)

    # The body.

    def receive(self) -> None:
        """Take what has come, up to a turn's share."""
        buffer, sock = self._worker.buffer, self._connection.sock
        taken = 0
        while taken < _TURN_BYTES and self._connection.upload is self and self._is_receiving:
            most = len(buffer)
            if self._chunks is None:
                most = min(most, self._head.content_length - self._size)
            try:
                count = sock.recv_into(buffer, most)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self._connection.break_off()
                return
            taken += count
            self._touch_deadline()
            self._take(buffer[:count])
            if count < most:
                return

    @property
    def _is_receiving(self) -> bool:
        return self._connection.is_receiving

    def _take(self, received: bytes | memoryview) -> None:
        if self._chunks is None:
            missing = self._head.content_length - self._size
            if len(received) > missing:
                self._connection.received = bytes(received[missing:])
                received = received[:missing]
            if len(received) and not self._write(received):
                return
            if self._size == self._head.content_length:
                self._complete()
            return
        try:
            pieces = self._chunks.feed(received)
        except HttpError as error:
            self._fail(error.status, error.text)
            return
        size = self._size + sum(map(len, pieces))
        if size > self._reserved:
            # The buffer is another connection's next.
            self._pending = [bytes(piece) for piece in pieces]
            self._connection.wait()
            self._needed = size
            self.reserve(max(size, min(2 * self._reserved, self._quota_bytes)))
            return
        for piece in pieces:
            if not self._write(piece):
                return
        self._after_pieces()

    def _after_pieces(self) -> None:
        if self._chunks is not None and self._chunks.finished:
            self._connection.received = self._chunks.leftover
            self._complete()
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._touch_deadline()
        self._connection.take_body()

    def _write(self, piece: bytes | memoryview) -> bool:
        self._checksum.update(piece)
        for digest in self._digests:
            digest.update(piece)
        view = memoryview(piece)
        try:
            while view:
                written = os.write(self._file, view)
                self._size += written
                view = view[written:]
        except OSError as error:
            self._fail_to_write(error)
            return False
        return True

    def _touch_deadline(self) -> None:
        times = self._worker.times
        slowest = self._connection.begun + times.patience_seconds + self._size / times.least_bytes_per_second
        self._connection.deadline = min(self._worker.now, slowest) + times.progress_seconds

    # The end.

    def _complete(self) -> None:
        for wanted, digest in zip(self._wanted, self._digests, strict=True):
            if digest.digest() != wanted.value:
                self._fail(400, f"the body's {wanted.algorithm} is not the one that the request names; send it again")
                return
        self._connection.wait()
        if self._worker.setup.fsync == "never":
            self._close_file()
            self._commit()
            return
        # Its own descriptor: the connection may be closed meanwhile, and the number be another file's.
        own = os.dup(self._file)
        self._worker.elsewhere(self._connection, partial(os.fdatasync, own), partial(self._synced, own))

    def _synced(self, own: int, error: OSError | None) -> None:
        os.close(own)
        if self._has_ended:
            return
        if error is not None:
            self._fail_to_write(error)
            return
        self._close_file()
        self._commit()

    def _commit(self) -> None:
        conditions = self._conditions
        object_id, self._object_id = self._object_id, 0
        checksum = self._checksum.digest()
        ticket = self._worker.ticket(self._connection, partial(self._committed, checksum))
        target = self._target
        self._worker.keeper.tell(
            Commit(
                ticket,
                object_id,
                target.bucket,
                target.name,
                self._size,
                checksum,
                self._head.pinned,
                conditions.if_absent,
                conditions.if_match,
            )
        )

    def _committed(self, checksum: bytes, answer: Answer) -> None:
        connection = self._connection
        if self._ahead_bytes:
            self._end_ahead()
            if isinstance(answer, Refused) and answer.status == _NO_ROOM:
                self._worker.full_until[self._target.bucket] = self._worker.now + _FULL_SECONDS
        if self._has_ended:
            return
        self._has_ended = True
        connection.upload = None
        draining = self._worker.knowledge.draining
        ending, keep_alive = (
            self._worker.endings.of(self._head, closing=draining),
            self._head.keep_alive and not draining,
        )
        if not isinstance(answer, Done):
            status, reason = _refusal(answer)
            connection.send(status, answers.problem(status, reason, ending), keep_alive=keep_alive)
            return
        row, at = self._worker.row, bucket_at(connection.bucket)
        row.at[at + PUTS] += 1
        row.at[at + RECEIVED_BYTES] += self._size
        connection.send(201, answers.created(etag(checksum), ending), keep_alive=keep_alive)

    def cancel(self) -> None:
        """The connection has ended."""
        self._give_up()

    def _fail_to_write(self, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        text = "the disk is full" if full else f"the disk does not take it: {error.strerror}"
        self._fail(_NO_ROOM if full else 503, text, error.errno or 0)

    def _fail(self, status: int, reason: str, error_number: int = 0) -> None:
        self._give_up(error_number)
        self._connection.upload = None
        self._refuse(self._connection, status, reason)

    def _give_up(self, error_number: int = 0) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._close_file()
        if self._object_id:
            # What stays behind, on a disk in trouble, is removed at the next start.
            with suppress(OSError):
                remove_incoming(self._worker.incoming_fd, self._object_id)
            self._worker.keeper.tell(Abandon(self._object_id, error_number))
            self._object_id = 0
            self._end_ahead()

    def _end_ahead(self) -> None:
        self._worker.ahead_bytes -= self._ahead_bytes
        self._ahead_bytes = 0

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _refusal(answer: Answer) -> tuple[int, str]:
    return (answer.status, answer.reason) if isinstance(answer, Refused) else (500, "the keeper gave another answer")
