"""What our own containers in a pod are called, request and are told by from the user's."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from webhooks.mutations.modules_wish import NAME
from webhooks.pod import Container, Place, Pod, places

AGENT: Final = "tasuki-vaccel-agent"
AGENT_VOLUME: Final = "tasuki-vaccel"

_LOADER: Final = re.compile(rf"{NAME}(-[1-9][0-9]*)?")

_Amount = TypeVar("_Amount")


def is_loader(container: Container) -> bool:
    """Whether an init container loads environment modules; a user's may have the name, but not what it writes to."""
    return _LOADER.fullmatch(container.name) is not None and _mounts(container, NAME)


def users_containers(pod: Pod) -> Iterator[Place]:
    """The regular and init containers that the user wrote.

    Ours have no use for what others of our mutations add, and a second pass must not find anything to add to those that
    came later in the first.
    """
    for place in places(pod, "initContainers", "containers"):
        if place.kind == "containers" or not (_is_agent(place.container) or is_loader(place.container)):
            yield place


def beside_the_pods(pod: Pod, amounts: Mapping[str, _Amount]) -> dict[str, _Amount]:
    """Those of one of our containers, without what the pod has as a whole.

    It shares that with the user's. The API server would refuse the pod if the requests of its containers came to more
    than its own, and what it requests is the user's to say (validatePodResourceConsistency in
    kubernetes/kubernetes, pkg/apis/core/validation/validation.go).
    """
    whole = pod.spec.resources
    return {name: amount for name, amount in amounts.items() if name not in whole.requests and name not in whole.limits}


def _is_agent(container: Container) -> bool:
    return container.name == AGENT and _mounts(container, AGENT_VOLUME)


def _mounts(container: Container, volume: str) -> bool:
    return any(mount.name == volume for mount in container.volume_mounts)
