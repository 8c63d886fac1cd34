"""Ids that workers may use without asking; read `Granted`."""

from collections.abc import Iterable
from typing import Final

# At once; more than a worker has small objects under way most of the time.
IDS_AT_ONCE: Final = 64


class Granted:
    """Whose each id is, until an object is kept under it or it is given up."""

    __slots__ = ("_taken", "_workers")

    def __init__(self) -> None:
        self._workers: dict[int, int] = {}
        self._taken: list[tuple[int, int]] = []

    def give(self, worker: int, ids: Iterable[int]) -> None:
        """Let a worker have ids that are nobody's."""
        self._workers.update(dict.fromkeys(ids, worker))

    def take(self, worker: int, object_id: int) -> bool:
        """Whether an id was the worker's; nobody's from now on."""
        if self._workers.get(object_id) != worker:
            return False
        del self._workers[object_id]
        self._taken.append((object_id, worker))
        return True

    def of(self, worker: int) -> list[int]:
        """Sorted."""
        return sorted(each for each, found in self._workers.items() if found == worker)

    def begin(self) -> None:
        """From here on, `take_back` undoes what is taken."""
        self._taken.clear()

    def take_back(self) -> None:
        self._workers.update(self._taken)
        self._taken.clear()
