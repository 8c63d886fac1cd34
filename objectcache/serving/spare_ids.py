"""Ids for objects that are small enough to be written before there is room for them; read `SpareIds`."""

from collections import deque
from typing import Final

from objectcache.link import Granted, TakeIds
from objectcache.serving.keeper_link import Answer, KeeperLink

# With so few left, more are asked for.
_FEW: Final = 32
# Objects are let go in the order of their ids, so that an old id would make an object look old.
_LASTS_SECONDS: Final = 10.0


class SpareIds:
    """What the keeper has granted; asks for more by itself, from the first use on."""

    def __init__(self, keeper: KeeperLink) -> None:
        self._keeper: Final = keeper
        # With when each was asked for.
        self._ids: Final[deque[tuple[int, float]]] = deque()
        self._asked_at = 0.0
        self._is_asking = False

    def take(self, now: float) -> int:
        """One that was never used; 0 if there is none now."""
        unused = []
        while self._ids and self._ids[0][1] < now - _LASTS_SECONDS:
            unused.append(self._ids.popleft()[0])
        if unused or (len(self._ids) <= _FEW and not self._is_asking):
            self._is_asking, self._asked_at = True, now
            self._keeper.tell(TakeIds(self._keeper.ticket(self._granted), tuple(unused)))
        return self._ids.popleft()[0] if self._ids else 0

    def _granted(self, answer: Answer) -> None:
        # Where none are granted, the disk takes nothing: the next PUT asks again.
        self._is_asking = False
        if isinstance(answer, Granted):
            self._ids.extend((each, self._asked_at) for each in answer.ids)
