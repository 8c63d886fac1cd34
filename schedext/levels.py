"""From what places cost to what the scheduler is told, places that do not fit among them."""

from collections.abc import Sequence
from math import inf
from typing import Final

from schedext.costs import Costs
from schedext.demand import Objective
from schedext.scores import rank, scores
from schedext.view import BEYOND

_LEAST: Final = 0


def levels_of(
    objective: Objective, seconds: Sequence[float], watts: Sequence[float], costs: Costs
) -> tuple[list[int], str]:
    """A score for each place, and why it is not by the objective; empty if it is.

    Args:
        objective: What the pod wants its place ranked by.
        seconds: Lost in an hour; `BEYOND` where the pod does not fit, which is the least score.
        watts: 0 where they are unknown.
        costs: Say what difference is none.
    """
    if BEYOND not in seconds:
        ranking = rank(objective, seconds, watts)
        # Most of the joules are those of the hour itself, of which a few percent are how makers state watts.
        most = costs.most_noise_seconds if ranking.ranked_by is Objective.PERFORMANCE else inf
        return scores(ranking.costs, costs.noise, costs.noise_seconds * ranking.per_second, most), ranking.note
    fit = [(lost, power) for lost, power in zip(seconds, watts, strict=True) if lost != BEYOND]
    levels, note = levels_of(objective, [lost for lost, _ in fit], [power for _, power in fit], costs)
    among = iter(levels)
    return [_LEAST if lost == BEYOND else next(among) for lost in seconds], note
