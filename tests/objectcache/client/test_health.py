"""When the cache is asked, and when it is left alone."""

import pytest

from objectcache.client.errors import CacheError, RefusedError, TokenError, UnreachableError
from objectcache.client.health import Health


@pytest.mark.parametrize(
    ("error", "may_ask_after"),
    [
        pytest.param(UnreachableError("down"), 5.0, id="no answer three times pauses"),
        pytest.param(RefusedError("no", 500), 0.0, id="any answer is one"),
    ],
)
def test_a_cache_that_fails_is_left_alone_for_a_while(error: CacheError, may_ask_after: float) -> None:
    health = Health()
    for _ in range(3):
        health = health.failed(error, 0.0)

    assert health.may_ask(4.9) is (may_ask_after == 0.0)
    assert health.may_ask(5.0)


def test_an_answer_in_between_starts_the_count_over() -> None:
    down = UnreachableError("down")

    health = Health().failed(down, 0.0).failed(down, 0.0).answered().failed(down, 0.0)

    assert health.may_ask(0.0)


def test_a_cache_that_stays_away_is_asked_once_a_pause_and_pauses_grow() -> None:
    down, now, health = UnreachableError("down"), 0.0, Health()
    for _ in range(3):
        health = health.failed(down, now)

    pauses = []
    for _ in range(5):
        # Threads that asked before it began do not make it longer.
        health = health.failed(down, now + 1)
        pauses.append(health.ask_after - now)
        now = health.ask_after
        health = health.failed(down, now)

    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0]


def test_a_cache_that_asks_to_be_left_alone_is() -> None:
    assert not Health().failed(RefusedError("busy", 503, 7.0), 0.0).may_ask(6.9)


def test_without_a_token_nothing_is_asked_for_a_while() -> None:
    assert not Health().failed(TokenError("none"), 0.0).may_ask(1.0)


@pytest.mark.parametrize(
    ("error", "size", "now", "expected"),
    [
        pytest.param(RefusedError("full", 507), 1, 4.0, False, id="no room for a while"),
        pytest.param(RefusedError("full", 507), 1, 5.0, True, id="then again"),
        pytest.param(RefusedError("busy", 429, 30.0), 1, 29.0, False, id="as long as it says"),
        pytest.param(RefusedError("large", 413), 100, 1.0, False, id="as large a one"),
        pytest.param(RefusedError("large", 413), 99, 1.0, True, id="a smaller one"),
        pytest.param(RefusedError("large", 413), 100, 60.0, True, id="as large a one after a minute"),
        pytest.param(UnreachableError("down"), 1, 4.0, False, id="broke off"),
    ],
)
def test_after_a_put_that_failed(error: CacheError, size: int, now: float, expected: bool) -> None:
    assert Health().not_kept(error, 100, 0.0).may_keep(size, now) is expected
