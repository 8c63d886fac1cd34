"""Which of a bucket's objects go first; read `Order` first."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

# One entry a second that the hand moved; a round may last days.
_MOST_PASSES: Final = 512
# Of what a bucket holds, how many times as much may go before the hand begins again: less is nearer to LRU, more keeps
# what is no longer read.
_PATIENCE: Final = 4
# Of a batch, how much the least recently read may be before others are looked at.
_SAMPLED_PART: Final = 4
# Of what a bucket holds, how much is on probation, as in the paper.
_PROBATION_PART: Final = 0.1
# Remembered of what went, in each bucket: some 15 MB of memory.
_MOST_GHOSTS: Final = 2**16


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may go.

    Attributes:
        created: When it was put, in seconds of any epoch.
        accessed: When it was last read, in seconds of the same epoch; not above `created` if it never was.
        mark: A number that another object of the same name has too, and hardly one of another name.
    """

    object_id: int
    size_bytes: int
    created: int
    accessed: int
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next on the walk over a bucket.

    Attributes:
        candidates: Behind the order's `after_id`, by ascending id.
        ends: Whether nothing lies behind them.
        held_bytes: Of all the bucket's objects.
    """

    candidates: Sequence[Candidate]
    ends: bool
    held_bytes: int

    def is_passed(self, after_id: int) -> bool:
        """Whether nothing that was put so far lies behind this object."""
        return self.ends and (not self.candidates or after_id == self.candidates[-1].object_id)


class Order(Protocol):
    """Walks over one bucket's objects as they were put, a batch at a time, and says which go.

    Attributes:
        after_id: The next batch begins behind this object. Whoever finds only objects there that cannot go may set it
            to the last of them, or to 0 if nothing lies behind.
    """

    after_id: int

    def came(self, object_id: int, size_bytes: int, mark: int) -> None:
        """An object was put; `mark` as in Candidate."""
        ...

    def choose(self, batch: Batch, need_bytes: int, now: int) -> list[Candidate]:
        """Those of the batch that go, until enough bytes do; `after_id` moves on.

        Past the newest object it begins again with the oldest at once: whoever waited for an empty batch would meet
        what was put meanwhile, let only that go, and never come back to the rest.

        Args:
            batch: Behind `after_id`.
            need_bytes: More than 0.
            now: Seconds; no candidate was read later.
        """
        ...


class Sieve:
    """What was not read since the hand last passed it goes; what was read stays where it is.

    SIEVE (Zhang et al., NSDI '24) has a bit for each object, set by a read and cleared by the hand. Here workers write
    when an object was read, and the hand remembers when it passed which id.

    As published, the hand may follow the newest object for ever, at the pace at which objects come: what it once kept
    is then never looked at again. A bucket whose readers turn to a new dataset, each object once an epoch, would keep
    the old one and hit nothing. So after a few times of what the bucket holds has gone, the hand begins again with the
    oldest (`python -m bench.eviction`).
    """

    __slots__ = ("_gone_bytes", "_passed", "_passing", "after_id")

    def __init__(self) -> None:
        self.after_id = 0
        # Up to which id, and when: of the round before, and of this one; both ascend.
        self._passed: list[tuple[int, int]] = []
        self._passing: list[tuple[int, int]] = []
        self._gone_bytes = 0

    def came(self, object_id: int, size_bytes: int, mark: int) -> None:
        """Nothing: what it goes by is in the batches."""

    def choose(self, batch: Batch, need_bytes: int, now: int) -> list[Candidate]:
        chosen = []
        for candidate in batch.candidates:
            self.after_id = candidate.object_id
            if candidate.accessed <= max(candidate.created, self._passed_at(candidate.object_id)):
                chosen.append(candidate)
                self._gone_bytes += candidate.size_bytes
                need_bytes -= candidate.size_bytes
                if need_bytes <= 0:
                    break
        self._pass(now)
        if batch.is_passed(self.after_id) or self._gone_bytes >= _PATIENCE * batch.held_bytes:
            self._passed, self._passing = self._passing, []
            self.after_id = 0
            self._gone_bytes = 0
        return chosen

    def _passed_at(self, object_id: int) -> int:
        """0 for an object put since: being read once keeps it."""
        place = bisect_left(self._passed, (object_id, -1))
        return self._passed[place][1] if place < len(self._passed) else 0

    def _pass(self, now: int) -> None:
        if self._passing and self._passing[-1][1] == now:
            self._passing.pop()
        self._passing.append((self.after_id, now))
        if len(self._passing) > _MOST_PASSES:
            # Of two, the earlier time counts: rather keep what was read just before the hand passed it.
            pairs = zip(self._passing[::2], self._passing[1::2], strict=False)
            last = self._passing[-1:] if len(self._passing) % 2 else []
            self._passing = [(upto, seconds) for (_, seconds), (upto, _) in pairs] + last


class S3Fifo:
    """What is new goes first, unless it was read or had been here before; what stays is ordered by Sieve.

    S3-FIFO (Yang et al., SOSP '23) has a small queue that everything enters, a main one for what was read in the small
    one, and a ghost: the names of what left the small one unread. What comes back while its ghost is there is spared
    the small queue. So a scan, or an epoch, passes through a tenth of the bucket and leaves the rest in peace.

    Here both queues are one, the catalogue's: what lies behind the border is on probation, and what the border has
    passed is not. Of what was read the last time is known, not how often: once is enough. Ghosts and border are lost
    when the process ends; all that is there then has passed.
    """

    __slots__ = ("_border", "_ghost_bytes", "_ghosts", "_held_bytes", "_main", "_probation_bytes", "_welcome")

    def __init__(self) -> None:
        self._main = Sieve()
        # None before anything was put.
        self._border: int | None = None
        # Removed ones count until the border has come to the newest.
        self._probation_bytes = 0
        self._held_bytes = 0
        # Bytes by mark, the oldest first.
        self._ghosts: OrderedDict[int, int] = OrderedDict()
        self._ghost_bytes = 0
        # On probation, but to be spared.
        self._welcome: dict[int, None] = {}

    @property
    def after_id(self) -> int:
        return self._main.after_id if self._border is None or not self._is_probations_turn else self._border

    @after_id.setter
    def after_id(self, object_id: int) -> None:
        if self._border is None or not self._is_probations_turn:
            self._main.after_id = object_id
        elif object_id:
            self._border = object_id
        else:
            self._end_probation()

    def came(self, object_id: int, size_bytes: int, mark: int) -> None:
        if self._border is None:
            self._border = object_id - 1
        # A slow upload's id may lie before the border.
        if object_id > self._border:
            self._probation_bytes += size_bytes
            ghost_bytes = self._ghosts.pop(mark, None)
            if ghost_bytes is not None:
                self._ghost_bytes -= ghost_bytes
                self._welcome[object_id] = None

    def choose(self, batch: Batch, need_bytes: int, now: int) -> list[Candidate]:
        was_probations = self._is_probations_turn
        self._held_bytes = batch.held_bytes
        if was_probations and self._is_probations_turn:
            return self._choose_on_probation(batch, need_bytes)
        # Otherwise the batch is of what is not looked at now: so much more is held than the last time.
        return [] if was_probations else self._choose_behind(batch, need_bytes, now)

    @property
    def _is_probations_turn(self) -> bool:
        return self._border is not None and self._probation_bytes > _PROBATION_PART * self._held_bytes

    def _choose_on_probation(self, batch: Batch, need_bytes: int) -> list[Candidate]:
        chosen = []
        border = self._border or 0
        for candidate in batch.candidates:
            border = candidate.object_id
            self._probation_bytes -= candidate.size_bytes
            if candidate.accessed <= candidate.created and border not in self._welcome:
                chosen.append(candidate)
                self._haunt(candidate)
                need_bytes -= candidate.size_bytes
            if need_bytes <= 0 or not self._is_probations_turn:
                break
        self._border = border
        while self._welcome and (first := next(iter(self._welcome))) <= border:
            del self._welcome[first]
        if batch.is_passed(border):
            self._end_probation()
        return chosen

    def _choose_behind(self, batch: Batch, need_bytes: int, now: int) -> list[Candidate]:
        """Of what has passed."""
        passed = batch.candidates
        if self._border is not None:
            passed = passed[: bisect_left(passed, self._border + 1, key=lambda each: each.object_id)]
        if not passed and not self._main.after_id:
            # All are on probation and yet of hardly any bytes, as objects of none are: let them pass.
            self._border = batch.candidates[-1].object_id if batch.candidates else self._border
            return []
        ends = batch.ends or len(passed) < len(batch.candidates)
        held_bytes = batch.held_bytes - min(self._probation_bytes, batch.held_bytes)
        return self._main.choose(Batch(passed, ends, held_bytes), need_bytes, now)

    def _haunt(self, gone: Candidate) -> None:
        self._ghost_bytes += gone.size_bytes - self._ghosts.pop(gone.mark, 0)
        self._ghosts[gone.mark] = gone.size_bytes
        while self._ghosts and (self._ghost_bytes > self._held_bytes or len(self._ghosts) > _MOST_GHOSTS):
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]

    def _end_probation(self) -> None:
        """The border is at the newest."""
        self._probation_bytes = 0
        self._welcome.clear()


class Fifo:
    """What was put first goes first."""

    __slots__ = ("after_id",)

    def __init__(self) -> None:
        self.after_id = 0

    def came(self, object_id: int, size_bytes: int, mark: int) -> None:
        """Nothing: what it goes by is in the batches."""

    def choose(self, batch: Batch, need_bytes: int, now: int) -> list[Candidate]:  # noqa: ARG002 - the protocol's
        chosen = _until(batch.candidates, need_bytes)
        self.after_id = chosen[-1].object_id if chosen else self.after_id
        if batch.is_passed(self.after_id):
            self.after_id = 0
        return chosen


class SampledLru:
    """Of each batch, the quarter least recently read goes: LRU without a list that every read would have to change."""

    __slots__ = ("after_id",)

    def __init__(self) -> None:
        self.after_id = 0

    def came(self, object_id: int, size_bytes: int, mark: int) -> None:
        """Nothing: what it goes by is in the batches."""

    def choose(self, batch: Batch, need_bytes: int, now: int) -> list[Candidate]:  # noqa: ARG002 - the protocol's
        oldest = sorted(batch.candidates, key=lambda each: (max(each.created, each.accessed), each.object_id))
        self.after_id = 0 if batch.ends else batch.candidates[-1].object_id
        return _until(oldest[: max(1, len(oldest) // _SAMPLED_PART)], need_bytes)


def _until(candidates: Sequence[Candidate], need_bytes: int) -> list[Candidate]:
    chosen: list[Candidate] = []
    for candidate in candidates:
        if need_bytes <= 0:
            break
        chosen.append(candidate)
        need_bytes -= candidate.size_bytes
    return chosen
