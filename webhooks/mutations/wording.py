"""What users may have meant."""

from collections.abc import Iterable

from tasuki.process import sentences

# Comparing takes quadratic time, so that longer words are compared by their beginning only.
_LONGEST_COMPARED = 64


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like it; empty if none is."""
    return sentences.nearest(word[:_LONGEST_COMPARED], sorted(known), alike=0.5)
