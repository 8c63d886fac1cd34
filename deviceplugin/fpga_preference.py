"""Which of the free channels a container should get: near each other, and with the least to be programmed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from tasuki.devices.model import Device, Slice, index_order
from tasuki.devices.preference import check

# Up to so many PCIe roots every choice of them is tried; real machines have four to sixteen.
_MOST_ROOTS: Final = 8

# Beyond this much work for one choice of roots, regions are filled one after the other in order of preference.
_MOST_STEPS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What speaks for and against a region at the moment, for one resource.

    Attributes:
        refused: Allocate would refuse it.
        seconds: How long it would have to be programmed.
        overwrites: Something else is in it, which others may come to want.
        claimed: Others hold channels of it already, under the same resource.
    """

    refused: bool = False
    seconds: float = 0.0
    overwrites: bool = False
    claimed: bool = False


def preferred(
    available: Sequence[Slice], required: Sequence[Slice], size: int, standings: Mapping[str, Standing], near: str
) -> list[Slice]:
    """Choose slices: below as few PCIe roots as possible; loaded before to be programmed; near; on few regions.

    Args:
        available: What is free.
        required: What must be among the chosen.
        size: How many.
        standings: By region; one that is missing can be had at once.
        near: The PCIe root of what the same pod was given just before; empty for none.

    Raises:
        PreferenceError: No choice could satisfy the request.
    """
    check(available, required, size)
    regions = _regions(available, required, standings, near)
    usable = [region for region in regions if region.needed or not region.standing.refused]
    if sum(len(region.slices) for region in usable) < size:
        usable = regions
    chosen = _below_fewest_roots(usable, size)
    return [a_slice for region, count in chosen for a_slice in region.slices[:count]]


@dataclass(frozen=True, slots=True)
class _Region:
    """A region's free slices, required ones first, and how it stands."""

    slices: tuple[Slice, ...]
    needed: int
    standing: Standing
    root: str
    far: bool

    def cost(self, count: int) -> "_Costs":
        """What taking so many costs, the weightiest first; sums of costs compare as costs do."""
        if not count:
            return (0, 0.0, 0, 0, 0, 0)
        refused = count if self.standing.refused else 0
        far = count if self.far else 0
        return (refused, self.standing.seconds, self.standing.overwrites, far, not self.standing.claimed, 1)


_Choice = tuple[tuple[_Region, int], ...]
_Costs = tuple[int, float, int, int, int, int]
_Cost = tuple[_Costs, tuple[int, ...]]


def _regions(
    available: Sequence[Slice], required: Sequence[Slice], standings: Mapping[str, Standing], near: str
) -> list[_Region]:
    must = {s.id for s in required}
    by_device: dict[str, dict[str, Slice]] = {}
    for a_slice in available:
        by_device.setdefault(a_slice.device.id, {})[a_slice.id] = a_slice
    found = []
    for slices in by_device.values():
        ordered = tuple(sorted(slices.values(), key=lambda s: (s.id not in must, s.replica)))
        device = ordered[0].device
        root = _root(device)
        standing = standings.get(device.id, Standing())
        found.append(_Region(ordered, sum(s.id in must for s in ordered), standing, root, bool(near) and root != near))
    return sorted(found, key=lambda region: index_order(region.slices[0].device))


def root_of(device: Device) -> str:
    """The PCIe root that a region hangs below; empty if unknown."""
    return device.place.pcie_root


def _root(device: Device) -> str:
    """As `root_of`; where it is unknown, each card is one of its own."""
    return root_of(device) or f"card {device.physical}"


def _below_fewest_roots(regions: Sequence[_Region], size: int) -> _Choice:
    by_root: dict[str, list[_Region]] = {}
    for region in regions:
        by_root.setdefault(region.root, []).append(region)
    needed = {region.root for region in regions if region.needed}
    for roots in _choices(by_root, needed):
        fitting = [
            [region for region in regions if region.root in choice]
            for choice in roots
            if sum(len(region.slices) for root in choice for region in by_root[root]) >= size
        ]
        if fitting:
            return min((_filled(choice, size) for choice in fitting), key=lambda made: made[0])[1]
    raise AssertionError("all roots together have enough")


def _choices(by_root: Mapping[str, Sequence[_Region]], needed: set[str]) -> Iterator[list[frozenset[str]]]:
    """Sets of roots, all of one size at a time, from the smallest; with many roots the roomiest alone."""
    others = [root for root in by_root if root not in needed]
    if len(by_root) <= _MOST_ROOTS:
        for count in range(len(others) + 1):
            yield [frozenset({*needed, *added}) for added in combinations(others, count)]
        return
    yield [frozenset(needed)]
    yield [frozenset({*needed, root}) for root in others]
    others.sort(key=lambda root: -sum(len(region.slices) for region in by_root[root]))
    for count in range(2, len(others) + 1):
        yield [frozenset({*needed, *others[:count]})]


def _filled(regions: Sequence[_Region], size: int) -> tuple[_Cost, _Choice]:
    """How many to take of each region at the least cost, and that cost; between equals the first regions."""
    steps = sum((len(region.slices) + 1) * (size + 1) for region in regions)
    counts = _exactly(regions, size) if steps <= _MOST_STEPS else _one_after_the_other(regions, size)
    cost = _total([region.cost(count) for region, count in zip(regions, counts, strict=True)])
    chosen = tuple((region, count) for region, count in zip(regions, counts, strict=True) if count)
    first = tuple(n for region, count in chosen for n in (*index_order(region.slices[0].device), -count))
    return (cost, first), chosen


def _total(costs: Sequence[_Costs]) -> _Costs:
    refused, seconds, overwritten, far, new, regions = zip(*costs, strict=True)
    return sum(refused), sum(seconds), sum(overwritten), sum(far), sum(new), sum(regions)


def _exactly(regions: Sequence[_Region], size: int) -> list[int]:
    """Dynamic programming over regions: the best way to have taken each number so far."""
    best: dict[int, _Cost] = {0: ((0, 0.0, 0, 0, 0, 0), ())}
    for region in regions:
        following: dict[int, _Cost] = {}
        for taken, (cost, counts) in best.items():
            for count in range(region.needed, min(len(region.slices), size - taken) + 1):
                # Of equals the one that takes more of the first regions, which the minus makes the smaller.
                made = (_total([cost, region.cost(count)]), (*counts, -count))
                if taken + count not in following or made < following[taken + count]:
                    following[taken + count] = made
        best = following
    return [-count for count in best[size][1]]


def _one_after_the_other(regions: Sequence[_Region], size: int) -> list[int]:
    counts = [region.needed for region in regions]
    left = size - sum(counts)
    for i in sorted(range(len(regions)), key=lambda i: (not counts[i], regions[i].cost(1), i)):
        more = min(left, len(regions[i].slices) - counts[i])
        counts[i] += more
        left -= more
    return counts
