"""What becomes of a pod on a node: a placement on its devices, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod does not fit.

    Attributes:
        reason: For the pod's user; the scheduler puts it into the pod's events, counted over nodes.
        never: It would not fit either if the node were empty and healthy, so that preempting pods there is no use.
    """

    reason: str
    never: bool


@dataclass(frozen=True, slots=True)
class Pick:
    """Slices for one container, of one resource, on one device.

    Attributes:
        part: The device's index in the node's layout.
    """

    container: str
    resource: str
    part: int
    count: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where on a node a pod would sit.

    Attributes:
        picks: Sorted by container, resource and part. What an init container gets is among what later containers get,
            as the kubelet hands it on.
        visible: Parts that the pod sees without holding slices of them (`Shape.visible_gpus`).
        seconds: What is lost there in an hour of the pod's run, by cause; only of causes that count for something.
        watts: Of all devices that it would use; 0 if any of them is unknown.
    """

    picks: tuple[Pick, ...] = ()
    visible: tuple[int, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    watts: float = 0.0

    @property
    def parts(self) -> tuple[int, ...]:
        """All that it holds or sees, each once, in the layout's order."""
        return tuple(sorted({*self.visible, *(pick.part for pick in self.picks)}))

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())
