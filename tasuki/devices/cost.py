"""What moving data costs, in seconds: the one unit in which everything is ranked."""

from collections.abc import Sequence
from typing import Final

from tasuki.devices.model import Device
from tasuki.devices.topology import LINKS, Link, Topology, best_link, host_path

# What peers exchange in one step: 1 GiB, about the gradients of a 500-million-parameter model in half precision.
EXCHANGE_BYTES: Final = 2**30


def transfer_seconds(link: Link, size_bytes: int) -> float:
    return link.latency_seconds + size_bytes / link.bytes_per_second


def distance(topology: Topology, one: Device, other: Device) -> tuple[float, float]:
    """Seconds for one exchange between two devices: by their best link, then by the path through the host.

    The second number only breaks ties of the first: GPUs that are all on one NVSwitch are equally near to each
    other, but those under one PCIe switch also share its network card and its memory node.
    """
    best = transfer_seconds(best_link(topology, one, other), EXCHANGE_BYTES)
    host = transfer_seconds(LINKS[host_path(one, other)], EXCHANGE_BYTES)
    return best, host


def distances(topology: Topology, devices: Sequence[Device]) -> dict[tuple[str, str], tuple[float, float]]:
    """`distance` of every ordered pair of different devices, by their ids."""
    return {
        (one.id, other.id): distance(topology, one, other) for one in devices for other in devices if one.id != other.id
    }
