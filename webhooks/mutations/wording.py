"""What users may have meant."""

from collections.abc import Iterable

from tasuki.process import sentences


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like it; empty if none is."""
    return sentences.nearest(word, sorted(known), alike=0.5)
