"""A worker in the test's own process, whose turns the test makes itself."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from objectcache.counters import SENT_BYTES, Counters, bucket_at
from objectcache.link import (
    BucketRules,
    Frames,
    FromKeeper,
    FromWorker,
    Granted,
    Identity,
    Reviewed,
    Setup,
    TakeIds,
    frame,
)
from objectcache.serving.connection import Connection
from objectcache.serving.keeper_link import KeeperLink
from objectcache.serving.requests import Requests
from objectcache.serving.worker import Worker
from objectcache.storage.files import DataFolder, create_incoming
from objectcache.storage.index import Entry, IndexReader, IndexWriter

SECONDS: Final = 20.0
_SECRET: Final = bytes(32)
_TOKEN: Final = b"token-of-research"
_RULES: Final = BucketRules("bk", 1, 2**30, 0, 1.0, frozenset({"research"}), frozenset({"research"}))


@dataclass
class Turned:
    """Answers when it is told to; what it tells the keeper only the test hears."""

    worker: Worker
    requests: Requests
    files: DataFolder
    index: IndexWriter
    keeper: socket.socket
    _ids: list[int] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> None:
        """As the keeper keeps an object of bucket bk."""
        object_id = len(self._ids) + 1
        self._ids.append(object_id)
        fd = create_incoming(self.files.incoming_fd, object_id, len(content))
        os.write(fd, content)
        os.close(fd)
        self.files.publish(object_id)
        self._forget(self.index.put(self._key(name), object_id, len(content), bytes(16), 1, 0))

    def remove(self, name: str) -> None:
        self._forget(self.index.remove(self._key(name)))

    def heard(self) -> list[FromWorker]:
        """What the keeper was told since the last time."""
        self.worker.keeper.flush()
        told = b""
        while select.select([self.keeper], [], [], 0)[0]:
            told += self.keeper.recv(2**20)
        return cast("list[FromWorker]", Frames(FromWorker).feed(told))

    def say(self, message: FromKeeper) -> None:
        """As the keeper."""
        self.keeper.sendall(frame(message))
        self.worker.keeper.receive()

    def grant(self, *ids: int) -> None:
        """For small objects; the worker has to have asked."""
        [asked] = [each for each in self.heard() if isinstance(each, TakeIds)]
        self.say(Granted(asked.ticket, ids))

    @contextmanager
    def client(self) -> Iterator["Client"]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.settimeout(SECONDS)
            connection = Connection(ours, self.worker, self.requests)
            yield Client(self.worker, connection, theirs)
            connection.close()

    def counted_bytes(self) -> int:
        """Of bucket bk, as the metrics tell."""
        return self.worker.row.at[bucket_at(1) + SENT_BYTES]

    def open_files(self) -> int:
        """Descriptors of objects, removed ones as well."""
        objects = f"{self.files.path}/data/"
        return sum(link.startswith(objects) for link in map(_link, Path("/proc/self/fd").iterdir()))

    def _key(self, name: str) -> tuple[int, int]:
        return self.worker.keys.key("bk", name.encode())

    def _forget(self, entry: Entry | None) -> None:
        if entry is not None:
            self.files.remove([entry.object_id])


@dataclass
class Client:
    """The other side of a connection."""

    worker: Worker
    connection: Connection
    sock: socket.socket

    def ask(self, name: str) -> None:
        """For an object of bucket bk; the worker has a turn then."""
        self.sock.sendall(
            b"GET /v1/objects/bk/%b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n" % (name.encode(), _TOKEN)
        )
        self.turn()

    def put(self, name: str, size: int, body: bytes) -> None:
        """Begin to put an object of so many bytes in bucket bk; the worker has a turn then."""
        self.sock.sendall(
            b"PUT /v1/objects/bk/%b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
            % (name.encode(), _TOKEN, size, body)
        )
        self.turn()

    def turn(self) -> None:
        """Something has come, which the worker takes as its loop lets it."""
        self.worker.tick()
        self.worker.guard(self.connection, self.connection.readable)

    def take(self) -> bytes:
        """All that is there."""
        received = more = self.sock.recv(2**20)
        while more and not self.has_nothing():
            more = self.sock.recv(2**20)
            received += more
        return received

    def has_nothing(self) -> bool:
        return not select.select([self.sock], [], [], 0)[0]

    def get(self, name: str) -> bytes | None:
        """Content; None for a miss."""
        self.ask(name)
        head, _, content = self.take().partition(b"\r\n\r\n")
        return content if head.startswith(b"HTTP/1.1 200 ") else None


def _link(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        # That of the listing itself.
        return ""


@contextmanager
def turned(folder: Path) -> Iterator[Turned]:
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        ours.setblocking(False)
        files = DataFolder.open(folder)
        stack.callback(files.close)
        index = IndexWriter.create(1024)
        stack.callback(index.close)
        counters = Counters.create(1)
        keeper = KeeperLink(ours, lambda _message, _descriptor: None)
        worker = Worker(Setup(0, str(folder), _SECRET, "never", 100, 0), keeper, counters.row(0))
        stack.callback(worker.threads.close)
        stack.callback(os.close, worker.data_fd)
        stack.callback(os.close, worker.incoming_fd)
        worker.knowledge.index = IndexReader.open(index.fd)
        worker.knowledge.rules = {"bk": _RULES}
        worker.tokens.put(_TOKEN, Reviewed(0, Identity("research", "default"), 0, "", 3600.0), worker.now)
        yield Turned(worker, Requests(worker), files, index, theirs)
