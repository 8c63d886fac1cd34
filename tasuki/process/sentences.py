"""Parts of sentences that several services say to people."""

import difflib
from collections.abc import Iterable
from typing import Final

_LONGEST_SHOWN: Final = 60


def shown(value: object) -> str:
    """A value in an error, not longer than one can read."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


def alternatives(values: Iterable[object]) -> str:
    """`a, b or c`."""
    *others, last = (str(value) for value in values)
    return f"{', '.join(others)} or {last}" if others else last


def nearest(word: str, known: Iterable[str], *, alike: float = 0.0) -> str:
    """The known word that is most like `word`; empty if none is at least so much alike (difflib's ratio)."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=alike)
    return near[0] if near else ""
