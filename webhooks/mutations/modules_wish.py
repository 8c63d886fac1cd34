"""What one pod with environment modules gets, as its init containers and its own containers both need it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from webhooks.pod import VolumeMount
from webhooks.policy.model import Modules

# The volume that the init containers write to, and their own name, with a number after it from the second on.
NAME: Final = "tasuki-modules"
MOUNT_PATH: Final = "/var/run/tasuki.dev/modules"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, and where.

    Attributes:
        names: Of the modules, in the order in which they are loaded.
        version: What every kubelet and the API server are at least; (0, 0) while that is not known.
    """

    names: Sequence[str]
    policy: Modules
    version: tuple[int, int]


def mounts(policy: Modules, *, writes: bool) -> Iterable[VolumeMount]:
    for volume in policy.volumes:
        yield VolumeMount(
            name=volume.name,
            mount_path=volume.mount_path,
            sub_path=volume.sub_path,
            mount_propagation=volume.mount_propagation,
            read_only=True,
        )
    yield VolumeMount(name=NAME, mount_path=MOUNT_PATH, read_only=not writes)
