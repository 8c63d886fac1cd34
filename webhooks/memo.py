"""Decisions that were made already: a thousand pods of one template are decided once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from webhooks.review import Outcome

# A burst is of a few templates. What users may make as large as they like takes no more room than this.
_MOST_BYTES: Final = 8 * 2**20
_MOST_BYTES_EACH: Final = 64 * 2**10

Key = tuple[str, str, bytes]


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a pod.

    Attributes:
        outcome: Without its operations.
        patch: Those, as they are sent; empty if there are none.
    """

    outcome: Outcome
    patch: bytes


class Memo:
    """Remembers decisions while nothing changes that they depend on.

    A decision depends on the bytes of the pod, on its namespace, and on the policy and the cluster that are known.
    Pods that a controller makes from one template within one second are alike to the byte unless it numbers them: their
    names are generated only after admission, and the times in their managedFields have no fractions.
    """

    def __init__(self) -> None:
        self._generation = -1
        self._decided: dict[Key, Decided] = {}
        self._bytes = 0

    def decided(self, generation: int, key: Key, decide: Callable[[], Decided]) -> Decided:
        """What `decide` answers, or answered before.

        Args:
            generation: Of the policy and the cluster; another number, and everything is forgotten.
            key: Webhook, namespace, and the pod as it was sent.
            decide: What is to be remembered.
        """
        if generation != self._generation:
            self._generation = generation
            self._decided.clear()
            self._bytes = 0
        known = self._decided.get(key)
        if known is not None:
            return known
        made = decide()
        size = _size(key, made)
        if size <= _MOST_BYTES_EACH:
            self._decided[key] = made
            self._bytes += size
            while self._bytes > _MOST_BYTES:
                oldest = next(iter(self._decided))
                self._bytes -= _size(oldest, self._decided.pop(oldest))
        return made


def _size(key: Key, decided: Decided) -> int:
    outcome = decided.outcome
    told = sum(map(len, outcome.warnings)) + sum(map(len, outcome.notes.values())) + len(outcome.refusal)
    # The last is for the objects themselves.
    return len(key[2]) + len(decided.patch) + told + 2048
