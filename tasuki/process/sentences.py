"""Parts of sentences that several services say to people."""

import difflib
from collections.abc import Iterable
from typing import Final

_LONGEST_SHOWN: Final = 60

# Comparing takes quadratic time, so that longer words are compared by their beginning only.
_LONGEST_COMPARED: Final = 64


def shown(value: object) -> str:
    """A value in an error, not longer than one can read."""
    return shortened(repr(value), _LONGEST_SHOWN)


def shortened(text: str, longest: int) -> str:
    """At most so many characters of it."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def alternatives(values: Iterable[object]) -> str:
    """`a, b or c`."""
    *others, last = (str(value) for value in values)
    return f"{', '.join(others)} or {last}" if others else last


def nearest(word: str, known: Iterable[str], *, alike: float = 0.0) -> str:
    """The known word that is most like `word`; empty if none is at least so much alike (difflib's ratio)."""
    near = difflib.get_close_matches(word[:_LONGEST_COMPARED], list(known), n=1, cutoff=alike)
    return near[0] if near else ""
