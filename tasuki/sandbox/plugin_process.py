"""The device plugin as a child process."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tasuki.sandbox.report import printable

T = TypeVar("T")

STOP_SECONDS: Final = 10.0
_SHOWN_LINES: Final = 20


class PluginFailedError(Exception):
    """The device plugin ended, or did not do what it is there for; the text ends in its last log lines."""


class PluginProcess:
    """Runs `tasuki deviceplugin`; use it as `async with`, which leaves no process behind.

    Args:
        argv: Its arguments.
        log: The file that takes its output; its temporary files are beside it.
    """

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self.log: Final = log
        self._argv: Final = tuple(argv)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self.log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tasuki.cli", "deviceplugin", *self._argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "TMPDIR": f"{self.log.parent}"},
                # Ctrl-C is for the sandbox, which then stops the plugin in order.
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def while_running(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work, unless the plugin ends before it is done.

        Raises:
            PluginFailedError: The plugin ended.
        """
        if self._process is None:
            raise RuntimeError("the plugin has not been started")
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise self.failed(f"the device plugin ended with status {ending.result()}")
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    def failed(self, reason: str) -> PluginFailedError:
        """The error for a plugin that does not do its work, with what it said last."""
        return PluginFailedError(f"{reason}; its last words:\n{last_words(self.log)}")


def last_words(log: Path) -> str:
    """The end of what a program has said, to be shown below what became of it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
    return "\n".join(f"  {printable(line)}" for line in lines) or "  (nothing)"
