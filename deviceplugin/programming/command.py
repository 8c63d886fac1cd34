"""A vendor's own tool as programmer: fpgaconf, xbutil, xrt-smi, or a script."""

import os
import select
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deviceplugin.fpga import Region
from deviceplugin.programming.programmer import ProgrammingError

# What an error quotes of the program's output, from its end.
_QUOTED_BYTES: Final = 512
_LOOK_SECONDS: Final = 0.05
_KILLED_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class CommandProgrammer:
    """Runs a program without a shell, with no input, and for so long at most.

    Attributes:
        command: The program and its arguments; `{image}` and `{pci}` are filled in.
        limit_seconds: After this it is killed, and all that it has started with it.
    """

    command: tuple[str, ...]
    limit_seconds: float

    def program(self, region: Region, image: Path, expected: str) -> None:  # noqa: ARG002 - the caller reads back
        pci = region.device.place.pci_address
        if not pci and any("{pci}" in argument for argument in self.command):
            raise ProgrammingError(f"the command has {{pci}}, and region {region.device.id} has no PCI address")
        arguments = [a.replace("{image}", str(image)).replace("{pci}", pci) for a in self.command]
        shown = shlex.join(arguments)
        try:
            process = subprocess.Popen(  # noqa: S603 - a list from the operator's own configuration, without a shell
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise ProgrammingError(
                f"{shown} could not be run: {error.strerror}; is the program in the image of the device plugin?"
            ) from error
        assert process.stdout is not None
        with process.stdout:
            output, in_time = _follow(process, time.monotonic() + self.limit_seconds)
        quoted = f"; it said: {output}" if output else "; it said nothing"
        if not in_time:
            raise ProgrammingError(f"{shown} was stopped after {self.limit_seconds:g} s{quoted}")
        if process.returncode:
            raise ProgrammingError(f"{shown} ended with status {process.returncode}{quoted}")


def _follow(process: "subprocess.Popen[bytes]", deadline: float) -> tuple[str, bool]:
    """Wait for a process while taking its output in, of which only the end is kept; whether it ended in time."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    tail = b""
    is_open = True
    while process.poll() is None and time.monotonic() < deadline:
        # What it leaves running in the background may keep the pipe open, so its end alone is not waited for.
        if not is_open:
            time.sleep(_LOOK_SECONDS)
        elif poll.poll(_LOOK_SECONDS * 1000):
            got = os.read(pipe, 65536)
            is_open = bool(got)
            tail = (tail + got)[-_QUOTED_BYTES:]
    in_time = process.poll() is not None
    if not in_time:
        os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # it hangs in the driver, where no signal reaches it
            process.wait(_KILLED_SECONDS)
    while is_open and poll.poll(0):
        got = os.read(pipe, 65536)
        is_open = bool(got)
        tail = (tail + got)[-_QUOTED_BYTES:]
    return " ".join(tail.decode("utf-8", "replace").split()), in_time
