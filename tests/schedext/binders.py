"""What binding needs of others: nodes of GPUs in a world, and a choice of devices that is simple to foresee."""

from dataclasses import dataclass

from schedext.layouts import AcceleratorNodeFound, DeviceFound, DeviceSlicesFound, ResourceFound, StatusFound
from schedext.node import Node
from schedext.placement import Refusal
from schedext.tracked import TrackedPod
from schedext.world import NodeFacts, World
from tasuki.kube.collection import Applied, ObjectName
from tests.schedext.pods import GPU

GIB = 2**30


@dataclass(frozen=True)
class Taken:
    """As `schedext.deciding.Choice`."""

    slices: dict[str, dict[str, dict[str, int]]]
    visible: tuple[str, ...] = ()


def status_of_gpus(node: str, gpus: int, replicas: int = 1) -> StatusFound:
    ids = [f"{node}-gpu-{number}" for number in range(gpus)]
    return StatusFound(
        devices=tuple(DeviceFound(id=each, kind="gpu", model="A100", memory_bytes=40 * GIB) for each in ids),
        resources=(
            ResourceFound(name=GPU, devices=tuple(DeviceSlicesFound(device=d, replicas=replicas) for d in ids)),
        ),
    )


def take_gpus(world: World, node: str, gpus: int, replicas: int = 1) -> None:
    """Let the world know a node with GPUs, as its watches would."""
    name = ObjectName("", node)
    world.take_nodes(Applied(name, NodeFacts(allocatable={GPU: gpus * replicas})))
    found = AcceleratorNodeFound(status=status_of_gpus(node, gpus, replicas))
    world.take_accelerators(Applied(name, world.layouts.accelerators(found)))


def first_free(pod: TrackedPod, node: Node) -> Taken | Refusal:
    """The first devices with a free slice, in their order."""
    left = {
        device: replicas - node.look.taken(GPU)[device]
        for device, replicas in (node.look.layout.offers[GPU].devices if GPU in node.look.layout.offers else ())
    }
    slices: dict[str, dict[str, dict[str, int]]] = {}
    for want in pod.demand.wants:
        for _ in range(want.count):
            free = next((device for device, count in left.items() if count > 0), None)
            if free is None or node.look.floating(GPU):
                return Refusal("no GPU is free", never=False)
            left[free] -= 1
            given = slices.setdefault(want.container, {}).setdefault(want.resource, {})
            given[node.device_ids[free]] = given.get(node.device_ids[free], 0) + 1
    visible = node.device_ids[: pod.demand.shape.visible_gpus] if pod.demand.shape.visible_gpus > 0 else ()
    return Taken(slices, visible)
