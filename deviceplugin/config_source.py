"""The configuration in force: read from a file or a folder of them, and again whenever the content changes."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deviceplugin.config.model import Config
from deviceplugin.config.precedence import Overrides, load, notices
from deviceplugin.settings import Fallback
from tasuki.kube.names import NVIDIA_CONFIG_LABEL
from tasuki.process.document import ConfigError
from tasuki.process.file_source import content_of, folders_of, settled
from tasuki.process.watching import FolderWatch

_NAMED_FALLBACK: Final = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where configurations come from; neither file nor folder means that there are only defaults.

    Attributes:
        folder: Each file in it is a configuration of that name.
        default: The name taken for a node without a label; empty to go by `fallbacks`.
        fallbacks: In order: the one named `default`, the only one, none.
    """

    file: Path | None = None
    folder: Path | None = None
    default: str = ""
    fallbacks: tuple[Fallback, ...] = ("named", "single")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is waited for what.

    Attributes:
        poll_seconds: Between two looks where nothing is noticed.
        settle_seconds: A changed file counts once it stayed the same for so long: an editor may be half way.
        first_choice_seconds: At start, how long the node's label is waited for before the default is taken.
    """

    poll_seconds: float = 30.0
    settle_seconds: float = 0.2
    first_choice_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ConfigOutcome:
    """What came of reading a configuration.

    Attributes:
        config: The one in force: this one, or the last good one; None while there has been none.
        error: Why what was read is not in force, to follow `origin`; empty if it is.
        origin: What was read, in words.
        digest: SHA-256 of its content; empty if it could not be read.
        notices: Sentences on what `config` still asks of the operator.
    """

    config: Config | None
    error: str
    origin: str
    digest: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reading:
    """A look at the files; `problem` says why there is no content."""

    origin: str
    content: bytes = b""
    problem: str = ""
    watched: tuple[Path, ...] = field(default=(), compare=False)


class ConfigSource:
    """Reads, notices changes, and keeps the last good configuration in force."""

    def __init__(self, origin: Origin, overrides: Overrides, pace: Pace = Pace()) -> None:
        self._origin = origin
        self._overrides = overrides
        self._pace = pace
        self._choice: str | None = None
        self._chosen = asyncio.Event()
        self._last: _Reading | None = None
        self._last_good: Config | None = None

    def choose(self, name: str | None) -> None:
        """Take the configuration that the node's label names; None or empty if there is no label."""
        self._choice = name or None
        self._chosen.set()

    async def outcomes(self) -> AsyncGenerator[ConfigOutcome, None]:
        """The first configuration, then one outcome for each change; never ends.

        Close it (`contextlib.aclosing`) when leaving it before the end of the task.
        """
        await self._first_choice()
        while True:
            self._chosen.clear()
            watched = (await asyncio.to_thread(self._look)).watched
            with FolderWatch(watched) as watch:
                # Looked at only now, so that no change falls between the look and the watch.
                reading = await settled(self._look, self._last, self._pace.settle_seconds)
                if reading != self._last:
                    self._last = reading
                    yield self._judged(reading)
                if reading.watched == watched:
                    await self._woken(watch)

    async def _first_choice(self) -> None:
        if self._origin.folder is None or not self._pace.first_choice_seconds:
            return
        try:
            async with asyncio.timeout(self._pace.first_choice_seconds):
                await self._chosen.wait()
        except TimeoutError:
            return  # no API server answers, the default does until one does

    async def _woken(self, watch: FolderWatch) -> None:
        """Until a file changes, another is chosen, or it is time for a look anyway."""
        waits = {
            asyncio.create_task(watch.wait(self._pace.poll_seconds)),
            asyncio.create_task(self._chosen.wait()),
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _judged(self, reading: _Reading) -> ConfigOutcome:
        error = reading.problem
        if not error:
            try:
                self._last_good = load(reading.content, self._overrides)
            except ConfigError as problem:
                error = str(problem)
        return ConfigOutcome(
            config=self._last_good,
            error=error,
            origin=reading.origin,
            digest="" if reading.problem else hashlib.sha256(reading.content).hexdigest(),
            notices=notices(self._last_good) if self._last_good else (),
        )

    def _look(self) -> _Reading:
        """Blocking: from a worker thread."""
        origin = self._origin
        if origin.folder is not None:
            return _look_into(origin.folder, origin, self._choice)
        if origin.file is not None:
            return _look_at(origin.file, str(origin.file))
        return _Reading("built-in defaults")


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which of a folder's configurations is meant: always a name of its list, so that no label becomes a path."""

    origin: str
    name: str = ""
    problem: str = ""


def _look_into(folder: Path, origin: Origin, choice: str | None) -> _Reading:
    watched = (folder, *folders_of(folder))
    try:
        names = _names(folder)
    except OSError as error:
        return _Reading(str(folder), problem=f"cannot be listed: {error.strerror or error}", watched=watched)
    selection = _selected(names, origin, choice)
    if selection.problem:
        listed = f"{folder} has {', '.join(names)}" if names else f"{folder} is empty"
        return _Reading(selection.origin, problem=f"{selection.problem}; {listed}", watched=watched)
    if not selection.name:
        return _Reading(selection.origin, watched=watched)
    reading = _look_at(folder / selection.name, selection.origin)
    return _Reading(reading.origin, reading.content, reading.problem, (*watched, *reading.watched))


def _names(folder: Path) -> list[str]:
    """The configurations in a folder; what begins with `..` is how the kubelet keeps a ConfigMap's versions."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("..") and _is_file(entry))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Also false for a link to itself and the like, which must not hide the other entries."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _selected(names: list[str], origin: Origin, choice: str | None) -> _Selection:
    if choice is not None:
        by = f"the node label {NVIDIA_CONFIG_LABEL}"
        return _by_name(choice, names, "node label", by)
    if origin.default:
        return _by_name(origin.default, names, "default", "the default configuration")
    for fallback in origin.fallbacks:
        if fallback == "named" and _NAMED_FALLBACK in names:
            return _by_name(_NAMED_FALLBACK, names, "no node label", "")
        if fallback == "single" and len(names) == 1:
            return _by_name(names[0], names, "the only one", "")
        if fallback == "empty":
            return _Selection("built-in defaults")
    return _Selection(
        "no configuration",
        problem=f"the node has no label {NVIDIA_CONFIG_LABEL} that chooses a configuration, and there is no default",
    )


def _by_name(wanted: str, names: list[str], how: str, by: str) -> _Selection:
    origin = f'configuration "{wanted}" ({how})'
    if wanted not in names:
        return _Selection(origin, problem=f"{by} is {wanted!r}, which does not exist")
    return _Selection(origin, wanted)


def _look_at(path: Path, origin: str) -> _Reading:
    watched = folders_of(path)
    try:
        return _Reading(origin, content_of(path), watched=watched)
    except OSError as error:
        reason = error.strerror or str(error)
        return _Reading(origin, problem=f"cannot be read: {reason}", watched=watched)
