"""What would hold the loop up is done by a few threads: reading cold files, checking suspect ones, fsync."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final

_THREADS: Final = 8


class Threads:
    """Runs work elsewhere, and tells the loop when it is done.

    Attributes:
        fd: Readable when something is done: then call `finish`.
    """

    def __init__(self) -> None:
        self.fd: Final = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pool: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")
        self._done: Final[deque[tuple[Callable[[OSError | None], None], Future[None]]]] = deque()

    def run(self, work: Callable[[], None], done: Callable[[OSError | None], None]) -> None:
        """Let a thread do `work`, and the loop then call `done` with the OSError that it raised, or None."""
        self._pool.submit(work).add_done_callback(partial(self._note, done))

    def finish(self) -> None:
        """Call `done` of all that is."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return
        while self._done:
            done, future = self._done.popleft()
            error = future.exception()
            if error is not None and not isinstance(error, OSError):
                raise error
            done(error)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _note(self, done: Callable[[OSError | None], None], future: "Future[None]") -> None:
        self._done.append((done, future))
        os.eventfd_write(self.fd, 1)
