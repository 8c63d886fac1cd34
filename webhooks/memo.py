"""Decisions that were made already: a thousand pods of one template are decided once."""

from collections.abc import Callable
from typing import Final

from webhooks.review import Outcome

# A burst is of a few templates; what is larger than this is rare, and not worth the room.
_MOST_OUTCOMES: Final = 256
_MOST_BYTES: Final = 32 * 2**10

Key = tuple[str, str, bytes]


class Memo:
    """Remembers outcomes while nothing changes that they depend on.

    A decision depends on the bytes of the pod, on its namespace, and on the policy and the cluster that are known.
    Pods that a controller makes from one template within one second are alike to the byte unless it numbers them: their
    names are generated only after admission, and the times in their managedFields have no fractions.
    """

    def __init__(self) -> None:
        self._generation = -1
        self._outcomes: dict[Key, Outcome] = {}

    def outcome(self, generation: int, key: Key, decide: Callable[[], Outcome]) -> Outcome:
        """What `decide` answers, or answered before.

        Args:
            generation: Of the policy and the cluster; another number, and everything is forgotten.
            key: Webhook, namespace, and the pod as it was sent.
            decide: What is to be remembered.
        """
        if generation != self._generation:
            self._generation = generation
            self._outcomes.clear()
        known = self._outcomes.get(key)
        if known is not None:
            return known
        decided = decide()
        if len(key[2]) <= _MOST_BYTES:
            if len(self._outcomes) >= _MOST_OUTCOMES:
                del self._outcomes[next(iter(self._outcomes))]
            self._outcomes[key] = decided
        return decided
