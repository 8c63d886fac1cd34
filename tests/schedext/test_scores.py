import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedext.demand import Objective
from schedext.scores import Ranking, rank, ranked, scores

INF, NAN = math.inf, math.nan

costs = st.lists(st.floats(0, allow_nan=False, allow_infinity=False), min_size=1, max_size=30)
anything = st.lists(st.floats(), max_size=30)
# Small enough that shifting them rounds nothing.
whole = st.lists(st.integers(0, 10**6), min_size=1, max_size=30)
places = st.lists(st.tuples(st.floats(0, 10**6), st.floats(1, 10**4)), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("given_costs", "expected"),
    [
        pytest.param([], [], id="no place"),
        pytest.param([5.0], [0], id="one place"),
        pytest.param([7.0, 7.0], [0, 0], id="equal places"),
        pytest.param([100.0, 0.0], [0, 10], id="the best and the worst"),
        pytest.param([0.0, 25.0, 50.0, 100.0], [10, 8, 5, 0], id="between, in proportion"),
        pytest.param([100.0, 96.0], [0, 0], id="a difference of less than a twentieth"),
        pytest.param([100.0, 94.0], [0, 10], id="a difference of more than a twentieth"),
        pytest.param([0.9, 0.0], [0, 0], id="less than a second"),
        pytest.param([INF, 10.0, 20.0, NAN], [0, 10, 0, 0], id="out of the question, beside others"),
        pytest.param([10.0, INF, 10.0], [10, 0, 10], id="out of the question, beside equal ones"),
        pytest.param([INF, NAN], [0, 0], id="all out of the question"),
        pytest.param([1.7e308, 1.7e308, 0.0], [0, 0, 10], id="more than can be added up"),
        pytest.param([1.7e308, 1.7e308], [0, 0], id="equal, and more than can be added up"),
    ],
)
def test_scores(given_costs: list[float], expected: list[int]) -> None:
    assert scores(given_costs, 0.05, 1.0) == expected


@pytest.mark.parametrize(
    ("given_costs", "expected"),
    [
        pytest.param([1830.0, 1800.0], [0, 10], id="enough to count beside much that is alike"),
        pytest.param([1809.0, 1800.0], [0, 0], id="too little for that"),
        pytest.param([1830.0, 1800.0, INF], [0, 10, 0], id="and beside what is out of the question"),
    ],
)
def test_what_is_alike_does_not_drown_the_rest(given_costs: list[float], expected: list[int]) -> None:
    assert scores(given_costs, 0.05, 1.0, 10.0) == expected


@given(anything, st.floats(0, 1), st.floats(0, 10))
def test_any_numbers_have_scores_from_0_to_10(given_costs: list[float], noise: float, least: float) -> None:
    found = scores(given_costs, noise, least)

    assert len(found) == len(given_costs)
    assert all(type(score) is int and 0 <= score <= 10 for score in found)


@given(costs, st.floats(0, 1), st.floats(0, 10))
def test_what_costs_less_never_scores_less(given_costs: list[float], noise: float, least: float) -> None:
    found = scores(given_costs, noise, least)

    ordered = sorted(zip(given_costs, found, strict=True), key=lambda each: (each[0], -each[1]))
    assert all(one[1] >= other[1] for one, other in pairwise(ordered))


@given(costs)
def test_equal_costs_have_equal_scores(given_costs: list[float]) -> None:
    found = dict(zip(given_costs, scores(given_costs, 0.0, 0.0), strict=True))

    assert scores(given_costs, 0.0, 0.0) == [found[cost] for cost in given_costs]


@given(costs, st.floats(0, 1), st.floats(0, 10))
def test_the_best_has_10_and_the_worst_0_unless_all_are_alike(
    given_costs: list[float], noise: float, least: float
) -> None:
    found = scores(given_costs, noise, least)

    if any(found):
        assert found[given_costs.index(min(given_costs))] == 10
        assert found[given_costs.index(max(given_costs))] == 0


@given(whole, st.integers(0, 10**6))
def test_what_all_places_cost_alike_changes_nothing(given_costs: list[int], everywhere: int) -> None:
    shifted = [float(cost + everywhere) for cost in given_costs]

    assert scores(shifted, 0.0, 1.0) == scores([float(cost) for cost in given_costs], 0.0, 1.0)


@given(whole)
def test_the_order_of_places_changes_nothing(given_costs: list[int]) -> None:
    floats = [float(cost) for cost in given_costs]
    backwards = scores(floats[::-1], 0.05, 1.0)

    assert backwards[::-1] == scores(floats, 0.05, 1.0)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        pytest.param(Objective.PERFORMANCE, 400.0, id="seconds"),
        pytest.param(Objective.EFFICIENCY, 4000.0 * 100.0, id="joules of the hour and what is lost"),
        pytest.param(Objective.BALANCED, 4000.0 * 10.0, id="the geometric mean of both"),
    ],
)
def test_a_place_costs_by_the_objective(objective: Objective, expected: float) -> None:
    assert ranked(objective, 400.0, 100.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("objective", "best"),
    [
        pytest.param(Objective.PERFORMANCE, "fast", id="performance"),
        pytest.param(Objective.EFFICIENCY, "thrifty", id="efficiency"),
        pytest.param(Objective.BALANCED, "middle", id="balanced"),
    ],
)
def test_each_objective_has_its_favourite(objective: Objective, best: str) -> None:
    offered = {"fast": (0.0, 700.0), "middle": (1800.0, 250.0), "thrifty": (7200.0, 70.0), "bad": (7200.0, 800.0)}
    names = list(offered)

    ranking = rank(objective, [offered[name][0] for name in names], [offered[name][1] for name in names])

    assert names[ranking.costs.index(min(ranking.costs))] == best
    assert (ranking.ranked_by, ranking.note) == (objective, "")


@pytest.mark.parametrize("objective", [Objective.EFFICIENCY, Objective.BALANCED])
@pytest.mark.parametrize(
    "unknown", [pytest.param(0.0, id="unknown"), pytest.param(NAN, id="no number"), pytest.param(INF, id="infinite")]
)
def test_where_some_watts_are_unknown_seconds_count_everywhere(objective: Objective, unknown: float) -> None:
    ranking = rank(objective, [1.0, 2.0], [700.0, unknown])

    assert ranking.costs == [1.0, 2.0]
    assert ranking.ranked_by is Objective.PERFORMANCE
    assert "watts" in ranking.note
    assert ranking.per_second == 1.0


def test_watts_of_a_place_out_of_the_question_need_not_be_known() -> None:
    ranking = rank(Objective.EFFICIENCY, [0.0, INF], [2.0, 0.0])

    assert ranking == Ranking([7200.0, INF], Objective.EFFICIENCY, per_second=2.0)


@pytest.mark.parametrize("objective", list(Objective))
def test_no_place_is_no_trouble(objective: Objective) -> None:
    assert rank(objective, [], []).costs == []


@pytest.mark.parametrize("objective", list(Objective))
def test_a_second_is_noise_in_whatever_unit(objective: Objective) -> None:
    ranking = rank(objective, [0.0, 0.9], [300.0, 300.0])

    assert scores(ranking.costs, 0.0, ranking.per_second) == [0, 0]
    assert scores(ranking.costs, 0.0, ranking.per_second * 0.8) == [10, 0]


@pytest.mark.parametrize("objective", list(Objective))
@given(places)
def test_places_are_ranked_as_one_by_one(objective: Objective, offered: Sequence[tuple[float, float]]) -> None:
    ranking = rank(objective, [lost for lost, _ in offered], [watts for _, watts in offered])

    assert ranking.costs == pytest.approx([ranked(objective, lost, watts) for lost, watts in offered])
