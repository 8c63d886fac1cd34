"""How two devices of a machine reach one another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import takewhile
from typing import Final

from tasuki.devices.model import Device


class LinkKind(StrEnum):
    """Paths from the shortest to the longest; PCIe's are named as `nvidia-smi topo -m` names them."""

    SAME_DEVICE = "same-device"
    NVLINK = "nvlink"
    PCIE_SWITCH = "pix"
    PCIE_SWITCHES = "pxb"
    HOST_BRIDGE = "phb"
    NUMA_NODE = "node"
    SOCKETS = "sys"


@dataclass(frozen=True, slots=True)
class Link:
    """One way from a device to another.

    Attributes:
        bytes_per_second: In one direction, with nobody else on the path.
        latency_seconds: Until the first byte arrives.
    """

    kind: LinkKind
    bytes_per_second: float
    latency_seconds: float


GB: Final = 1e9

# Bandwidths are NCCL's, the only published per-link numbers in real units (src/graph/topo.h): local 5000 GB/s,
# PCIe Gen3 x16 12, between sockets 10 on Intel since Skylake. A path through the host bridge pays NCCL's 6/5 for
# peer-to-peer on Intel. Latencies are orders of magnitude: a DMA through one PCIe switch takes about a
# microsecond, each further level adds some. They only break ties for small messages.
LINKS: Final[Mapping[LinkKind, Link]] = {
    link.kind: link
    for link in (
        Link(LinkKind.SAME_DEVICE, 5000 * GB, 0.0),
        Link(LinkKind.PCIE_SWITCH, 12.0 * GB, 1.0e-6),
        Link(LinkKind.PCIE_SWITCHES, 12.0 * GB, 1.5e-6),
        Link(LinkKind.HOST_BRIDGE, 10.0 * GB, 2.0e-6),
        Link(LinkKind.NUMA_NODE, 10.0 * GB, 2.5e-6),
        Link(LinkKind.SOCKETS, 10.0 * GB * 5 / 6, 3.5e-6),
    )
}

NVLINK_LATENCY_SECONDS: Final = 0.7e-6


@dataclass(frozen=True, slots=True)
class NVLink:
    """All the NVLink lanes between two GPUs, or between each of them and the switches that they share."""

    lanes: int
    bytes_per_second_per_lane: float

    def as_link(self) -> Link:
        bandwidth = self.lanes * self.bytes_per_second_per_lane
        return Link(LinkKind.NVLINK, bandwidth, NVLINK_LATENCY_SECONDS)


@dataclass(frozen=True, slots=True)
class Topology:
    """What is known of a machine's links beyond the devices' own places.

    Attributes:
        nvlinks: By the two physical devices' ids in ascending order.
    """

    nvlinks: Mapping[tuple[str, str], NVLink] = field(default_factory=dict)

    def nvlink(self, one: str, other: str) -> NVLink | None:
        return self.nvlinks.get((min(one, other), max(one, other)))


def host_path(one: Device, other: Device) -> LinkKind:
    """The path over PCIe and the sockets' interconnect, whatever faster link there may be.

    Without any knowledge of the places the answer is the longest path, never a flattering one.
    """
    if one.physical == other.physical:
        return LinkKind.SAME_DEVICE
    if one.place.pcie_path and one.place.pcie_root == other.place.pcie_root:
        return _path_below_root(one.place.pcie_path, other.place.pcie_path)
    if one.place.numa_node is not None and one.place.numa_node == other.place.numa_node:
        return LinkKind.NUMA_NODE
    return LinkKind.SOCKETS


def _path_below_root(one: tuple[str, ...], other: tuple[str, ...]) -> LinkKind:
    """PCIe below one root complex, told apart as NVML's topology levels are.

    A path is root complex, root port, and for each switch an upstream and a downstream port, then the device.
    One shared switch is PIX, several PXB; only the root complex shared, so through the CPU, is PHB.
    """
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    if shared <= 1:
        return LinkKind.HOST_BRIDGE
    deeper = max(len(one), len(other)) - shared
    # Below the last shared bridge: a downstream port and the device itself.
    return LinkKind.PCIE_SWITCH if deeper <= 2 else LinkKind.PCIE_SWITCHES


def best_link(topology: Topology, one: Device, other: Device) -> Link:
    """The fastest way between two devices."""
    if one.physical == other.physical:
        return LINKS[LinkKind.SAME_DEVICE]
    host = LINKS[host_path(one, other)]
    nvlink = topology.nvlink(one.physical, other.physical)
    if nvlink is None or nvlink.lanes == 0:
        return host
    return max(host, nvlink.as_link(), key=lambda link: link.bytes_per_second)
