"""What is changed in a container so that it can use its devices."""

from collections.abc import Mapping
from dataclasses import dataclass, field


class RefusedError(ValueError):
    """Slices cannot be handed out; the text says why and reaches the pod's events."""


@dataclass(frozen=True, slots=True, order=True)
class DeviceNode:
    """A device file; `permissions` are the device cgroup's letters."""

    host_path: str
    container_path: str
    permissions: str = "rw"


@dataclass(frozen=True, slots=True, order=True)
class Mount:
    host_path: str
    container_path: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """The answer to Allocate for one container.

    Attributes:
        cdi_devices: Fully qualified names, `vendor/class=name`.
    """

    envs: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi_devices: tuple[str, ...] = ()
