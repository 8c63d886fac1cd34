"""What a process still waits for before it can do its work."""

from collections.abc import Mapping
from types import MappingProxyType


class Readiness:
    """Named conditions, each met or with the reason why not; ready when all are met.

    Written by the process's one event loop, read by the HTTP thread: each change swaps the whole mapping.
    """

    def __init__(self, *names: str) -> None:
        self._reasons: Mapping[str, str] = MappingProxyType(dict.fromkeys(names, "not yet known"))

    def met(self, name: str) -> None:
        self._put(name, "")

    def unmet(self, name: str, reason: str) -> None:
        self._put(name, reason)

    def forget(self, name: str) -> None:
        """Drop a condition that no longer applies."""
        self._reasons = MappingProxyType({n: r for n, r in self._reasons.items() if n != name})

    def _put(self, name: str, reason: str) -> None:
        self._reasons = MappingProxyType({**self._reasons, name: reason})

    @property
    def ready(self) -> bool:
        return not any(self._reasons.values())

    @property
    def reasons(self) -> Mapping[str, str]:
        """By condition, in the order in which they were first named; empty for those that are met."""
        return self._reasons

    def report(self) -> str:
        """The body of /readyz, one line a condition, as the API server's own /readyz writes it."""
        lines = [f"[-]{name} {reason}" if reason else f"[+]{name} ok" for name, reason in self._reasons.items()]
        return "\n".join([*lines, "ready" if self.ready else "not ready", ""])
