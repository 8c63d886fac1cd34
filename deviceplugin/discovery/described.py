"""The machine that a description describes."""

import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final

from deviceplugin.discovery import nvlink
from deviceplugin.discovery.description import DescriptionError, GpuDescription, MachineDescription
from deviceplugin.discovery.mig_profiles import Profile, compute_instance, mig_gpu, parse
from deviceplugin.machine import Gpu, Machine, MigInstance
from tasuki.devices.model import Device, DeviceKind, Place

_IDS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "machine.tasuki.dev")

# The first GPU instance id that NVIDIA's driver gives to an instance of so many slices, as seen in the output of
# `nvidia-smi mig -lgi`; further ones count up.
_FIRST_GI: Final = {7: 0, 4: 1, 3: 1, 2: 3, 1: 7}
_COMPUTE_SLICES: Final = 7
_MEMORY_SLICES: Final = 8


@dataclass(frozen=True, slots=True)
class _GpuTerms:
    """A GPU's entry with the defaults filled in."""

    where: str
    model: str
    memory_mib: int
    compute_capability: tuple[int, int]
    numa_node: int | None
    fabric_clique: str
    power_limit_watts: float


def machine_of(description: MachineDescription, node: str = "") -> Machine:
    """Every described GPU, healthy or not.

    Args:
        description: The file.
        node: Makes the derived ids differ between nodes that simulate the same machine.

    Raises:
        DescriptionError: The description contradicts itself, or asks for a profile that the GPU has not.
    """
    gpus = tuple(_gpu(description, position, node) for position in range(len(description.gpus)))
    _check_unique(gpus)
    return Machine(
        driver_version=description.driver_version,
        cuda_version=_numbers(description.cuda_version),
        gpus=gpus,
        topology=nvlink.topology(gpus, _lanes(description, gpus)),
        product=description.product,
    )


def capability_minors(gpu: int, gi: int, ci: int) -> tuple[int, int]:
    """As NVIDIA's driver counts them: 1 and 2 are not a GPU's; 15 GPU instances of 8 compute instances each."""
    access = 3 + gpu * 15 * 9 + gi * 9
    return access, access + 1 + ci


def _gpu(description: MachineDescription, position: int, node: str) -> Gpu:
    entry = description.gpus[position]
    terms = _terms(description, position)
    seed = f"{node}/{description.name}/{position}"
    path = tuple(entry.pcie_path.split("/"))
    device = Device(
        id=entry.uuid or f"GPU-{uuid.uuid5(_IDS, seed)}",
        kind=DeviceKind.GPU,
        index=str(position),
        model=terms.model,
        memory_bytes=terms.memory_mib * 2**20,
        place=Place(numa_node=terms.numa_node, pci_address=path[-1], pcie_path=path),
        power_limit_watts=terms.power_limit_watts,
    )
    minor = position if entry.minor is None else entry.minor
    enabled = bool(entry.mig) if entry.mig_enabled is None else entry.mig_enabled
    if entry.mig and not enabled:
        raise DescriptionError(f"{terms.where}.migEnabled is false, but mig is {dict(entry.mig)}; remove one of them")
    return Gpu(
        device=device,
        minor=minor,
        compute_capability=terms.compute_capability,
        mig_capable=enabled or mig_gpu(terms.model, terms.memory_mib) is not None,
        mig_enabled=enabled,
        mig=tuple(_mig(entry, terms, device, minor, seed)),
        fabric_clique=terms.fabric_clique,
    )


def _terms(description: MachineDescription, position: int) -> _GpuTerms:
    entry, defaults = description.gpus[position], description.gpu_defaults
    where = f"gpus[{position}]"
    model = entry.model or defaults.model
    memory = entry.memory_mib or defaults.memory_mib
    capability = entry.compute_capability or defaults.compute_capability
    for key, value in {"model": model, "memoryMib": memory, "computeCapability": capability}.items():
        if value is None:
            raise DescriptionError(f"{where}: {key!r} is missing; add it here or under gpuDefaults")
    assert model is not None
    assert memory is not None
    assert capability is not None
    return _GpuTerms(
        where=where,
        model=model,
        memory_mib=memory,
        compute_capability=_numbers(capability),
        numa_node=defaults.numa_node if entry.numa_node is None else entry.numa_node,
        fabric_clique=entry.fabric_clique or defaults.fabric_clique or "",
        power_limit_watts=entry.power_limit_watts or defaults.power_limit_watts or 0.0,
    )


def _mig(entry: GpuDescription, terms: _GpuTerms, gpu: Device, minor: int, seed: str) -> Iterator[MigInstance]:
    if not entry.mig:
        return
    where = f"{terms.where}.mig"
    published = mig_gpu(terms.model, terms.memory_mib)
    if published is None:
        raise DescriptionError(
            f"{where}: no MIG profiles are known of {terms.model!r} with {terms.memory_mib} MiB; remove it"
        )
    for n, (profile, gi, ci) in enumerate(_instances(entry, where, terms)):
        contents = compute_instance(published, profile)
        if contents is None:
            known = ", ".join(published.profiles)
            raise DescriptionError(f"{where}: {terms.model} has no profile {str(profile)!r}; it has {known}")
        device = Device(
            id=f"MIG-{uuid.uuid5(_IDS, f'{seed}/{profile}/{gi}/{ci}')}",
            kind=DeviceKind.MIG,
            index=f"{gpu.index}:{n}",
            model=gpu.model,
            memory_bytes=contents.memory_mib * 2**20,
            place=gpu.place,
            parent=gpu.id,
            profile=str(profile),
        )
        yield MigInstance(device, gi, ci, capability_minors(minor, gi, ci), contents.attributes)


def _instances(entry: GpuDescription, where: str, terms: _GpuTerms) -> Iterator[tuple[Profile, int, int]]:
    """Each MIG device's profile, GPU instance id and compute instance id, in the file's order."""
    next_gi = dict(_FIRST_GI)
    compute_used = memory_used = 0
    for text, count in entry.mig.items():
        profile = parse(text)
        if profile is None or profile.slices not in _FIRST_GI:
            raise DescriptionError(f"{where}: {text!r} is not a MIG profile; write it like 1g.5gb or 1c.3g.20gb")
        per_gi = max(1, profile.slices // max(1, profile.compute_slices))
        gpu_instances = ceil(count / per_gi)
        compute_used += profile.slices * gpu_instances
        memory_used += gpu_instances * max(1, round(profile.gigabytes * _MEMORY_SLICES / ceil(terms.memory_mib / 1024)))
        if profile.slices in {3, 4}:  # these share their ids
            next_gi[3] = next_gi[4] = max(next_gi[3], next_gi[4])
        first = next_gi[profile.slices]
        next_gi[profile.slices] += gpu_instances
        for n in range(count):
            yield profile, first + n // per_gi, n % per_gi
    if compute_used > _COMPUTE_SLICES or memory_used > _MEMORY_SLICES:
        raise DescriptionError(
            f"{where}: {dict(entry.mig)} takes {compute_used} of {_COMPUTE_SLICES} compute slices and "
            f"{memory_used} of {_MEMORY_SLICES} memory slices; ask for less"
        )


def _lanes(description: MachineDescription, gpus: tuple[Gpu, ...]) -> dict[str, nvlink.Lanes]:
    switched = description.nvswitch.lanes if description.nvswitch else 0
    direct: dict[str, dict[str, int]] = defaultdict(dict)
    for n, link in enumerate(description.nvlinks):
        one, other = link.gpus
        if one == other or max(one, other) >= len(gpus):
            raise DescriptionError(
                f"nvlinks[{n}].gpus is {[one, other]}: name two different positions from 0 to {len(gpus) - 1}"
            )
        one_id, other_id = gpus[one].device.id, gpus[other].device.id
        direct[one_id][other_id] = direct[other_id][one_id] = link.lanes
    return {gpu.device.id: nvlink.Lanes(switched, direct[gpu.device.id]) for gpu in gpus}


def _check_unique(gpus: tuple[Gpu, ...]) -> None:
    first: dict[tuple[str, object], int] = {}
    for n, gpu in enumerate(gpus):
        for key, value in (
            ("uuid", gpu.device.id),
            ("pcie path", gpu.device.place.pcie_path),
            ("minor", gpu.minor),
        ):
            if (before := first.setdefault((key, value), n)) != n:
                raise DescriptionError(f"gpus[{n}] has the {key} {value!r} of gpus[{before}]; give it its own")


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)
