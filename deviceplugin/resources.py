"""Which resources a machine's GPUs become under a configuration."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from deviceplugin.config.model import (
    Config,
    MigStrategy,
    ResourcePattern,
    SharedResource,
    Sharing,
    SharingStrategy,
)
from deviceplugin.machine import Gpu, Machine, MigInstance
from tasuki.devices.model import Device, Slice, index_order, slices_of
from tasuki.kube.names import NVIDIA_DOMAIN, NVIDIA_GPU


@dataclass(frozen=True, slots=True)
class Resource:
    """What one device plugin server offers.

    Attributes:
        name: Fully qualified, as a pod requests it.
        slices: In the driver's order of devices, then by replica.
        sharing: How its shared slices are shared; NONE if all its slices are whole devices.
        one_per_request: A container may ask for one shared slice at most.
    """

    name: str
    slices: tuple[Slice, ...]
    sharing: SharingStrategy = SharingStrategy.NONE
    one_per_request: bool = False

    @property
    def shared(self) -> bool:
        return self.sharing is not SharingStrategy.NONE


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a node offers.

    Attributes:
        resources: Sorted by name.
        problems: Sentences for the operator, each on something that is left out and why.
        misfits: Where the configuration speaks of devices that this machine does not have. A new configuration
            with misfits is refused; one that got them since (a MIG device is gone) serves what is left.
    """

    resources: tuple[Resource, ...] = ()
    problems: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()


def plan(machine: Machine, config: Config) -> Plan:
    """Cut the machine's devices into resources."""
    problems: list[str] = list(machine.unreadable)
    misfits: list[str] = []
    offered = _offered(machine, config, problems)
    resources = _shared(offered, config.sharing, misfits)
    return Plan(tuple(sorted(resources, key=lambda r: r.name)), tuple(problems), tuple(misfits))


def _offered(machine: Machine, config: Config, problems: list[str]) -> dict[str, list[Device]]:
    """Every device under its resource's name, before sharing."""
    strategy = config.flags.mig_strategy
    whole = [g for g in machine.gpus if strategy is MigStrategy.NONE or not g.mig_enabled]
    split = [g for g in machine.gpus if strategy is not MigStrategy.NONE and g.mig_enabled]
    problems.extend(
        f"GPU {g.device.index} ({g.device.id}) is in MIG mode but has no MIG devices" for g in split if not g.mig
    )
    instances = [instance for gpu in split for instance in gpu.mig]
    if strategy is MigStrategy.SINGLE and split:
        whole, instances = _uniform(whole, split, instances, problems)

    offered: dict[str, list[Device]] = defaultdict(list)
    for gpu in whole:
        _offer(offered, gpu.device, gpu.device.model, config.resources.gpus, problems)
    for instance in instances:
        patterns = config.resources.mig or _default_mig(instance, strategy)
        _offer(offered, instance.device, instance.device.profile, patterns, problems)
    return offered


def _uniform(
    whole: Sequence[Gpu], split: Sequence[Gpu], instances: Sequence[MigInstance], problems: list[str]
) -> tuple[list[Gpu], list[MigInstance]]:
    """Strategy `single` promises that all devices of the node are alike; offer nothing where they are not."""
    if whole:
        names = ", ".join(g.device.index for g in whole)
        problems.append(f"migStrategy single needs MIG mode on every GPU, but it is off on GPU {names}: none offered")
        return [], []
    if any(not g.mig for g in split):
        problems.append("migStrategy single needs MIG devices on every GPU: none offered")
        return [], []
    kinds = sorted({i.device.profile for i in instances})
    if len({i.attributes for i in instances}) > 1:
        problems.append(
            f"migStrategy single needs one MIG profile on the whole node, but there are {', '.join(kinds)}: "
            "none offered; use migStrategy mixed"
        )
        return [], []
    return [], list(instances)


def _default_mig(instance: MigInstance, strategy: MigStrategy) -> tuple[ResourcePattern, ...]:
    """NVIDIA's names: `nvidia.com/gpu` under `single`, `nvidia.com/mig-1g.5gb.me` for `1g.5gb+me` under `mixed`.

    A compute instance that is smaller than its GPU instance (`1c.2g.10gb`) has no name.
    """
    profile = instance.device.profile
    if strategy is MigStrategy.SINGLE:
        return (ResourcePattern("*", NVIDIA_GPU),)
    if "c." in profile:
        return ()
    return (ResourcePattern(profile, f"{NVIDIA_DOMAIN}/mig-{profile.replace('+', '.')}"),)


def _offer(
    offered: dict[str, list[Device]],
    device: Device,
    subject: str,
    patterns: Sequence[ResourcePattern],
    problems: list[str],
) -> None:
    for pattern in patterns:
        if matches(pattern.pattern, subject):
            offered[pattern.name].append(device)
            return
    problems.append(
        f"{subject!r} ({device.id}) has no resource name: left out; give it one under resources.gpus or resources.mig"
    )


def matches(pattern: str, subject: str) -> bool:
    """Whether a pattern of NVIDIA's configuration fits: `*` stands for anything, all else for itself."""
    first, *rest = pattern.split("*")
    if not rest:
        return subject == pattern
    *middle, last = rest
    if not subject.startswith(first) or not subject.endswith(last) or len(subject) < len(first) + len(last):
        return False
    # The earliest place of each piece leaves the most for those after it.
    end, place = len(subject) - len(last), len(first)
    for piece in middle:
        place = subject.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True


def _shared(offered: dict[str, list[Device]], sharing: Sharing, misfits: list[str]) -> list[Resource]:
    shared_by: dict[str, SharedResource] = {}
    for entry in sharing.resources:
        for device in _selected(entry, offered.get(entry.name, []), misfits):
            if device.id in shared_by:
                misfits.append(f"{entry.name}: device {device.index} ({device.id}) is shared by two entries")
            shared_by.setdefault(device.id, entry)

    slices: dict[str, list[Slice]] = defaultdict(list)
    shared_names = set()
    for name in sorted(offered):
        for device in sorted(offered[name], key=index_order):
            if device.id not in shared_by:
                slices[name].extend(slices_of(device, None))
                continue
            entry = shared_by[device.id]
            shared_names.add(entry.rename)
            slices[entry.rename].extend(slices_of(device, entry.replicas))
    return [
        Resource(
            name=name,
            slices=tuple(found),
            sharing=sharing.strategy if name in shared_names else SharingStrategy.NONE,
            one_per_request=name in shared_names and sharing.fail_requests_greater_than_one,
        )
        for name, found in slices.items()
    ]


def _selected(entry: SharedResource, devices: Sequence[Device], misfits: list[str]) -> list[Device]:
    """The devices of a resource that an entry shares. A resource that the machine has not is no misfit."""
    in_order = sorted(devices, key=index_order)
    if entry.devices == "all" or not in_order:
        return in_order
    if isinstance(entry.devices, int):
        if entry.devices > len(in_order):
            misfits.append(f"{entry.name}: {entry.devices} devices are to be shared, but it has {len(in_order)}")
        return in_order[: entry.devices]
    # A lost device keeps its index until the daemon ends, and one that is there may have got it since.
    present_last = sorted(in_order, key=lambda device: device.health.healthy)
    by_name = {name: device for device in present_last for name in (device.index, device.id)}
    if absent := [name for name in entry.devices if name not in by_name]:
        known = ", ".join(d.index for d in in_order)
        misfits.append(f"{entry.name}: there is no device {', '.join(absent)} to share; it has {known}")
    chosen = {by_name[name].id: by_name[name] for name in entry.devices if name in by_name}
    return sorted(chosen.values(), key=index_order)
