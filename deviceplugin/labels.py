"""The node labels that NVIDIA's GPU feature discovery publishes, with its names and its values."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from deviceplugin.config.model import Config, MigStrategy, SharingStrategy
from deviceplugin.machine import Gpu, Machine, MigInstance
from deviceplugin.resources import Plan
from tasuki.devices.model import Device
from tasuki.kube.names import NVIDIA_DOMAIN, NVIDIA_GPU, NVIDIA_MIG_PREFIX, VACCEL_DOMAIN

# A label's value: at most 63 characters, with a letter or a digit at both ends.
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_VALUE_CHARACTERS: Final = 63
_MIB: Final = 2**20

# By the compute capability's major number, and up to which minor one.
_FAMILIES: Final[Mapping[int, tuple[tuple[int, str], ...]]] = {
    1: ((99, "tesla"),),
    2: ((99, "fermi"),),
    3: ((99, "kepler"),),
    5: ((99, "maxwell"),),
    6: ((99, "pascal"),),
    7: ((4, "volta"), (99, "turing")),
    8: ((8, "ampere"), (99, "ada-lovelace")),
    9: ((99, "hopper"),),
    10: ((99, "blackwell"),),
    12: ((99, "blackwell"),),
    13: ((99, "rubin"),),
}

# PCI class codes, as sysfs spells them: VGA controller and 3D controller.
_MODES: Final[Mapping[int, str]] = {0x030000: "graphics", 0x030200: "compute"}

_RESOURCE_SUFFIXES: Final = (
    "product",
    "count",
    "replicas",
    "sharing-strategy",
    "memory",
    "multiprocessors",
    "slices.gi",
    "slices.ci",
    "engines.copy",
    "engines.decoder",
    "engines.encoder",
    "engines.jpeg",
    "engines.ofa",
)
_GPU_SUFFIXES: Final = (
    *_RESOURCE_SUFFIXES,
    "family",
    "compute.major",
    "compute.minor",
    "machine",
    "mode",
    "clique",
)
_VERSION_SUFFIXES: Final = (
    "cuda.driver.major",
    "cuda.driver.minor",
    "cuda.driver.rev",
    "cuda.runtime.major",
    "cuda.runtime.minor",
    "cuda.driver-version.major",
    "cuda.driver-version.minor",
    "cuda.driver-version.revision",
    "cuda.driver-version.full",
    "cuda.runtime-version.major",
    "cuda.runtime-version.minor",
    "cuda.runtime-version.full",
)
_OWNED: Final = frozenset(
    [
        *(f"{NVIDIA_GPU}.{suffix}" for suffix in _GPU_SUFFIXES),
        *(f"{NVIDIA_DOMAIN}/{suffix}" for suffix in _VERSION_SUFFIXES),
        f"{NVIDIA_DOMAIN}/gfd.timestamp",
        f"{NVIDIA_DOMAIN}/mig.capable",
        f"{NVIDIA_DOMAIN}/mig.strategy",
        f"{NVIDIA_DOMAIN}/mps.capable",
        f"{NVIDIA_DOMAIN}/vgpu.present",
        f"{NVIDIA_DOMAIN}/vgpu.host-driver-version",
        f"{NVIDIA_DOMAIN}/vgpu.host-driver-branch",
    ]
)
_OWNED_MIG: Final = re.compile(
    re.escape(NVIDIA_MIG_PREFIX) + r"[0-9].*\.(" + "|".join(re.escape(s) for s in _RESOURCE_SUFFIXES) + ")"
)


def is_ours(key: str) -> bool:
    """Whether a node label is one that feature discovery writes, so that a stale one is to be removed.

    What people and other programs set to steer it is not: `nvidia.com/device-plugin.config`,
    `nvidia.com/gpu.present`, `nvidia.com/gpu.deploy.*`, `nvidia.com/mig.config*`.
    """
    return key.startswith(f"{VACCEL_DOMAIN}/") or key in _OWNED or _OWNED_MIG.fullmatch(key) is not None


def label_changes(
    wanted: Mapping[str, str], found: Mapping[str, str], *, looks_at_gpus: bool = True
) -> dict[str, str | None]:
    """What to change on a node: labels to set, and with None those of ours that no longer apply."""
    changes: dict[str, str | None] = {key: value for key, value in wanted.items() if found.get(key) != value}
    changes.update({key: None for key in found if key not in wanted and is_ours(key)})
    if not looks_at_gpus:
        changes = {key: value for key, value in changes.items() if not key.startswith(f"{NVIDIA_DOMAIN}/")}
    return dict(sorted(changes.items()))


def labels(
    machine: Machine,
    plan: Plan,
    config: Config,
    now: datetime | None,
    pci_classes: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """All labels of a node, sorted by key.

    Feature discovery knows one number of replicas for each resource. Where devices of one resource are shared in
    different ways, `replicas` is the largest number of slices that one device is cut into, 0 where nothing of it
    is offered, and `-SHARED` is on the product where a pod that asks for the resource by its own name may get a
    shared slice. The names are NVIDIA's (`nvidia.com/gpu.*`, `nvidia.com/mig-<profile>.*`) whatever `resources`
    calls the devices.

    Args:
        machine: Its `product` is the machine label; empty means `unknown`.
        plan: The same machine's.
        config: The configuration in force.
        now: For `gfd.timestamp`; None to leave it out.
        pci_classes: Class codes by physical device, where known: `0x030200`.
    """
    found = {f"{NVIDIA_DOMAIN}/vgpu.present": "false"}
    if now is not None and not config.flags.gfd.no_timestamp:
        found[f"{NVIDIA_DOMAIN}/gfd.timestamp"] = str(int(now.timestamp()))
    if machine.gpus:
        offered = _Offered(plan, config)
        found.update(_machine_labels(machine, config, pci_classes or {}))
        found.update(_gpu_labels(machine, offered))
        found.update(_mig_labels(machine, config, offered))
    return dict(sorted(found.items()))


class _Offered:
    """How each device is shared, looked up in the plan."""

    def __init__(self, plan: Plan, config: Config) -> None:
        under_own_name = {entry.name for entry in config.sharing.resources if entry.rename == entry.name}
        self._strategy = config.sharing.strategy
        self._replicas: dict[str, int] = {}
        self._shared_under_own_name: set[str] = set()
        for resource in plan.resources:
            for a_slice in resource.slices:
                device = a_slice.device.id
                self._replicas[device] = a_slice.replicas
                if a_slice.replicas > 1 and resource.name in under_own_name:
                    self._shared_under_own_name.add(device)

    def labels(self, prefix: str, devices: Sequence[Device], model: str, *parts: str) -> dict[str, str]:
        """`product`, `count`, `replicas` and `sharing-strategy` of devices that are alike."""
        replicas = max(self._replicas.get(device.id, 0) for device in devices)
        shared = [device for device in devices if device.id in self._shared_under_own_name]
        strategy = self._strategy if replicas > 1 else SharingStrategy.NONE
        return {
            f"{prefix}.product": _product(model, *parts, *(["SHARED"] if shared else [])),
            f"{prefix}.count": str(len(devices)),
            f"{prefix}.replicas": str(replicas),
            f"{prefix}.sharing-strategy": strategy.value,
        }


def _machine_labels(machine: Machine, config: Config, pci_classes: Mapping[str, int]) -> dict[str, str]:
    cliques = {gpu.fabric_clique for gpu in machine.gpus if gpu.fabric_clique}
    modes = {_MODES.get(pci_classes.get(gpu.device.id, 0), "unknown") for gpu in machine.gpus}
    migs = any(gpu.mig_enabled for gpu in machine.gpus)
    mps = config.sharing.strategy is SharingStrategy.MPS and not migs
    found = {
        f"{NVIDIA_GPU}.machine": _value(machine.product) or "unknown",
        f"{NVIDIA_GPU}.mode": modes.pop() if len(modes) == 1 else "unknown",
        f"{NVIDIA_DOMAIN}/mig.capable": _boolean(any(gpu.mig_capable for gpu in machine.gpus)),
        f"{NVIDIA_DOMAIN}/mps.capable": _boolean(mps),
        **_version_labels(machine),
    }
    if len(cliques) == 1:
        found[f"{NVIDIA_GPU}.clique"] = _value(cliques.pop())
    if config.flags.mig_strategy is not MigStrategy.NONE:
        found[f"{NVIDIA_DOMAIN}/mig.strategy"] = config.flags.mig_strategy.value
    return found


def _version_labels(machine: Machine) -> dict[str, str]:
    """The `driver.*` and `runtime.*` ones are deprecated, and still looked at."""
    cuda = f"{NVIDIA_DOMAIN}/cuda"
    found = {}
    match machine.driver_version.split("."):
        case [major, minor, *rest] if len(rest) <= 1:
            revision = rest[0] if rest else ""
            found = {
                f"{cuda}.driver.major": major,
                f"{cuda}.driver.minor": minor,
                f"{cuda}.driver.rev": revision,
                f"{cuda}.driver-version.major": major,
                f"{cuda}.driver-version.minor": minor,
                f"{cuda}.driver-version.revision": revision,
                f"{cuda}.driver-version.full": machine.driver_version,
            }
    cuda_major, cuda_minor = machine.cuda_version
    return {
        **found,
        f"{cuda}.runtime.major": str(cuda_major),
        f"{cuda}.runtime.minor": str(cuda_minor),
        f"{cuda}.runtime-version.major": str(cuda_major),
        f"{cuda}.runtime-version.minor": str(cuda_minor),
        f"{cuda}.runtime-version.full": f"{cuda_major}.{cuda_minor}",
    }


def _gpu_labels(machine: Machine, offered: _Offered) -> dict[str, str]:
    """The whole GPUs'.

    On a node with several models there is room for one: the one with the most GPUs outside MIG mode. GPUs of a
    model count whether in MIG mode or not; one that is says nothing of sharing, so that a node with no other has
    `replicas` 0.
    """
    candidates = [gpu for gpu in machine.gpus if not gpu.mig_enabled] or list(machine.gpus)
    models = Counter(gpu.device.model for gpu in candidates)
    model = models.most_common(1)[0][0]  # of as many, the first in the driver's order
    example = next(gpu for gpu in candidates if gpu.device.model == model)
    alike = [gpu.device for gpu in machine.gpus if gpu.device.model == model]
    if example.mig_enabled:
        found = {**_nothing_offered(model), f"{NVIDIA_GPU}.sharing-strategy": SharingStrategy.NONE.value}
    else:
        whole = [gpu.device for gpu in candidates if gpu.device.model == model]
        found = offered.labels(NVIDIA_GPU, whole, model)
    found[f"{NVIDIA_GPU}.count"] = str(len(alike))
    if example.device.memory_bytes:
        found[f"{NVIDIA_GPU}.memory"] = str(example.device.memory_bytes // _MIB)
    return {**found, **_architecture_labels(example)}


def _nothing_offered(model: str, *parts: str) -> dict[str, str]:
    return {f"{NVIDIA_GPU}.product": _product(model, *parts), f"{NVIDIA_GPU}.replicas": "0"}


def _architecture_labels(gpu: Gpu) -> dict[str, str]:
    major, minor = gpu.compute_capability
    if major == 0:
        return {}
    family = next((name for most, name in _FAMILIES.get(major, ()) if minor <= most), "undefined")
    return {
        f"{NVIDIA_GPU}.family": family,
        f"{NVIDIA_GPU}.compute.major": str(major),
        f"{NVIDIA_GPU}.compute.minor": str(minor),
    }


def _mig_labels(machine: Machine, config: Config, offered: _Offered) -> dict[str, str]:
    """Those of MIG devices; under strategy `single` they take the place of the whole GPUs'."""
    split = [gpu for gpu in machine.gpus if gpu.mig_enabled]
    if not split or config.flags.mig_strategy is MigStrategy.NONE:
        return {}
    by_profile: dict[str, list[MigInstance]] = {}
    for gpu in split:
        for instance in gpu.mig:
            by_profile.setdefault(instance.device.profile.replace("+", "."), []).append(instance)
    parents = {gpu.device.id: gpu.device for gpu in split}
    if config.flags.mig_strategy is MigStrategy.SINGLE:
        kinds = {instance.attributes for gpu in split for instance in gpu.mig}
        alike = len(by_profile) == 1 and len(kinds) == 1
        if not alike or len(split) < len(machine.gpus) or any(not gpu.mig for gpu in split):
            return {
                **_nothing_offered(split[0].device.model, "MIG", "INVALID"),
                f"{NVIDIA_GPU}.count": "0",
                f"{NVIDIA_GPU}.memory": "0",
                f"{NVIDIA_GPU}.sharing-strategy": "",
            }
    found: dict[str, str] = {}
    for profile, instances in by_profile.items():
        single = config.flags.mig_strategy is MigStrategy.SINGLE
        prefix = NVIDIA_GPU if single else f"{NVIDIA_MIG_PREFIX}{profile}"
        model = parents[instances[0].device.physical].model
        found.update(offered.labels(prefix, [i.device for i in instances], model, "MIG", profile))
        found.update(_attribute_labels(prefix, instances[0]))
    return found


def _attribute_labels(prefix: str, instance: MigInstance) -> dict[str, str]:
    has = instance.attributes
    values = {
        "memory": instance.device.memory_bytes // _MIB,
        "multiprocessors": has.multiprocessors,
        "slices.gi": has.gpu_instance_slices,
        "slices.ci": has.compute_instance_slices,
        "engines.copy": has.copy_engines,
        "engines.decoder": has.decoders,
        "engines.encoder": has.encoders,
        "engines.jpeg": has.jpeg_engines,
        "engines.ofa": has.ofa_engines,
    }
    return {f"{prefix}.{suffix}": str(value) for suffix, value in values.items()}


def _product(model: str, *parts: str) -> str:
    """Where it is too long for a label, the model is cut, never what follows it: `-SHARED` is selected by."""
    tail = "".join(f"-{_sanitised(part)}" for part in parts)
    return _trimmed(_sanitised(model)[: _VALUE_CHARACTERS - len(tail)] + tail)


def _value(text: str) -> str:
    return _trimmed(_sanitised(text)[:_VALUE_CHARACTERS])


def _sanitised(text: str) -> str:
    """As feature discovery does it: strange characters go, what is between blanks is joined with dashes."""
    return "-".join(re.sub(r"[^A-Za-z0-9\-_. ]", "", text).split())


def _trimmed(text: str) -> str:
    return text.strip("-_.")


def _boolean(value: bool) -> str:  # noqa: FBT001 # the value is what is spelled
    return "true" if value else "false"
