"""Which part of a blob is asked for (RFC 9110, section 14)."""

import re
from dataclasses import dataclass
from typing import Final

_FORM: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.ASCII)
_CONTENT_FORM: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Range:
    """One range.

    Attributes:
        first: None for the last `last` bytes.
        last: Inclusive; None for all that follow.
    """

    first: int | None
    last: int | None

    def __str__(self) -> str:
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"


def read_range(text: str) -> Range | None:
    """None for no range, several, or one that cannot be read: RFC 9110 then wants the whole."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        return None
    if match[3] is not None:
        return Range(None, int(match[3]))
    first, last = int(match[1]), int(match[2]) if match[2] else None
    return None if last is not None and last < first else Range(first, last)


def within(asked: Range, size: int) -> tuple[int, int] | None:
    """First and last byte, inclusive; None if nothing of it is there."""
    if asked.first is None:
        assert asked.last is not None
        return (max(0, size - asked.last), size - 1) if asked.last and size else None
    if asked.first >= size:
        return None
    return asked.first, size - 1 if asked.last is None else min(asked.last, size - 1)


def read_content_range(text: str) -> tuple[int, int, int] | None:
    """First and last byte, inclusive, and the size of the whole; None if it cannot be read.

    Where nothing is there (`*`), the last byte is less than the first.
    """
    match = _CONTENT_FORM.fullmatch(text)
    if match is None:
        return None
    size = int(match[3])
    if match[1] is None:
        return 0, -1, size
    first, last = int(match[1]), int(match[2])
    return (first, last, size) if first <= last < size else None
