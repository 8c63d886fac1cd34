"""AMD's Alveo cards under XRT: user functions, which hold an image each, and the management functions beside them."""

import errno
import re
from dataclasses import dataclass
from typing import Final

from deviceplugin.discovery.fpga_classes import Classes, manager_reasons, sensor_reasons
from deviceplugin.discovery.fpga_devices import Found, Part, device
from deviceplugin.discovery.fpga_health import ends_with_a_good_image
from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs, is_pci_address
from deviceplugin.discovery.sysfs import place
from deviceplugin.fpga import Family, Region

# Where XRT's own library looks for them too (XRT, core/pcie/linux/pcidrv.cpp).
_USER_DRIVER: Final = "bus/pci/drivers/xocl"
_MANAGEMENT_DRIVER: Final = "bus/pci/drivers/xclmgmt"
_GIB: Final = 2**30
_MOST_GIB: Final = 2**20  # beyond that it is no answer
_NO_IMAGE: Final = "00000000-0000-0000-0000-000000000000"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,20}")
_INTERFACE: Final = re.compile(r"[0-9A-Fa-f]{32}")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_RENDER_NODE: Final = re.compile(r"renderD\d+")


@dataclass(frozen=True, slots=True)
class _Shell:
    """The static part of a card, as its user function tells.

    Attributes:
        name: `<vendor>_<board>_<name>_<version>`.
        interface: What images are linked against: an uuid of 32 hexadecimal digits, or the name with older shells.
    """

    name: str = ""
    timestamp: str = ""
    interface: str = ""
    memory_bytes: int = 0


def read(sysfs: Sysfs, classes: Classes) -> Found:
    """Every user function as one region."""
    failed: dict[str, str] = {}
    users = _functions(sysfs, _USER_DRIVER, failed)
    managements = {_card(address): address for address in _functions(sysfs, _MANAGEMENT_DRIVER, failed)}
    regions = []
    for user in users:
        management = managements.get(_card(user))
        try:
            regions.append(_region(sysfs, classes, user, management))
        except AttributeUnreadableError as error:
            failed[_card(user)] = str(error)
    used = {_card(user) for user in users}
    for card, address in managements.items():
        if card not in used:
            failed[card] = f"management function {address} has no user function that the driver xocl holds"
    return Found(tuple(regions), failed)


def _functions(sysfs: Sysfs, driver: str, failed: dict[str, str]) -> list[str]:
    try:
        return [name for name in sysfs.names(driver) if is_pci_address(name)]
    except AttributeUnreadableError as error:
        failed[driver] = str(error)
        return []


def _card(address: str) -> str:
    """The card's id: the functions' address without the function."""
    return address.rpartition(".")[0]


def _region(sysfs: Sysfs, classes: Classes, user: str, management: str | None) -> Region:
    folder = sysfs.target(f"{_USER_DRIVER}/{user}")
    names = sysfs.names(folder)
    reasons = _user_reasons(sysfs, folder)
    shell = _Shell()
    loaded = ""
    try:
        shell = _shell(sysfs, folder, names)
        if not shell.interface:
            reasons.append("the shell says neither its interface's uuid nor its name: the card may still be starting")
        loaded = _loaded(sysfs, folder)
    except AttributeUnreadableError as error:
        reasons.append(str(error))
    nodes = _nodes(sysfs, folder, user, names)
    if not nodes:
        reasons.append("the driver has made no render node for it")
    control = ""
    if management is not None:
        control = sysfs.target(f"{_MANAGEMENT_DRIVER}/{management}")
        reasons += _management_reasons(sysfs, classes, control, management)
        reasons += sensor_reasons(sysfs, classes, management)
    reasons += sensor_reasons(sysfs, classes, user)
    card = _card(user)
    name = f"{card}-user{user[-1]}"
    part = Part(card, name, int(user[-1]), shell.name or "Alveo", place(sysfs.root, user), shell.memory_bytes)
    return Region(
        device=device(part, reasons),
        family=Family.XRT,
        interface=shell.interface,
        loaded=loaded,
        nodes=nodes,
        control=control,
        shell=f"{shell.name}-{shell.timestamp}" if shell.name and shell.timestamp else "",
        rewritable=ends_with_a_good_image(reasons),
    )


def _user_reasons(sysfs: Sysfs, folder: str) -> list[str]:
    return [
        _flag(sysfs, f"{folder}/ready", 1, "the management function does not answer the user function"),
        _flag(sysfs, f"{folder}/dev_offline", 0, "the driver has taken the card offline"),
        _flag(sysfs, f"{folder}/device_bad_state", 0, "the scheduler on the card is stuck; reset the card"),
    ]


def _management_reasons(sysfs: Sysfs, classes: Classes, folder: str, address: str) -> list[str]:
    # Not `error`: reading it clears it (XRT, mgmtpf/mgmt-sysfs.c), and an administrator may be looking for it.
    reasons = [
        _flag(sysfs, f"{folder}/ready", 1, "the management function is not ready"),
        _flag(sysfs, f"{folder}/dev_offline", 0, "the management function is offline"),
        _flag(sysfs, f"{folder}/mfg", 0, "the card runs its factory image; flash a shell"),
    ]
    try:
        names = sysfs.names(folder)
    except AttributeUnreadableError as error:
        return [*reasons, str(error)]
    reasons += [_firewall(sysfs, f"{folder}/{name}/status") for name in names if name.startswith("firewall.")]
    for manager in classes.managers_of(address):
        reasons += manager_reasons(sysfs, manager)
    return reasons


def _firewall(sysfs: Sysfs, path: str) -> str:
    try:
        status = sysfs.number(path) or 0
    except AttributeUnreadableError as error:
        return str(error)
    return f"the AXI firewall has cut the image off, reset the card: /sys/{path} is {status:#x}" if status else ""


def _flag(sysfs: Sysfs, path: str, good: int, meaning: str) -> str:
    """`meaning` unless an attribute has its good value, or the driver has no such attribute."""
    try:
        value = sysfs.number(path)
    except AttributeUnreadableError as error:
        return str(error)
    return "" if value in (None, good) else f"{meaning}: /sys/{path} is {value}"


def _shell(sysfs: Sysfs, folder: str, names: list[str]) -> _Shell:
    rom = next((f"{folder}/{name}" for name in names if name.startswith("rom.u.")), None)
    name = timestamp = ""
    memory = 0
    if rom is not None:
        name = _words(sysfs, f"{rom}/VBNV", _NAME)[0]
        timestamp = _words(sysfs, f"{rom}/timestamp", _TIMESTAMP)[0]
        banks, gibibytes = (sysfs.number(f"{rom}/{file}") or 0 for file in ("ddr_bank_count_max", "ddr_bank_size"))
        memory = banks * gibibytes * _GIB if 0 <= banks * gibibytes <= _MOST_GIB else 0
    # A shell without device tree, which is an older one, answers EINVAL. Of several the last is the innermost.
    uuids = _words(sysfs, f"{folder}/interface_uuids", _INTERFACE, absent=errno.EINVAL)
    return _Shell(name, timestamp, uuids[-1].lower() or name, memory)


def _loaded(sysfs: Sysfs, folder: str) -> str:
    # The first slot's, as in XRT's library; most cards have one.
    images = _words(sysfs, f"{folder}/xclbinuuid", _UUID)
    return next((image.lower() for image in images if image != _NO_IMAGE), "")


def _words(sysfs: Sysfs, path: str, form: re.Pattern[str], *, absent: int = 0) -> list[str]:
    """The words of an attribute; one empty word where there is none.

    Raises:
        AttributeUnreadableError: It cannot be read, or a word does not have the form.
    """
    words = (sysfs.optional(path, absent=(absent,)) or "").split()
    for word in words:
        if not form.fullmatch(word):
            raise AttributeUnreadableError(path, f"{word[:64]!r} is not of the form that is expected")
    return words or [""]


def _nodes(sysfs: Sysfs, folder: str, user: str, names: list[str]) -> tuple[str, ...]:
    try:
        render = [name for name in sysfs.names(f"{folder}/drm") if _RENDER_NODE.fullmatch(name)]
    except AttributeUnreadableError:
        return ()
    nodes = [f"/dev/dri/{name}" for name in render]
    if nodes and any(name.startswith("dma.qdma.u.") for name in names):
        nodes.append(f"/dev/xfpga/dma.qdma.u{_instance(user)}.0")
    return tuple(nodes)


def _instance(address: str) -> int:
    """XRT's number of a function: its address as one number."""
    domain, bus, slot = address.split(":")
    number, _, function = slot.partition(".")
    return int(domain, 16) << 16 | int(bus, 16) << 8 | int(number, 16) << 3 | int(function)
