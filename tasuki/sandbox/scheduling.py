"""Whether a pod fits on the node, counted as the scheduler counts."""

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
    for name, wanted in pod.requests.items():
        view = resources.get(name, ResourceView(name))
        free = view.allocatable - sum(other.requests.get(name, 0) for other in running)
        if wanted > free:
            offered = tuple(sorted(resources))
            found.append(Shortage(name, wanted, max(free, 0), view.allocatable, len(view.unhealthy), offered))
    return tuple(found)


def must_end_first(pod: Pod, running: Sequence[Pod], resources: Mapping[str, ResourceView]) -> tuple[Pod, ...]:
    """The fewest of the oldest Job pods whose end makes room for a pod; empty if it fits or never will.

    Nothing runs in the sandbox, so a Job's pod is done as soon as its place is needed.
    """
    if not shortages(pod, running, resources):
        return ()
    ended: list[Pod] = []
    for candidate in running:
        if not candidate.job:
            continue
        ended.append(candidate)
        if not shortages(pod, [p for p in running if p not in ended], resources):
            return tuple(ended)
    return ()
