"""Which of a bucket's objects go first."""

from collections.abc import Callable

import pytest

from objectcache.room.order import Batch, Candidate, Fifo, Order, SampledLru, Sieve


class Queue:
    """A bucket as an order sees it, with objects of one byte."""

    def __init__(self, order: Order, count: int) -> None:
        self.order = order
        self.accessed = dict.fromkeys(range(1, count + 1), 0)
        self.created = dict.fromkeys(range(1, count + 1), 0)
        self.newest = count

    def put(self, now: int) -> None:
        self.newest += 1
        self.accessed[self.newest] = self.created[self.newest] = now

    def evict(self, count: int, now: int, batch: int = 4) -> list[int]:
        gone: list[int] = []
        while len(gone) < count:
            behind = [each for each in sorted(self.accessed) if each > self.order.after_id]
            candidates = [Candidate(each, 1, self.created[each], self.accessed[each]) for each in behind[:batch]]
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
