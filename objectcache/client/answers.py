"""What the cache's answers mean; no I/O."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from objectcache.client.errors import CacheError, RefusedError

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_LONGEST_REASON: Final = 200
_LONGEST_PAUSE_SECONDS: Final = 300.0

_REMEDIES: Final = {
    401: "the token is not valid for the cache; mount one of its audience",
    403: "the namespace may not use this bucket; let its owner allow it",
    413: "the object is larger than the bucket may hold on a node",
    507: "there is no room for it",
}


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What the cache says of an object without sending it.

    Attributes:
        etag: With its quotes; empty if there is none.
    """

    size_bytes: int
    etag: str


class ListedObject(msgspec.Struct, frozen=True):
    """One object of a page.

    Attributes:
        text: Its name, if that is UTF-8; `raw` otherwise.
        created: When it was put, in seconds since 1970.
    """

    text: str = msgspec.field(name="name", default="")
    raw: bytes = msgspec.field(name="nameBase64", default=b"")
    size_bytes: int = msgspec.field(name="bytes", default=0)
    etag: str = ""
    created: float = 0.0

    @property
    def sent_name(self) -> bytes:
        """As it stood in the request that put it, escapes and all."""
        return self.raw or self.text.encode()

    @property
    def name(self) -> bytes:
        """What a client is given to ask for it, of an object that a client of this package put."""
        return unquote_to_bytes(self.sent_name)


class Page(msgspec.Struct, frozen=True):
    """One answer to `list`; `more` if others follow."""

    objects: Sequence[ListedObject]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an object, as Python's slices say it, without a step.

    Attributes:
        start: Negative for so many bytes from the end, which then has no `end`.
        end: None for the object's end.
    """

    start: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        if self.end is not None and (self.start < 0 or self.end < self.start):
            raise ValueError(f"bytes {self.start} to {self.end} are no range; count both from the object's beginning")

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end is None

    @property
    def is_empty(self) -> bool:
        return self.end is not None and self.end == self.start

    @property
    def header(self) -> str:
        """The value of `Range`."""
        if self.start < 0:
            return f"bytes={self.start}"
        return f"bytes={self.start}-{'' if self.end is None else self.end - 1}"


def content(status: int, headers: Mapping[str, str], body: bytes, span: Span) -> bytes | None:
    """What a GET brought; None if there is no such object, empty bytes if it ends before the span begins.

    Raises:
        RefusedError: It is another answer.
        CacheError: It is another part than the one asked for.
    """
    if status == 404:
        return None
    if status == 416 and not span.is_whole:
        return b""
    if status == 200:
        return body if span.is_whole else body[span.start : span.end]
    if status != 206 or span.is_whole:
        raise refused("GET", status, headers, body)
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if found is None:
        raise CacheError(f"the cache sent a part with the Content-Range {headers.get('content-range', '')[:80]!r}")
    first, last, total = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
    if len(body) != last - first + 1 or not _is_asked(span, first, last, total):
        raise CacheError(f"the cache sent {found[0]} in {len(body)} bytes where {span.header} was asked for")
    return body


def _is_asked(span: Span, first: int, last: int, total: int | None) -> bool:
    if span.start < 0:
        return total is not None and first == max(0, total + span.start) and last == total - 1
    ends = [each for each in (span.end, total) if each is not None]
    return first == span.start and bool(ends) and last + 1 == min(ends)


def stat(status: int, headers: Mapping[str, str]) -> ObjectStat | None:
    """What a HEAD says; None if there is no such object.

    Raises:
        RefusedError: It is another answer.
    """
    if status == 404:
        return None
    length = headers.get("content-length", "")
    if status != 200 or not length.isdecimal():
        raise refused("HEAD", status, headers, b"")
    return ObjectStat(int(length), headers.get("etag", ""))


def page(status: int, headers: Mapping[str, str], body: bytes) -> Page:
    """What a listing brought.

    Raises:
        RefusedError: It is another answer.
        CacheError: It is no list.
    """
    if status != 200:
        raise refused("GET", status, headers, body)
    try:
        return msgspec.json.decode(body, type=Page)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CacheError(f"the cache's list cannot be read: {error}") from error


def refused(method: str, status: int, headers: Mapping[str, str], body: bytes) -> RefusedError:
    """An error that says what the cache says."""
    text = body[: 4 * _LONGEST_REASON].decode(errors="replace").strip()
    reason = "".join(each for each in text if each.isprintable())[:_LONGEST_REASON]
    told = "; ".join(each for each in (reason, _REMEDIES.get(status, "")) if each)
    return RefusedError(
        f"the cache answers {status} to {method}{': ' if told else ''}{told}", status, _retry_seconds(headers)
    )


def _retry_seconds(headers: Mapping[str, str]) -> float:
    """Of a date it makes nothing: clocks differ."""
    text = headers.get("retry-after", "")
    return min(float(text), _LONGEST_PAUSE_SECONDS) if text.isdecimal() and len(text) < 10 else 0.0
