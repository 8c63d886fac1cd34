"""Where the kernel's classes put FPGA devices and their sensors; one listing a class and scan."""

import errno
import re
from collections.abc import Iterator
from typing import Final

from deviceplugin.discovery.fpga_health import state_reason, status_reasons
from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs, pci_addresses

_LIMIT: Final = re.compile(r"((temp|power)\d+)_(crit|crit_alarm)")
# A sensor with nothing to say at the moment: an empty cage, a measurement that is under way.
_NO_VALUE: Final = frozenset({errno.ENODATA, errno.EAGAIN})


class Classes:
    """The members of the classes that matter, as folders relative to the root.

    Attributes:
        regions: Of fpga_region.
        managers: Of fpga_manager.
        opae: Of Intel's older driver.
    """

    def __init__(self, sysfs: Sysfs) -> None:
        self.regions: Final = _members(sysfs, "fpga_region")
        self.managers: Final = _members(sysfs, "fpga_manager")
        self.opae: Final = _members(sysfs, "fpga")
        self._sysfs: Final = sysfs
        self._sensors: dict[str, list[str]] | None = None

    def managers_of(self, address: str) -> list[str]:
        """The fpga_managers of a PCI function."""
        return [folder for folder in self.managers if pci_addresses(folder)[-1:] == (address,)]

    def sensors_of(self, address: str) -> list[str]:
        """The folders of hwmon that hang under a PCI function, its board controller's among them."""
        if self._sensors is None:
            # Only now: it costs a readlink for each of a server's dozens of sensors.
            self._sensors = {}
            for folder in _members(self._sysfs, "hwmon"):
                for parent in pci_addresses(folder)[-1:]:
                    self._sensors.setdefault(parent, []).append(folder)
        return self._sensors.get(address, [])


def _members(sysfs: Sysfs, name: str) -> list[str]:
    folder = f"class/{name}"
    return [sysfs.target(f"{folder}/{member}") for member in sysfs.names(folder)]


def manager_reasons(sysfs: Sysfs, manager: str) -> list[str]:
    """Why an fpga_manager keeps its regions from being used."""
    try:
        reasons = [state_reason(sysfs.text(f"{manager}/state"))]
        # Most drivers have no status: the file is missing, or answers ENOENT.
        reasons += status_reasons(sysfs.optional(f"{manager}/status") or "")
    except AttributeUnreadableError as error:
        return [str(error)]
    return reasons


def sensor_reasons(sysfs: Sysfs, classes: Classes, address: str) -> list[str]:
    """Which of a PCI function's sensors stand at or above their critical limit."""
    reasons: list[str] = []
    try:
        folders = classes.sensors_of(address)
    except AttributeUnreadableError as error:
        return [str(error)]
    for folder in folders:
        try:
            reasons += _alarms(sysfs, folder)
        except AttributeUnreadableError as error:
            reasons.append(str(error))
    return reasons


def _alarms(sysfs: Sysfs, folder: str) -> Iterator[str]:
    channels: dict[str, set[str]] = {}
    for name in sysfs.names(folder):
        if limit := _LIMIT.fullmatch(name):
            channels.setdefault(limit[1], set()).add(limit[3])
    for channel, limits in channels.items():
        value = _sensor(sysfs, f"{folder}/{channel}_input")
        crit = _sensor(sysfs, f"{folder}/{channel}_crit") if "crit" in limits else None
        alarm = _sensor(sysfs, f"{folder}/{channel}_crit_alarm") if "crit_alarm" in limits else None
        # A limit of 0 is one that nobody has set.
        above = value is not None and crit is not None and 0 < crit <= value
        if alarm or above:
            yield _alarm(sysfs, f"{folder}/{channel}", value, crit)


def _sensor(sysfs: Sysfs, path: str) -> int | None:
    try:
        return sysfs.number(path)
    except AttributeUnreadableError as error:
        if error.number in _NO_VALUE:
            return None
        raise


def _alarm(sysfs: Sysfs, sensor: str, value: int | None, crit: int | None) -> str:
    name = sensor.rpartition("/")[2]
    word, unit, scale = ("temperature", "°C", 1000) if name.startswith("temp") else ("power", "W", 1_000_000)
    label = sysfs.optional(f"{sensor}_label") or name
    now = "" if value is None else f" at {value / scale:g} {unit}"
    limit = "" if crit is None else f" of {crit / scale:g} {unit}"
    return f"{word} ({label}){now} has reached its critical limit{limit}"
