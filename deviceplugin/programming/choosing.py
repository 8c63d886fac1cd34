"""Which way of programming serves a card, under the configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from deviceplugin.config.model import FpgaProgrammer
from deviceplugin.fpga import Family
from deviceplugin.programming.command import CommandProgrammer
from deviceplugin.programming.firmware import FirmwareProgrammer
from deviceplugin.programming.intel import IntelProgrammer
from deviceplugin.programming.programmer import Programmer

# XRT loads images through its library alone, whose call is no stable interface.
_BY_KERNEL: Final = frozenset({Family.DFL, Family.OPAE, Family.FPGA_REGION})


class Programmers(Protocol):
    """Where programmers come from."""

    def families(self, options: FpgaProgrammer) -> frozenset[Family]:
        """Cards that can be programmed."""

    def choose(self, options: FpgaProgrammer, family: Family, limit_seconds: float) -> Programmer:
        """The programmer for one of these families, which takes at most so long where it can be limited."""


@dataclass(frozen=True, slots=True)
class HostProgrammers:
    """The host's own: the kernel's interfaces, and the configured command."""

    sys_root: Path
    dev_root: Path = Path("/dev")

    def families(self, options: FpgaProgrammer) -> frozenset[Family]:
        return _BY_KERNEL | frozenset(options.families if options.command else ())

    def choose(self, options: FpgaProgrammer, family: Family, limit_seconds: float) -> Programmer:
        if options.command and family in options.families:
            return CommandProgrammer(options.command, limit_seconds)
        if family is Family.FPGA_REGION:
            return FirmwareProgrammer(self.sys_root, Path(options.firmware_folder))
        return IntelProgrammer(self.sys_root, self.dev_root)


@dataclass(frozen=True, slots=True)
class OneProgrammer:
    """The same for every card, whatever is configured: simulated ones know no other."""

    programmer: Programmer

    def families(self, options: FpgaProgrammer) -> frozenset[Family]:  # noqa: ARG002 - it serves all
        return frozenset(Family)

    def choose(self, options: FpgaProgrammer, family: Family, limit_seconds: float) -> Programmer:  # noqa: ARG002
        return self.programmer
