"""Whose turn it is to send: deficit round robin over buckets (Shreedhar and Varghese, SIGCOMM 1995); no I/O."""

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# A bucket may send so many bytes a turn; what it sends beyond is taken off its next one.
QUANTUM_BYTES: Final = 2 * 2**20
# What a step counts for at least: a small answer takes as much of the processor as so many bytes.
LEAST_BYTES: Final = 32 * 2**10


class FairQueue(Generic[T]):
    """Those who wait to send, by bucket: buckets take turns by bytes, and inside a bucket everybody does in order."""

    def __init__(self, quantum_bytes: int = QUANTUM_BYTES) -> None:
        self._quantum: Final = quantum_bytes
        # The first bucket's turn is next, or goes on.
        self._waiting: Final[dict[int, deque[T]]] = {}
        # What is left of a turn, or below 0 was taken in advance.
        self._credits: Final[dict[int, int]] = {}
        self._goes_on = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def push(self, bucket: int, waiter: T) -> None:
        queue = self._waiting.get(bucket)
        if queue is None:
            self._waiting[bucket] = deque((waiter,))
        else:
            queue.append(waiter)

    def round(self, step: Callable[[T, int], int], most_bytes: int) -> int:
        """Let each bucket that waits have a turn; returns the bytes that were sent.

        A turn that `most_bytes` cuts short goes on with the next round.

        Args:
            step: Lets one send at most so many bytes; returns how many it sent, or -1 - that number if it wants
                another turn.
            most_bytes: Begin no step after so many.
        """
        total = 0
        for _ in range(len(self._waiting)):
            if total >= most_bytes:
                break
            bucket, queue = next(iter(self._waiting.items()))
            credit = self._credits.pop(bucket, 0)
            if not self._goes_on:
                credit += self._quantum
            while queue and credit > 0 and total < most_bytes:
                waiter = queue.popleft()
                sent = step(waiter, credit)
                if sent < 0:
                    sent = -1 - sent
                    queue.append(waiter)
                total += sent
                credit -= max(sent, LEAST_BYTES)
            self._goes_on = bool(queue) and credit > 0
            if not queue:
                del self._waiting[bucket]
                continue
            self._credits[bucket] = credit
            if not self._goes_on:
                self._waiting[bucket] = self._waiting.pop(bucket)
        return total
