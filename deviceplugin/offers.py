"""What each resource's server answers with, made once for all its answers."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deviceplugin import wire
from deviceplugin.container import ContainerEdits, RefusedError
from deviceplugin.resources import Resource
from tasuki.devices.model import Slice
from tasuki.devices.preference import POLICIES, Policy

# How slices are handed out is a decision of the devices' kind: from the resource, its slices by id, and the ids that
# the kubelet names. It raises RefusedError.
Grant = Callable[[Resource, Mapping[str, Slice], Sequence[str]], ContainerEdits]

# Prepares slices just before their container starts, from the same. It raises RefusedError, and has 25 s: the kubelet
# gives up after 30.
Start = Callable[[Resource, Mapping[str, Slice], Sequence[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a resource's server needs to answer with, swapped as a whole when anything changes.

    Attributes:
        listed: The ListAndWatch message, serialised.
        slices: By id.
        start: None if nothing has to be done before a container starts.
    """

    resource: Resource
    listed: bytes
    slices: Mapping[str, Slice]
    policy: Policy
    grant: Grant
    start: Start | None = None

    @property
    def name(self) -> str:
        return self.resource.name


def offer(resource: Resource, policy: Policy, grant: Grant, start: Start | None = None) -> Offer:
    """Make a resource's offer.

    Raises:
        ListTooLargeError: It has more slices than the kubelet takes.
    """
    return Offer(
        resource=resource,
        listed=wire.list_response(resource),
        slices={s.id: s for s in resource.slices},
        policy=policy,
        grant=grant,
        start=start,
    )


def too_large(resources: Iterable[Resource]) -> tuple[str, ...]:
    """A sentence for each resource with more slices than the kubelet takes."""
    found = []
    for resource in resources:
        try:
            wire.list_response(resource)
        except wire.ListTooLargeError as error:
            found.append(str(error))
    return tuple(found)


def nothing(name: str) -> Offer:
    """The last offer of a resource that is withdrawn."""
    return offer(Resource(name, ()), POLICIES["distributed"], refuse_all(f"{name} is no longer offered on this node"))


def refuse_all(reason: str) -> Grant:
    """The decision while nothing can be handed out."""

    def refuse(_resource: Resource, _slices: Mapping[str, Slice], _slice_ids: Sequence[str]) -> ContainerEdits:
        raise RefusedError(reason)

    return refuse
