"""Who may send when: by bytes between buckets, in order inside one."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from objectcache.serving.fair_queue import LEAST_BYTES, FairQueue

QUANTUM = 2**20
SIZES = st.sampled_from([1, 100, LEAST_BYTES, 10**5, 10**6, 10**7])


@given(
    sizes=st.lists(SIZES, min_size=2, max_size=8),
    waiters=st.lists(st.integers(1, 20), min_size=8, max_size=8),
    bounds=st.lists(st.sampled_from([1, 10**4, 10**5, 10**6, 10**8]), min_size=1, max_size=200),
)
def test_no_bucket_gets_more_than_a_turn_ahead_of_another(
    sizes: list[int], waiters: list[int], bounds: list[int]
) -> None:
    """Whatever their pieces are, how many connections they have, and wherever rounds are cut short."""
    queue: FairQueue[int] = FairQueue(QUANTUM)
    for bucket in range(len(sizes)):
        for _ in range(waiters[bucket]):
            queue.push(bucket, bucket)
    counted: Counter[int] = Counter()

    def step(bucket: int, most: int) -> int:
        sent = min(sizes[bucket], most)
        counted[bucket] += max(sent, LEAST_BYTES)
        return -1 - sent

    for bound in bounds:
        queue.round(step, bound)
        counts = [counted[bucket] for bucket in range(len(sizes))]
        assert max(counts) - min(counts) <= QUANTUM + LEAST_BYTES


def test_a_round_that_is_cut_short_does_not_begin_with_the_same_bucket_for_ever() -> None:
    queue: FairQueue[str] = FairQueue(QUANTUM)
    queue.push(1, "greedy")
    queue.push(2, "other")
    served: list[str] = []

    def step(waiter: str, most: int) -> int:
        served.append(waiter)
        return -1 - most

    queue.round(step, 1)
    queue.round(step, 1)

    assert served == ["greedy", "other"]


def test_a_turn_that_was_cut_short_goes_on() -> None:
    queue: FairQueue[str] = FairQueue(10 * LEAST_BYTES)
    queue.push(1, "one")
    queue.push(2, "two")
    served: list[str] = []

    def step(waiter: str, _: int) -> int:
        served.append(waiter)
        return -1 - LEAST_BYTES

    for _ in range(12):
        queue.round(step, 1)

    assert served == ["one"] * 10 + ["two"] * 2


@given(bytes_each=st.lists(SIZES, min_size=1, max_size=30))
def test_inside_a_bucket_everybody_is_served_in_order(bytes_each: list[int]) -> None:
    queue: FairQueue[int] = FairQueue(QUANTUM)
    for number in range(len(bytes_each)):
        queue.push(7, number)
    order: deque[int] = deque()

    def step(number: int, most: int) -> int:
        order.append(number)
        return min(bytes_each[number], most)

    while queue:
        queue.round(step, 10**9)

    assert list(order) == list(range(len(bytes_each)))


def test_what_was_sent_beyond_a_turn_is_taken_off_the_next_ones() -> None:
    queue: FairQueue[str] = FairQueue(QUANTUM)
    queue.push(1, "listing")
    queue.push(2, "object")
    served: list[str] = []

    def step(waiter: str, most: int) -> int:
        served.append(waiter)
        return -1 - (4 * QUANTUM if waiter == "listing" else most)

    for _ in range(5):
        queue.round(step, 10**9)

    assert served == ["listing", "object", "object", "object", "object", "listing", "object"]


def test_who_leaves_and_comes_again_owes_nothing_and_has_nothing() -> None:
    queue: FairQueue[str] = FairQueue(QUANTUM)
    allowed: list[int] = []

    def step(_: str, most: int) -> int:
        allowed.append(most)
        return 1

    for _ in range(3):
        queue.push(1, "again")
        queue.round(step, 10**9)

    assert allowed == [QUANTUM] * 3
    assert not queue
