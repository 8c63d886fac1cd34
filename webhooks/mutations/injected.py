"""Which containers of a pod are Tasuki's own."""

from collections.abc import Iterator
from typing import Final

from webhooks.pod import Place, Pod, places

# The names of all init containers that mutations add begin so.
PREFIX: Final = "tasuki-"


def users_containers(pod: Pod) -> Iterator[Place]:
    """The regular and init containers that the user wrote.

    Ours have no use for what others of our mutations add, and a second pass must not find anything to add to those that
    came later in the first.
    """
    for place in places(pod, "initContainers", "containers"):
        if place.kind == "containers" or not place.container.name.startswith(PREFIX):
            yield place
