"""What a region holds at this moment, by reading one or two files."""

import errno
from pathlib import Path
from typing import Final

from deviceplugin.discovery.fpga_health import intel_id
from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs
from deviceplugin.fpga import Family, Region
from deviceplugin.programming.programmer import ProgrammingError

_NO_IMAGE: Final = "00000000-0000-0000-0000-000000000000"


class Readback:
    """Reads the files that scans read, but of one region alone."""

    def __init__(self, sys_root: Path) -> None:
        self._sysfs: Final = Sysfs(sys_root)

    def loaded(self, region: Region, remembered: str) -> str:
        """The id of what is in a region, as `Region.loaded` has it.

        Args:
            region: As it was scanned last.
            remembered: What was programmed into it and read back last; empty if nothing was.

        Raises:
            ProgrammingError: It cannot be read.
        """
        try:
            if region.family is Family.XRT:
                return self._xclbin(region)
            if region.family is Family.FPGA_REGION:
                return self._image_name(region, remembered)
            return self._afu(region)
        except AttributeUnreadableError as error:
            raise ProgrammingError(f"what region {region.device.id} holds cannot be read: {error}") from error

    def _afu(self, region: Region) -> str:
        port = Path(region.nodes[0]).name if region.nodes else ""
        above = "class/fpga_region" if region.family is Family.DFL else "class/fpga"
        for member in self._sysfs.names(above) if port else ():
            try:
                text = self._sysfs.optional(f"{above}/{member}/{port}/afu_id")
            except AttributeUnreadableError as error:
                if error.number == errno.EBUSY:  # the port is held in reset
                    return ""
                raise
            if text is not None:
                return intel_id(text)
        raise ProgrammingError(f"the kernel no longer lists the port of region {region.device.id}")

    def _xclbin(self, region: Region) -> str:
        address = region.device.place.pci_address
        text = self._sysfs.text(f"bus/pci/devices/{address}/xclbinuuid")
        return next((uuid for uuid in text.lower().split() if uuid != _NO_IMAGE), "")

    def _image_name(self, region: Region, remembered: str) -> str:
        """A device tree names the image of its overlay; not what was loaded by name since, where a kernel has that."""
        if self._sysfs.text(f"{region.control}/state") != "operating":
            return ""
        if self._sysfs.exists(f"{region.control}/firmware"):
            return remembered
        for member in self._sysfs.names("class/fpga_region"):
            if region.device.id.endswith(f"-{member}"):
                name = self._sysfs.raw(f"class/fpga_region/{member}/of_node/firmware-name").rstrip(b"\0")
                return name.decode("ascii", "replace")
        return remembered
