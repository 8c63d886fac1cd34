"""Clusters of a few nodes, told to a world as the watches tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from schedext.layouts import AcceleratorNodeFound
from schedext.pod import Pod
from schedext.world import NodeFacts, World
from tasuki.kube.cache_node import BucketResidency, CacheNodeStatus
from tasuki.kube.collection import Applied, Deleted, ObjectName, Replaced
from tasuki.routing.maglev import Maglev
from tests.schedext.pods import GPU, Json, pod_json

GI = 2**30
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def gpu_ids(node: str, count: int = 8) -> list[str]:
    return [f"GPU-{node}-{index}" for index in range(count)]


def accelerator_node(
    name: str,
    gpus: int = 8,
    replicas: int = 1,
    *,
    resource: str = GPU,
    unhealthy: Sequence[int] = (),
    holders: Sequence[Json] = (),
    watts: float = 400.0,
    memory_bytes: int = 40 * GI,
    one_per_request: bool = False,
    trouble: str = "",
) -> Json:
    """As a node's daemon publishes it: two GPUs below each PCIe switch, four on each memory node, no NVLink.

    Args:
        name: The node's.
        gpus: How many.
        replicas: Slices of each.
        resource: That they are offered as.
        unhealthy: Indices.
        holders: `{"namespace", "pod", "container", "count", "slices"}`.
        watts: Of each.
        memory_bytes: Of each.
        one_per_request: Whether a container may ask for one slice at most.
        trouble: Why they are not being offered; empty if they are.
    """
    ids = gpu_ids(name, gpus)
    devices = [
        {
            "id": device, "kind": "gpu", "index": str(i), "model": "A100", "memoryBytes": memory_bytes,
            "healthy": i not in unhealthy, "numaNode": i // 4, "pcieRoot": f"pci0000:{i // 4}0",
            "pciAddress": f"0000:0{i}:00.0", "powerLimitWatts": watts,
            "pciePath": [f"pci0000:{i // 4}0", f"0000:{i // 4}0:01.0", f"up-{i // 2}", f"down-{i}", f"0000:0{i}:00.0"],
        }
        for i, device in enumerate(ids)
    ]  # fmt: skip
    held = dict.fromkeys(ids, 0)
    for holder in holders:
        for slice_id in holder["slices"]:
            held[slice_id.partition("::")[0]] += 1
    offered = {
        "name": resource, "sharing": "none" if replicas == 1 else "time-slicing", "onePerRequest": one_per_request,
        "slices": gpus * replicas, "held": sum(held.values()), "unhealthy": 0, "free": 0, "holders": list(holders),
        "devices": [{"device": device, "replicas": replicas, "free": 0, "held": held[device]} for device in ids],
    }  # fmt: skip
    ready = {
        "type": "Ready", "status": "False" if trouble else "True", "reason": "x", "message": trouble,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    status = {"devices": devices, "links": [], "resources": [offered], "conditions": [ready]}
    return {"metadata": {"name": name}, "status": status}


def fpga_node(name: str, loaded: Sequence[str], functions: Mapping[str, float], offered: Mapping[str, Any]) -> Json:
    """Regions with what is in them, what they could be programmed with, and which resources list which of them."""
    devices = [
        {
            "id": f"FPGA-{name}-{i}", "kind": "fpga", "index": str(i), "model": "N3000", "memoryBytes": 0,
            "healthy": True, "function": function,
            "functions": [{"name": each, "programmingSeconds": seconds} for each, seconds in functions.items()],
        }
        for i, function in enumerate(loaded)
    ]  # fmt: skip
    resources = [
        {
            "name": resource, "sharing": "none", "onePerRequest": False, "holders": [],
            "devices": [{"device": f"FPGA-{name}-{i}", "replicas": 1, "free": 1} for i in regions],
        }
        for resource, regions in offered.items()
    ]  # fmt: skip
    return {"metadata": {"name": name}, "status": {"devices": devices, "resources": resources}}


@dataclass
class ACluster:
    """A world, with clocks that stand still until they are moved.

    Attributes:
        freed: Nodes on which room was freed, in order.
    """

    freed: list[str] = field(default_factory=list)
    monotonic: float = 1000.0
    now: datetime = NOON

    def __post_init__(self) -> None:
        self.world = World(lambda: self.monotonic, lambda: self.now, self.freed.append)
        for take in (self.world.take_nodes, self.world.take_accelerators, self.world.take_pods, self.world.take_caches):
            take(Replaced({}))

    def node(self, name: str, zone: str = "", accelerators: Json | None = None, **allocatable: int) -> None:
        """Resources with `_` for `.` and `__` for `/`; an AcceleratorNode if one is given."""
        amounts = {key.replace("__", "/").replace("_", "."): n for key, n in allocatable.items()}
        self.world.take_nodes(Applied(ObjectName("", name), NodeFacts(zone, amounts)))
        if accelerators is not None:
            self.publish(accelerators)

    def publish(self, accelerators: Json) -> None:
        found = msgspec.convert(accelerators, AcceleratorNodeFound)
        name = ObjectName("", accelerators["metadata"]["name"])
        self.world.take_accelerators(Applied(name, self.world.layouts.accelerators(found)))

    def gpu_node(self, name: str, zone: str = "", gpus: int = 8, replicas: int = 1, **options: Any) -> None:
        self.node(name, zone, accelerator_node(name, gpus, replicas, **options), nvidia_com__gpu=gpus * replicas)

    def pod(self, *containers: Json, **options: Any) -> Pod:
        """A pod is there; returns it as the scheduler would send it."""
        found = msgspec.convert(pod_json(*containers, **options), Pod)
        name = ObjectName(found.metadata.namespace, found.metadata.name)
        self.world.take_pods(Applied(name, self.world.demands.tracked(found)))
        return found

    def gone(self, pod: Pod) -> None:
        self.world.take_pods(Deleted(ObjectName(pod.metadata.namespace, pod.metadata.name)))

    def cache(self, node: str, zone: str, **buckets: int) -> None:
        """What a node's cache holds: bytes by bucket."""
        found = tuple(BucketResidency(name=name, bytes=n, objects=1000) for name, n in sorted(buckets.items()))
        status = CacheNodeStatus(
            zone=zone, serving=True, capacity_bytes=10**13, used_bytes=sum(buckets.values()), buckets=found,
            observed_time=self.now.isoformat(),
        )  # fmt: skip
        self.world.take_caches(Applied(ObjectName("", node), status))

    def make_table(self, zone: str) -> Maglev:
        """Of the zone's caches, as the watches do in the background."""
        table = Maglev(self.world.owners.stale()[zone])
        self.world.owners.put(zone, table)
        return table
