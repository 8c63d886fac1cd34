"""What every way of programming a region can do."""

from pathlib import Path
from typing import Protocol

from deviceplugin.fpga import Region


class ProgrammingError(Exception):
    """A region could not be programmed; the text says what to do about it, and reaches the pod's events."""


class Programmer(Protocol):
    """One way to get an image into a region."""

    def program(self, region: Region, image: Path, expected: str) -> None:
        """Write an image into a region, and return when the hardware has taken it.

        Blocks, for a time that is bounded; called from a worker thread, never twice at once for one card. Whether the
        region then holds what it should is read back by the caller.

        Args:
            region: As it was scanned last.
            image: A regular file whose header was found to fit the region.
            expected: The id that the region is to hold.

        Raises:
            ProgrammingError: It did not work; the region may hold anything.
        """
