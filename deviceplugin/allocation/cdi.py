"""Specifications of the Container Device Interface for a machine's GPUs."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname, join
from typing import Final

import msgspec

from deviceplugin.allocation.nodes import CONTROL_NODES, imex_channel_node, on_host, own_nodes
from deviceplugin.config.model import Config, DeviceIdStrategy, Flags
from deviceplugin.machine import Machine
from tasuki.devices.model import Device

VENDOR: Final = "k8s.device-plugin.nvidia.com"
GPU_CLASS: Final = "gpu"
IMEX_CLASS: Final = "imex-channel"

# Of what is used here, `hostPath` and names that begin with a digit are the youngest parts; they came with 0.5.0
# (the table of released versions in the CDI specification).
VERSION: Final = "0.5.0"

_BIND: Final = ("ro", "nosuid", "nodev", "rbind", "rprivate")


class CdiNode(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    path: str
    host_path: str = ""


class CdiMount(msgspec.Struct, frozen=True, rename="camel"):
    host_path: str
    container_path: str
    options: tuple[str, ...] = _BIND


class CdiHook(msgspec.Struct, frozen=True, rename="camel"):
    hook_name: str
    path: str
    args: tuple[str, ...]


class CdiEdits(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    env: tuple[str, ...] = ()
    device_nodes: tuple[CdiNode, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    hooks: tuple[CdiHook, ...] = ()


class CdiDevice(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    container_edits: CdiEdits


class CdiSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One file: its `kind` is the vendor and the class of its devices."""

    cdi_version: str
    kind: str
    devices: tuple[CdiDevice, ...]
    container_edits: CdiEdits = CdiEdits()

    @property
    def device_class(self) -> str:
        return self.kind.partition("/")[2]


@dataclass(frozen=True, slots=True, order=True)
class Library:
    """A shared library of the driver.

    Attributes:
        path: Below the driver root, `/usr/lib64/libcuda.so.580.95.05`.
        links: Names of symbolic links to it in the same folder: `("libcuda.so", "libcuda.so.1")`.
    """

    path: str
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostFiles:
    """What the driver has installed on the host.

    Attributes:
        nodes: Device files that exist, as paths below the device root.
        libraries: Sorted.
        others: Programs to be mounted, below the driver root, sorted.
        storage: What GPUDirect Storage reads besides, below the driver root, sorted.
    """

    nodes: frozenset[str] = frozenset()
    libraries: tuple[Library, ...] = ()
    others: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Extra:
    """A further driver that a configuration can ask for; its one CDI device is named `all`.

    Attributes:
        wanted: Whether the flags ask for it.
        prefixes: How the paths of its device files begin.
        root: Below which of the host's folders these are.
        mounted: What is mounted with them.
    """

    device_class: str
    wanted: Callable[[Flags], bool]
    prefixes: tuple[str, ...]
    root: Callable[[Flags], str] = lambda _: "/"
    mounted: Callable[[HostFiles], tuple[str, ...]] = lambda _: ()


# Their files as NVIDIA's toolkit finds them (nvidia-container-toolkit, internal/discover: gdrcopy, gds, mofed).
_EXTRAS: Final = (
    _Extra(
        "gdrcopy",
        wanted=lambda flags: flags.gdrcopy_enabled,
        prefixes=("/dev/gdrdrv",),
        root=lambda flags: flags.nvidia_dev_root,
    ),
    _Extra(
        "gds",
        wanted=lambda flags: flags.gds_enabled,
        prefixes=("/dev/nvidia-fs",),
        mounted=lambda files: files.storage,
    ),
    _Extra(
        "mofed",
        wanted=lambda flags: flags.mofed_enabled,
        prefixes=("/dev/infiniband/uverbs", "/dev/infiniband/rdma_cm"),
    ),
)

CLASSES: Final = (GPU_CLASS, IMEX_CLASS, *(extra.device_class for extra in _EXTRAS))


def device_name(device: Device, strategy: DeviceIdStrategy) -> str:
    """How NVIDIA_VISIBLE_DEVICES and CDI call a device."""
    return device.id if strategy is DeviceIdStrategy.UUID else device.index


def qualified(device_class: str, name: str) -> str:
    return f"{VENDOR}/{device_class}={name}"


def channels_present(config: Config, nodes: Collection[str]) -> tuple[int, ...]:
    """The configured IMEX channels that this machine has."""
    return tuple(c for c in config.imex.channel_ids if imex_channel_node(c) in nodes)


def extra_devices(config: Config, nodes: Collection[str]) -> tuple[str, ...]:
    """Qualified names of the further devices that every container with a GPU gets."""
    return tuple(
        qualified(extra.device_class, "all")
        for extra in _EXTRAS
        if extra.wanted(config.flags) and _begin_with(extra.prefixes, nodes)
    )


def specs(
    machine: Machine, config: Config, files: HostFiles, disabled_hooks: Collection[str] = ()
) -> tuple[CdiSpec, ...]:
    """All specifications, sorted by kind; none for a class that has no devices here.

    Args:
        machine: Its MIG devices without capability nodes are left out, for the container could not open them.
        config: For the roots, the naming and what is wanted besides GPUs.
        files: What to mount, and which optional nodes exist.
        disabled_hooks: Names of hooks that are not written, or `all`.
    """
    found = [_gpu_spec(machine, config, files, disabled_hooks), _imex_spec(config, files)]
    found += [_extra_spec(extra, config.flags, files) for extra in _EXTRAS if extra.wanted(config.flags)]
    return tuple(sorted((spec for spec in found if spec.devices), key=lambda spec: spec.kind))


def _gpu_spec(machine: Machine, config: Config, files: HostFiles, disabled_hooks: Collection[str]) -> CdiSpec:
    flags = config.flags
    own = own_nodes(machine).paths
    devices = [gpu.device for gpu in machine.gpus] + [i.device for gpu in machine.gpus for i in gpu.mig]
    # A lost GPU keeps its index, which the driver may have given to another since; a name that is there twice would
    # make runtimes refuse the whole file.
    order = {device.id: n for n, device in enumerate(devices)}
    named = {
        device_name(device, flags.plugin.device_id_strategy): device
        for device in sorted(devices, key=lambda device: device.health.healthy)
        if device.id in own
    }
    return _spec(
        GPU_CLASS,
        (
            CdiDevice(name, CdiEdits(device_nodes=_nodes(own[device.id], flags.nvidia_dev_root)))
            for name, device in sorted(named.items(), key=lambda item: order[item[1].id])
        ),
        _common(flags, files, disabled_hooks),
    )


def _spec(device_class: str, devices: Iterable[CdiDevice], common: CdiEdits = CdiEdits()) -> CdiSpec:  # noqa: B008 - frozen
    return CdiSpec(VERSION, f"{VENDOR}/{device_class}", tuple(devices), common)


def _common(flags: Flags, files: HostFiles, disabled_hooks: Collection[str]) -> CdiEdits:
    """What every container with a GPU gets: control nodes, the driver's files, links to its libraries."""
    control = [path for path in CONTROL_NODES if path in files.nodes]
    paths = [library.path for library in files.libraries] + list(files.others)
    hooks = []
    program = flags.plugin.nvidia_ctk_path
    links = [(library, link) for library in files.libraries for link in library.links]
    hook_names = {"create-symlinks", "update-ldcache"} - set(disabled_hooks)
    if not program or "all" in disabled_hooks:
        hook_names = set()
    if "create-symlinks" in hook_names and links:
        arguments = [f"{basename(lib.path)}::{join(dirname(lib.path), link)}" for lib, link in links]
        hooks.append(_hook(program, "create-symlinks", "--link", arguments))
    if "update-ldcache" in hook_names and files.libraries:
        folders = sorted({dirname(library.path) for library in files.libraries})
        hooks.append(_hook(program, "update-ldcache", "--folder", folders))
    mounts = [CdiMount(on_host(flags.nvidia_driver_root, path), path) for path in paths]
    if "create-symlinks" not in hook_names:
        # A program asks the loader for libcuda.so.1; where no hook links that name, the file is mounted under it.
        mounts += [
            CdiMount(on_host(flags.nvidia_driver_root, library.path), join(dirname(library.path), link))
            for library, link in links
        ]
    return CdiEdits(
        # The NVIDIA runtime, if it is the node's default, must not inject the same devices a second time.
        env=("NVIDIA_VISIBLE_DEVICES=void",),
        device_nodes=_nodes(control, flags.nvidia_dev_root),
        mounts=tuple(mounts),
        hooks=tuple(hooks),
    )


def _hook(program: str, name: str, option: str, arguments: Sequence[str]) -> CdiHook:
    """A call of NVIDIA's toolkit before the container starts.

    nvidia-ctk has the hooks below its command `hook`, nvidia-cdi-hook at its top
    (nvidia-container-toolkit, internal/discover/hooks.go).
    """
    command = basename(program)
    start = (command, "hook", name) if command == "nvidia-ctk" else (command, name)
    options = [word for argument in arguments for word in (option, argument)]
    return CdiHook("createContainer", program, (*start, *options))


def _imex_spec(config: Config, files: HostFiles) -> CdiSpec:
    root = config.flags.nvidia_dev_root
    channels = channels_present(config, files.nodes)
    return _spec(
        IMEX_CLASS,
        (CdiDevice(str(c), CdiEdits(device_nodes=_nodes([imex_channel_node(c)], root))) for c in channels),
    )


def _extra_spec(extra: _Extra, flags: Flags, files: HostFiles) -> CdiSpec:
    nodes = _begin_with(extra.prefixes, files.nodes)
    edits = CdiEdits(
        device_nodes=_nodes(nodes, extra.root(flags)),
        mounts=tuple(CdiMount(on_host(flags.nvidia_driver_root, p), p) for p in extra.mounted(files)),
    )
    return _spec(extra.device_class, [CdiDevice("all", edits)] if nodes else [])


def _begin_with(prefixes: tuple[str, ...], paths: Iterable[str]) -> list[str]:
    return sorted(path for path in paths if path.startswith(prefixes))


def _nodes(paths: Iterable[str], root: str) -> tuple[CdiNode, ...]:
    return tuple(CdiNode(path, "" if on_host(root, path) == path else on_host(root, path)) for path in paths)
