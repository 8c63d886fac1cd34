"""What all connections of a worker share: the index, the rules, the tokens, the link, the files."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from objectcache.access.token_cache import Refusal, TokenCache
from objectcache.counters import COLD_READS, DAMAGED, Row
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
from objectcache.serving.fair_queue import FairQueue
from objectcache.serving.keeper_link import Answer, KeeperLink
from objectcache.serving.threads import Threads
from objectcache.storage.files import open_data, open_incoming
from objectcache.storage.index import Entry, IndexReader
from objectcache.storage.keys import KeyMaker
from objectcache.wire import answers

if TYPE_CHECKING:
    from objectcache.serving.connection import Connection

_MOST_TOKENS: Final = 20_000


@dataclass(slots=True)
class Times:
    """How long a client may take.

    Attributes:
        head_seconds: From a request's first byte to its head's last.
        idle_seconds: Between two requests. Longer than Envoy and pfio keep a connection, so that it is never we who
            close one that they are about to use.
        progress_seconds: For a body or an answer to move at all.
        least_bytes_per_second: Of a body or an answer as a whole, once that many seconds are over.
        linger_seconds: For a client to notice a refusal before the connection is closed.
    """

    head_seconds: float = 10.0
    idle_seconds: float = 3_900.0
    progress_seconds: float = 30.0
    least_bytes_per_second: int = 32 * 2**10
    linger_seconds: float = 2.0


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
        resumed: Connections with a request that was received already, for the next turn.
    """

    def __init__(self, setup: Setup, keeper: KeeperLink, row: Row, times: Times) -> None:
        self.setup: Final = setup
        self.keeper: Final = keeper
        self.row: Final = row
        self.data_fd: Final = open_data(Path(setup.data_dir))
        self.incoming_fd: Final = open_incoming(Path(setup.data_dir))
        self.times: Final = times
        self.knowledge: Final = Knowledge()
        self.keys: Final = KeyMaker(setup.secret)
        self.tokens: Final = TokenCache(_MOST_TOKENS)
        self.queue: Final[FairQueue[Connection]] = FairQueue()
        self.threads: Final = Threads()
        self.resumed: list[Connection] = []
        self.interest: Callable[[Connection, int], None] = lambda _connection, _mask: None
        self.now = 0.0
        self.seconds = 0
        self.endings = answers.endings(0)
        self.tick()
        self.buffer: Final = memoryview(bytearray(256 * 2**10))

    def tick(self) -> None:
        """Look at the clocks; once a turn of the loop."""
        self.now = time.monotonic()
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
            case Rules(buckets):
                self.knowledge.rules = {each.name: each for each in buckets}
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
        """What is kept under a name, noting that it was asked for."""
        index = self.knowledge.index
        if index is None:
            return None
        return index.find(self.keys.key(bucket, name))

    def review(self, token: bytes, then: Callable[[Identity | Refusal], None]) -> None:
        """Ask the keeper what a token is worth, and keep that for later."""

        def reviewed(answer: Answer) -> None:
            if not isinstance(answer, Reviewed):
                then(Refusal(503, _reason(answer)))
                return
            self.tokens.put(token, answer, self.now)
            then(answer.identity if answer.identity is not None else Refusal(answer.status, answer.reason))

        self.keeper.tell(Review(self.keeper.ticket(reviewed), token.decode("latin-1")))

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
