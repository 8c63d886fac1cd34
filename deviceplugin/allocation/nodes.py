"""The device files of NVIDIA's driver that give access to a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import join
from typing import Final

from deviceplugin.machine import Machine, MigInstance

# Every CUDA process opens the first two; the driver works without the others, which are not always there.
CONTROL_NODES: Final = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")

_CAPABILITIES: Final = "/proc/driver/nvidia/capabilities"


@dataclass(frozen=True, slots=True)
class OwnNodes:
    """The device files that belong to single devices, by device id.

    Attributes:
        paths: As a container sees them.
        missing: For a device whose files are not known, the sentence that says which.
    """

    paths: Mapping[str, tuple[str, ...]]
    missing: Mapping[str, str]


def own_nodes(machine: Machine) -> OwnNodes:
    paths: dict[str, tuple[str, ...]] = {}
    missing: dict[str, str] = {}
    for gpu in machine.gpus:
        node = f"/dev/nvidia{gpu.minor}"
        paths[gpu.device.id] = (node,)
        for instance in gpu.mig:
            if instance.capability_minors is None:
                missing[instance.device.id] = _no_capabilities(instance, gpu.minor)
                continue
            paths[instance.device.id] = (node, *map(_capability_node, instance.capability_minors))
    return OwnNodes(paths, missing)


def imex_channel_node(channel: int) -> str:
    return f"/dev/nvidia-caps-imex-channels/channel{channel}"


def on_host(root: str, path: str) -> str:
    """An absolute path below another root: `/dev/nvidia0` below `/run/nvidia/driver`."""
    return join(root, path.lstrip("/"))


def _capability_node(minor: int) -> str:
    return f"/dev/nvidia-caps/nvidia-cap{minor}"


def _no_capabilities(instance: MigInstance, gpu_minor: int) -> str:
    gi = f"{_CAPABILITIES}/gpu{gpu_minor}/mig/gi{instance.gi}"
    return (
        f"MIG device {instance.device.index} ({instance.device.id}) has no known device node for "
        f"{gi}/access and {gi}/ci{instance.ci}/access; the plugin reads them in "
        "/proc/driver/nvidia-caps/mig-minors, which must be the host's"
    )
