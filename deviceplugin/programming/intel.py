"""Intel's cards: partial reconfiguration by a call to the management engine's device file."""

import ctypes
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deviceplugin.fpga import Family, Region
from deviceplugin.programming.images import gbs_body
from deviceplugin.programming.programmer import ProgrammingError

# A call as fcntl.ioctl makes it.
Ioctl = Callable[[int, int, bytes], object]


@dataclass(frozen=True, slots=True)
class _Driver:
    """One of the two drivers' ways to say it.

    Attributes:
        request: The ioctl's number.
        argument: argsz, flags, port_id, buffer_size, buffer_address; OPAE's has a status behind them.
        engine: The management engine's name within a path, which is its device file's too.
        ports: Where ports stand below the sysfs root.
    """

    request: int
    argument: struct.Struct
    engine: re.Pattern[str]
    ports: str


_DRIVERS: Final = {
    # Linux, include/uapi/linux/fpga-dfl.h: DFL_FPGA_FME_PORT_PR, _IO(0xB6, 0x80), struct dfl_fpga_fme_port_pr.
    Family.DFL: _Driver(0xB680, struct.Struct("=IIIIQ"), re.compile(r"dfl-fme\.\d+"), "class/fpga_region/region*"),
    # The out-of-tree intel-fpga driver: FPGA_FME_PORT_PR, _IO(0xB5, 0x80), struct fpga_fme_port_pr
    # (intel-device-plugins-for-kubernetes, pkg/fpga/ztypes.go).
    Family.OPAE: _Driver(
        0xB580, struct.Struct("=IIIIQ8x"), re.compile(r"intel-fpga-fme\.\d+"), "class/fpga/intel-fpga-dev.*"
    ),
}


@dataclass(frozen=True, slots=True)
class IntelProgrammer:
    """The driver's ioctl blocks until the hardware is done, or for the driver's own timeouts of some seconds."""

    sys_root: Path
    dev_root: Path
    ioctl: Ioctl = fcntl.ioctl

    def program(self, region: Region, image: Path, expected: str) -> None:  # noqa: ARG002 - the caller reads back
        driver = _DRIVERS[region.family]
        engine = next((part for part in Path(region.control).parts if driver.engine.fullmatch(part)), None)
        if engine is None:
            raise ProgrammingError(
                f"region {region.device.id} has no management engine here; a port that is assigned to a virtual "
                "function is programmed by its physical one"
            )
        port = self._port_number(driver, region)
        device = self.dev_root / engine
        try:
            with image.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as content:
                body = gbs_body(content[:_HEADER_BYTES], len(content))
                node = os.open(device, os.O_RDWR | os.O_CLOEXEC)
                try:
                    self._call(driver, node, port, content, body)
                finally:
                    os.close(node)
        except OSError as error:
            raise ProgrammingError(
                f"{device} refused {image.name} for port {port} of {region.device.id}: {error.strerror}; "
                "its fpga_manager's status and the kernel's log say more"
            ) from error

    def _call(self, driver: _Driver, node: int, port: int, content: mmap.mmap, body: int) -> None:
        buffer = ctypes.c_char.from_buffer(content, body)
        try:
            self.ioctl(
                node, driver.request, argument(driver.argument, port, len(content) - body, ctypes.addressof(buffer))
            )
        finally:
            # A mapping that is still pointed into cannot be closed.
            del buffer

    def _port_number(self, driver: _Driver, region: Region) -> int:
        name = Path(region.nodes[0]).name if region.nodes else ""
        for file in sorted(self.sys_root.glob(f"{driver.ports}/{name}/id")) if name else ():
            try:
                return int(file.read_text(encoding="ascii"), 0)
            except (OSError, ValueError) as error:
                raise ProgrammingError(f"{file} does not say which port {region.device.id} is: {error}") from error
        raise ProgrammingError(
            f"no file id below {self.sys_root}/{driver.ports} tells which port {region.device.id} is"
        )


_HEADER_BYTES: Final = 4096


def argument(layout: struct.Struct, port: int, size: int, address: int) -> bytes:
    """The ioctl's argument: its own size, no flags, the port, and the image's place in our memory."""
    return layout.pack(layout.size, 0, port, size, address)
