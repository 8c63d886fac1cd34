"""How a disk is divided between buckets."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.room.shares import Demand, fair_shares

DEMANDS = st.dictionaries(
    st.integers(1, 50),
    st.builds(Demand, st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.25])),
    max_size=12,
)


def filled_up(capacity: int, demands: dict[int, Demand]) -> dict[int, Fraction]:
    """The slow way: all levels rise together by weight, and who has enough stops."""
    shares = dict.fromkeys(demands, Fraction(0))
    left = Fraction(capacity)
    while rising := [number for number, each in demands.items() if shares[number] < each.most_bytes]:
        weight = sum(Fraction(demands[number].weight) for number in rising)
        step = min(
            left / weight,
            *((demands[each].most_bytes - shares[each]) / Fraction(demands[each].weight) for each in rising),
        )
        if not step:
            break
        for number in rising:
            shares[number] += step * Fraction(demands[number].weight)
            left -= step * Fraction(demands[number].weight)
    return shares


@given(st.integers(0, 3 * 10**6), DEMANDS)
def test_shares_are_those_of_filling_up_to_a_byte(capacity: int, demands: dict[int, Demand]) -> None:
    shares = fair_shares(capacity, demands)

    assert all(abs(shares[number] - share) <= 1 for number, share in filled_up(capacity, demands).items())


@given(st.integers(-5, 3 * 10**6), DEMANDS)
def test_nothing_is_left_over_that_somebody_wants(capacity: int, demands: dict[int, Demand]) -> None:
    shares = fair_shares(capacity, demands)

    assert sum(shares.values()) == min(max(0, capacity), sum(each.most_bytes for each in demands.values()))
    assert all(0 <= shares[number] <= each.most_bytes for number, each in demands.items())


@given(st.integers(0, 3 * 10**6), DEMANDS)
def test_a_share_grows_only_at_the_cost_of_one_that_has_less_per_weight(
    capacity: int, demands: dict[int, Demand]
) -> None:
    shares = fair_shares(capacity, demands)

    for number, each in demands.items():
        if shares[number] < each.most_bytes:
            assert all(
                (shares[other] - 1) / demands[other].weight <= (shares[number] + 1) / each.weight for other in demands
            )


def test_what_one_bucket_leaves_is_lent_to_the_others_by_weight() -> None:
    demands = {1: Demand(100, 1000), 2: Demand(1000, 1000, 2.0), 3: Demand(1000, 1000, 1.0)}

    assert fair_shares(700, demands) == {1: 100, 2: 400, 3: 200}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="give a number above 0"):
        Demand(1, 1, weight)
