"""A pod as the scheduler and the kubelet see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Container:
    """One container.

    Attributes:
        wants: Extended resources by name, in the order of the names.
        env: What the pod itself sets; it wins over what a device plugin sets.
        init: Runs to its end before the others start, unless it is a sidecar.
        sidecar: An init container that goes on running (`restartPolicy: Always`).
    """

    name: str
    wants: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    init: bool = False
    sidecar: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod.

    Attributes:
        containers: Init containers first, each group in the manifest's order.
        job: The Job that it belongs to, so that it ends by itself; empty for other pods.
        follows: The pod of the same Job that must have ended before this one starts; empty if none.
    """

    name: str
    containers: tuple[Container, ...]
    namespace: str = "default"
    uid: str = ""
    job: str = ""
    follows: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def requests(self) -> dict[str, int]:
        """What the scheduler counts: all that run at once, or the largest init container if that is more."""
        together: dict[str, int] = {}
        largest: dict[str, int] = {}
        for container in self.containers:
            for resource, amount in container.wants.items():
                so_far = together.get(resource, 0) + amount
                if container.init and not container.sidecar:
                    largest[resource] = max(largest.get(resource, 0), so_far)
                else:
                    together[resource] = so_far
        names = sorted({*together, *largest})
        return {name: max(together.get(name, 0), largest.get(name, 0)) for name in names}
