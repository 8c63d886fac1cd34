"""Whether a pod fits on the node, counted as the scheduler counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasuki.sandbox.pods import Pod
from tasuki.sandbox.views import ResourceView


@dataclass(frozen=True, slots=True)
class Shortage:
    """A resource of which the node has too little.

    Attributes:
        offered: Names of all resources of the node; only told where it does not have this one.
    """

    resource: str
    wanted: int
    free: int
    allocatable: int
    unhealthy: int
    offered: tuple[str, ...]

    def __str__(self) -> str:
        if self.resource not in self.offered:
            names = ", ".join(self.offered) or "none"
            return f"wants {self.wanted} {self.resource}, which this node does not offer; it offers {names}"
        text = f"wants {self.wanted} {self.resource}, {self.free} free of {self.allocatable}"
        return f"{text}, {self.unhealthy} more unhealthy" if self.unhealthy else text


def shortages(pod: Pod, running: Sequence[Pod], resources: Mapping[str, ResourceView]) -> tuple[Shortage, ...]:
    """What is missing for a pod beside those that run already; empty if it fits."""
    found = []
    wants, offered = pod.requests, tuple(sorted(resources))
    for name, left in _left(pod, running, resources).items():
        if left < 0:
            view, free = resources.get(name, ResourceView(name)), left + wants[name]
            found.append(Shortage(name, wants[name], max(free, 0), view.allocatable, len(view.unhealthy), offered))
    return tuple(found)


def must_end_first(pod: Pod, running: Sequence[Pod], resources: Mapping[str, ResourceView]) -> tuple[Pod, ...]:
    """The fewest of the oldest Job pods whose end makes room for a pod; empty if it fits or never will.

    Nothing runs in the sandbox, so a Job's pod is done as soon as its place is needed.
    """
    lacking = {name: -free for name, free in _left(pod, running, resources).items() if free < 0}
    if not lacking:
        return ()
    ended: list[Pod] = []
    for candidate in running:
        if not candidate.job or not lacking.keys() & candidate.requests.keys():
            continue
        ended.append(candidate)
        lacking = {name: amount - candidate.requests.get(name, 0) for name, amount in lacking.items()}
        if all(amount <= 0 for amount in lacking.values()):
            return tuple(ended)
    return ()


def _left(pod: Pod, running: Sequence[Pod], resources: Mapping[str, ResourceView]) -> dict[str, int]:
    """What would be left of each resource that the pod wants; less than nothing where it does not fit."""
    used: Counter[str] = Counter()
    for other in running:
        used.update(other.requests)
    return {
        name: resources.get(name, ResourceView(name)).allocatable - used[name] - wanted
        for name, wanted in pod.requests.items()
    }
