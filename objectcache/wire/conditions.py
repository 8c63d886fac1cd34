"""Whether a request goes ahead, and with which bytes: its conditions and its range (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec

from objectcache.wire.head import Head, HttpError, shown

CHECKSUM_BYTES: Final = 16

_OUR_ETAG: Final = re.compile(rb'"([0-9a-f]{32})"')
_MEMBER: Final = re.compile(rb'[ \t,]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?=,|\Z)')
_AFTER_MEMBERS: Final = re.compile(rb"[ \t,]*")
# No object has 10^20 bytes; a range that says so is passed over, as the RFC allows for every range.
_RANGE: Final = re.compile(rb"(?i:bytes)=([0-9]{0,20})-([0-9]{0,20})")


class Outcome(Enum):
    """Answers without a body of part of the object."""

    WHOLE = auto()
    NOT_MODIFIED = auto()
    PRECONDITION_FAILED = auto()
    UNSATISFIABLE = auto()


class Part(msgspec.Struct, frozen=True, gc=False):
    """Bytes of an object.

    Attributes:
        first: Counted from 0.
        last: The last one's number, itself included.
    """

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PutConditions:
    """When an object may be replaced; `link.Commit` has the same two.

    Attributes:
        if_absent: Only if there is none.
        if_match: Only if there is one with such a checksum; empty for no condition.
    """

    if_absent: bool = False
    if_match: tuple[bytes, ...] = ()


_WHOLE: Final = Outcome.WHOLE
_UNCONDITIONAL: Final = PutConditions()


def etag(checksum: bytes) -> bytes:
    """Of an object with this checksum: strong, as equal checksums mean equal bytes."""
    return b'"%b"' % checksum.hex().encode()


def checksum(etag: bytes) -> bytes | None:
    """The checksum that an ETag of ours tells, None for any other."""
    ours = _OUR_ETAG.fullmatch(etag)
    return bytes.fromhex(ours[1].decode()) if ours else None


def answer_for(head: Head, etag: bytes, size: int) -> Outcome | Part:
    """What to answer to GET or HEAD of an object that there is.

    Times are no condition here: a cache knows when an object was put, not when it changed. What is malformed never
    matches, and a range that is malformed, of another unit, or one of several is passed over.

    Args:
        head: Of any method but GET, the range is passed over (RFC 9110, section 14.2).
        etag: The object's, as `etag()` writes it.
        size: In bytes.
    """
    if head.if_match and not _matches(head.if_match, etag):
        return Outcome.PRECONDITION_FAILED
    if head.if_none_match and _matches_weakly(head.if_none_match, etag):
        return Outcome.NOT_MODIFIED
    if not head.range or head.method != b"GET" or (head.if_range and head.if_range != etag):
        return _WHOLE
    return _part(head.range, size)


def put_conditions(head: Head) -> PutConditions:
    """When PUT may replace what there is.

    Raises:
        HttpError: 400 for a condition that is malformed or not known here, 412 for one that no object can meet.
    """
    if not head.if_none_match and not head.if_match:
        return _UNCONDITIONAL
    if head.if_none_match and head.if_none_match != b"*":
        raise HttpError(400, f"If-None-Match is {shown(head.if_none_match)}; on PUT, only * is known")
    return PutConditions(bool(head.if_none_match), _checksums(head.if_match) if head.if_match else ())


def remove_conditions(head: Head) -> tuple[bytes, ...]:
    """Checksums of which DELETE's object must have one; empty for no condition.

    Raises:
        HttpError: As `put_conditions`.
    """
    if head.if_none_match:
        raise HttpError(400, f"If-None-Match is {shown(head.if_none_match)}; on DELETE, only If-Match is known")
    return _checksums(head.if_match) if head.if_match else ()


def _checksums(if_match: bytes) -> tuple[bytes, ...]:
    if if_match == b"*":
        raise HttpError(400, "If-Match is *; name the ETag of the object that may be changed")
    members = _members(if_match)
    if not members:
        raise HttpError(400, f"If-Match is {shown(if_match)}; write ETags in double quotes, with commas between them")
    found = tuple(known for known in map(checksum, members) if known is not None)
    if not found:
        raise HttpError(412, f"If-Match is {shown(if_match)}, and no object here ever has such an ETag")
    return found


def _matches(listed: bytes, etag: bytes) -> bool:
    return listed in {etag, b"*"} or etag in _members(listed)


def _matches_weakly(listed: bytes, etag: bytes) -> bool:
    return _matches(listed, etag) or b"W/" + etag in _members(listed)


def _members(listed: bytes) -> Sequence[bytes]:
    """Entity-tags of a list, empty members left out; none if any is malformed."""
    members = []
    end = 0
    while member := _MEMBER.match(listed, end):
        members.append(member[1])
        end = member.end()
    return members if _AFTER_MEMBERS.fullmatch(listed, end) else ()


def _part(value: bytes, size: int) -> Outcome | Part:
    asked = _RANGE.fullmatch(value)
    if asked is None:
        return _WHOLE
    first, last = asked.groups()
    if not first:
        return _suffix(int(last), size) if last else _WHOLE
    start = int(first)
    end = int(last) if last else size
    if last and end < start:
        return _WHOLE
    if start >= size:
        return Outcome.UNSATISFIABLE
    return Part(start, end if end < size else size - 1)


def _suffix(length: int, size: int) -> Outcome | Part:
    if not length:
        return Outcome.UNSATISFIABLE
    # The last bytes of an empty object are satisfiable, but Content-Range cannot say so.
    return Part(max(0, size - length), size - 1) if size else _WHOLE
