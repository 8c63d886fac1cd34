"""How much may be sent now."""

from hypothesis import given
from hypothesis import strategies as st

from objectcache.serving.pace import Pace

STEP = 1000


@given(
    rate=st.integers(1, 10**9),
    pauses=st.lists(st.sampled_from([0.0, 0.0001, 0.01, 0.1, 1.0, 100.0]), min_size=1, max_size=100),
)
def test_over_any_time_it_is_the_rate_and_one_burst_and_one_step(rate: int, pauses: list[float]) -> None:
    pace = Pace(rate, 0.0)
    now, sent = 0.0, 0
    for pause in pauses:
        now += pause
        if (most := pace.most(now)) > 0:
            pace.take(most + STEP)
            sent += most + STEP

    assert sent <= rate * now + pace.burst_bytes + STEP + 1


@given(rate=st.integers(1, 10**9), taken=st.integers(0, 10**7))
def test_after_the_wait_something_may_be_sent(rate: int, taken: int) -> None:
    pace = Pace(rate, 0.0)
    pace.take(pace.most(0.0) + taken)
    now, waits = 0.0, 0
    while pace.most(now) < 1:
        assert 0 < pace.wait_seconds <= 1.0
        now += pace.wait_seconds
        waits += 1
        if waits > 20:
            break

    assert waits > 20 or now <= (taken + 2) / rate + 1.0


def test_a_pause_saves_up_one_burst_only() -> None:
    pace = Pace(1000, 0.0)

    assert pace.most(1000.0) == 100


def test_the_lowest_rate_lets_something_through() -> None:
    pace = Pace(1, 0.0)
    pace.take(1)

    assert pace.most(0.5) == 0
    assert pace.most(1.0) == 1
