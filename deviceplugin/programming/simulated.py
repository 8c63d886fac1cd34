"""Programming of a machine's FPGAs that exist only as a laid-out tree of files."""

from dataclasses import dataclass
from pathlib import Path

from deviceplugin.discovery.simulated_fpga import SimulatedKernel, SimulatedWriteError
from deviceplugin.fpga import Region
from deviceplugin.programming.programmer import ProgrammingError


@dataclass(frozen=True, slots=True)
class SimulatedProgrammer:
    """Hands images to the simulated kernel."""

    kernel: SimulatedKernel

    def program(self, region: Region, image: Path, expected: str) -> None:
        try:
            self.kernel.program(region, image, expected)
        except SimulatedWriteError as error:
            raise ProgrammingError(str(error)) from error
