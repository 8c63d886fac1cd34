"""All FPGAs of a node, found in the kernel's files; read fpga_intel, fpga_xrt and fpga_plain for where they stand."""

import os
import threading
from pathlib import Path
from typing import Final

from deviceplugin.discovery import fpga_intel, fpga_plain, fpga_xrt
from deviceplugin.discovery.fpga_classes import Classes
from deviceplugin.discovery.fpga_devices import SeenRegions, with_reasons
from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.fpga import Fpgas, Region
from deviceplugin.health import Fault


class FpgaSource:
    """What `Kind` asks of a source; blocking calls, never two at once but for `wait_for_faults`."""

    def __init__(self, sys_root: Path, dev_root: Path = Path("/dev")) -> None:
        self._sysfs: Final = Sysfs(sys_root)
        self._dev: Final = dev_root
        self._seen: Final = SeenRegions()
        self._closed: Final = threading.Event()

    def scan(self) -> Fpgas:
        """Look at every region afresh.

        A region that was seen by an earlier scan and is gone is still listed, as it was, unhealthy.

        Raises:
            DriverUnavailableError: There is no sysfs to read.
        """
        if not self._sysfs.exists("class"):
            raise DriverUnavailableError(f"{self._sysfs.root} is no sysfs: it has no folder class; set --sysfs-root")
        try:
            classes = Classes(self._sysfs)
        except AttributeUnreadableError as error:
            raise DriverUnavailableError(str(error)) from error
        intel = fpga_intel.read(self._sysfs, classes)
        xrt = fpga_xrt.read(self._sysfs, classes)
        plain = fpga_plain.read(self._sysfs, classes, intel.folders)
        found = [self._with_nodes(region) for family in (intel, xrt, plain) for region in family.regions]
        failed = {card: reason for family in (intel, xrt, plain) for card, reason in family.failed.items()}
        return Fpgas(*self._seen.update(found, failed))

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        """Nothing, after the timeout: sysfs tells of no change, so that scans find what has gone wrong."""
        self._closed.wait(timeout_seconds)
        return []

    def probe(self, device_id: str) -> str:
        """Why a card, or one region, should not be used; a card is at fault where all its regions are unhealthy."""
        try:
            fpgas = self.scan()
        except DriverUnavailableError as error:
            return str(error)
        regions = [region for region in fpgas.regions if device_id in (region.card, region.device.id)]
        if not regions:
            return "the kernel lists no such FPGA"
        if any(region.device.health.healthy for region in regions):
            return ""
        return "; ".join(dict.fromkeys(region.device.health.reason for region in regions))

    def close(self) -> None:
        self._closed.set()

    def _with_nodes(self, region: Region) -> Region:
        missing = [node for node in region.nodes if not os.path.exists(f"{self._dev}/{node.removeprefix('/dev/')}")]  # noqa: PTH110 - strings, many times a scan
        return with_reasons(region, [f"its device file {node} does not exist" for node in missing])
