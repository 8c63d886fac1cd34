"""A world with its clocks, told of one thing after the other in a line each."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from schedext.look import Look
from schedext.tracked import TrackedPod
from schedext.world import NodeFacts, World
from tasuki.kube.collection import Applied, Deleted, ObjectName
from tasuki.kube.placement import Plan, Slices, plan_text, slices_text
from tests.schedext.accelerators import GPU, read
from tests.schedext.pods import a_container, a_pod

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class Scene:
    """A world, its clocks, and what it told."""

    seconds: float = 0.0
    freed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(lambda: self.seconds, lambda: START + timedelta(seconds=self.seconds), self.freed.append)

    def put_node(self, name: str = "n", zone: str = "", **allocatable: int) -> None:
        self.world.take_nodes(Applied(ObjectName("", name), NodeFacts(zone, allocatable)))

    def publish(self, status: dict[str, Any] | None, node: str = "n") -> None:
        made = None if status is None else read(status, self.world.layouts)
        self.world.take_accelerators(Applied(ObjectName("", node), made))

    def tracked(self, name: str, node: str = "", slices: Slices | None = None, **options: Any) -> TrackedPod | None:
        annotations = dict(options.pop("annotations", {}))
        if slices is not None:
            annotations["tasuki.dev/slices"] = slices_text(slices)
        containers = options.pop("containers", (a_container(gpus=1),))
        known = {"creationTimestamp": "2026-01-01T12:00:00Z"} | options
        return self.world.demands.tracked(a_pod(*containers, name=name, node=node, annotations=annotations, **known))

    def put_pod(self, name: str, node: str = "", slices: Slices | None = None, **options: Any) -> TrackedPod:
        found = self.tracked(name, node, slices, **options)
        self.world.take_pods(Applied(ObjectName("research", name), found))
        assert found is not None
        return found

    def remove_pod(self, name: str) -> None:
        self.world.take_pods(Deleted(ObjectName("research", name)))

    def look(self, node: str = "n") -> Look:
        return self.world.nodes[node].look

    def says(self, node: str = "n") -> str:
        """`1 0 ?2`: slices taken by device, and two of nobody knows which."""
        look = self.look(node)
        floating = look.floating(GPU)
        return " ".join([*map(str, look.taken(GPU)), *([f"?{floating}"] if floating else [])])


def on(*devices: str, container: str = "main") -> Slices:
    return {container: {GPU: dict(Counter(devices))}}


def planned(slices: Slices, node: str = "n", minutes: int = 5) -> dict[str, str]:
    until = (START + timedelta(minutes=minutes)).isoformat()
    made = {name: {r: dict(d) for r, d in resources.items()} for name, resources in slices.items()}
    return {"tasuki.dev/plan": plan_text(Plan(node=node, until=until, slices=made))}


def kept(world: World) -> list[object]:
    """What is kept of pods and devices, by whatever name; empty if nothing is."""
    everything = (world._stakes, world._accounts, world._planned, world._pods, world._waiting, world._named)
    return [each for each in (*everything, world._offered, world.reservations, world._chains, world._chain_of) if each]
