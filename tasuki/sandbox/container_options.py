"""What a container gets in all when it holds devices of several resources."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deviceplugin.container import ContainerEdits, DeviceNode, Mount
from protos.deviceplugin.v1beta1 import api_pb2


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The merged answers to Allocate.

    Attributes:
        conflicts: One sentence for each thing that two answers set differently; the first one stays.
    """

    edits: ContainerEdits = field(default_factory=ContainerEdits)
    conflicts: tuple[str, ...] = ()


def merge(answers: Mapping[str, api_pb2.ContainerAllocateResponse]) -> RunOptions:
    """Merge the answers for each resource as the kubelet does, in the order of their names.

    What names the same thing in the container is there once: environment variables and annotations by key,
    device nodes and mounts by their path in the container, CDI devices by name. The first one is kept
    (devicemanager/pod_devices.go, deviceRunContainerOptions, which takes the resources in no order).
    """
    conflicts: list[str] = []
    envs: dict[str, str] = {}
    annotations: dict[str, str] = {}
    nodes: dict[str, DeviceNode] = {}
    mounts: dict[str, Mount] = {}
    cdi_devices: dict[str, None] = {}
    for resource in sorted(answers):
        answer = answers[resource]
        for name, value in sorted(answer.envs.items()):
            if envs.setdefault(name, value) != value:
                conflicts.append(f"{resource} sets {name}={value}, but it is {envs[name]} already")
        for spec in answer.devices:
            node = DeviceNode(spec.host_path, spec.container_path, spec.permissions)
            if nodes.setdefault(node.container_path, node).host_path != node.host_path:
                kept = nodes[node.container_path].host_path
                conflicts.append(f"{resource} maps {node.host_path} to {node.container_path}, but {kept} is there")
        for bind in answer.mounts:
            mount = Mount(bind.host_path, bind.container_path, bind.read_only)
            if mounts.setdefault(mount.container_path, mount).host_path != mount.host_path:
                kept = mounts[mount.container_path].host_path
                conflicts.append(f"{resource} mounts {mount.host_path} at {mount.container_path}, but {kept} is there")
        for name, value in sorted(answer.annotations.items()):
            if annotations.setdefault(name, value) != value:
                conflicts.append(f"{resource} annotates {name}={value}, but it is {annotations[name]} already")
        cdi_devices.update(dict.fromkeys(device.name for device in answer.cdi_devices))
    edits = ContainerEdits(envs, tuple(nodes.values()), tuple(mounts.values()), annotations, tuple(cdi_devices))
    return RunOptions(edits, tuple(conflicts))
