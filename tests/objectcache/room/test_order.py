"""Which of a bucket's objects go first."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.room.order import Batch, Candidate, Fifo, Order, S3Fifo, SampledLru, Sieve


class Queue:
    """A bucket as an order sees it, with objects of one byte."""

    def __init__(self, order: Order, count: int) -> None:
        self.order = order
        self.accessed = dict.fromkeys(range(1, count + 1), 0)
        self.created = dict.fromkeys(range(1, count + 1), 0)
        self.marks = {each: each for each in range(1, count + 1)}
        self.newest = count

    def put(self, now: int, mark: int = 0) -> int:
        self.newest += 1
        self.accessed[self.newest] = self.created[self.newest] = now
        self.marks[self.newest] = mark or self.newest
        self.order.came(self.newest, 1, self.marks[self.newest])
        return self.newest

    def evict(self, count: int, now: int, batch: int = 4) -> list[int]:
        gone: list[int] = []
        tries = 3 * (len(self.accessed) + 1)
        while len(gone) < count:
            tries -= 1
            assert tries
            behind = [each for each in sorted(self.accessed) if each > self.order.after_id]
            candidates = [
                Candidate(each, 1, self.created[each], self.accessed[each], self.marks[each]) for each in behind[:batch]
            ]
            chosen = self.order.choose(
                Batch(candidates, len(behind) <= batch, len(self.accessed)), count - len(gone), now
            )
            for each in chosen:
                del self.accessed[each.object_id]
                gone.append(each.object_id)
        return gone


def test_what_was_read_is_passed_over_once() -> None:
    queue = Queue(Sieve(), 6)
    queue.accessed |= {1: 5, 3: 5}

    assert queue.evict(3, now=10) == [2, 4, 5]
    assert queue.evict(2, now=11) == [6, 1]


def test_what_is_read_again_after_the_hand_passed_stays_again() -> None:
    queue = Queue(Sieve(), 4)
    queue.accessed |= {1: 5, 2: 5}
    queue.evict(2, now=10)
    queue.accessed[1] = 12

    assert queue.evict(1, now=13) == [2]


def test_everything_goes_in_the_end_though_all_was_just_read() -> None:
    queue = Queue(Sieve(), 5)
    queue.accessed = dict.fromkeys(queue.accessed, 10)

    assert sorted(queue.evict(5, now=10)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("make", [Sieve, Fifo, SampledLru])
def test_a_hand_at_the_newest_begins_again_though_others_came_meanwhile(make: Callable[[], Order]) -> None:
    queue = Queue(make(), 3)
    queue.accessed |= {1: 5, 2: 5, 3: 1}
    # SampledLru takes a quarter of what it sees and moves on; the others stop at the first that goes.
    while queue.order.after_id == 0 and len(queue.accessed) > 1:
        queue.evict(1, now=10, batch=8)
        if queue.order.after_id == 0:
            break

    queue.put(now=11)

    assert queue.order.after_id < min(queue.accessed)


def test_a_dataset_behind_the_hand_makes_way_though_the_hand_only_follows_what_is_new() -> None:
    queue = Queue(Sieve(), 110)
    queue.accessed |= dict.fromkeys(range(1, 101), 5)

    for now in range(10, 1010):
        queue.evict(1, now)
        queue.put(now)

    assert not [each for each in queue.accessed if each <= 100]


def test_a_long_round_is_remembered_in_little_and_keeps_what_was_read_behind_the_hand() -> None:
    order = Sieve()
    queue = Queue(order, 4000)
    queue.accessed |= dict.fromkeys(range(1, 4001, 2), 1)
    for second in range(1500):
        queue.evict(1, now=10 + second)
    queue.accessed[1] = 2_000
    while order.after_id:
        queue.evict(1, now=3_000)

    assert len(order._passed) <= 512
    assert 1 not in queue.evict(100, now=3_001)


def test_a_scan_passes_through_and_leaves_what_was_there_in_peace() -> None:
    queue = Queue(S3Fifo(), 50)

    for now in range(10, 510):
        queue.put(now)
        queue.evict(1, now)

    # A tenth of what is held may be on probation, and what is there beyond has to go first.
    assert len([each for each in queue.accessed if each <= 50]) >= 44


def test_what_is_new_stays_if_it_was_read_on_probation() -> None:
    queue = Queue(S3Fifo(), 20)
    read = queue.put(now=10)
    queue.accessed[read] = 11

    for now in range(12, 32):
        queue.put(now)
        queue.evict(1, now)

    assert read in queue.accessed


def test_what_comes_back_while_it_is_remembered_is_spared_its_probation() -> None:
    queue = Queue(S3Fifo(), 20)
    first = [queue.put(10, mark) for mark in (101, 102, 103)]
    assert queue.evict(1, now=11) == first[:1]

    back = queue.put(12, mark=101)
    for now in range(13, 33):
        queue.put(now)
        queue.evict(1, now)

    assert back in queue.accessed


def test_after_a_start_all_that_is_there_has_passed_its_probation() -> None:
    queue = Queue(S3Fifo(), 10)
    queue.accessed |= {1: 5}

    assert queue.evict(2, now=10) == [2, 3]


def test_a_slow_upload_whose_id_the_border_has_passed_is_not_on_probation() -> None:
    order = S3Fifo()
    queue = Queue(order, 20)
    for now in range(10, 15):
        queue.put(now)
    queue.evict(3, now=20)
    before = order._probation_bytes

    order.came(21, 1, 21)

    assert (order._probation_bytes, order._welcome) == (before, {})


def test_ghosts_are_of_no_more_bytes_than_are_held() -> None:
    order = S3Fifo()
    queue = Queue(order, 20)

    for now in range(10, 210):
        queue.put(now)
        queue.evict(1, now)

    assert len(order._ghosts) <= 21
    assert sum(order._ghosts.values()) == order._ghost_bytes


@pytest.mark.parametrize("make", [Sieve, Fifo, SampledLru, S3Fifo])
@given(
    st.lists(st.tuples(st.sampled_from(["put", "put", "read", "remove", "evict"]), st.integers(0, 20)), max_size=60),
    st.integers(0, 12),
    st.integers(1, 5),
)
def test_whatever_comes_and_goes_as_many_as_have_to_go_do(
    make: Callable[[], Order], steps: list[tuple[str, int]], count: int, batch: int
) -> None:
    queue = Queue(make(), count)
    for now, (what, which) in enumerate(steps, start=10):
        there = sorted(queue.accessed)
        if what == "put":
            queue.put(now, mark=1 + which)
        elif there and what == "read":
            queue.accessed[there[which % len(there)]] = now
        elif there and what == "remove":
            del queue.accessed[there[which % len(there)]]
        elif there:
            queue.evict(1 + which % len(there), now, batch)

    queue.evict(len(queue.accessed), 100, batch)

    assert not queue.accessed
