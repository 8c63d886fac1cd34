"""What one scan finds of FPGAs: cards, their regions, and what is loaded in each."""

from dataclasses import dataclass
from enum import StrEnum

from tasuki.devices.model import Device


class Family(StrEnum):
    """By which of the kernel's interfaces a card is reached; the value is what a catalogue names."""

    DFL = "dfl"
    OPAE = "opae"
    XRT = "xrt"
    FPGA_REGION = "fpga-region"


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a card that holds one function at a time.

    Attributes:
        device: Kind FPGA. `id` is stable over restarts and reprogramming, at most 48 characters; `parent` is the
            card's id; `model` the board's or shell's name; `index` is `<card>:<region>` in the order of the cards' PCI
            addresses; `memory_bytes` 0 where unknown.
        interface: What an image must be made for: Intel's interface id (compat_id, 32 hex digits), XRT's shell
            (VBNV or interface uuid), the kernel's compat_id; empty if the region does not say.
        rewritable: The region is unhealthy, and writing a good image would end that.
        shell: XRT's `<VBNV>-<timestamp>` for AMD's resource names; empty for others.
        loaded: The id of what is in it: Intel's AFU id, XRT's xclbin uuid, the kernel's image name if known; empty if
            nothing is.
        nodes: Device files that a container needs to use it, as the host has them: `/dev/dfl-port.0`.
        control: What a programmer needs, never handed to a container: the manager's or management function's folder
            below the sysfs root.
    """

    device: Device
    family: Family
    interface: str
    loaded: str
    nodes: tuple[str, ...]
    control: str
    shell: str = ""
    rewritable: bool = False

    @property
    def card(self) -> str:
        return self.device.physical


@dataclass(frozen=True, slots=True)
class Fpgas:
    """All FPGAs of a node at one moment.

    Attributes:
        regions: In the order of their index.
        unreadable: One sentence for each thing that looks like an FPGA and could not be read.
    """

    regions: tuple[Region, ...] = ()
    unreadable: tuple[str, ...] = ()
