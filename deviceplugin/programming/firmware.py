"""FPGAs of SoCs under a vendor's kernel: an image is loaded by writing its name to the manager's file `firmware`."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.fpga import Region
from deviceplugin.programming.programmer import ProgrammingError


@dataclass(frozen=True, slots=True)
class FirmwareProgrammer:
    """Writes block until the kernel has loaded the image.

    Mainline Linux has no such file: there, images come with device tree overlays, which is a board's own matter and one
    for a command. The kernels of Xilinx and Altera have it. `flags` beside it (full or partial) is left as the board's
    owner has set it.

    Attributes:
        folder: Where the kernel looks for firmware, as we see it; the image is there only while it is loaded.
    """

    sys_root: Path
    folder: Path

    def program(self, region: Region, image: Path, expected: str) -> None:  # noqa: ARG002 - the caller reads back
        manager = self.sys_root / region.control
        request = manager / "firmware"
        if not region.control or not request.exists():
            raise ProgrammingError(
                f"{request} does not exist: this kernel takes no images by name; set tasuki.fpga.programmer.command"
            )
        copy = self.folder / f"tasuki-{manager.name}-{image.name}"
        part = copy.with_name(f".{copy.name}.part")
        try:
            shutil.copyfile(image, part)
            part.replace(copy)
            # One write, because each is a request of its own.
            descriptor = os.open(request, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, f"{copy.name}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ProgrammingError(
                f"{region.device.id} could not be given {image.name} by {error.filename or request}: {error.strerror}"
            ) from error
        finally:
            for left in (part, copy):
                with suppress(OSError):
                    left.unlink()
        self._check(manager, image)

    def _check(self, manager: Path, image: Path) -> None:
        try:
            state = (manager / "state").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProgrammingError(f"{manager}/state cannot be read after {image.name} was loaded: {error}") from error
        if state != "operating":
            raise ProgrammingError(f"{manager}/state is {state!r} after {image.name} was loaded, not 'operating'")
