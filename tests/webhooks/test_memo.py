"""What is remembered of decisions, and for how long."""

from collections.abc import Callable

import pytest

from webhooks.memo import Decided, Memo
from webhooks.review import Outcome

MIB = 2**20


class Deciding:
    """Counts how often it is asked."""

    def __init__(self, patch: bytes = b"[]") -> None:
        self.patch = patch
        self.asked = 0

    def __call__(self) -> Decided:
        self.asked += 1
        return Decided(Outcome(), self.patch)


def test_a_decision_is_made_once() -> None:
    memo, decide = Memo(), Deciding()

    answers = [memo.decided(0, ("mutate", "a", b"pod"), decide) for _ in range(3)]

    assert decide.asked == 1
    assert answers == [Decided(Outcome(), b"[]")] * 3


@pytest.mark.parametrize(
    ("generation", "key"),
    [
        pytest.param(1, ("mutate", "a", b"pod"), id="another policy or cluster"),
        pytest.param(0, ("validate", "a", b"pod"), id="another webhook"),
        pytest.param(0, ("mutate", "b", b"pod"), id="another namespace"),
        pytest.param(0, ("mutate", "a", b"pods"), id="another pod"),
    ],
)
def test_what_differs_is_decided_anew(generation: int, key: tuple[str, str, bytes]) -> None:
    memo, decide = Memo(), Deciding()
    memo.decided(0, ("mutate", "a", b"pod"), decide)

    memo.decided(generation, key, decide)

    assert decide.asked == 2


def test_an_older_generation_does_not_come_back() -> None:
    memo, decide = Memo(), Deciding()
    for generation in (0, 1, 0):
        memo.decided(generation, ("mutate", "a", b"pod"), decide)

    assert decide.asked == 3


def held(memo: Memo, keys: Callable[[int], bytes], count: int) -> int:
    """How many of so many decisions are still remembered."""
    again = Deciding()
    for number in reversed(range(count)):
        memo.decided(0, ("mutate", "a", keys(number)), again)
    return count - again.asked


def test_many_pods_take_bounded_room_and_the_newest_stay() -> None:
    def key(number: int) -> bytes:
        return b"%06d" % number + b"x" * 30_000

    memo = Memo()
    for number in range(1_000):
        memo.decided(0, ("mutate", "a", key(number)), Deciding())
    newest = Deciding()
    memo.decided(0, ("mutate", "a", key(999)), newest)

    assert newest.asked == 0
    assert held(memo, key, 1_000) * 30_000 <= 8 * MIB


def test_large_pods_and_large_patches_are_not_remembered() -> None:
    memo = Memo()
    large_pod, large_patch = Deciding(), Deciding(b"x" * MIB)
    for _ in range(2):
        memo.decided(0, ("mutate", "a", b"x" * MIB), large_pod)
        memo.decided(0, ("mutate", "a", b"pod"), large_patch)

    assert (large_pod.asked, large_patch.asked) == (2, 2)
