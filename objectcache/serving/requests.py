"""What a request is answered with; read `Requests.handle` first."""

import os
from functools import partial
from typing import Final

import msgspec
import xxhash

from objectcache.access.authorising import Verb, may
from objectcache.access.token_cache import Refusal
from objectcache.counters import HITS, MISSES, REMOVALS, VERBS, bucket_at
from objectcache.link import Done, Identity, List, Listed, Refused, Remove, Sum, Summed
from objectcache.serving.connection import Connection
from objectcache.serving.keeper_link import Answer
from objectcache.serving.open_file import OpenFile
from objectcache.serving.putting import begin_upload
from objectcache.serving.repeats import Repeats
from objectcache.serving.worker import Worker, is_damage
from objectcache.storage.checking import DamagedError, verify
from objectcache.storage.files import open_object
from objectcache.storage.index import SUSPECT, Entry
from objectcache.wire import answers
from objectcache.wire.conditions import Outcome, Part, answer_for, etag, remove_conditions
from objectcache.wire.head import Head, HttpError, parse_head
from objectcache.wire.target import BucketTarget, ObjectTarget, Target, read_target

_GET, _HEAD, _PUT, _DELETE, _LIST, _OTHER = range(len(VERBS))
_VERB_AT: Final = {b"GET": _GET, b"HEAD": _HEAD, b"PUT": _PUT, b"DELETE": _DELETE}

_NO_TOKEN: Final = Refusal(
    401, "the request has no token; send `Authorization: Bearer` with a service account's token for this cache"
)
_OBJECT_METHODS: Final = answers.allow("GET", "HEAD", "PUT", "DELETE")
_BUCKET_METHODS: Final = answers.allow("GET", "HEAD")
_RETRY: Final = answers.retry_after(5)


class Requests:
    """Answers them, all of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker: Final = worker
        self._repeats: Final = Repeats(worker)
        self.again: Final = self._repeats.answer

    def handle(self, connection: Connection, raw: bytes) -> None:
        """Answer a request, now or when others have answered."""
        connection.verb = _OTHER
        connection.bucket = 0
        try:
            head = parse_head(raw, connection.head)
            connection.head = head
            connection.verb = _VERB_AT.get(head.method, _OTHER)
            self._identify(connection, head, read_target(head.target))
        except HttpError as error:
            self.refuse(connection, error.status, error.text)

    def too_large(self, connection: Connection) -> None:
        connection.verb = _OTHER
        connection.bucket = 0
        self.refuse(connection, 431, "the request's head is too large; send fewer or shorter headers")

    def end_turn(self) -> None:
        self._repeats.end_turn()

    def refuse(self, connection: Connection, status: int, text: str) -> None:
        """Answer for the last time: what follows on the connection cannot be told from a body any more."""
        connection.received = b""
        to_head = connection.verb == _HEAD
        answer = answers.problem(status, text, self._worker.endings.closes, more=_more(status), to_head=to_head)
        connection.send(status, answer, keep_alive=False)

    # Who asks.

    def _identify(self, connection: Connection, head: Head, target: Target) -> None:
        worker = self._worker
        if head.token is connection.token and worker.now < connection.known_until and connection.identity is not None:
            self._answer(connection, head, target, connection.identity)
            return
        if not head.token:
            self._turn_away(connection, head, _NO_TOKEN)
            return
        found = worker.tokens.find(head.token, worker.now)
        if found is None:
            connection.wait()
            worker.review(connection, head.token, partial(self._reviewed, connection, head, target))
        else:
            self._identified(connection, head, target, found)

    def _reviewed(self, connection: Connection, head: Head, target: Target, found: Identity | Refusal) -> None:
        if connection.is_closed:
            return
        try:
            self._identified(connection, head, target, found)
        except HttpError as error:
            self.refuse(connection, error.status, error.text)

    def _identified(self, connection: Connection, head: Head, target: Target, found: Identity | Refusal) -> None:
        if isinstance(found, Refusal):
            self._turn_away(connection, head, found)
            return
        connection.remember(head.token, found)
        self._answer(connection, head, target, found)

    # What is asked for.

    def _answer(self, connection: Connection, head: Head, target: Target, identity: Identity) -> None:
        if isinstance(target, ObjectTarget):
            if connection.verb in (_GET, _HEAD):
                self._get(connection, head, target, identity)
            elif connection.verb == _PUT:
                self._put(connection, head, target, identity)
            elif connection.verb == _DELETE:
                self._delete(connection, head, target, identity)
            else:
                self._not_allowed(connection, head, _OBJECT_METHODS, "GET, HEAD, PUT or DELETE")
        elif connection.verb not in (_GET, _HEAD):
            self._not_allowed(connection, head, _BUCKET_METHODS, "GET or HEAD")
        elif isinstance(target, BucketTarget):
            self._answer_bucket(connection, head, target, identity)
        else:
            rules = self._worker.knowledge.rules
            readable = tuple(name for name in sorted(rules) if may(rules, identity, name, "read") is None)
            self._sum(connection, head, readable)

    def _may(self, connection: Connection, head: Head, identity: Identity, bucket: str, verb: Verb) -> bool:
        """Whether it may; if not, the client has been told."""
        rules = self._worker.knowledge.rules
        refused = may(rules, identity, bucket, verb)
        if refused is not None:
            self._problem(connection, head, *refused)
            return False
        connection.bucket = rules[bucket].number
        return True

    # GET and HEAD of an object.

    def _get(self, connection: Connection, head: Head, target: ObjectTarget, identity: Identity) -> None:
        if not self._may(connection, head, identity, target.bucket, "read"):
            return
        entry = self._worker.find(target.bucket, target.name)
        for _ in range(2):
            if entry is None:
                break
            try:
                file = open_object(self._worker.data_fd, entry.object_id)
            except FileNotFoundError:
                # Replaced since the index was read, or evicted.
                before, entry = entry, self._worker.find(target.bucket, target.name)
                if entry is not None and entry.object_id == before.object_id:
                    self._damaged(entry, target, "its file is not there")
                    break
                continue
            except OSError as error:
                if not is_damage(error):
                    self._problem(connection, head, 503, f"the object cannot be opened now: {error.strerror}")
                    return
                self._damaged(entry, target, f"its file cannot be opened: {error.strerror}")
                break
            if entry.flags & SUSPECT:
                self._check(connection, head, target, entry, file)
            else:
                self._send(connection, head, target, entry, file)
            return
        self._missed(connection, head)

    def _missed(self, connection: Connection, head: Head) -> None:
        self._worker.row.at[bucket_at(connection.bucket) + MISSES] += 1
        self._problem(connection, head, 404, "there is no such object here")

    def _damaged(self, entry: Entry, target: ObjectTarget, reason: str) -> None:
        self._worker.damaged(entry.object_id, target.bucket, target.name, reason)

    def _check(self, connection: Connection, head: Head, target: ObjectTarget, entry: Entry, file: int) -> None:
        """Read it whole before it is sent: the system stopped without warning after it was written."""
        damage: list[str] = []
        connection.wait()

        def check() -> None:
            try:
                verify(file, entry.size, entry.checksum)
            except DamagedError as error:
                damage.append(str(error))

        def checked(error: OSError | None) -> None:
            if error is None and not damage:
                self._worker.sound(entry.object_id, target.bucket, target.name)
                if not connection.is_closed:
                    self._send(connection, head, target, entry, file)
                    return
            os.close(file)
            if damage:
                self._damaged(entry, target, damage[0])
            if connection.is_closed:
                return
            if error is not None:
                self._problem(connection, head, 503, f"the object cannot be verified now: {error.strerror}")
            elif damage:
                self._missed(connection, head)

        self._worker.elsewhere(connection, check, checked)

    def _send(self, connection: Connection, head: Head, target: ObjectTarget, entry: Entry, file: int) -> None:
        worker = self._worker
        worker.row.at[bucket_at(entry.bucket) + HITS] += 1
        worker.touch(entry)
        ending, keep_alive = self._ending(connection, head)
        tag, size = etag(entry.checksum), entry.size
        outcome = answer_for(head, tag, size)
        if outcome is Outcome.WHOLE:
            status, offset, length, answer = 200, 0, size, answers.ok(size, tag, ending)
        elif isinstance(outcome, Part):
            status, offset, length = 206, outcome.first, outcome.last - outcome.first + 1
            answer = answers.part(outcome.first, outcome.last, size, tag, ending)
        else:
            os.close(file)
            connection.send(*_without_body(outcome, tag, size, ending, connection.verb), keep_alive=keep_alive)
            return
        if connection.verb == _HEAD or not length:
            os.close(file)
            connection.send(status, answer, keep_alive=keep_alive)
            return
        if status == 200:
            self._repeats.note(connection, head)
        connection.subject = (entry.object_id, target.bucket, target.name)
        connection.send_file(status, answer, (OpenFile(file), offset, length), keep_alive=keep_alive)

    # PUT and DELETE.

    def _put(self, connection: Connection, head: Head, target: ObjectTarget, identity: Identity) -> None:
        if self._may(connection, head, identity, target.bucket, "write"):
            begin_upload(self._worker, connection, (head, target), self.refuse)

    def _delete(self, connection: Connection, head: Head, target: ObjectTarget, identity: Identity) -> None:
        if not self._may(connection, head, identity, target.bucket, "write"):
            return
        if_match = remove_conditions(head)
        connection.wait()
        ticket = self._worker.ticket(connection, partial(self._removed, connection, head))
        self._worker.keeper.tell(Remove(ticket, target.bucket, target.name, if_match))

    def _removed(self, connection: Connection, head: Head, answer: Answer) -> None:
        if connection.is_closed:
            return
        if not isinstance(answer, Done):
            self._pass_on(connection, head, answer)
            return
        self._worker.row.at[bucket_at(connection.bucket) + REMOVALS] += 1
        ending, keep_alive = self._ending(connection, head)
        connection.send(204, answers.removed(ending), keep_alive=keep_alive)

    # Buckets.

    def _answer_bucket(self, connection: Connection, head: Head, target: BucketTarget, identity: Identity) -> None:
        if not self._may(connection, head, identity, target.bucket, "read"):
            return
        if connection.verb == _HEAD:
            self._sum(connection, head, (target.bucket,))
            return
        connection.verb = _LIST
        connection.wait()
        ticket = self._worker.ticket(connection, partial(self._listed, connection, head))
        self._worker.keeper.tell(List(ticket, target.bucket, target.prefix, target.after, target.limit))

    def _listed(self, connection: Connection, head: Head, answer: Answer) -> None:
        if connection.is_closed:
            return
        if not isinstance(answer, Listed):
            self._pass_on(connection, head, answer)
            return
        objects = [
            {**_named(name), "bytes": size, "etag": etag(checksum).decode(), "created": created}
            for name, size, checksum, created in answer.objects
        ]
        self._send_json(connection, head, {"objects": objects, "more": answer.more})

    def _sum(self, connection: Connection, head: Head, buckets: tuple[str, ...]) -> None:
        connection.wait()
        ticket = self._worker.ticket(connection, partial(self._summed, connection, head))
        self._worker.keeper.tell(Sum(ticket, buckets))

    def _summed(self, connection: Connection, head: Head, answer: Answer) -> None:
        if connection.is_closed:
            return
        if not isinstance(answer, Summed):
            self._pass_on(connection, head, answer)
            return
        rules = self._worker.knowledge.rules
        found = [
            {
                "name": name,
                "bytes": size,
                "objects": objects,
                "pinnedBytes": pinned,
                "quotaBytes": rules[name].quota_bytes,
            }
            for name, size, objects, pinned in answer.buckets
            if name in rules
        ]
        self._send_json(connection, head, {"buckets": found})

    def _send_json(self, connection: Connection, head: Head, value: object) -> None:
        body = msgspec.json.encode(value)
        tag = etag(xxhash.xxh3_128_digest(body))
        ending, keep_alive = self._ending(connection, head)
        to_head = head.method == b"HEAD"
        if answer_for(head, tag, len(body)) is Outcome.NOT_MODIFIED:
            connection.send(304, answers.not_modified(tag, ending), keep_alive=keep_alive)
            return
        connection.send(200, answers.json(body, tag, ending, to_head=to_head), keep_alive=keep_alive)

    # Refusals after which the connection may go on.

    def _not_allowed(self, connection: Connection, head: Head, methods: bytes, advice: str) -> None:
        self._problem(connection, head, 405, f"{_text(head.method)} is not answered here; send {advice}", methods)

    def _turn_away(self, connection: Connection, head: Head, refusal: Refusal) -> None:
        self._problem(connection, head, refusal.status, refusal.reason)

    def _pass_on(self, connection: Connection, head: Head, answer: Answer) -> None:
        """What the keeper refuses."""
        refused = (
            answer if isinstance(answer, Refused) else Refused(0, 500, "the keeper gave another answer; report it")
        )
        self._problem(connection, head, refused.status, refused.reason)

    def _problem(self, connection: Connection, head: Head, status: int, text: str, more: bytes = b"") -> None:
        ending, keep_alive = self._ending(connection, head)
        to_head = head.method == b"HEAD"
        answer = answers.problem(status, text, ending, more=more or _more(status), to_head=to_head)
        connection.send(status, answer, keep_alive=keep_alive)

    def _ending(self, connection: Connection, head: Head) -> tuple[bytes, bool]:
        """The last lines of an answer, and whether the connection can take another request after it.

        It cannot where a body follows that nobody reads.
        """
        closing = self._worker.knowledge.draining
        if head.chunked:
            closing = True
        elif head.content_length > 0:
            if head.content_length > len(connection.received):
                closing = True
            else:
                connection.received = connection.received[head.content_length :]
        return self._worker.endings.of(head, closing=closing), head.keep_alive and not closing


def _without_body(outcome: Outcome, tag: bytes, size: int, ending: bytes, verb: int) -> tuple[int, bytes]:
    """Status and answer where nothing of the object is sent."""
    if outcome is Outcome.NOT_MODIFIED:
        return 304, answers.not_modified(tag, ending)
    if outcome is Outcome.UNSATISFIABLE:
        return 416, answers.unsatisfiable(size, tag, ending)
    text = "the object has another ETag than If-Match names; read it again"
    return 412, answers.problem(412, text, ending, to_head=verb == _HEAD)


def _named(name: bytes) -> dict[str, str]:
    try:
        return {"name": name.decode()}
    except UnicodeDecodeError:
        return {"nameBase64": str(msgspec.to_builtins(name))}


def _text(method: bytes) -> str:
    return method[:20].decode("latin-1")


def _more(status: int) -> bytes:
    return _RETRY if status in (429, 503) else b""
