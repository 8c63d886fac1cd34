"""What workers count, in memory that the keeper reads: each worker has a row of its own, so that nobody waits."""

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

VERBS: Final = ("GET", "HEAD", "PUT", "DELETE", "LIST", "OTHER")
# 0 stands for any other.
STATUSES: Final = (
    200, 201, 204, 206, 304, 400, 401, 403, 404, 405, 411, 412, 413, 414, 415, 416, 417, 431, 500, 501, 503, 505, 507,
    0,
)  # fmt: skip
# Of a request, from its head's last byte to the answer's last; the last bucket is everything longer.
BOUNDS: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
# What is counted of each bucket, in this order.
HITS, MISSES, SENT_BYTES, PUTS, RECEIVED_BYTES, REMOVALS = range(6)
BUCKET_FIELDS: Final = ("hits", "misses", "sent_bytes", "puts", "received_bytes", "removals")
# Buckets with higher numbers are counted together in row 0, which no bucket has.
MOST_BUCKETS: Final = 16_384

# What is counted of all together.
OPEN, ACCEPTED, TURNED_AWAY, BROKEN, TIMED_OUT, COLD_READS, DAMAGED, DEFECTS = range(8)

_REQUESTS: Final = DEFECTS + 1
_SECONDS: Final = _REQUESTS + len(VERBS) * len(STATUSES)
# A histogram a verb: its buckets, then the sum in nanoseconds.
_HISTOGRAM: Final = len(BOUNDS) + 2
_BUCKETS: Final = _SECONDS + len(VERBS) * _HISTOGRAM
_ROW: Final = _BUCKETS + MOST_BUCKETS * len(BUCKET_FIELDS)
_STATUS_AT: Final = {status: at for at, status in enumerate(STATUSES)}
_OTHER_STATUS: Final = _STATUS_AT[0]


def bucket_at(number: int) -> int:
    """Where the fields of a bucket begin in a worker's row."""
    return _BUCKETS + (number if 0 < number < MOST_BUCKETS else 0) * len(BUCKET_FIELDS)


class Row:
    """One worker's counts.

    Attributes:
        at: By index: OPEN to DEFECTS, and what `bucket_at` says.
    """

    def __init__(self, memory: mmap.mmap, worker: int) -> None:
        self.at: Final = memoryview(memory).cast("Q")[worker * _ROW : (worker + 1) * _ROW]

    def answered(self, verb: int, status: int, seconds: float) -> None:
        """Count a request; `verb` is an index of VERBS."""
        at = self.at
        at[_REQUESTS + verb * len(STATUSES) + _STATUS_AT.get(status, _OTHER_STATUS)] += 1
        histogram = _SECONDS + verb * _HISTOGRAM
        at[histogram + bisect_left(BOUNDS, seconds)] += 1
        at[histogram + len(BOUNDS) + 1] += int(seconds * 1e9)


class Counters:
    """All workers' rows.

    Attributes:
        fd: Of the memory, for the workers to inherit.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.fd: Final = fd
        self._memory: Final = mmap.mmap(fd, workers * _ROW * 8)
        self._rows: Final = [Row(self._memory, number) for number in range(workers)]

    @classmethod
    def create(cls, workers: int) -> "Counters":
        fd = os.memfd_create("tasuki-cache-counters", os.MFD_CLOEXEC)
        os.ftruncate(fd, workers * _ROW * 8)
        return cls(fd, workers)

    def row(self, worker: int) -> Row:
        return self._rows[worker]

    def restarted(self, worker: int) -> None:
        """Take back what a worker had open when it ended."""
        self._rows[worker].at[OPEN] = 0

    def field(self, field: int) -> int:
        return sum(row.at[field] for row in self._rows)

    def bucket(self, number: int) -> tuple[int, ...]:
        """BUCKET_FIELDS of one bucket."""
        at = bucket_at(number)
        return tuple(sum(row.at[at + field] for row in self._rows) for field in range(len(BUCKET_FIELDS)))

    def requests(self) -> Iterator[tuple[str, int, int]]:
        """Verb, status, count; only those that there were."""
        for verb, name in enumerate(VERBS):
            for at, status in enumerate(STATUSES):
                if count := sum(row.at[_REQUESTS + verb * len(STATUSES) + at] for row in self._rows):
                    yield name, status, count

    def seconds(self, verb: int) -> tuple[tuple[int, ...], float]:
        """A verb's requests by BOUNDS, and beyond the last; not cumulated; and the sum of their seconds."""
        at = _SECONDS + verb * _HISTOGRAM
        counts = tuple(sum(row.at[at + n] for row in self._rows) for n in range(len(BOUNDS) + 1))
        return counts, sum(row.at[at + len(BOUNDS) + 1] for row in self._rows) / 1e9
