"""Requests that are like one before: most are, and reading them anew would take longer than answering them."""

from typing import Final

from objectcache.counters import HITS, VERBS, bucket_at
from objectcache.link import BucketRules
from objectcache.serving.connection import Connection
from objectcache.serving.worker import Worker
from objectcache.storage.files import open_object
from objectcache.storage.index import SUSPECT
from objectcache.storage.keys import Key
from objectcache.wire import answers
from objectcache.wire.conditions import etag
from objectcache.wire.head import Head
from objectcache.wire.target import ObjectTarget

_GET: Final = VERBS.index("GET")
# Some 2 MiB; longer names are rare, and may be of anybody.
_MOST: Final = 4_096
_LONGEST_NAME: Final = 512
_VERSION: Final = b" HTTP/1.1"


class _Known:
    """What a request line was found to ask for.

    Attributes:
        answer: The head of the answer but for its ending, for object `object_id`.
    """

    __slots__ = ("answer", "bucket", "key", "name", "object_id")

    def __init__(self, bucket: str, name: bytes, key: Key) -> None:
        self.bucket: Final = bucket
        self.name: Final = name
        self.key: Final = key
        self.object_id = 0
        self.answer = b""


class Repeats:
    """Answers plain GETs whose header lines are those of a GET before on the connection, and whose line is known.

    Nothing is taken for granted but what the bytes mean: who asks must be known still, the bucket's rules and the index
    are looked at each time. Whatever is not quite usual is left to `Requests`.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker: Final = worker
        self._known: Final[dict[bytes, _Known]] = {}

    def note(self, connection: Connection, head: Head, target: ObjectTarget) -> None:
        """A GET was answered with a whole object: the next one may be like it."""
        if head.version10 or not head.keep_alive or head.content_length >= 0 or head.chunked or head.expects_continue:
            return
        if head.range or head.if_match or head.if_none_match or head.token is not connection.token:
            return
        connection.lines = b"\r\n" + head.lines
        line = b"GET " + head.target + _VERSION
        if line not in self._known and len(target.name) <= _LONGEST_NAME:
            if len(self._known) >= _MOST:
                # Those in use are back with their next request.
                self._known.clear()
            self._known[line] = _Known(target.bucket, target.name, self._worker.keys.key(target.bucket, target.name))

    def answer(self, connection: Connection, received: bytes) -> bool:
        """Whether what was received is such a request, and answered."""
        line_end = received.find(b"\r\n")
        if received[line_end:] != connection.lines:
            return False
        known = self._known.get(received[:line_end])
        rules = self._allowed(connection, known) if known is not None else None
        return known is not None and rules is not None and self._send(connection, known, rules)

    def _allowed(self, connection: Connection, known: _Known) -> BucketRules | None:
        knowledge, identity = self._worker.knowledge, connection.identity
        if identity is None or self._worker.now >= connection.known_until or knowledge.draining:
            return None
        rules = knowledge.rules.get(known.bucket)
        if rules is None or (rules.readers is not None and identity.namespace not in rules.readers):
            return None
        return rules

    def _send(self, connection: Connection, known: _Known, rules: BucketRules) -> bool:
        worker = self._worker
        index = worker.knowledge.index
        entry = index.find(known.key) if index is not None else None
        if index is None or entry is None or entry.flags & SUSPECT or not entry.size:
            return False
        try:
            file = open_object(worker.data_fd, entry.object_id)
        except OSError:
            return False
        if known.object_id != entry.object_id:
            known.object_id = entry.object_id
            known.answer = answers.ok(entry.size, etag(entry.checksum), b"")
        index.touch(entry.slot, worker.seconds - index.epoch_seconds)
        worker.row.at[bucket_at(rules.number) + HITS] += 1
        connection.received = b""
        connection.begun = worker.now
        connection.verb = _GET
        connection.bucket = rules.number
        connection.subject = (entry.object_id, known.bucket, known.name)
        connection.send_file(200, known.answer + worker.endings.stays, (file, 0, entry.size), keep_alive=True)
        return True
