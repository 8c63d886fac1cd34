"""Being woken when files in some folders change."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from asyncinotify import Inotify, Mask

log: Final = logging.getLogger(__name__)

_CHANGES: Final = (
    Mask.CREATE | Mask.DELETE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CLOSE_WRITE | Mask.DELETE_SELF | Mask.MOVE_SELF
)


class FolderWatch:
    """Wakes its waiter after any change in the folders, and in any case after a while.

    What changed is not told: whoever waits looks for itself, so that a missed or a doubled event does no harm, and
    a folder that inotify cannot watch (too many watchers, a network file system) is merely looked at less often.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        self._inotify: Inotify | None = None
        self._watched: set[Path] = set()

    def __enter__(self) -> Self:
        try:
            self._inotify = Inotify()
        except OSError as error:
            log.warning("inotify is not available, changes are noticed later error=%s", error)
        self._add_missing()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    async def wait(self, at_most_seconds: float) -> bool:
        """Return after a change, with True, or after `at_most_seconds` without one."""
        self._add_missing()
        if self._inotify is None:
            await asyncio.sleep(at_most_seconds)
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_seconds):
                event = await self._inotify.get()
                if event.mask & (Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED):
                    self._watched.clear()
                return True
        return False

    def _add_missing(self) -> None:
        """Watch folders that have appeared since; a folder that was replaced is watched anew."""
        if self._inotify is None:
            return
        for folder in self._folders:
            if folder in self._watched:
                continue
            try:
                self._inotify.add_watch(folder, _CHANGES)
            except OSError:
                continue  # absent for now: the timeout brings us back
            self._watched.add(folder)
