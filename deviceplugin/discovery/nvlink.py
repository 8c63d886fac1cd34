"""NVLink lanes between GPUs, put together into a topology."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from deviceplugin.machine import Gpu
from tasuki.devices.topology import GB, NVLink, Topology

# NCCL's, in GB/s in one direction, by the least compute capability (src/graph/topo.h, ncclTopoNVLinkBw). They are
# what a copy attains, somewhat below the signalling rate.
_GB_PER_SECOND_PER_LANE: Final = (((10, 0), 40.1), ((9, 0), 20.6), ((8, 0), 20.0), ((7, 0), 20.0), ((6, 0), 18.0))
_GB_PER_SECOND_PER_LANE_SM86: Final = 12.0


def lane_bytes_per_second(compute_capability: tuple[int, int]) -> float:
    """What one NVLink lane of such a GPU carries in one direction."""
    if compute_capability == (8, 6):
        return _GB_PER_SECOND_PER_LANE_SM86 * GB
    for least, gb_per_second in _GB_PER_SECOND_PER_LANE:
        if compute_capability >= least:
            return gb_per_second * GB
    return _GB_PER_SECOND_PER_LANE[-1][1] * GB


@dataclass(frozen=True, slots=True)
class Lanes:
    """The active NVLink lanes of one GPU, by where they end.

    Attributes:
        to_switches: Lanes that end at an NVSwitch, whichever.
        to_gpus: Lanes by the id of the GPU at their other end.
    """

    to_switches: int = 0
    to_gpus: Mapping[str, int] = field(default_factory=dict)


def topology(gpus: Sequence[Gpu], lanes: Mapping[str, Lanes]) -> Topology:
    """Every pair with lanes between them; GPUs on switches reach each other with the lanes of the poorer one.

    That all switches of a machine are one fabric is how NVIDIA builds them.
    """
    nvlinks = {}
    for one, other in combinations(gpus, 2):
        ours = lanes.get(one.device.id, Lanes())
        theirs = lanes.get(other.device.id, Lanes())
        direct = min(ours.to_gpus.get(other.device.id, 0), theirs.to_gpus.get(one.device.id, 0))
        count = direct + min(ours.to_switches, theirs.to_switches)
        if count:
            pair = (min(one.device.id, other.device.id), max(one.device.id, other.device.id))
            per_lane = min(lane_bytes_per_second(g.compute_capability) for g in (one, other))
            nvlinks[pair] = NVLink(count, per_lane)
    return Topology(nvlinks)
