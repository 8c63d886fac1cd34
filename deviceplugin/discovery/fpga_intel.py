"""Intel's cards: the kernel's DFL drivers, and the OPAE driver that came before them."""

import errno
import re
from dataclasses import dataclass, field
from typing import Final

from deviceplugin.discovery.fpga_classes import Classes, manager_reasons, sensor_reasons
from deviceplugin.discovery.fpga_devices import Found, Part, device
from deviceplugin.discovery.fpga_health import (
    BEING_PROGRAMMED,
    ends_with_a_good_image,
    intel_id,
    intel_id_reason,
    register_reason,
)
from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs, number_in, pci_addresses
from deviceplugin.discovery.sysfs import place
from deviceplugin.fpga import Family, Region
from tasuki.devices.model import Place

# Linux, drivers/fpga/dfl-pci.c, with the names of pci.ids.
_MODELS: Final = {
    "8086:bcbd": "Intel Xeon with integrated FPGA",
    "8086:bcc0": "Intel Xeon with integrated FPGA",
    "8086:09c4": "Intel PAC with Arria 10 GX FPGA",
    "8086:0b30": "Intel FPGA PAC N3000",
    "8086:0b2b": "Intel FPGA PAC D5005",
    "8086:bcce": "Intel FPGA with Device Feature List",
    "1c2c:1000": "Silicom FPGA SmartNIC N5010",
    "1c2c:1001": "Silicom FPGA SmartNIC N5011",
}
# The AFU's clocks are stopped (Linux, sysfs-platform-dfl-port); AP1 and AP2 only slow it down.
_STOPPED: Final = 6
# More than any card has; the drivers know of four.
_PORTS: Final = 256


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where one of the two drivers keeps things.

    Attributes:
        fme: The management engine's folder within a card's.
        port: A port's folder within a card's, and the name of its device file.
        card_errors: Below the management engine. Besides these there are `nonfatal_errors`: what a card has already
            overcome.
    """

    family: Family
    fme: re.Pattern[str]
    port: re.Pattern[str]
    card_errors: tuple[str, ...]


_DFL: Final = _Layout(
    family=Family.DFL,
    fme=re.compile(r"dfl-fme\.\d+"),
    port=re.compile(r"dfl-port\.\d+"),
    card_errors=tuple(f"errors/{name}_errors" for name in ("fme", "catfatal", "pcie0", "pcie1")),
)
_OPAE: Final = _Layout(
    family=Family.OPAE,
    fme=re.compile(r"intel-fpga-fme\.\d+"),
    port=re.compile(r"intel-fpga-port\.\d+"),
    card_errors=("errors/fme-errors/errors", *(f"errors/{name}_errors" for name in ("catfatal", "pcie0", "pcie1"))),
)


@dataclass(frozen=True, slots=True)
class _Container:
    """A PCI function's FPGA container device: a management engine, ports, or both.

    Attributes:
        address: The PCI function's; empty for one that is not on PCI.
        card: The card's id: the physical function's address, also for a virtual function.
    """

    layout: _Layout
    folder: str
    address: str
    card: str
    fme: str | None
    ports: tuple[str, ...]


@dataclass(slots=True)
class _Engine:
    """What a card's management engine says.

    Attributes:
        manager: The fpga_manager's folder; the engine's own with the OPAE driver, which has none.
    """

    interface: str = ""
    manager: str = ""
    model: str = "Intel FPGA"
    reasons: list[str] = field(default_factory=list)


def read(sysfs: Sysfs, classes: Classes) -> Found:
    """Every port of every card, each as one region."""
    failed: dict[str, str] = {}
    containers = _containers(sysfs, classes.regions, _DFL, failed)
    containers += _containers(sysfs, classes.opae, _OPAE, failed)
    engines = {c.card: _engine(sysfs, classes, c, c.fme) for c in containers if c.fme is not None}
    regions = []
    for container in containers:
        engine = engines.get(container.card) or _missing_engine(sysfs, container)
        where = place(sysfs.root, container.address) if container.address else Place()
        for port in container.ports:
            try:
                regions.append(_region(sysfs, container, engine, where, port))
            except AttributeUnreadableError as error:
                failed[container.card] = str(error)
    return Found(tuple(regions), failed, frozenset(container.folder for container in containers))


def _containers(sysfs: Sysfs, folders: list[str], layout: _Layout, failed: dict[str, str]) -> list[_Container]:
    containers = []
    for folder in folders:
        address = (pci_addresses(folder) or ("",))[-1]
        physical = sysfs.target(f"bus/pci/devices/{address}/physfn").rpartition("/")[2] if address else ""
        card = (address if physical in ("", "physfn") else physical) or folder.rpartition("/")[2]
        try:
            names = sysfs.names(folder)
        except AttributeUnreadableError as error:
            failed[card] = str(error)
            continue
        fmes = [name for name in names if layout.fme.fullmatch(name)]
        ports = tuple(name for name in names if layout.port.fullmatch(name))
        if fmes or ports:
            fme = f"{folder}/{fmes[0]}" if fmes else None
            containers.append(_Container(layout, folder, address, card, fme, ports))
    return containers


def _engine(sysfs: Sysfs, classes: Classes, container: _Container, fme: str) -> _Engine:
    engine = _Engine(model=_model(sysfs, container.address))
    if container.layout.family is Family.DFL:
        below = [region for region in classes.regions if region.startswith(f"{fme}/")]
        files = [f"{region}/compat_id" for region in sorted(below, key=number_in)[:1]]
        managers = [manager for manager in classes.managers if manager.startswith(f"{fme}/")]
        engine.manager = managers[0] if managers else ""
    else:
        files = [f"{fme}/pr/interface_id"]
        engine.manager = fme
        engine.reasons += _thermal_reasons(sysfs, f"{fme}/thermal_mgmt")
    _read_interface(sysfs, engine, files)
    if engine.manager and container.layout.family is Family.DFL:
        engine.reasons += manager_reasons(sysfs, engine.manager)
    engine.reasons += _register_reasons(sysfs, fme, container.layout.card_errors)
    engine.reasons += sensor_reasons(sysfs, classes, container.address)
    return engine


def _missing_engine(sysfs: Sysfs, container: _Container) -> _Engine:
    return _Engine(
        model=_model(sysfs, container.address),
        reasons=["its card has no management engine here, so that its interface id is unknown"],
    )


def _read_interface(sysfs: Sysfs, engine: _Engine, files: list[str]) -> None:
    try:
        text = (sysfs.optional(files[0]) or "") if files else ""
    except AttributeUnreadableError as error:
        engine.reasons.append(str(error))
        return
    engine.interface = intel_id(text)
    reason = intel_id_reason("the interface id", text)
    if not engine.interface and not reason:
        # intel/intel-device-plugins-for-kubernetes#667: the drivers behind partial reconfiguration were not loaded.
        reason = (
            "the card has no interface id; are the kernel's modules for partial reconfiguration loaded (dfl-fme-mgr)?"
        )
    engine.reasons.append(reason)


def _region(sysfs: Sysfs, container: _Container, engine: _Engine, where: Place, port: str) -> Region:
    folder = f"{container.folder}/{port}"
    number = sysfs.number(f"{folder}/id")
    if number is None or not 0 <= number < _PORTS:
        raise AttributeUnreadableError(f"{folder}/id", "there is no such file" if number is None else f"it is {number}")
    loaded, reasons = _loaded(sysfs, folder)
    reasons += _power_reasons(sysfs, folder)
    reasons += _register_reasons(sysfs, folder, ("errors/errors",))
    card = container.address or container.card
    part = Part(container.card, f"{card}-port{number}", number, engine.model, where)
    return Region(
        device=device(part, [*engine.reasons, *reasons]),
        family=container.layout.family,
        interface=engine.interface,
        loaded=loaded,
        nodes=(f"/dev/{port}",),
        control=engine.manager,
        rewritable=ends_with_a_good_image([*engine.reasons, *reasons]),
    )


def _loaded(sysfs: Sysfs, port: str) -> tuple[str, list[str]]:
    try:
        text = sysfs.optional(f"{port}/afu_id") or ""
    except AttributeUnreadableError as error:
        if error.number == errno.EBUSY:  # what the driver answers while it holds the port in reset
            return "", [f"{BEING_PROGRAMMED}: the port is held in reset"]
        return "", [str(error)]
    return intel_id(text), [intel_id_reason("the AFU's id", text)]


def _power_reasons(sysfs: Sysfs, port: str) -> list[str]:
    try:
        state = sysfs.number(f"{port}/power_state")
    except AttributeUnreadableError as error:
        return [str(error)]
    return ["the port is stopped: its power state is AP6"] if state == _STOPPED else []


def _register_reasons(sysfs: Sysfs, folder: str, files: tuple[str, ...]) -> list[str]:
    reasons = []
    for file in files:
        path = f"{folder}/{file}"
        try:
            value = sysfs.number(path)
        except AttributeUnreadableError as error:
            reasons.append(str(error))
        else:
            # A card without this feature has no such file.
            reasons.append(register_reason(f"/sys/{path}", value or 0))
    return reasons


def _thermal_reasons(sysfs: Sysfs, folder: str) -> list[str]:
    """OPAE's own thermal files, in °C; Linux has hwmon for that."""
    try:
        celsius = sysfs.number(f"{folder}/temperature")
        limit = sysfs.number(f"{folder}/threshold2")
        reached = sysfs.number(f"{folder}/threshold2_reached")
    except AttributeUnreadableError as error:
        return [str(error)]
    if reached or (celsius is not None and limit and celsius >= limit):
        return [f"temperature at {celsius} °C has reached its critical limit of {limit} °C"]
    return []


def _model(sysfs: Sysfs, address: str) -> str:
    folder = f"bus/pci/devices/{address}"
    try:
        vendor, product = (sysfs.number(f"{folder}/{name}") for name in ("vendor", "device"))
    except AttributeUnreadableError:
        return "Intel FPGA"  # a name alone: whatever keeps it from being read shows in files that matter
    if vendor is None or product is None:
        return "Intel FPGA"
    ids = f"{vendor:04x}:{product:04x}"
    return _MODELS.get(ids, f"FPGA {ids}")
