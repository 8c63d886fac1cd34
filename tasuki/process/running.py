"""Running a process's one event loop until it is told to stop."""

import asyncio
import logging
import resource
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


# A server's connections, files and watches together; systemd and container engines often begin with 1,024.
_OPEN_FILES: Final = 65_536


def raise_open_files() -> None:
    """Let the process open as many files as it is allowed to, up to a number that it never needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_until_stopped(
    service: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run `service(stop)` in a new event loop; SIGTERM and SIGINT set `stop`, a second one ends at once."""
    raise_open_files()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_with_signals(service))


def exit_status(
    logger: logging.Logger,
    service: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    bad_settings: tuple[type[Exception], ...],
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run `service(stop)` as `run_until_stopped` does, and log how it ended.

    Returns:
        0, 2 after one of `bad_settings`, 1 after any other error.
    """
    try:
        run_until_stopped(service, new_loop)
    except bad_settings as error:
        logger.error("bad setting error=%r", str(error))  # noqa: TRY400 - the sentence says it all
        return 2
    except asyncio.CancelledError:
        return 1  # told twice to stop
    except OSError as error:
        logger.error("cannot start error=%r", str(error))  # noqa: TRY400 - the sentence says it all
        return 1
    except Exception:
        logger.exception("a defect ends the process")
        return 1
    logger.info("stopped")
    return 0


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
