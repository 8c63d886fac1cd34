"""What a file means, read again whenever it is replaced."""

import asyncio
import errno
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from tasuki.process.document import MAX_BYTES
from tasuki.process.sentences import shortened
from tasuki.process.watching import FolderWatch

log: Final = logging.getLogger(__name__)

# Symbolic links that lead to a file; more are a loop (Linux gives up at 40 too).
_LONGEST_CHAIN: Final = 40

# A file that changes at every look is taken as it is after so many.
_MOST_LOOKS: Final = 10

# What is wrong is a line of the log and part of a page, whatever the file looks like.
_LONGEST_PROBLEM: Final = 4_000

# NVIDIA's config-manager links to /dev/null for a node without a configuration.
_NULL_DEVICE: Final = os.makedev(1, 3)

_Value = TypeVar("_Value")
_Seen = TypeVar("_Seen")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is waited for what.

    Attributes:
        poll_seconds: Between two looks where nothing is noticed.
        settle_seconds: A changed file counts once it stayed the same for so long: an editor may be half way.
    """

    poll_seconds: float = 30.0
    settle_seconds: float = 0.2


DEFAULT_PACE: Final = Pace()


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found; `content` is None if there is no file, and `problem` says why one cannot be read."""

    content: bytes | None = None
    problem: str = ""
    watched: tuple[Path, ...] = field(default=(), compare=False)


class FileSource(Generic[_Value]):
    """Reads a file, notices that it was replaced, and keeps to what was last good."""

    def __init__(
        self,
        file: Path,
        read: Callable[[bytes | None], _Value],
        changed: Callable[[_Value], None],
        report: Callable[[str], None],
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        """Nothing is read before `run`.

        Args:
            file: Which may be a link, and come later.
            read: What a content means, None if there is no file; raises ValueError with what is wrong. Called from a
                worker thread, never twice at once.
            changed: Told of the first meaning, and of each that differs from the one before.
            report: Told at every look that found something new why it is not in force; empty if it is.
            pace: How long is waited.
        """
        self._file = file
        self._read = read
        self._changed = changed
        self._report = report
        self._pace = pace
        self._seen: _Look | None = None
        self._in_force: list[_Value] = []
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            watched = (await asyncio.to_thread(self._look)).watched
            with FolderWatch(watched) as watch:
                # Looked at only now, so that no change falls between the look and the watch.
                look = await settled(self._look, self._seen, self._pace.settle_seconds)
                if look != self._seen:
                    self._seen = look
                    await self._judge(look)
                if look.watched == watched:
                    await watch.wait(self._pace.poll_seconds)

    def _look(self) -> _Look:
        """Blocking: from a worker thread."""
        watched = folders_of(self._file)
        try:
            return _Look(content_of(self._file), watched=watched)
        except FileNotFoundError:
            return _Look(watched=watched)
        except OSError as error:
            return _Look(problem=f"cannot be read: {error.strerror or error}", watched=watched)

    async def _judge(self, look: _Look) -> None:
        problem = look.problem
        if look.content is not None and len(look.content) > MAX_BYTES:
            problem = f"is larger than {MAX_BYTES} bytes; make it smaller"
        if not problem:
            try:
                value = await asyncio.to_thread(self._read, look.content)
            except ValueError as error:
                problem = str(error)
            else:
                self._take(value, is_there=look.content is not None)
        kept = "; what was in force stays in force" if self._in_force else ""
        self._tell(f"{self._file}: {shortened(problem, _LONGEST_PROBLEM)}{kept}" if problem else "")

    def _take(self, value: _Value, *, is_there: bool) -> None:
        if self._in_force == [value]:
            return
        if is_there:
            log.info("in force file=%s", self._file)
        else:
            # One that was never there is most likely not wanted.
            log.log(logging.INFO if self._in_force else logging.DEBUG, "no file file=%s", self._file)
        self._in_force = [value]
        self._changed(value)

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.error("not in force problem=%s", problem)
        self._problem = problem
        self._report(problem)


async def settled(look: Callable[[], _Seen], last: _Seen | None, settle_seconds: float) -> _Seen:
    """A look that the next look confirms; the first ever (`last` is None), and one without change, need none.

    Args:
        look: Blocking; called from a worker thread.
        last: What was seen before.
        settle_seconds: Between two looks at something that changes.
    """
    seen = await asyncio.to_thread(look)
    for _ in range(_MOST_LOOKS):
        if last in (None, seen):
            break
        await asyncio.sleep(settle_seconds)
        earlier, seen = seen, await asyncio.to_thread(look)
        if seen == earlier:
            break
    return seen


def content_of(path: Path) -> bytes:
    """At most one byte more than MAX_BYTES. Never waits, not even for a named pipe.

    Raises:
        OSError: It cannot be read, or is no file.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) and status.st_rdev != _NULL_DEVICE:
            raise OSError(errno.EINVAL, "it is not a file")
        return file.read(MAX_BYTES + 1)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def folders_of(path: Path) -> tuple[Path, ...]:
    """The folders in which a change can change the file: that of each link on the way to it, and its own.

    In place of its own, while that does not exist, the one in which the way to it will begin.
    """
    folders: list[Path] = []
    current = Path.cwd() / path
    for _ in range(_LONGEST_CHAIN):
        # From the root on, so that `..` in a link's target is seen from a folder that is no link itself.
        steps = (*reversed(current.parents), current)
        link = next((step for step in steps if os.path.islink(step)), None)  # noqa: PTH114 - never raises
        if link is None:
            break
        folders.append(link.parent)
        try:
            target = Path(os.path.normpath(link.parent / link.readlink()))
        except OSError:
            break  # being replaced just now, which wakes whoever watches its folder
        current = target / current.relative_to(link)
    nearest = next(folder for folder in current.parents if os.path.isdir(folder))  # noqa: PTH112 - never raises
    return tuple(dict.fromkeys((*folders, nearest)))
