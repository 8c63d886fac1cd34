"""What all connections of a worker share: the index, the rules, the tokens, the link, the files."""

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from objectcache.access.token_cache import Refusal, TokenCache
from objectcache.counters import COLD_READS, DAMAGED, DEFECTS, Row
from objectcache.link import (
    BucketRules,
    Damaged,
    Drain,
    Forget,
    FromKeeper,
    Identity,
    NewIndex,
    Refused,
    Review,
    Reviewed,
    Rules,
    Setup,
    Sound,
    TookIndex,
    Writable,
)  # fmt: skip
from objectcache.serving.fair_queue import LEAST_BYTES, QUANTUM_BYTES, FairQueue
from objectcache.serving.keeper_link import Answer, KeeperLink
from objectcache.serving.pace import Pace
from objectcache.serving.spare_ids import SpareIds
from objectcache.serving.threads import Threads
from objectcache.storage.files import open_data, open_incoming
from objectcache.storage.index import Entry, IndexReader
from objectcache.storage.keys import KeyMaker
from objectcache.wire import answers

if TYPE_CHECKING:
    from objectcache.serving.connection import Connection

log: Final = logging.getLogger(__name__)

_MOST_TOKENS: Final = 20_000
# The disk cannot read it, the file system's own check fails (EUCLEAN, EBADMSG), or it is no file, which sendfile calls
# EINVAL. Other errors, such as EMFILE, say something of this process or of the client.
_DAMAGE: Final = frozenset(
    {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EINVAL}
)


@dataclass(slots=True)
class Knowledge:
    """What the keeper has told; changed between two turns of the loop."""

    index: IndexReader | None = None
    rules: dict[str, BucketRules] = field(default_factory=dict)
    writable: Writable = field(default_factory=Writable)
    draining: bool = False


class Worker:
    """One for the process; its methods are called by the loop alone.

    Attributes:
        now: Monotonic seconds, read once a turn.
        seconds: Since 1970, as often.
        endings: Of answers of this second.
        spare_ids: For objects that are written before there is room for them; `ahead_bytes` are of those under way.
        full_until: When a bucket without room may be written to again before there is some, by its name.
        at_once: Bytes that may still be sent this turn without waiting in the queue; buckets have to take turns only
            where there is more.
        resumed: Connections with a request that was received already, for the next turn.
    """

    def __init__(self, setup: Setup, keeper: KeeperLink, row: Row) -> None:
        self.setup: Final = setup
        self.keeper: Final = keeper
        self.row: Final = row
        self.data_fd: Final = open_data(Path(setup.data_dir))
        self.incoming_fd: Final = open_incoming(Path(setup.data_dir))
        self.times: Final = setup.times
        self.pace: Final = Pace(setup.bytes_per_second, time.monotonic()) if setup.bytes_per_second else None
        self.knowledge: Final = Knowledge()
        self.keys: Final = KeyMaker(setup.secret)
        self.tokens: Final = TokenCache(_MOST_TOKENS)
        # Where little may be sent a second, turns are shorter too.
        burst_bytes = QUANTUM_BYTES if self.pace is None else max(self.pace.burst_bytes, LEAST_BYTES)
        self.queue: Final[FairQueue[Connection]] = FairQueue(min(burst_bytes, QUANTUM_BYTES))
        self.threads: Final = Threads()
        self.spare_ids: Final = SpareIds(keeper)
        self.ahead_bytes = 0
        self.full_until: Final[dict[str, float]] = {}
        self.resumed: list[Connection] = []
        self.interest: Callable[[Connection, int], None] = lambda _connection, _mask: None
        self.now = 0.0
        self.at_once = 0
        self.seconds = 0
        self.endings = answers.endings(0)
        self.tick()
        self.buffer: Final = memoryview(bytearray(256 * 2**10))

    def tick(self) -> None:
        """Look at the clocks; once a turn of the loop."""
        self.now = time.monotonic()
        self.at_once = QUANTUM_BYTES if self.pace is None else 0
        seconds = int(time.time())
        if seconds != self.seconds:
            self.seconds = seconds
            self.endings = answers.endings(seconds)

    def touch(self, entry: Entry) -> None:
        """Note that an object was read."""
        index = self.knowledge.index
        if index is not None:
            index.touch(entry.slot, self.seconds - index.epoch_seconds)

    def told(self, message: FromKeeper, descriptor: int) -> Drain | None:
        """Take what the keeper says; a Drain is the loop's to follow."""
        match message:
            case Rules():
                self.knowledge.rules = {each.name: each for each in message.buckets}
            case Forget(pod_uid):
                self.tokens.forget(pod_uid, self.now)
            case Writable():
                self.knowledge.writable = message
            case NewIndex(ticket):
                self._take_index(descriptor, ticket)
            case Drain():
                self.knowledge.draining = True
                return message
            case _:
                raise TypeError(f"no message for a worker: {type(message).__name__}")
        return None

    def find(self, bucket: str, name: bytes) -> Entry | None:
        """What is kept under a name; None if nothing is."""
        index = self.knowledge.index
        if index is None:
            return None
        return index.find(self.keys.key(bucket, name))

    def guard(self, connection: "Connection", work: Callable[..., object], *given: object) -> None:
        """Do something for a connection; a defect costs this connection, not all of them."""
        try:
            work(*given)
        except Exception as error:  # noqa: BLE001 - the outermost of what is done for a client
            self._end_for_defect(connection, error)

    def step(self, connection: "Connection", most_bytes: int) -> int:
        """Let it send, as the fair queue asks for; guarded likewise."""
        try:
            return connection.step(most_bytes)
        except Exception as error:  # noqa: BLE001 - as above
            self._end_for_defect(connection, error)
            return 0

    def _end_for_defect(self, connection: "Connection", error: Exception) -> None:
        log.error("a defect ends a connection", exc_info=error)
        self.row.at[DEFECTS] += 1
        connection.break_off()

    def ticket(self, connection: "Connection", then: Callable[[Answer], None]) -> int:
        """For a question to the keeper whose answer goes to `then`."""
        return self.keeper.ticket(partial(self.guard, connection, then))

    def elsewhere(
        self, connection: "Connection", work: Callable[[], None], then: Callable[[OSError | None], None]
    ) -> None:
        """Let a thread do something, whose OSError goes to `then`, or None."""
        self.threads.run(work, partial(self.guard, connection, then))

    def review(self, connection: "Connection", token: bytes, then: Callable[[Identity | Refusal], None]) -> None:
        """Ask the keeper what a token is worth, and keep that for later."""

        def reviewed(answer: Answer) -> None:
            if not isinstance(answer, Reviewed):
                then(Refusal(503, _reason(answer)))
                return
            self.tokens.put(token, answer, self.now)
            then(answer.identity if answer.identity is not None else Refusal(answer.status, answer.reason))

        self.keeper.tell(Review(self.ticket(connection, reviewed), token.decode("latin-1")))

    def damaged(self, object_id: int, bucket: str, name: bytes, reason: str) -> None:
        self.row.at[DAMAGED] += 1
        self.keeper.tell(Damaged(object_id, bucket, name, reason))

    def sound(self, object_id: int, bucket: str, name: bytes) -> None:
        self.keeper.tell(Sound(object_id, bucket, name))

    def warm(self, fd: int, offset: int, size: int, then: Callable[[OSError | None], None]) -> None:
        """Let a thread bring a part of a file into the page cache."""
        self.row.at[COLD_READS] += 1
        self.threads.run(partial(_read_through, fd, offset, size), then)

    def _take_index(self, descriptor: int, ticket: int) -> None:
        before = self.knowledge.index
        self.knowledge.index = IndexReader.open(descriptor)
        os.close(descriptor)
        if before is not None:
            before.close()
        self.keeper.tell(TookIndex(ticket))


def is_damage(error: OSError) -> bool:
    """Whether an error of opening, reading or sending an object's file says something of the file."""
    return error.errno in _DAMAGE


def _reason(answer: Answer) -> str:
    return answer.reason if isinstance(answer, Refused) else "the keeper gave another answer"


def _read_through(fd: int, offset: int, size: int) -> None:
    step = 2**18
    while size > 0:
        found = os.pread(fd, min(step, size), offset)
        if not found:
            return
        offset += len(found)
        size -= len(found)
