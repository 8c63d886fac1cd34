"""Which devices the kubelet takes for a container, by the real device manager's rules.

Read from kubernetes 1.36, pkg/kubelet/cm/devicemanager/manager.go (devicesToAllocate), for a node whose topology
manager has the policy `none`.
"""

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from zlib import crc32

from tasuki.sandbox.views import ResourceView


class AdmissionError(Exception):
    """A pod cannot have its devices; the kubelet rejects it."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The state of one choice before the plugin is asked what it prefers.

    Attributes:
        taken: Chosen already: devices that an init container of the pod no longer needs.
        available: The healthy devices that nobody has.
        missing: How many of them are still to be chosen.
    """

    taken: frozenset[str]
    available: frozenset[str]
    missing: int

    @property
    def size(self) -> int:
        return len(self.taken) + self.missing


def reserve(view: ResourceView, wanted: int, in_use: AbstractSet[str], reusable: AbstractSet[str]) -> Reservation:
    """Take what can be reused, and see whether the rest can be had.

    Raises:
        AdmissionError: There are too few healthy free devices.
    """
    if not view.healthy:
        raise AdmissionError(
            f"no healthy devices of {view.name} are present; its {len(view.unhealthy)} devices are unhealthy"
        )
    taken = frozenset(in_no_order(reusable)[:wanted])
    missing = wanted - len(taken)
    available = view.healthy - in_use - taken
    if missing > 0 and len(available) < missing:
        raise AdmissionError(
            f"the requested number of devices of {view.name} is unavailable: {missing} requested, "
            f"{len(available)} available"
        )
    return Reservation(taken, available, missing)


def choose(reservation: Reservation, preferred: Collection[str]) -> list[str]:
    """The devices that are allocated: the reused, then the preferred as far as they are free, then any others.

    The kubelet keeps the plugin's answers in a set: their order means nothing to it.
    """
    wish = [device for device in in_no_order(preferred) if device in reservation.available]
    if len(wish) < reservation.missing:
        wish += in_no_order(reservation.available.difference(wish))
    return sorted([*reservation.taken, *wish[: reservation.missing]])


def in_no_order(devices: Collection[str]) -> Sequence[str]:
    """The devices in an order that means nothing and is always the same.

    The kubelet keeps ids in Go's sets, which come in a different order each time. A fixed scramble keeps plugins
    from leaning on an order just as well, and tests repeatable.
    """
    return sorted(set(devices), key=lambda device: (crc32(device.encode()), device))
