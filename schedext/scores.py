"""Turns what places cost into the scheduler's scores from 0 to 10."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schedext.costs import HOUR_SECONDS
from schedext.demand import Objective

# kubernetes, kube-scheduler/extender/v1, MaxExtenderPriority.
BEST: Final = 10

# Of places that do not differ. The scheduler takes a node that an extender says nothing about for 0, too, so that the
# pod is placed as if nobody had been asked; any constant would do.
ALIKE: Final = 0

_UNKNOWN_WATTS: Final = f"ranked by {Objective.PERFORMANCE}: how many watts the pod would draw is not known everywhere"


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the places of one pod cost, in one unit: seconds, joules, or their geometric mean.

    Attributes:
        costs: In the order of the places; less is better.
        ranked_by: Not always what the pod asked for.
        note: Why not; empty if it is.
        per_second: What a second more costs at most, in the unit of `costs`.
    """

    costs: list[float]
    ranked_by: Objective
    note: str = ""
    per_second: float = 1.0


def ranked(objective: Objective, seconds: float, watts: float) -> float:
    """What a place costs an hour's work; the unit depends on the objective.

    Joules are those of the time that the work takes there: an hour, and the seconds lost. The geometric mean is of
    this time and these joules; of the lost seconds it would be 0 wherever none is lost, whatever the watts.
    """
    if objective is Objective.PERFORMANCE:
        return seconds
    return (HOUR_SECONDS + seconds) * _factor(objective, watts)


def rank(objective: Objective, seconds: Sequence[float], watts: Sequence[float]) -> Ranking:
    """What places cost by an objective, or by performance if the watts of one of them are unknown (0).

    Joules cannot be compared with seconds, nor with a guess, so that all places are ranked alike. One where infinitely
    many seconds are lost is out of the question, whatever its watts.
    """
    if objective is Objective.PERFORMANCE:
        return Ranking(list(seconds), objective)
    compared = {each for each, lost in zip(watts, seconds, strict=True) if math.isfinite(lost)}
    if not all(0 < each < math.inf for each in compared):
        return Ranking(list(seconds), Objective.PERFORMANCE, _UNKNOWN_WATTS)
    factors = {each: _factor(objective, each) for each in compared}
    costs = [(HOUR_SECONDS + lost) * factors.get(each, math.inf) for lost, each in zip(seconds, watts, strict=True)]
    return Ranking(costs, objective, per_second=max(factors.values(), default=1.0))


def scores(
    costs: Sequence[float], noise: float, noise_seconds: float, most_noise_seconds: float = math.inf
) -> list[int]:
    """10 for the least cost, 0 for the most, and linear between; `ALIKE` for all if the difference is noise.

    What is not a finite number counts as worse than everything that is.

    Args:
        costs: From 0 up.
        noise: A difference between best and worst below this part of the worst is noise.
        noise_seconds: So is one below this, in the unit of the costs (`Ranking.per_second` of them for each second).
        most_noise_seconds: One from this up is none, in the same unit, whatever part of the worst it is.
    """
    # One pass in C tells that all are finite, as they nearly always are; a sum that overflows only takes longer.
    all_finite = math.isfinite(sum(costs))
    finite = costs if all_finite else [cost for cost in costs if math.isfinite(cost)]
    least = max(noise_seconds, min(noise * max(finite, default=0.0), most_noise_seconds))
    if all_finite:
        return _linear(costs, least, ALIKE)
    among = iter(_linear(finite, least, ALIKE if len(finite) == len(costs) else BEST))
    return [next(among) if math.isfinite(cost) else 0 for cost in costs]


def _linear(costs: Sequence[float], least: float, alike: int) -> list[int]:
    """`alike` if the difference is less than `least`."""
    if not costs:
        return []
    best, worst = min(costs), max(costs)
    spread = worst - best
    if spread <= 0 or spread < least:
        return [alike] * len(costs)
    # Division keeps the quotient of even the smallest spread within 0 and 1, where a factor would overflow.
    return [int((worst - cost) / spread * BEST + 0.5) for cost in costs]


def _factor(objective: Objective, watts: float) -> float:
    return math.sqrt(watts) if objective is Objective.BALANCED else watts
