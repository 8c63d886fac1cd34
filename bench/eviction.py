"""Which eviction order keeps the most of what is read: hit rates, side by side; `python -m bench.eviction`.

Objects are of one size, so parts of the objects are parts of the bytes. What is read follows:

- Zipf with alpha from 0.7 to 1.1. Web proxies were found at 0.67 and 0.97, one near 1
  (pages.cs.wisc.edu/~cao/papers/zipf-implication/node2.html); the example of NSDI24-SIEVE's repository has 1.0.
- Epochs of training: each reads every object once, in an order of its own. No order can hit more than the part that is
  kept, and LRU hits less.
- Both: Zipf, into which scans break that read objects nobody reads again; and epochs beside Zipf.
- What changes: Zipf whose ranks move bit by bit, and epochs over another dataset every few epochs. An order that clings
  to what it has looks well above and fails here.

`S3-FIFO, kept` is what the store runs, `SIEVE, kept` and `LRU, sampled` what it could run (objectcache.room.order):
with seconds instead of bits, over one queue.
"""

import argparse
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np

from bench.measuring import machine
from objectcache.room.order import Batch, Candidate, Order, S3Fifo, SampledLru, Sieve

SIZES: Final = (0.01, 0.10, 0.30, 0.50)
SEED: Final = 20261122
BATCH: Final = 64
# So many reads are one second: the store's orders see time, not bits.
READS_A_SECOND: Final = 100


class Cache(Protocol):
    def read(self, key: int) -> bool:
        """Whether it was there; it is afterwards."""
        ...


class PlainFifo:
    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[int, None] = OrderedDict()

    def read(self, key: int) -> bool:
        if key in self._kept:
            return True
        if len(self._kept) >= self._room:
            self._kept.popitem(last=False)
        self._kept[key] = None
        return False


class PlainLru:
    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[int, None] = OrderedDict()

    def read(self, key: int) -> bool:
        if key in self._kept:
            self._kept.move_to_end(key)
            return True
        if len(self._kept) >= self._room:
            self._kept.popitem(last=False)
        self._kept[key] = None
        return False


class PlainSieve:
    """With a bit an object, as published (NSDI '24)."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._visited: dict[int, bool] = {}
        # Towards the newer and towards the older; -1 beyond the ends.
        self._newer: dict[int, int] = {-1: -1}
        self._older: dict[int, int] = {-1: -1}
        self._hand = -1

    def read(self, key: int) -> bool:
        if key in self._visited:
            self._visited[key] = True
            return True
        if len(self._visited) >= self._room:
            self._evict()
        newest = self._older[-1]
        self._newer[key], self._older[key] = -1, newest
        self._newer[newest] = key
        self._older[-1] = key
        self._visited[key] = False
        return False

    def _evict(self) -> None:
        hand = self._hand if self._hand != -1 else self._newer[-1]
        while self._visited[hand]:
            self._visited[hand] = False
            hand = self._newer[hand]
            if hand == -1:
                hand = self._newer[-1]
        newer, older = self._newer.pop(hand), self._older.pop(hand)
        self._newer[older] = newer
        self._older[newer] = older
        del self._visited[hand]
        self._hand = newer


class PlainS3Fifo:
    """A small queue for the new, a main one for what was read there, a ghost of what left the small (SOSP '23)."""

    def __init__(self, room: int) -> None:
        self._small_room = max(1, room // 10)
        self._main_room = max(1, room - self._small_room)
        self._room = room
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._ghost: OrderedDict[int, None] = OrderedDict()
        self._reads: dict[int, int] = {}

    def read(self, key: int) -> bool:
        if key in self._reads:
            self._reads[key] = min(3, self._reads[key] + 1)
            return True
        while len(self._reads) >= self._room:
            self._evict()
        if key in self._ghost:
            del self._ghost[key]
            self._main.append(key)
        else:
            self._small.append(key)
        self._reads[key] = 0
        return False

    def _evict(self) -> None:
        if len(self._small) < self._small_room and self._main:
            self._evict_main()
            return
        while self._small:
            key = self._small.popleft()
            if self._reads[key] > 1:
                self._reads[key] = 0
                self._main.append(key)
                if len(self._main) > self._main_room:
                    self._evict_main()
                    return
            else:
                del self._reads[key]
                self._ghost[key] = None
                if len(self._ghost) > self._main_room:
                    self._ghost.popitem(last=False)
                return
        self._evict_main()

    def _evict_main(self) -> None:
        while self._main:
            key = self._main.popleft()
            if not self._reads[key]:
                del self._reads[key]
                return
            self._reads[key] -= 1
            self._main.append(key)


class Ordered:
    """An order of the store over a queue like the catalogue's."""

    def __init__(self, room: int, order: Order) -> None:
        self._room = room
        self._order = order
        self._ids: dict[int, int] = {}
        # By id, ascending; None was evicted. Compacted once half is.
        self._queue: list[Candidate | None] = []
        self._keys: dict[int, int] = {}
        self._accessed: dict[int, int] = {}
        self._first = 1
        self._next = 1
        self._reads = 0

    def read(self, key: int) -> bool:
        self._reads += 1
        now = self._reads // READS_A_SECOND
        found = self._ids.get(key)
        if found is not None:
            self._accessed[found] = now
            return True
        while len(self._ids) >= self._room:
            self._evict(now)
        self._ids[key] = self._next
        self._keys[self._next] = key
        self._queue.append(Candidate(self._next, 1, now, now, key))
        self._accessed[self._next] = now
        self._order.came(self._next, 1, key)
        self._next += 1
        return False

    def _evict(self, now: int) -> None:
        # A hundredth at once, as a store that empties itself to its low watermark.
        for each in self._order.choose(self._batch(), max(1, self._room // 100), now):
            self._queue[each.object_id - self._first] = None
            del self._accessed[each.object_id]
            del self._ids[self._keys.pop(each.object_id)]
        if len(self._queue) > 1000 + 4 * len(self._ids):
            self._compact()

    def _batch(self) -> Batch:
        found: list[Candidate] = []
        ends = True
        for place in range(max(0, self._order.after_id + 1 - self._first), len(self._queue)):
            each = self._queue[place]
            if each is None:
                continue
            if len(found) == BATCH:
                ends = False
                break
            found.append(Candidate(each.object_id, 1, each.created, self._accessed[each.object_id], each.mark))
        return Batch(found, ends, len(self._ids))

    def _compact(self) -> None:
        """Only what was put first and is gone can be forgotten: ids stay places."""
        gone = next((place for place, each in enumerate(self._queue) if each is not None), len(self._queue))
        self._queue = self._queue[gone:]
        self._first += gone


# No order can hit more of epochs than the part that it keeps; one that reaches it has stopped to change what it keeps,
# as an order does whose hand is stuck.
_TOLERANCE: Final = 0.02

CACHES: Final[dict[str, Callable[[int], Cache]]] = {
    "FIFO": PlainFifo,
    "LRU": PlainLru,
    "LRU, sampled": lambda room: Ordered(room, SampledLru()),
    "SIEVE": PlainSieve,
    "SIEVE, kept": lambda room: Ordered(room, Sieve()),
    "S3-FIFO": PlainS3Fifo,
    "S3-FIFO, kept": lambda room: Ordered(room, S3Fifo()),
}


def _places(random: np.random.Generator, objects: int, reads: int, alpha: float) -> list[int]:
    """Ranks, the most popular 0."""
    weights = np.arange(1, objects + 1, dtype=np.float64) ** -alpha
    places = np.searchsorted(np.cumsum(weights / weights.sum()), random.random(reads))
    return [int(each) for each in np.minimum(places, objects - 1)]


def zipf(random: np.random.Generator, objects: int, reads: int, alpha: float) -> list[int]:
    names = random.permutation(objects)
    return [int(names[place]) for place in _places(random, objects, reads, alpha)]


def epochs(random: np.random.Generator, objects: int, reads: int) -> list[int]:
    return [int(each) for _ in range(max(2, reads // objects)) for each in random.permutation(objects)]


def with_scans(random: np.random.Generator, objects: int, reads: int) -> list[int]:
    """Of ten reads, three are of scans, each over a tenth as many new objects."""
    steady = zipf(random, objects, reads * 7 // 10, 0.9)
    length = objects // 10
    scans = max(1, reads * 3 // 10 // length)
    between = max(1, len(steady) // scans)

    def mixed() -> Iterator[int]:
        for scan in range(scans):
            yield from steady[scan * between : (scan + 1) * between]
            yield from range(objects + scan * length, objects + (scan + 1) * length)

    return list(mixed())


def two_jobs(random: np.random.Generator, objects: int, reads: int) -> list[int]:
    """Half the reads are epochs over half the objects, half are Zipf over the others, read by read."""
    half = objects // 2
    trained = epochs(random, half, reads // 2)
    served = [half + each for each in zipf(random, half, len(trained), 0.9)]
    return [each for pair in zip(trained, served, strict=True) for each in pair]


def drifting(random: np.random.Generator, objects: int, reads: int) -> list[int]:
    """Zipf 0.9; fifty times, a twentieth of the objects change their ranks."""
    ranks = random.permutation(objects)
    found: list[int] = []
    for _ in range(50):
        moved = random.choice(objects, objects // 20, replace=False)
        ranks[moved] = ranks[random.permutation(moved)]
        found += [int(ranks[each]) for each in _places(random, objects, reads // 50, 0.9)]
    return found


def new_datasets(random: np.random.Generator, objects: int, reads: int) -> list[int]:
    """Each of four times fewer objects, Zipf 0.9 among them, and not read again after the next came."""
    size, phases = objects // 4, 8
    return [phase * size + int(each) for phase in range(phases) for each in _places(random, size, reads // phases, 0.9)]


def new_epochs(random: np.random.Generator, objects: int, reads: int) -> list[int]:
    """Ten epochs over a fifth of the objects, then ten over others, and so on; parts kept are of one dataset."""
    size = objects // 5
    return [
        phase * size + int(each)
        for phase in range(max(2, reads // (10 * size)))
        for _ in range(10)
        for each in random.permutation(size)
    ]


def hit_rate(cache: Cache, reads: Sequence[int]) -> float:
    """Of the second half: by then it is full."""
    hits = [cache.read(key) for key in reads]
    measured = hits[len(hits) // 2 :]
    return sum(measured) / len(measured)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.eviction")
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--reads", type=int, default=200_000)
    options = parser.parse_args()
    random = np.random.default_rng(SEED)
    loads = {
        **{f"Zipf {alpha}": zipf(random, options.objects, options.reads, alpha) for alpha in (0.7, 0.8, 0.9, 1.0, 1.1)},
        "epochs": epochs(random, options.objects, options.reads),
        "Zipf 0.9 and scans": with_scans(random, options.objects, options.reads),
        "epochs and Zipf 0.9": two_jobs(random, options.objects, options.reads),
        "Zipf 0.9, drifting": drifting(random, options.objects, options.reads),
        "new dataset, Zipf 0.9": new_datasets(random, options.objects, options.reads),
        "new dataset, epochs": new_epochs(random, options.objects, options.reads),
    }
    started = time.perf_counter()
    print(f"{options.objects} objects, {options.reads} reads, seed {SEED}; {machine()}\n")
    print("| reads | cache | " + " | ".join(CACHES) + " |")
    print("|---|---|" + "---|" * len(CACHES))
    for name, reads in loads.items():
        for size in SIZES:
            objects = options.objects // 5 if name == "new dataset, epochs" else options.objects
            room = max(1, int(objects * size))
            rates = {cache: hit_rate(make(room), reads) for cache, make in CACHES.items()}
            if name == "epochs" and (
                wrong := [cache for cache, rate in rates.items() if rate > size - _TOLERANCE * size]
            ):
                print(
                    f"{wrong} hit as much as the part that is kept, which nothing that forgets can: they cling",
                    flush=True,
                )
            print(
                f"| {name} | {size:.0%} | " + " | ".join(f"{100 * rate:.1f}" for rate in rates.values()) + " |",
                flush=True,
            )
    print(f"\nHits in % of the second half of the reads; took {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
