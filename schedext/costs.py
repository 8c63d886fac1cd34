"""Every number that the seconds of a place are made of, with where it comes from; read `Costs` first."""

from dataclasses import dataclass
from typing import Final, Literal

# All seconds are those lost in an hour of a pod's run: bytes moved, images programmed, waits for others.
HOUR_SECONDS: Final = 3600.0

GB: Final = 1e9

# The causes, as `tasuki explain` and the metrics spell them.
EDGES: Final = "edges"
CACHE: Final = "cache"
PROGRAMMING: Final = "programming"
SHARING: Final = "sharing"
FRAGMENTATION: Final = "fragmentation"
EXCHANGE: Final = "exchange"
CAUSES: Final = (EDGES, CACHE, PROGRAMMING, SHARING, FRAGMENTATION, EXCHANGE)

Policy = Literal["pack", "spread"]


@dataclass(frozen=True, slots=True)
class Way:
    """How fast bytes come from a place: in one direction, with nobody else on the path."""

    bytes_per_second: float
    latency_seconds: float

    def seconds(self, size_bytes: float, transfers: float = 1.0) -> float:
        """For so many bytes in so many pieces, one after the other."""
        return transfers * self.latency_seconds + size_bytes / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Costs:
    """What differs from cluster to cluster; settings change it.

    Between devices of one node, `tasuki.devices.topology.LINKS` and what the node itself publishes count. Beyond:

    Attributes:
        zone: To another node of the same zone: NCCL's figure for a network card of 100 Gb/s (src/graph/topo.h), and
            the round trip of a data centre's network.
        other_zone: To another zone, a few kilometres away: a quarter of that, and half a millisecond.
        local_disk: From the node's own cache: two NVMe disks of 3.5 GB/s each, as their makers state for reading.
        origin: From the storage behind the cache: what an object store gives to one client.
        duty: The part of an hour in which a user of a shared device keeps it busy. Interactive work is idle most of
            the time.
        run_hours: How long a pod is expected to run, over which reprogramming is spread.
        gpu_wait_seconds: How long a pod of one GPU waits, in the mean, if the room that it would have fitted into is
            gone; one of n GPUs waits n times that.
        device_wait_seconds: The same of a pod that wants a shared device to itself, if it is broken up: of two such
            pods, one waits for an hour. With `duty` this packs a device until its users keep it busy, four of them, and
            then begins another.
        exchanges_per_hour: How often the devices of one pod exchange gradients (`tasuki.devices.cost.EXCHANGE_BYTES`
            each time): once a second.
        policy: `pack` counts what is broken up, so that whole devices stay free; `spread` counts only waiting.
        noise: A difference between the best and the worst place that is smaller than this part of the worst is none.
        noise_seconds: Nor is one of fewer seconds an hour.
        most_noise_seconds: One of more seconds an hour always counts: what all places cost alike, such as beginning to
            share a device, is often many times what sets them apart.
    """

    zone: Way = Way(12 * GB, 30e-6)
    other_zone: Way = Way(3 * GB, 500e-6)
    local_disk: Way = Way(7 * GB, 100e-6)
    origin: Way = Way(1 * GB, 20e-3)
    duty: float = 0.25
    run_hours: float = 1.0
    gpu_wait_seconds: float = 10.0
    device_wait_seconds: float = 1800.0
    exchanges_per_hour: float = 3600.0
    policy: Policy = "pack"
    noise: float = 0.05
    noise_seconds: float = 1.0
    most_noise_seconds: float = 10.0


DEFAULT_COSTS: Final = Costs()
