"""Running a process's one event loop until it is told to stop."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

log: Final = logging.getLogger(__name__)

# The loop notes that it is alive this often, and counts as stuck after so many seconds without a note.
_BEAT_SECONDS: Final = 1.0
_STUCK_SECONDS: Final = 30.0


class Heartbeat:
    """Tells other threads whether the event loop still turns."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def beat(self) -> None:
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)

    def alive(self) -> bool:
        return time.monotonic() - self._last < _STUCK_SECONDS


def run_until_stopped(
    service: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run `service(stop)` in a new event loop; SIGTERM and SIGINT set `stop`, a second one ends at once."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_with_signals(service))


async def _with_signals(service: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    work = asyncio.current_task()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set() and work is not None:
            log.warning("stopping at once signal=%s", number.name)
            work.cancel()
            return
        log.info("stopping signal=%s", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await service(stop)
