"""Requests that are like one before: most are, and reading them anew would take longer than answering them."""

import os
from typing import Final

from objectcache.counters import HITS, VERBS, bucket_at
from objectcache.link import BucketRules
from objectcache.serving.at_hand import AtHand, Popular
from objectcache.serving.connection import SMALL_BYTES, Connection
from objectcache.serving.open_file import OpenFile
from objectcache.serving.worker import Worker
from objectcache.storage.files import open_object
from objectcache.storage.index import SUSPECT, IndexReader, fields_of
from objectcache.storage.keys import Key
from objectcache.wire import answers
from objectcache.wire.conditions import etag
from objectcache.wire.head import Head
from objectcache.wire.target import object_of

_GET: Final = VERBS.index("GET")
# Some 2 MiB; longer names are rare, and may be of anybody.
_MOST: Final = 4_096
_LONGEST_NAME: Final = 512
# Opening larger ones takes no time beside sending them, and their space should be free when they are removed.
_LARGEST_BYTES: Final = 2**20


class _Known(Popular):
    """What a request line was found to ask for.

    Attributes:
        record: Of the index, when that was last looked at; what follows stands as long as the index shows it.
        answer: The head of the answer but for its ending.
        ending: With which `content` begins; empty if that is the object's alone.
    """

    __slots__ = ("answer", "bucket", "ending", "key", "name", "object_id", "record", "size", "slot")

    def __init__(self, bucket: str, name: bytes, key: Key) -> None:
        super().__init__()
        self.bucket: Final = bucket
        self.name: Final = name
        self.key: Final = key
        self.record = b""
        self.slot = 0
        self.object_id = 0
        self.size = 0
        self.answer = b""
        self.ending = b""

    def look(self, index: IndexReader) -> bool:
        """Whether there is such an object that can be sent at once; `record` and what follows are of it then."""
        record = index.record(self.key)
        if record is None:
            return False
        slot, object_id, size, checksum, _, flags = fields_of(record)
        if flags & SUSPECT or not size:
            return False
        self.record, self.slot, self.object_id, self.size = record, slot, object_id, size
        self.answer = answers.ok(size, etag(checksum), b"")
        return True


class Repeats:
    """Answers plain GETs of objects whose header lines are those of a GET before on the connection.

    Nothing is taken for granted but what the bytes mean: who asks must be known still, the bucket's rules and the index
    are looked at each time. Whatever is not quite usual is left to `Requests`.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker: Final = worker
        self._known: Final[dict[bytes, _Known]] = {}
        self._at_hand: Final = AtHand()

    def note(self, connection: Connection, head: Head) -> None:
        """A GET was answered with a whole object: the next one may be like it."""
        if head.version10 or not head.keep_alive or head.content_length >= 0 or head.chunked or head.expects_continue:
            return
        if head.range or head.if_match or head.if_none_match or head.token is not connection.token:
            return
        connection.lines = b"\r\n" + head.lines

    def answer(self, connection: Connection, received: bytes) -> bool:
        """Whether what was received is such a request, and answered."""
        line_end = received.find(b"\r\n")
        if received[line_end:] != connection.lines:
            return False
        line = received[:line_end]
        known = self._known.get(line) or self._learn(line)
        rules = self._allowed(connection, known) if known is not None else None
        return known is not None and rules is not None and self._send(connection, known, rules)

    def end_turn(self) -> None:
        """Another second is over."""
        self._at_hand.end_turn()

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
        index, ending = worker.knowledge.index, worker.endings.stays
        if index is None:
            return False
        if not index.shows(known.slot, known.record):
            self._at_hand.let_go(known)
            if not known.look(index):
                return False
        if self._at_hand.ask(known):
            self._keep(known)
        file = None
        if not known.content and (file := self._file(known)) is None:
            return False
        index.touch(known.slot, worker.seconds - index.epoch_seconds)
        worker.row.at[bucket_at(rules.number) + HITS] += 1
        connection.received = b""
        connection.begun = worker.now
        connection.verb = _GET
        connection.bucket = rules.number
        connection.subject = (known.object_id, known.bucket, known.name)
        if file is not None:
            connection.send_file(200, known.answer + ending, (file, 0, known.size), keep_alive=True)
            return True
        if known.ending is not ending:
            known.ending = ending
            known.content = b"%b%b%b" % (known.answer, ending, known.content[-known.size :])
        connection.send(200, known.content, keep_alive=True, object_bytes=known.size)
        return True

    def _file(self, known: _Known) -> OpenFile | None:
        file = known.file
        if file is not None:
            file.hold()
            return file
        try:
            return OpenFile(open_object(self._worker.data_fd, known.object_id))
        except OSError:
            # `Requests` meets it again, and tells.
            return None

    def _keep(self, known: _Known) -> None:
        """Keep at hand what is asked for all the time."""
        if known.content or known.size > _LARGEST_BYTES or (file := self._file(known)) is None:
            return
        if known.size > SMALL_BYTES:
            self._at_hand.keep_file(known, file)
        elif file.is_warm(0, known.size):
            self._keep_content(known, file)
        file.let_go()

    def _keep_content(self, known: _Known, file: OpenFile) -> None:
        try:
            content = os.pread(file.fd, known.size, 0)
        except OSError:
            # Whoever sends it meets that again, and tells.
            return
        if len(content) == known.size:
            known.ending = b""
            self._at_hand.keep_content(known, content)

    def _learn(self, line: bytes) -> _Known | None:
        """What a request line asks for, if that is an object that is here."""
        index, target = self._worker.knowledge.index, object_of(line)
        if index is None or target is None:
            return None
        known = _Known(target.bucket, target.name, self._worker.keys.key(target.bucket, target.name))
        if not known.look(index):
            return None
        if len(target.name) <= _LONGEST_NAME:
            if len(self._known) >= _MOST:
                # Those in use are back with their next request.
                self._known.clear()
            self._known[line] = known
        return known
