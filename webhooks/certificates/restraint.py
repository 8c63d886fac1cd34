"""How often one replica may overrule what another has put into the Secret."""

from typing import Final


class RestrainedError(Exception):
    """What is stored is left alone for now."""


class Restraint:
    """Replicas that disagree, over the time or their names, would otherwise overrule each other at every look.

    Args:
        first_seconds: Between the first time and the second; each time after that it is twice as long.
        most_seconds: The longest that ever lies between two.
        peace_seconds: After so long it begins anew.
    """

    def __init__(self, first_seconds: float, most_seconds: float, peace_seconds: float) -> None:
        self._first: Final = first_seconds
        self._most: Final = most_seconds
        self._peace: Final = peace_seconds
        self._pause = first_seconds
        self._last: float | None = None

    def allows(self, now: float) -> bool:
        return self._last is None or now - self._last >= self._pause

    def overruled(self, now: float) -> None:
        soon = self._last is not None and now - self._last < self._peace
        self._pause = min(self._most, self._pause * 2) if soon else self._first
        self._last = now
