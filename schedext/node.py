"""A node of the cluster, as filter, prioritize and bind see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedext.look import Look


@dataclass(slots=True, eq=False)
class Node:
    """Changed in place by the one event loop; what it points to is never changed but replaced.

    Attributes:
        zone: Its failure domain; empty if it has none.
        publishes: Whether it has an AcceleratorNode that can be read; without one `look` is of an empty layout.
        device_ids: Of the layout's parts, in their order.
        look: With all that is bound, reserved and planned.
        allocatable: Extended resources that the kubelet offers, whoever's plugin is behind them.
    """

    name: str
    look: Look
    zone: str = ""
    publishes: bool = False
    device_ids: tuple[str, ...] = ()
    allocatable: Mapping[str, int] = field(default_factory=dict)
    _fragments: tuple[bytes, ...] = ()

    def fragments(self) -> tuple[bytes, ...]:
        """`{"Host":"…","Score":n}` for each score from 0 to 10, made at the first call: most of what is answered."""
        if not self._fragments:
            host = b'{"Host":"' + self.name.encode() + b'","Score":'
            self._fragments = tuple(host + str(score).encode() + b"}" for score in range(11))
        return self._fragments


@dataclass(frozen=True, slots=True)
class PlacedFunction:
    """A function of a chain whose pod has a node.

    Attributes:
        parts: Indices of the devices that it holds there; empty if it holds none, or nobody knows which.
    """

    uid: str
    function: str
    node: str
    parts: tuple[int, ...] = ()
