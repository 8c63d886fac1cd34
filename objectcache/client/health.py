"""Whether the cache, as it has lately been, is worth a question; no I/O."""

from dataclasses import dataclass, replace
from typing import Final

from objectcache.client.errors import CacheError, RefusedError, TokenError

# Each attempt at a node that is gone takes a timeout.
_FAILURES_IN_A_ROW: Final = 3
_PAUSE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_TOO_LARGE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """How the cache has lately been; times are of one monotonic clock.

    Attributes:
        failures: Without an answer, in a row.
        ask_after: Nothing is asked before. Each pause is twice as long as the one before, until there is an answer.
        keep_after: Nothing is put before.
        too_large_bytes: Objects of so many bytes or more are not put before `smaller_until`.
    """

    failures: int = 0
    ask_after: float = 0.0
    keep_after: float = 0.0
    too_large_bytes: int = 0
    smaller_until: float = 0.0

    def may_ask(self, now: float) -> bool:
        return now >= self.ask_after

    def may_keep(self, size_bytes: int, now: float) -> bool:
        """Whether it makes sense to read a whole object for the cache's sake."""
        fits = size_bytes < self.too_large_bytes or now >= self.smaller_until
        return self.may_ask(now) and now >= self.keep_after and fits

    def answered(self) -> "Health":
        return self if not self.failures else replace(self, failures=0)

    def failed(self, error: CacheError, now: float) -> "Health":
        """After a question or a write that was not answered as it should."""
        if isinstance(error, RefusedError):
            return replace(self, failures=0, ask_after=max(self.ask_after, now + error.retry_seconds))
        if now < self.ask_after:
            # Asked before the pause began, as by many threads at once.
            return self
        failures = max(self.failures + 1, _FAILURES_IN_A_ROW if isinstance(error, TokenError) else 0)
        if failures < _FAILURES_IN_A_ROW:
            return replace(self, failures=failures)
        pause = min(_PAUSE_SECONDS * 2.0 ** min(failures - _FAILURES_IN_A_ROW, 10), _LONGEST_PAUSE_SECONDS)
        return replace(self, failures=failures, ask_after=now + pause)

    def not_kept(self, error: CacheError, size_bytes: int, now: float) -> "Health":
        """After a PUT that failed, so that the next reader does not send its body for nothing."""
        after = self.failed(error, now)
        if not isinstance(error, RefusedError):
            return replace(after, keep_after=now + _PAUSE_SECONDS)
        if error.status == 413:
            return replace(after, too_large_bytes=size_bytes, smaller_until=now + _TOO_LARGE_SECONDS)
        return replace(after, keep_after=now + max(error.retry_seconds, _PAUSE_SECONDS))
