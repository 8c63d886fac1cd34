"""What a process still waits for before it can do its work."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from prometheus_client import Gauge


def watched(connected: Gauge, readiness: "Readiness") -> Callable[[str, str], None]:
    """Tells of watches that nobody has to wait for: by a gauge with the watch's name for its label, and a note."""

    def report(name: str, problem: str) -> None:
        connected.labels(name).set(0 if problem else 1)
        readiness.note(f"watch of {name}", problem)

    return report


class Readiness:
    """Named conditions, each met or with the reason why not; ready when all are met.

    Written by the process's one event loop, read by the HTTP thread: each change swaps the whole mapping.
    """

    def __init__(self, *names: str) -> None:
        self._reasons: Mapping[str, str] = MappingProxyType(dict.fromkeys(names, "not yet known"))
        self._notes: Mapping[str, str] = MappingProxyType({})

    def met(self, name: str) -> None:
        self._put(name, "")

    def unmet(self, name: str, reason: str) -> None:
        """Say why it is not met; an empty reason meets it."""
        self._put(name, reason)

    def note(self, name: str, text: str) -> None:
        """Tell of something that does not keep the process from its work; an empty text takes it back."""
        self._notes = MappingProxyType({n: t for n, t in {**self._notes, name: text}.items() if t})

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
        lines += [f"[!]{name} {text}" for name, text in self._notes.items()]
        return "\n".join([*lines, "ready" if self.ready else "not ready", ""])
