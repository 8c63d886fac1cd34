"""What each resource's server answers with, made once for all its answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deviceplugin import wire
from deviceplugin.config.model import AllocationPolicy
from deviceplugin.container import ContainerEdits, RefusedError
from deviceplugin.resources import Resource
from tasuki.devices.cost import distances
from tasuki.devices.model import DeviceKind, Slice
from tasuki.devices.preference import POLICIES, Policy, nearest
from tasuki.devices.topology import Topology

# How slices are handed out is a decision of the devices' kind: from the resource, its slices by id, and the ids that
# the kubelet names. It raises RefusedError.
Grant = Callable[[Resource, Mapping[str, Slice], Sequence[str]], ContainerEdits]


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a resource's server needs to answer with, swapped as a whole when anything changes.

    Attributes:
        listed: The ListAndWatch message, serialised.
        slices: By id.
    """

    resource: Resource
    listed: bytes
    slices: Mapping[str, Slice]
    policy: Policy
    grant: Grant

    @property
    def name(self) -> str:
        return self.resource.name


def offer(resource: Resource, topology: Topology, policy: AllocationPolicy, grant: Grant) -> Offer:
    """Make a resource's offer.

    Raises:
        ListTooLargeError: It has more slices than the kubelet takes.
    """
    return Offer(
        resource=resource,
        listed=wire.list_response(resource),
        slices={s.id: s for s in resource.slices},
        policy=preferred(resource, topology, policy),
        grant=grant,
    )


def preferred(resource: Resource, topology: Topology, policy: AllocationPolicy) -> Policy:
    """Whole GPUs are chosen by their links; slices and partitions, which work alone, by the policy."""
    if all(s.replicas == 1 and s.device.kind is DeviceKind.GPU for s in resource.slices):
        return nearest(distances(topology, [s.device for s in resource.slices]))
    return POLICIES[policy.value]


def nothing(name: str) -> Offer:
    """The last offer of a resource that is withdrawn."""

    def refuse(_resource: Resource, _slices: Mapping[str, Slice], _slice_ids: Sequence[str]) -> ContainerEdits:
        raise RefusedError(f"{name} is no longer offered on this node")

    empty = Resource(name, ())
    return Offer(empty, wire.list_response(empty), {}, POLICIES["distributed"], refuse)
