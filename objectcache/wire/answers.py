"""Heads of answers, and whole answers where the body is short."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final

from objectcache.wire.head import Head

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="tasuki"\r\n'

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
# Without them, these statuses say too little (RFC 9110, sections 15.5.2 and 15.5.6).
_CHALLENGED: Final = 401
_METHOD_NOT_ALLOWED: Final = 405


@dataclass(frozen=True, slots=True)
class Endings:
    """Last lines of all heads that are sent within one second, by what becomes of the connection.

    Attributes:
        stays10: For clients of HTTP/1.0, who expect its end unless told otherwise.
    """

    stays: bytes
    stays10: bytes
    closes: bytes

    def of(self, head: Head, *, closing: bool) -> bytes:
        """The one for the answer to this request; `closing` ends the connection although the client would keep it."""
        if closing or not head.keep_alive:
            return self.closes
        return self.stays10 if head.version10 else self.stays


def endings(epoch_seconds: int) -> Endings:
    """With the date (RFC 9110, section 6.6.1, asks every server with a clock for it); make them once a second."""
    date = f"Date: {format_datetime(datetime.fromtimestamp(epoch_seconds, UTC), usegmt=True)}\r\n".encode()
    return Endings(
        stays=date + b"\r\n",
        stays10=date + b"Connection: keep-alive\r\n\r\n",
        closes=date + b"Connection: close\r\n\r\n",
    )


def ok(size: int, etag: bytes, ending: bytes) -> bytes:
    """200, before an object of `size` bytes."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n"
        b"Content-Length: %d\r\nETag: %b\r\n%b" % (size, etag, ending)
    )


def part(first: int, last: int, size: int, etag: bytes, ending: bytes) -> bytes:
    """206, before bytes `first` to `last`, itself included, of an object of `size` bytes."""
    return (
        b"HTTP/1.1 206 Partial Content\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n"
        b"Content-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\nETag: %b\r\n%b"
        % (last - first + 1, first, last, size, etag, ending)
    )


def not_modified(etag: bytes, ending: bytes) -> bytes:
    """304."""
    return b"HTTP/1.1 304 Not Modified\r\nAccept-Ranges: bytes\r\nETag: %b\r\n%b" % (etag, ending)


def unsatisfiable(size: int, etag: bytes, ending: bytes) -> bytes:
    """416, for a range that begins behind an object of `size` bytes."""
    more = b"Accept-Ranges: bytes\r\nContent-Range: bytes */%d\r\nETag: %b\r\n" % (size, etag)
    return problem(416, f"the object has {size} bytes; ask for some of them", ending, more=more)


def created(etag: bytes, ending: bytes) -> bytes:
    """201, also of an object that replaced another: pfio takes nothing else for success."""
    return b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nETag: %b\r\n%b" % (etag, ending)


def removed(ending: bytes) -> bytes:
    """204."""
    return b"HTTP/1.1 204 No Content\r\n" + ending


def problem(status: int, text: str, ending: bytes, *, more: bytes = b"", to_head: bool = False) -> bytes:
    """An answer that says in a line what is wrong; 401 carries its challenge.

    Args:
        status: One of `http.HTTPStatus`.
        text: What is wrong, and what to do about it.
        ending: One of `Endings`.
        more: Header lines, each with its CR LF: `allow()` with 405, `retry_after()` with 429 and 503.
        to_head: Without the body, for HEAD.

    Raises:
        ValueError: 405 without `allow()`.
    """
    if status == _CHALLENGED:
        more += CHALLENGE
    elif status == _METHOD_NOT_ALLOWED and b"Allow:" not in more:
        raise ValueError("405 says which methods there are; give allow(...)")
    return _short(
        _STATUS_LINES[status], b"text/plain; charset=utf-8", text.encode() + b"\n", more + ending, to_head=to_head
    )


def json(body: bytes, etag: bytes, ending: bytes, *, to_head: bool = False) -> bytes:
    """200 with a JSON document; no ETag if it is empty, and no body for HEAD."""
    more = b"ETag: %b\r\n" % etag if etag else b""
    return _short(_STATUS_LINES[200], b"application/json", body, more + ending, to_head=to_head)


def allow(*methods: str) -> bytes:
    """The line that tells which methods a target has."""
    return f"Allow: {', '.join(methods)}\r\n".encode()


def retry_after(seconds: int) -> bytes:
    """The line that tells when to come back."""
    return b"Retry-After: %d\r\n" % seconds


def _short(status_line: bytes, content_type: bytes, body: bytes, rest: bytes, *, to_head: bool) -> bytes:
    head = b"%bContent-Type: %b\r\nContent-Length: %d\r\n%b" % (status_line, content_type, len(body), rest)
    return head if to_head else head + body
