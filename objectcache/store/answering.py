"""What each message does, and what is answered; read `Answering.answer`."""

from contextlib import suppress
from functools import partial
from typing import Final

from objectcache.link import (
    Abandon,
    BucketRules,
    Commit,
    Damaged,
    Done,
    Granted,
    List,
    Listed,
    Refused,
    Remove,
    Reserve,
    Sound,
    TakeIds,
)
from objectcache.room.accounts import Reservation
from objectcache.storage.catalogue import CatalogueError, Row
from objectcache.storage.index import PINNED, SUSPECT, Entry
from objectcache.storage.keys import Key
from objectcache.store.asking import Answer, Asked
from objectcache.store.evicting import Evicting
from objectcache.store.granted import IDS_AT_ONCE
from objectcache.store.kept import Kept, KeptObject, kept_object
from objectcache.store.ruled import Ruled


class Answering:
    """Does what a worker says, within a transaction of `Kept`."""

    def __init__(self, kept: Kept, ruled: Ruled, evicting: Evicting) -> None:
        self._kept: Final = kept
        self._ruled: Final = ruled
        self._evicting: Final = evicting

    def answer(self, asked: Asked, now: int) -> Answer | None:
        """None where nothing is due.

        Raises:
            CatalogueError: The transaction has failed.
        """
        match asked.message:
            case Reserve() as message:
                return self._reserve(asked.worker, message, now)
            case TakeIds() as message:
                return self._grant(asked.worker, message)
            case Commit() as message:
                return self._commit(asked.worker, message, now)
            case Remove() as message:
                return self._remove(message)
            case List() as message:
                return self._list(message)
            case Abandon() as message:
                self._abandon(asked.worker, message)
            case Damaged() as message:
                self._damage(message)
            case Sound() as message:
                self._clear(message)
        return None

    def without_disk(self, asked: Asked) -> Answer | None:
        """What nothing needs to be written for is done; what was to be committed is given up."""
        match asked.message:
            case Commit() | Abandon() as message:
                granted = self._kept.granted.take(asked.worker, message.object_id)
                if granted or self._is_reserved_by(asked.worker, message.object_id):
                    self._kept.release(message.object_id)
            case List() as message:
                with suppress(CatalogueError):
                    return self._list(message)
            case Damaged() as message:
                self._damage_without_disk(message)
            case TakeIds() as message:
                self._take_unused(asked.worker, message)
            case Reserve() | Remove() | Sound():
                pass
        if isinstance(asked.message, Abandon | Damaged | Sound):
            return None
        condition = self._kept.condition
        return Refused(asked.message.ticket, condition.status, condition.error)

    def _is_reserved_by(self, worker: int, object_id: int) -> bool:
        found = self._kept.accounts.reservation(object_id)
        return found is not None and found.worker == worker

    def _grant(self, worker: int, asked: TakeIds) -> Granted:
        self._take_unused(worker, asked)
        ids = tuple(self._kept.next_id() for _ in range(IDS_AT_ONCE))
        # If the transaction fails, the worker does not hear of them.
        self._kept.afterwards(partial(self._kept.granted.give, worker, ids))
        return Granted(asked.ticket, ids)

    def _take_unused(self, worker: int, asked: TakeIds) -> None:
        for each in asked.unused:
            self._kept.granted.take(worker, each)

    def _abandon(self, worker: int, said: Abandon) -> None:
        if self._is_reserved_by(worker, said.object_id):
            self._kept.accounts.reserve(said.object_id, None)
        self._kept.granted.take(worker, said.object_id)
        self._kept.could_not_write(said.error_number)

    def _reserve(self, worker: int, asked: Reserve, now: int) -> Answer:
        kept = self._kept
        rules = self._rules_for(asked)
        if isinstance(rules, Refused):
            return rules
        before = kept.accounts.reservation(asked.object_id) if asked.object_id else None
        if asked.object_id and (before is None or (before.worker, before.bucket) != (worker, rules.number)):
            return _not_reserved(asked.ticket, asked.object_id)
        pinned = asked.pinned if before is None else before.pinned
        need = asked.size_bytes - (0 if before is None else before.size_bytes)
        if need < 0 or (before is not None and need == 0):
            return Done(asked.ticket, asked.object_id) if before else Refused(asked.ticket, 400, "a size below 0")
        if refused := self._no_room(asked, rules, need, now, pinned=pinned):
            return refused
        object_id = asked.object_id or kept.next_id()
        kept.reserve(object_id, Reservation(worker, rules.number, asked.size_bytes, pinned))
        return Done(asked.ticket, object_id)

    def _rules_for(self, asked: Reserve | Commit) -> BucketRules | Refused:
        """Of the bucket that an object is to come to, if any can come."""
        rules, condition = self._ruled.named(asked.bucket), self._kept.condition
        if rules is None:
            return _no_rules(asked.ticket, asked.bucket)
        return rules if condition.is_ok else Refused(asked.ticket, condition.status, condition.error)

    def _no_room(
        self, asked: Reserve | Commit, rules: BucketRules, need: int, now: int, *, pinned: bool
    ) -> Refused | None:
        if pinned and (reason := self._evicting.pin_refused(rules, need)):
            return Refused(asked.ticket, 507, reason)
        found = self._evicting.find_room(rules, need, asked.size_bytes, now)
        return None if found is None else Refused(asked.ticket, found.status, found.reason)

    def _commit(self, worker: int, asked: Commit, now: int) -> Answer:
        kept = self._kept
        if kept.granted.take(worker, asked.object_id) and (refusal := self._reserve_late(worker, asked, now)):
            kept.release(asked.object_id)
            return refusal
        reserved = kept.accounts.reservation(asked.object_id)
        if reserved is None or reserved.worker != worker:
            return _not_reserved(asked.ticket, asked.object_id)
        key = kept.keys.key(asked.bucket, asked.name)
        found = kept.find(key)
        refusal = self._commit_refused(reserved, asked, found)
        if refusal is not None:
            kept.release(asked.object_id)
            return refusal
        try:
            kept.publish(asked.object_id)
        except OSError as error:
            text = f"object {asked.object_id} was not kept: {error}"
            return Refused(asked.ticket, kept.condition.status, text)
        if found is not None:
            kept.drop([kept_object(key, found)])
        flags = PINNED if asked.pinned else 0
        row = Row(asked.object_id, reserved.bucket, asked.name, asked.size_bytes, asked.checksum, now, 0, flags)
        kept.add(key, row)
        came = KeptObject(key, row.id, row.bucket, row.size, asked.pinned)
        kept.afterwards(partial(self._evicting.came, came))
        return Done(asked.ticket, asked.object_id, replaced=found is not None)

    def _reserve_late(self, worker: int, asked: Commit, now: int) -> Refused | None:
        """Find room for what nothing was reserved for; why there is none."""
        rules = self._rules_for(asked)
        if isinstance(rules, Refused):
            return rules
        if refused := self._no_room(asked, rules, asked.size_bytes, now, pinned=asked.pinned):
            return refused
        self._kept.reserve(asked.object_id, Reservation(worker, rules.number, asked.size_bytes, asked.pinned))
        return None

    def _commit_refused(self, reserved: Reservation, asked: Commit, found: Entry | None) -> Refused | None:
        rules = self._ruled.named(asked.bucket)
        if rules is None or rules.number != reserved.bucket:
            return _no_rules(asked.ticket, asked.bucket)
        if not 0 <= asked.size_bytes <= reserved.size_bytes:
            text = f"{asked.size_bytes} bytes came, and {reserved.size_bytes} were reserved; send the object again"
            return Refused(asked.ticket, 507, text)
        if asked.if_absent and found is not None:
            return Refused(asked.ticket, 412, "there is such an object, and If-None-Match is *")
        if asked.if_match and (found is None or found.checksum not in asked.if_match):
            return _no_match(asked.ticket)
        if asked.pinned:
            own = reserved.size_bytes if reserved.pinned else 0
            replaced = found.size if found is not None and found.flags & PINNED else 0
            reason = self._evicting.pin_refused(rules, asked.size_bytes - own - replaced)
            return Refused(asked.ticket, 507, reason) if reason else None
        return None

    def _remove(self, asked: Remove) -> Answer:
        if self._ruled.named(asked.bucket) is None:
            return _no_rules(asked.ticket, asked.bucket)
        key = self._kept.keys.key(asked.bucket, asked.name)
        found = self._kept.find(key)
        if found is None:
            return Refused(asked.ticket, 404, "no such object")
        if asked.if_match and found.checksum not in asked.if_match:
            return _no_match(asked.ticket)
        self._kept.drop([kept_object(key, found)])
        return Done(asked.ticket, replaced=True)

    def _list(self, asked: List) -> Answer:
        rules = self._ruled.named(asked.bucket)
        if rules is None:
            return _no_rules(asked.ticket, asked.bucket)
        found = self._kept.catalogue.page(rules.number, asked.prefix, asked.after, asked.limit + 1)
        return Listed(asked.ticket, tuple(found[: asked.limit]), more=len(found) > asked.limit)

    def _damage(self, said: Damaged) -> None:
        key, found = self._still(said)
        if found is not None:
            self._kept.drop([kept_object(key, found)])
            self._kept.afterwards(self._kept.count_damaged)

    def _damage_without_disk(self, said: Damaged) -> None:
        key, found = self._still(said)
        if found is not None:
            self._kept.hide(kept_object(key, found))
            self._kept.count_damaged()

    def _clear(self, said: Sound) -> None:
        key, found = self._still(said)
        if found is not None and found.flags & SUSPECT:
            self._kept.set_flags(key, found, found.flags & ~SUSPECT)

    def _still(self, said: Damaged | Sound) -> tuple[Key, Entry | None]:
        """What was looked at; None if another object has its name meanwhile."""
        key = self._kept.keys.key(said.bucket, said.name)
        found = self._kept.find(key)
        return key, found if found is not None and found.object_id == said.object_id else None


def _no_rules(ticket: int, bucket: str) -> Refused:
    return Refused(ticket, 403, f"bucket {bucket!r} is in no rules of this node any more")


def _not_reserved(ticket: int, object_id: int) -> Refused:
    return Refused(ticket, 503, f"nothing is reserved for object {object_id}; send it again")


def _no_match(ticket: int) -> Refused:
    return Refused(ticket, 412, "there is no object with a checksum of If-Match")
