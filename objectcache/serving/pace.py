"""How many bytes may be sent now where there is a bound of so many a second; no I/O."""

from typing import Final

# So much of a second's bytes may be sent at once.
_BURST_PART: Final = 10
_LONGEST_WAIT_SECONDS: Final = 1.0
_AT_LEAST_SECONDS: Final = 0.001


class Pace:
    """What was sent too much is waited for: over any time, it is the rate and one burst at most.

    Attributes:
        burst_bytes: May be sent at once, after a pause of any length.
        wait_seconds: As of the last look, until something may be sent.
    """

    def __init__(self, bytes_per_second: int, now: float) -> None:
        self.burst_bytes: Final = max(1, bytes_per_second // _BURST_PART)
        self._rate: Final = bytes_per_second
        self._left = float(self.burst_bytes)
        self._then = now

    @property
    def wait_seconds(self) -> float:
        if self._left >= 1:
            return 0.0
        return min(_LONGEST_WAIT_SECONDS, (1 - self._left) / self._rate + _AT_LEAST_SECONDS)

    def most(self, now: float) -> int:
        """At a monotonic time, so many bytes; below 1 none."""
        self._left = min(self.burst_bytes, self._left + (now - self._then) * self._rate)
        self._then = now
        return int(self._left)

    def take(self, sent: int) -> None:
        """So many were sent."""
        self._left -= sent
