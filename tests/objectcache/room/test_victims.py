"""Whose objects go, and who is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.room.victims import Holding, NoRoom, Space, Take, ahead, make_room, shares


def holding(kept: int, *, fixed: int = 0, reserved: int = 0, quota: int = 1000, weight: float | None = 1.0) -> Holding:
    return Holding("bk", kept, fixed, reserved, quota, weight)


@st.composite
def holdings(draw: st.DrawFn) -> dict[int, Holding]:
    """The first is in the rules and may hold much, so that most of what it asks for is granted."""
    found = {}
    for number in range(1, draw(st.integers(1, 6)) + 1):
        kept = draw(st.integers(0, 500))
        fixed = draw(st.one_of(st.just(0), st.integers(0, kept)))
        reserved = draw(st.one_of(st.just(0), st.integers(0, 100)))
        weight = draw(st.sampled_from([1.0, 2.0] if number == 1 else [1.0, 2.0, None]))
        quota = draw(st.integers(400 if number == 1 else 0, 2000))
        found[number] = Holding(f"b{number}", kept, fixed, reserved, quota, weight)
    return found


@pytest.mark.parametrize(
    ("held", "need", "expected"),
    [
        pytest.param({1: holding(100), 2: holding(300)}, 100, (), id="there is room"),
        pytest.param({1: holding(100, quota=150), 2: holding(300)}, 100, (Take(1, 50, "quota"),), id="own quota"),
        pytest.param(
            {1: holding(200), 2: holding(700)}, 200, (Take(2, 100, "share"),), id="from who is above its share"
        ),
        pytest.param({1: holding(500), 2: holding(500)}, 100, (Take(1, 100, "share"),), id="at its share, from itself"),
        pytest.param(
            {1: holding(500), 2: holding(100, weight=None), 3: holding(400)},
            50,
            (Take(2, 50, "bucket_removed"),),
            id="first from a bucket in no rules",
        ),
        pytest.param(
            {1: holding(100), 2: holding(850, fixed=850)},
            100,
            (Take(1, 50, "share"),),
            id="pinned stays, so from itself",
        ),
    ],
)
def test_who_gives_up_what(held: dict[int, Holding], need: int, expected: tuple[Take, ...]) -> None:
    assert make_room(1, need, held, Space(1000)) == expected


@pytest.mark.parametrize(
    ("held", "need", "status", "text"),
    [
        pytest.param({1: holding(0, quota=99)}, 100, 413, "may hold (99); raise its quota", id="above the quota"),
        pytest.param(
            {1: holding(0, quota=5000)}, 2000, 413, "this node's cache may hold (1000)", id="above the capacity"
        ),
        pytest.param({1: holding(90, fixed=90, quota=100)}, 20, 507, "90 are pinned", id="its own pins fill the quota"),
        pytest.param(
            {1: holding(0), 2: holding(950, fixed=900, reserved=50)},
            200,
            507,
            "this node's cache is full",
            id="others pinned nearly all",
        ),
    ],
)
def test_a_refusal_says_what_is_full_and_what_to_do(
    held: dict[int, Holding], need: int, status: int, text: str
) -> None:
    refused = make_room(1, need, held, Space(1000))

    assert isinstance(refused, NoRoom)
    assert refused.status == status
    assert text in refused.reason


@given(holdings(), st.integers(1, 400), st.integers(500, 2000))
def test_afterwards_it_fits_and_nobody_is_left_with_less_than_its_share(
    held: dict[int, Holding], need: int, capacity: int
) -> None:
    takes = make_room(1, need, held, Space(capacity))

    if isinstance(takes, NoRoom):
        return
    gone = dict.fromkeys(held, 0)
    for take in takes:
        gone[take.bucket] += take.size_bytes
    asking = held[1]
    assert all(gone[number] <= each.loose_bytes for number, each in held.items())
    assert sum(each.used_bytes for each in held.values()) + need - sum(gone.values()) <= capacity
    assert asking.used_bytes + need - gone[1] <= asking.quota_bytes
    wanted = held | {1: replace(asking, reserved_bytes=asking.reserved_bytes + need)}
    entitled = shares(wanted, capacity)
    losers = [number for number in held if number != 1 and gone[number]]
    assert all(held[number].used_bytes - gone[number] >= entitled[number] for number in losers)


@given(holdings(), st.integers(1, 900), st.integers(500, 2000))
def test_where_nothing_is_pinned_or_written_only_what_exceeds_a_share_is_refused(
    held: dict[int, Holding], need: int, capacity: int
) -> None:
    loose = {number: Holding(each.name, each.kept_bytes, 0, 0, 10_000, each.weight) for number, each in held.items()}
    wanted = loose | {1: replace(loose[1], reserved_bytes=need)}
    need = min(need, shares(wanted, capacity)[1])

    assert not isinstance(make_room(1, need, loose, Space(capacity)), NoRoom)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        pytest.param(Space(1000), (), id="below the high watermark"),
        pytest.param(Space(950), (Take(1, 55, "watermark"),), id="above, down to the low one"),
        pytest.param(
            Space(2000, free_bytes=50, used_then_bytes=910, floor_bytes=100), (Take(1, 136, "floor"),), id="floor"
        ),
    ],
)
def test_what_goes_ahead_of_need(space: Space, expected: tuple[Take, ...]) -> None:
    assert ahead({1: holding(610), 2: holding(300)}, space) == expected


def test_a_quota_that_shrank_is_enforced_however_empty_the_disk() -> None:
    assert ahead({1: holding(500, quota=200)}, Space(10_000)) == (Take(1, 300, "quota"),)


def test_a_refusal_names_no_other_bucket_and_none_of_its_bytes() -> None:
    others = {
        2: Holding("secret-project", 777, 777, 0, 1000, 1.0),
        3: Holding("another", 0, 0, 188, 1000, 1.0),
    }

    refused = make_room(1, 100, {1: holding(0), **others}, Space(1000))

    assert isinstance(refused, NoRoom)
    assert not [text for text in ("secret", "another", "777", "188", "965") if text in refused.reason]
