"""The set of devices whose members reach each other soonest, found exactly where the machine allows.

A set costs the sum of its pairs' distances. Between sets of equal cost the one wins that leaves the best
connected devices to others; then the one that comes first in the driver's order.

Real machines are regular: GPUs under one PCIe switch are interchangeable. So the search chooses *how many* of each
class of interchangeable devices to take, not which, and bounds every branch from below. Eight devices are always
searched to the end. Where sixteen unlike ones would take too long, the search stops after a fixed number of
steps (steps, not time: the same question gets the same answer) with the best set so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

# An upper bound on the work for one question. Eight devices have at most 2^8 branches; sixteen in a real machine
# form a few classes and stay far below it.
MAX_STEPS: Final = 6_000

# Whole numbers compare exactly and add in any order to the same sum.
TICKS_PER_SECOND: Final = 1e12

# The tie-breaker's share: the sum of the second distances of any set stays below one tick of the first.
_SECOND_BITS: Final = 64


def nearest_devices(
    available: Sequence[str],
    required: Sequence[str],
    size: int,
    distances: Mapping[tuple[str, str], tuple[float, float]],
) -> list[str]:
    """Choose `size` of the available device ids, all of the required among them, in the order given."""
    matrix = _matrix(available, distances)
    must = {available.index(device) for device in required}
    search = _Search(matrix, _classes(matrix, must), size)
    search.run()
    return [available[i] for i in sorted(search.best)]


def _matrix(ids: Sequence[str], distances: Mapping[tuple[str, str], tuple[float, float]]) -> list[list[int]]:
    def ticks(one: str, other: str) -> int:
        if one == other:
            return 0
        first, second = distances[one, other]
        return (round(first * TICKS_PER_SECOND) << _SECOND_BITS) + round(second * TICKS_PER_SECOND)

    return [[ticks(one, other) for other in ids] for one in ids]


@dataclass(frozen=True, slots=True)
class _Class:
    """Devices that differ in nothing but their name.

    Attributes:
        inner: The distance between two of them; 0 for a class of one.
        required: How many of the members, which come first, must be taken.
    """

    members: tuple[int, ...]
    inner: int
    required: int


def _classes(matrix: list[list[int]], must: set[int]) -> list[_Class]:
    """Group what is interchangeable; required members come first in their class."""
    groups: list[list[int]] = []
    for i in range(len(matrix)):
        for group in groups:
            if _interchangeable(matrix, group[0], i) and (
                len(group) == 1 or matrix[group[0]][group[1]] == matrix[group[0]][i]
            ):
                group.append(i)
                break
        else:
            groups.append([i])
    return [
        _Class(
            members=tuple(sorted(group, key=lambda i: (i not in must, i))),
            inner=matrix[group[0]][group[1]] if len(group) > 1 else 0,
            required=sum(1 for i in group if i in must),
        )
        for group in groups
    ]


def _interchangeable(matrix: list[list[int]], one: int, other: int) -> bool:
    return all(a == b for k, (a, b) in enumerate(zip(matrix[one], matrix[other], strict=True)) if k not in (one, other))


@dataclass(slots=True)
class _Search:
    """Depth first over the classes, taking many before few, with a bound on what is still to be paid."""

    matrix: list[list[int]]
    classes: list[_Class]
    size: int
    best: list[int] = field(default_factory=list)
    best_cost: tuple[int, int] | None = None
    steps: int = 0
    _floor: int = 0
    _room: list[int] = field(default_factory=list)
    _needed: list[int] = field(default_factory=list)
    _loneliness: list[int] = field(default_factory=list)

    def run(self) -> None:
        off_diagonal = [d for i, row in enumerate(self.matrix) for j, d in enumerate(row) if i != j]
        self._floor = min(off_diagonal, default=0)
        self._room = _suffix_sums([len(c.members) for c in self.classes])
        self._needed = _suffix_sums([c.required for c in self.classes])
        self._loneliness = [sum(row) for row in self.matrix]
        for start in range(len(self.classes)):
            self._greedy(start)
        self._descend(0, [0] * len(self.classes), self.size, 0, [0] * len(self.classes))

    def _greedy(self, start: int) -> None:
        """A first set to measure others against: grow from one class by whoever is nearest."""
        counts = [c.required for c in self.classes]
        left = self.size - sum(counts)
        if left > 0 and counts[start] < len(self.classes[start].members):
            counts[start] += 1
            left -= 1
        while left > 0:
            open_classes = [k for k, c in enumerate(self.classes) if counts[k] < len(c.members)]
            k = min(open_classes, key=lambda k: (self._added(counts, k), k))
            counts[k] += 1
            left -= 1
        if left == 0:
            self._offer(counts)

    def _added(self, counts: list[int], k: int) -> int:
        """What one more member of class k would add."""
        first = self.classes[k].members[0]
        others = sum(
            count * self.matrix[first][c.members[0]]
            for j, (c, count) in enumerate(zip(self.classes, counts, strict=True))
            if j != k
        )
        return others + counts[k] * self.classes[k].inner

    def _descend(self, k: int, counts: list[int], left: int, cost: int, row: list[int]) -> None:
        """Decide class k. `row[j]` is what one member of class j pays to all that is chosen so far."""
        if left == 0 and not self._needed[k]:
            self._offer(counts)
            return
        if k == len(self.classes) or self._room[k] < left or self._needed[k] > left:
            return
        if self.steps >= MAX_STEPS:
            return
        here = self.classes[k]
        most = min(len(here.members), left - self._needed[k + 1])
        for count in range(most, here.required - 1, -1):
            self.steps += 1
            paid = cost + count * row[k] + here.inner * (count * (count - 1) // 2)
            if (
                self.best_cost is not None
                and paid + self._still_to_pay(k + 1, left - count, row, count, k) > (self.best_cost[0])
            ):
                continue
            counts[k] = count
            extended = (
                [r + count * self.matrix[c.members[0]][here.members[0]] for r, c in zip(row, self.classes, strict=True)]
                if count
                else row
            )
            self._descend(k + 1, counts, left - count, paid, extended)
        counts[k] = 0

    def _still_to_pay(self, k: int, left: int, row: list[int], count: int, taken: int) -> int:
        """At least this much: each of those to come pays the cheapest way to the chosen, and to each other."""
        if left <= 0:
            return 0
        anchor = self.classes[taken].members[0]
        to_chosen = min(
            (row[j] + count * self.matrix[self.classes[j].members[0]][anchor] for j in range(k, len(self.classes))),
            default=0,
        )
        return left * to_chosen + self._floor * (left * (left - 1) // 2)

    def _offer(self, counts: list[int]) -> None:
        chosen = [i for c, count in zip(self.classes, counts, strict=True) for i in c.members[:count]]
        inner = sum(self.matrix[i][j] for n, i in enumerate(chosen) for j in chosen[:n])
        # Taking the lonely leaves the well connected: the farther the chosen are from all, the better.
        cost = (inner, -sum(self._loneliness[i] for i in chosen))
        if self.best_cost is None or (cost, sorted(chosen)) < (self.best_cost, sorted(self.best)):
            self.best, self.best_cost = chosen, cost


def _suffix_sums(values: list[int]) -> list[int]:
    """`sums[k]` is the sum of `values[k:]`, with one more entry of 0."""
    sums = [0] * (len(values) + 1)
    for k in range(len(values) - 1, -1, -1):
        sums[k] = sums[k + 1] + values[k]
    return sums
