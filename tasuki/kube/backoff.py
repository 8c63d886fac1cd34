"""How long to wait before the next attempt."""

from collections.abc import Callable
from typing import Final


class Backoff:
    """Doubling pauses, each shortened by up to a half at random so that a thousand nodes do not return as one."""

    def __init__(self, first_seconds: float, most_seconds: float, uniform: Callable[[float, float], float]) -> None:
        self._first: Final = first_seconds
        self._most: Final = most_seconds
        self._uniform: Final = uniform
        self._next = first_seconds

    def next_seconds(self) -> float:
        pause = self._next
        self._next = min(self._most, pause * 2)
        return self._uniform(pause / 2, pause)

    def reset(self) -> None:
        self._next = self._first
