"""A body that comes in chunks (RFC 9112, section 7.1)."""

import re
from collections.abc import Callable
from typing import Final

from objectcache.wire.head import HttpError, shown

MOST_LINE_BYTES: Final = 4096
MOST_TRAILER_BYTES: Final = 8192

# 2^60 bytes are beyond every object, and longer numbers beyond some readers' integers.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")
_END_OF_LINE: Final = b"\r\n"
# Most lines that hold a size are shorter; of what follows them, little is copied in vain.
_LOOK_BYTES: Final = 32


class ChunkedBody:
    """Takes the bytes of a connection behind a head, and gives those of the body.

    Attributes:
        finished: Whether the body is whole.
        leftover: What came behind it: the next request's.
    """

    __slots__ = ("_line", "_of_chunk", "_take_line", "_trailer_bytes", "finished", "leftover")

    def __init__(self) -> None:
        self.finished = False
        self.leftover = b""
        self._of_chunk = 0
        self._line = bytearray()
        self._trailer_bytes = 0
        # Not bound: a body that refers to itself would wait for the garbage collector.
        self._take_line: Callable[[ChunkedBody, bytes], None] = ChunkedBody._take_size

    def feed(self, received: bytes | memoryview) -> list[memoryview]:
        """The body's bytes among those received, without copies: use them before the memory is used again.

        Raises:
            HttpError: 400, for what is not in chunks, or exceeds MOST_LINE_BYTES or MOST_TRAILER_BYTES.
            ValueError: The body is finished already.
        """
        if self.finished:
            raise ValueError("the body is finished; what comes now is the next request's")
        view = memoryview(received)
        pieces: list[memoryview] = []
        at = 0
        while at < len(view):
            if self._of_chunk:
                piece = view[at : at + self._of_chunk]
                pieces.append(piece)
                at += len(piece)
                self._of_chunk -= len(piece)
                continue
            at, finished = self._feed_line(view, at)
            if finished:
                self.leftover = bytes(view[at:])
                break
        return pieces

    def _feed_line(self, view: memoryview, at: int) -> tuple[int, bool]:
        """Where the line ends, or what could be looked at; and whether the body is finished."""
        looked = bytes(view[at : at + _LOOK_BYTES])
        end = looked.find(b"\n") + 1
        self._line += looked[:end] if end else looked
        if len(self._line) > MOST_LINE_BYTES:
            raise HttpError(400, f"a line between chunks is longer than {MOST_LINE_BYTES} bytes; shorten it")
        if end:
            line = bytes(self._line)
            self._line.clear()
            self._take_line(self, line)
        return at + (end or len(looked)), self.finished

    def _take_size(self, line: bytes) -> None:
        matched = _SIZE_LINE.fullmatch(line)
        if matched is None:
            raise HttpError(400, f"a chunk begins with {shown(line)}; begin it with its size in up to 15 hex digits")
        self._of_chunk = int(matched[1], 16)
        self._take_line = ChunkedBody._take_end_of_chunk if self._of_chunk else ChunkedBody._take_trailer

    def _take_end_of_chunk(self, line: bytes) -> None:
        if line != _END_OF_LINE:
            raise HttpError(400, "a chunk is not followed by CR LF; give it the size that it has, and CR LF behind it")
        self._take_line = ChunkedBody._take_size

    def _take_trailer(self, line: bytes) -> None:
        if line == _END_OF_LINE:
            self.finished = True
            return
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MOST_TRAILER_BYTES:
            raise HttpError(400, f"the trailer is longer than {MOST_TRAILER_BYTES} bytes; leave it out")
        if not _TRAILER_LINE.fullmatch(line):
            raise HttpError(400, "a line of the trailer is no header; write `Name: value`, or leave it out")
