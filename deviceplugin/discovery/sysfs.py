"""What the kernel tells of PCI devices and of the NVIDIA driver, in files."""

import re
from pathlib import Path
from typing import Final

from tasuki.devices.model import Place

_ROOT_COMPLEX: Final = re.compile(r"pci[0-9a-f]{4,}:[0-9a-f]{2}")
_MIG_MINOR: Final = re.compile(r"(gpu\d+/gi\d+(?:/ci\d+)?)/access (\d+)")


def pci_address(bus_id: str) -> str:
    """The kernel's spelling of an address that NVML spells with an eight-digit domain: `00000000:07:00.0`."""
    domain, bus, device = bus_id.lower().split(":")
    return f"{int(domain, 16):04x}:{bus}:{device}"


def place(sys: Path, address: str) -> Place:
    """Where a PCI device sits; what the kernel does not tell stays unknown."""
    device = sys / "bus/pci/devices" / address
    return Place(numa_node=_numa_node(device), pci_address=address, pcie_path=_pcie_path(device))


def _numa_node(device: Path) -> int | None:
    try:
        node = int((device / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None  # -1: the firmware does not say


def _pcie_path(device: Path) -> tuple[str, ...]:
    parts = device.resolve().parts
    for position, part in enumerate(parts):
        if _ROOT_COMPLEX.fullmatch(part):
            return parts[position:]
    return ()


def product_name(file: Path) -> str:
    """The machine's product name from DMI; empty where there is none, as in many virtual machines."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def mig_minors(proc: Path) -> dict[str, int]:
    """Minor numbers of the /dev/nvidia-caps nodes, by `gpu<minor>/gi<gi>` and `gpu<minor>/gi<gi>/ci<ci>`."""
    try:
        text = (proc / "driver/nvidia-caps/mig-minors").read_text()
    except OSError:
        return {}
    return {path: int(minor) for path, minor in _MIG_MINOR.findall(text)}


def mig_capability_minors(minors: dict[str, int], gpu: int, gi: int, ci: int) -> tuple[int, int] | None:
    """The capability minors of a MIG instance; `gpu` is the number in /dev/nvidia<gpu>."""
    gpu_instance = minors.get(f"gpu{gpu}/gi{gi}")
    compute_instance = minors.get(f"gpu{gpu}/gi{gi}/ci{ci}")
    if gpu_instance is None or compute_instance is None:
        return None
    return gpu_instance, compute_instance
