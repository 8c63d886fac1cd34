"""FPGAs that only the kernel's own classes know: those of SoCs, and single managers without a region."""

from typing import Final

from deviceplugin.discovery.fpga_classes import Classes, manager_reasons
from deviceplugin.discovery.fpga_devices import Found, Part, device
from deviceplugin.discovery.fpga_health import EMPTY_STATES, ends_with_a_good_image, intel_id, intel_id_reason
from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs, number_in, pci_addresses
from deviceplugin.discovery.sysfs import place
from deviceplugin.fpga import Family, Region
from tasuki.devices.model import Place

# The FME's managers and regions belong to ports, XRT's manager to a management function.
_OTHERS: Final = ("/dfl-fme.", "/fmgr.m.")
# So that a region's id stays within 48 characters; the end of a device's name is what tells it from others.
_CARD_CHARACTERS: Final = 36
_NAME: Final = 255  # characters of a file's name


def read(sysfs: Sysfs, classes: Classes, others: frozenset[str]) -> Found:
    """Every region of a device tree as one region, and every manager without one.

    Args:
        sysfs: The tree.
        classes: What is in it.
        others: Regions that another family has read.
    """
    managers = {_device(folder): folder for folder in classes.managers if _is_plain(folder)}
    handles = {sysfs.raw(f"{folder}/of_node/phandle"): name for name, folder in managers.items()}
    handles.pop(b"", None)
    failed: dict[str, str] = {}
    regions: list[Region] = []
    for folder in classes.regions:
        if folder in others or not _is_plain(folder):
            continue
        manager = _manager_of(sysfs, folder, managers, handles)
        if manager is None:
            failed[folder.rpartition("/")[2]] = f"{folder} does not say which of {len(managers)} managers programs it"
        else:
            regions.append(_region(sysfs, folder, manager, managers[manager]))
    with_regions = {region.control for region in regions}
    for name, folder in managers.items():
        if folder not in with_regions:
            regions.append(_region(sysfs, folder, name, folder))
    return Found(tuple(regions), failed)


def _is_plain(folder: str) -> bool:
    return not any(part in folder for part in _OTHERS)


def _device(folder: str) -> str:
    """The device that a class's member belongs to: `f8007000.devcfg` of `…/f8007000.devcfg/fpga_manager/fpga0`."""
    parts = folder.split("/")
    return parts[-3] if len(parts) >= 3 else parts[-1]


def _manager_of(sysfs: Sysfs, region: str, managers: dict[str, str], handles: dict[bytes, str]) -> str | None:
    """The manager that the device tree names; the only one where it names none, as in a region within another."""
    if name := handles.get(sysfs.raw(f"{region}/of_node/fpga-mgr")):
        return name
    return next(iter(managers)) if len(managers) == 1 else None


def _region(sysfs: Sysfs, folder: str, card: str, manager: str) -> Region:
    name = folder.rpartition("/")[2]
    reasons = manager_reasons(sysfs, manager)
    model = interface = loaded = ""
    try:
        model = (sysfs.optional(f"{manager}/name") or "")[:64]
        interface = _interface(sysfs, folder)
        loaded = _loaded(sysfs, folder, manager)
    except AttributeUnreadableError as error:
        reasons.append(str(error))
    address = (pci_addresses(manager) or ("",))[-1]
    where = place(sysfs.root, address) if address else Place()
    card = card[-_CARD_CHARACTERS:]
    part = Part(card, f"{card}-{name}", number_in(name), model or "FPGA", where)
    return Region(
        device=device(part, reasons),
        family=Family.FPGA_REGION,
        interface=interface,
        loaded=loaded,
        nodes=_nodes(sysfs, folder),
        control=manager,
        rewritable=ends_with_a_good_image(reasons),
    )


def _interface(sysfs: Sysfs, region: str) -> str:
    text = sysfs.optional(f"{region}/compat_id") or ""
    if reason := intel_id_reason("compat_id", text):
        raise AttributeUnreadableError(f"{region}/compat_id", reason)
    return intel_id(text)


def _loaded(sysfs: Sysfs, region: str, manager: str) -> str:
    """The image's name, which the device tree overlay that had it written leaves in the region's node."""
    if sysfs.text(f"{manager}/state") in EMPTY_STATES:
        return ""
    name = sysfs.raw(f"{region}/of_node/firmware-name").rstrip(b"\0")
    return name.decode("ascii") if name.isascii() and name.decode("ascii").isprintable() and len(name) <= _NAME else ""


def _nodes(sysfs: Sysfs, region: str) -> tuple[str, ...]:
    """The UIO devices that the region's overlay made: they hang beside it, under the same device."""
    parent = "/".join(region.split("/")[:-2])
    try:
        devices = [name for name in sysfs.names(parent) if "." in name]
        found = [uio for name in devices for uio in sysfs.names(f"{parent}/{name}/uio") if uio.startswith("uio")]
    except AttributeUnreadableError:
        return ()
    return tuple(f"/dev/{uio}" for uio in found)
