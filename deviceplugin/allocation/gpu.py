"""What a container gets for the GPU and MIG slices that it was given."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from posixpath import join
from typing import Final, Self

from deviceplugin.allocation import cdi
from deviceplugin.allocation.errors import (
    MissingNodeError,
    MpsOnMigError,
    RepeatedSliceError,
    TooManySlicesError,
    UnhealthySliceError,
    UnknownSliceError,
)
from deviceplugin.allocation.memory_caps import caps
from deviceplugin.allocation.nodes import CONTROL_NODES, OwnNodes, imex_channel_node, on_host, own_nodes
from deviceplugin.config.model import Config, DeviceListStrategy, SharingStrategy
from deviceplugin.container import ContainerEdits, DeviceNode, Mount
from deviceplugin.machine import Machine
from deviceplugin.resources import Resource
from tasuki.devices.model import Device, DeviceKind, Slice, index_order

# Where NVIDIA's runtime looks for devices that are asked for by mounts; the mounted file itself means nothing
# (NVIDIA/k8s-device-plugin, internal/plugin/server.go).
_DEVICES_BY_MOUNT: Final = "/var/run/nvidia-container-devices"
_MEANINGLESS_FILE: Final = "/dev/null"

_MPS_IN_CONTAINER: Final = "/mps"
_CDI: Final = frozenset({DeviceListStrategy.CDI_ANNOTATIONS, DeviceListStrategy.CDI_CRI})


def granted(resource: Resource, slice_ids: Sequence[str], index: Mapping[str, Slice]) -> tuple[Slice, ...]:
    """The slices of these names, in the driver's order of devices.

    Args:
        resource: What the kubelet asks for.
        slice_ids: In any order.
        index: The resource's slices by id.

    Raises:
        AllocationError: One of them does not exist, is unhealthy or named twice, or they are too many.
    """
    found = []
    for slice_id in slice_ids:
        a_slice = index.get(slice_id)
        if a_slice is None:
            raise UnknownSliceError(f"unknown device: {slice_id}")
        if not a_slice.device.health.healthy:
            raise UnhealthySliceError(f"slice {slice_id!r} is {a_slice.device.health}")
        found.append(a_slice)
    if len(set(slice_ids)) < len(slice_ids):
        raise RepeatedSliceError(f"a slice is named twice: {', '.join(sorted(slice_ids))}")
    if resource.one_per_request and len(found) > 1 and any(s.replicas > 1 for s in found):
        raise TooManySlicesError(f"maximum request size for shared resources is 1; found {len(found)}")
    return tuple(sorted(found, key=lambda s: (index_order(s.device), s.replica)))


@dataclass(frozen=True, slots=True)
class Allocator:
    """Answers Allocate; made once for each scan and configuration, because every call has to be quick.

    Attributes:
        control: Control nodes that exist on the host.
        channels: IMEX channels that every container gets.
        channels_missing: Why the required channels cannot be given; empty if they can.
        extras: Qualified CDI names of further devices that every container gets.
    """

    config: Config
    own: OwnNodes
    control: tuple[str, ...]
    channels: tuple[int, ...]
    channels_missing: str
    extras: tuple[str, ...]

    @classmethod
    def of(cls, machine: Machine, config: Config, nodes: Collection[str]) -> Self:
        """Prepare for a machine.

        Args:
            machine: Where the slices come from.
            config: Says in which ways they reach the container.
            nodes: The device files that exist on the host, as paths below the device root.
        """
        channels = cdi.channels_present(config, nodes)
        absent = [imex_channel_node(c) for c in config.imex.channel_ids if c not in channels]
        missing = f"required IMEX channels do not exist: {', '.join(absent)}; make them, or set imex.required: false"
        return cls(
            config=config,
            own=own_nodes(machine),
            control=tuple(path for path in CONTROL_NODES if path in nodes),
            channels=channels,
            channels_missing=missing if absent and config.imex.required else "",
            extras=cdi.extra_devices(config, nodes),
        )

    def grant(self, resource: Resource, index: Mapping[str, Slice], slice_ids: Sequence[str]) -> ContainerEdits:
        """Answer for one container.

        Raises:
            AllocationError: It cannot have what it asks for.
        """
        return self.edits(resource, granted(resource, slice_ids, index))

    def edits(self, resource: Resource, slices: Sequence[Slice]) -> ContainerEdits:
        """What is changed in the container that holds these slices; the same for every order of them.

        Raises:
            AllocationError: Something that the configured strategy needs is not there.
        """
        if self.channels_missing:
            raise MissingNodeError(self.channels_missing)
        plugin = self.config.flags.plugin
        devices = sorted({s.device.id: s.device for s in slices}.values(), key=index_order)
        names = [cdi.device_name(device, plugin.device_id_strategy) for device in devices]
        strategies = set(plugin.device_list_strategy)

        parts = [ContainerEdits(envs=self._switches())]
        if self.config.tasuki.cuda_visible_devices:
            # An index means another device once the runtime hides the rest of them.
            parts.append(ContainerEdits(envs={"CUDA_VISIBLE_DEVICES": ",".join(device.id for device in devices)}))
        if self.config.tasuki.memory_caps:
            parts.append(ContainerEdits(envs=caps(slices)))
        if resource.sharing is SharingStrategy.MPS and any(s.replicas > 1 for s in slices):
            parts.append(self._mps(resource, devices))
        if not strategies <= _CDI:
            parts += self._listed(strategies, names)
            if plugin.pass_device_specs:
                parts.append(self._device_nodes(devices))
        if self.config.tasuki.device_nodes.enabled:
            parts += [self._libraries(), self._device_nodes(devices)]
        if not strategies.isdisjoint(_CDI):
            parts.append(self._by_cdi(strategies, slices, self._qualified(devices, names)))
        return _together(parts)

    def _switches(self) -> dict[str, str]:
        """Which further drivers NVIDIA's runtime is to inject."""
        flags = self.config.flags
        switches = {
            "NVIDIA_GDRCOPY": flags.gdrcopy_enabled,
            "NVIDIA_GDS": flags.gds_enabled,
            "NVIDIA_MOFED": flags.mofed_enabled,
        }
        return {name: "enabled" for name, on in switches.items() if on}

    def _mps(self, resource: Resource, devices: Sequence[Device]) -> ContainerEdits:
        """The way to the MPS control daemon of this resource."""
        for device in devices:
            if device.kind is DeviceKind.MIG:
                raise MpsOnMigError(
                    f"sharing by MPS does not work on MIG devices, but {device.index} ({device.id}) is one; "
                    "use sharing.timeSlicing"
                )
        root = self.config.flags.mps_root
        pipe = join(_MPS_IN_CONTAINER, resource.name, "pipe")
        return ContainerEdits(
            envs={"CUDA_MPS_PIPE_DIRECTORY": pipe},
            mounts=(
                Mount(join(root, resource.name, "pipe"), pipe, read_only=False),
                # Clients and daemon meet in one shared memory.
                Mount(join(root, "shm"), "/dev/shm", read_only=False),  # noqa: S108 - the path is the point
            ),
        )

    def _listed(self, strategies: Collection[DeviceListStrategy], names: Sequence[str]) -> Iterator[ContainerEdits]:
        """The list of devices for NVIDIA's runtime; with both strategies, it goes by the mounts."""
        if DeviceListStrategy.ENVVAR in strategies:
            yield ContainerEdits(envs={"NVIDIA_VISIBLE_DEVICES": ",".join(names)})
            if self.channels:
                yield ContainerEdits(envs={"NVIDIA_IMEX_CHANNELS": ",".join(map(str, self.channels))})
        if DeviceListStrategy.VOLUME_MOUNTS in strategies:
            listed = [*names, *(f"imex/{channel}" for channel in self.channels)]
            yield ContainerEdits(
                envs={"NVIDIA_VISIBLE_DEVICES": _DEVICES_BY_MOUNT},
                mounts=tuple(
                    Mount(_MEANINGLESS_FILE, join(_DEVICES_BY_MOUNT, name), read_only=False) for name in listed
                ),
            )

    def _device_nodes(self, devices: Sequence[Device]) -> ContainerEdits:
        root = self.config.flags.nvidia_dev_root
        paths = list(self.control)
        for device in devices:
            paths += self._own(device)
        paths += map(imex_channel_node, self.channels)
        return ContainerEdits(nodes=tuple(DeviceNode(on_host(root, path), path) for path in paths))

    def _own(self, device: Device) -> tuple[str, ...]:
        paths = self.own.paths.get(device.id)
        if paths is None:
            raise MissingNodeError(
                self.own.missing.get(device.id, f"device {device.id} is not on this machine (any more)")
            )
        return paths

    def _libraries(self) -> ContainerEdits:
        """What NVIDIA's runtime would inject: the driver's libraries, where the loader finds them."""
        options = self.config.tasuki.device_nodes
        return ContainerEdits(
            envs={"LD_LIBRARY_PATH": join(options.library_container_path, "lib64")},
            mounts=(Mount(options.library_host_path, options.library_container_path),),
        )

    def _qualified(self, devices: Sequence[Device], names: Sequence[str]) -> tuple[str, ...]:
        """The CDI names of all that the container gets."""
        for device in devices:
            self._own(device)  # The specification leaves out a device without nodes, so its name would not resolve.
        gpus = [cdi.qualified(cdi.GPU_CLASS, name) for name in names]
        channels = [cdi.qualified(cdi.IMEX_CLASS, str(channel)) for channel in self.channels]
        return (*gpus, *channels, *self.extras)

    def _by_cdi(
        self, strategies: Collection[DeviceListStrategy], slices: Sequence[Slice], qualified: tuple[str, ...]
    ) -> ContainerEdits:
        """CDI names, in the kubelet's own field or for runtimes that read them in annotations.

        A container may hold slices of several resources, and each answer needs a key of its own. The name in a key
        has 63 characters at most (Kubernetes' qualified names): 21 and a digest of 32.
        """
        annotations = {}
        if DeviceListStrategy.CDI_ANNOTATIONS in strategies:
            digest = sha256("\n".join(sorted(s.id for s in slices)).encode()).hexdigest()[:32]
            key = f"{self.config.flags.plugin.cdi_annotation_prefix}nvidia-device-plugin_{digest}"
            annotations[key] = ",".join(qualified)
        by_field = DeviceListStrategy.CDI_CRI in strategies
        return ContainerEdits(annotations=annotations, cdi_devices=qualified if by_field else ())


def _together(parts: Sequence[ContainerEdits]) -> ContainerEdits:
    """All edits as one; of two values for a variable, the later."""
    envs = {name: value for part in parts for name, value in part.envs.items()}
    return ContainerEdits(
        envs=dict(sorted(envs.items())),
        nodes=tuple(dict.fromkeys(node for part in parts for node in part.nodes)),
        mounts=tuple(mount for part in parts for mount in part.mounts),
        annotations={key: value for part in parts for key, value in part.annotations.items()},
        cdi_devices=tuple(name for part in parts for name in part.cdi_devices),
    )
