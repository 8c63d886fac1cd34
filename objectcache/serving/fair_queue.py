"""Whose turn it is to send: deficit round robin over buckets (Shreedhar and Varghese, SIGCOMM 1995); no I/O."""

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# A bucket may send so many bytes a round; what it sends beyond is taken off its next one.
QUANTUM_BYTES: Final = 2 * 2**20
# What a turn counts for at least: a small answer takes as much of the processor as so many bytes.
LEAST_BYTES: Final = 32 * 2**10


class FairQueue(Generic[T]):
    """Those who wait to send, by bucket: buckets take turns by bytes, and inside a bucket everybody does in order."""

    def __init__(self) -> None:
        self._waiting: Final[dict[int, deque[T]]] = {}
        self._credits: Final[dict[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def push(self, bucket: int, waiter: T) -> None:
        queue = self._waiting.get(bucket)
        if queue is None:
            self._waiting[bucket] = deque((waiter,))
        else:
            queue.append(waiter)

    def round(self, step: Callable[[T, int], int], most_bytes: int) -> int:
        """Let each bucket that waits send its share once; returns the bytes that were sent.

        Args:
            step: Lets one send at most so many bytes; returns how many it sent, or -1 - that number if it wants
                another turn.
            most_bytes: Begin no turn after so many.
        """
        total = 0
        for bucket in [*self._waiting]:
            queue = self._waiting[bucket]
            credit = self._credits.get(bucket, 0) + QUANTUM_BYTES
            while queue and credit > 0 and total < most_bytes:
                waiter = queue.popleft()
                sent = step(waiter, credit)
                if sent < 0:
                    sent = -1 - sent
                    queue.append(waiter)
                total += sent
                credit -= max(sent, LEAST_BYTES)
            if queue:
                self._credits[bucket] = min(credit, QUANTUM_BYTES)
                # The next round begins with whoever came after it.
                self._waiting[bucket] = self._waiting.pop(bucket)
            else:
                del self._waiting[bucket]
                self._credits.pop(bucket, None)
        return total
