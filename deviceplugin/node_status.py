"""What a node publishes in its AcceleratorNode."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import Final

from deviceplugin.config.model import Config, SharingStrategy
from deviceplugin.machine import Gpu, Machine
from deviceplugin.resources import Plan, Resource
from tasuki.devices.model import Device, DeviceKind, device_id_of, index_order
from tasuki.devices.topology import Link, Topology, best_link
from tasuki.kube.accelerator_node import (
    HOLDERS_KNOWN,
    READY,
    AcceleratorNodeStatus,
    Condition,
    DevicePair,
    DeviceSlices,
    DeviceStatus,
    FunctionStatus,
    LinkStatus,
    ObservedConfiguration,
    ResourceStatus,
    SliceHolder,
)

# How many ids of held slices one object lists. At 45 bytes an id they stay under 100 KiB; etcd takes 1.5 MiB.
MOST_LISTED_SLICES: Final = 2048


@dataclass(frozen=True, slots=True)
class Holder:
    """A container and the slices of one resource that it holds, as the kubelet tells."""

    namespace: str
    pod: str
    container: str
    resource: str
    slice_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Holders:
    """What is known of who holds what.

    Attributes:
        unknown: Why the kubelet could not be asked; empty if it answered. `found` is then what it said last.
    """

    found: tuple[Holder, ...] = ()
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a reprogrammable device holds, and could hold.

    Attributes:
        interface: What an image must be made for; empty if unknown.
        function: The function in it, by the catalogue's name; empty if none of them.
        image: The id of what is in it, whether the catalogue knows it or not; empty if nothing is.
        claimed: Whether containers hold it, so that it cannot be reprogrammed.
        seconds: By function that could be programmed into it, how long that takes.
    """

    interface: str = ""
    function: str = ""
    image: str = ""
    claimed: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindFacts:
    """What is published of devices that are no GPUs.

    Attributes:
        loaded: Of reprogrammable ones, by device id.
        labels: For the node.
    """

    devices: tuple[Device, ...]
    resources: tuple[Resource, ...]
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Everything that the daemon knows of its node and publishes.

    Attributes:
        machine: The GPUs, with each device's health as judged.
        plan: The machine's, under `config`.
        origin: Where the configuration in force was read.
        digest: Of its content.
        problems: Sentences for the operator, besides the plan's.
        trouble: Why the node's devices are not being offered; empty if they are.
        trouble_reason: The same in one CamelCase word.
        others: One for each other kind.
        looks_at_gpus: Whether GPUs are this daemon's business, so that their labels are.
    """

    machine: Machine
    plan: Plan
    config: Config
    origin: str = ""
    digest: str = ""
    problems: tuple[str, ...] = ()
    trouble: str = ""
    trouble_reason: str = "NotServing"
    others: tuple[KindFacts, ...] = ()
    looks_at_gpus: bool = True

    @property
    def resources(self) -> tuple[Resource, ...]:
        """Of all kinds, sorted by name."""
        return tuple(sorted((*self.plan.resources, *(r for o in self.others for r in o.resources)), key=_by_name))


def node_status(
    facts: NodeFacts, holders: Holders, previous: Sequence[Condition], now: datetime
) -> AcceleratorNodeStatus:
    """The status of a node; equal for equal facts, whatever the time, once `previous` holds its conditions.

    Args:
        facts: What the daemon knows.
        holders: In any order.
        previous: The conditions that were published last, of which unchanged ones keep their time.
        now: For those that changed.
    """
    resources = _resources(facts, holders.found)
    summary = ", ".join(f"{r.name} {r.free}/{r.slices} free" for r in resources if r.slices)
    cuda_major, cuda_minor = facts.machine.cuda_version
    return AcceleratorNodeStatus(
        summary=summary or "nothing",
        gpus=len(facts.machine.gpus),
        machine=facts.machine.product,
        driver_version=facts.machine.driver_version,
        cuda_version=f"{cuda_major}.{cuda_minor}" if facts.machine.driver_version else "",
        configuration=ObservedConfiguration(origin=facts.origin, digest=facts.digest),
        devices=(
            *(status for gpu in facts.machine.gpus for status in _devices(gpu)),
            *(_other(device, kind.loaded.get(device.id)) for kind in facts.others for device in kind.devices),
        ),
        links=_links(_linked(facts), facts.machine.topology),
        resources=resources,
        problems=tuple(dict.fromkeys((*facts.plan.problems, *facts.problems))),
        conditions=_conditions(facts, holders, summary, previous, now),
    )


def _devices(gpu: Gpu) -> list[DeviceStatus]:
    place = gpu.device.place
    whole = DeviceStatus(
        id=gpu.device.id,
        kind=gpu.device.kind,
        index=gpu.device.index,
        model=gpu.device.model,
        memory_bytes=gpu.device.memory_bytes,
        healthy=gpu.device.health.healthy,
        reason=gpu.device.health.reason,
        numa_node=place.numa_node,
        pcie_root=place.pcie_root,
        pci_address=place.pci_address,
        pcie_path=place.pcie_path,
        power_limit_watts=gpu.device.power_limit_watts,
    )
    return [whole, *(_partition(instance.device) for instance in gpu.mig)]


def _other(device: Device, loaded: Loaded | None) -> DeviceStatus:
    place = device.place
    return DeviceStatus(
        id=device.id,
        kind=device.kind,
        index=device.index,
        model=device.model,
        memory_bytes=device.memory_bytes,
        healthy=device.health.healthy,
        reason=device.health.reason,
        numa_node=place.numa_node,
        pcie_root=place.pcie_root,
        pci_address=place.pci_address,
        pcie_path=place.pcie_path,
        parent=device.parent or "",
        power_limit_watts=device.power_limit_watts,
        interface=loaded.interface if loaded else "",
        function=loaded.function if loaded else "",
        image=loaded.image if loaded else "",
        claimed=loaded.claimed if loaded else False,
        functions=tuple(
            FunctionStatus(name=name, programming_seconds=seconds)
            for name, seconds in (sorted(loaded.seconds.items()) if loaded else ())
        ),
    )


def _linked(facts: NodeFacts) -> list[Device]:
    """What has a place of its own: whole GPUs, and one region for each FPGA card."""
    cards: dict[str, Device] = {}
    for kind in facts.others:
        for device in kind.devices:
            if device.place.pcie_path:
                cards.setdefault(device.physical, device)
    return [*(gpu.device for gpu in facts.machine.gpus), *cards.values()]


def _partition(device: Device) -> DeviceStatus:
    return DeviceStatus(
        id=device.id,
        kind=device.kind,
        index=device.index,
        model=device.model,
        memory_bytes=device.memory_bytes,
        healthy=device.health.healthy,
        reason=device.health.reason,
        parent=device.physical,
        profile=device.profile,
    )


def _links(devices: Sequence[Device], topology: Topology) -> tuple[LinkStatus, ...]:
    """Every pair of whole devices by its best link, the fastest first; pairs in the driver's order."""
    pairs: dict[Link, list[DevicePair]] = defaultdict(list)
    for one, other in combinations(
        sorted(devices, key=lambda d: (d.kind != DeviceKind.GPU, d.kind, index_order(d))), 2
    ):
        pairs[best_link(topology, one, other)].append(DevicePair(origin=one.id, target=other.id))
    return tuple(
        LinkStatus(
            kind=link.kind,
            bytes_per_second=round(link.bytes_per_second),
            latency_seconds=link.latency_seconds,
            pairs=tuple(pairs[link]),
        )
        for link in sorted(pairs, key=lambda link: (-link.bytes_per_second, link.latency_seconds, link.kind))
    )


def _resources(facts: NodeFacts, holders: Sequence[Holder]) -> tuple[ResourceStatus, ...]:
    """The offered resources, then those no longer offered of which a container still holds a part."""
    by_resource: dict[str, list[Holder]] = defaultdict(list)
    for holder in sorted(holders, key=lambda h: (h.resource, h.namespace, h.pod, h.container, h.slice_ids)):
        by_resource[holder.resource].append(holder)
    room = _Room(MOST_LISTED_SLICES)
    offered = {resource.name: resource for resource in facts.resources}
    ours = {s.id for r in facts.resources for s in r.slices} | {d.id for d in _all_devices(facts)}
    left = [
        Resource(name, ())
        for name in sorted(by_resource.keys() - offered.keys())
        # What is held was cut as an earlier configuration said, so its id may be no slice's any more.
        if any(
            not ours.isdisjoint((id_, device_id_of(id_))) for holder in by_resource[name] for id_ in holder.slice_ids
        )
    ]
    everything = (*facts.resources, *left)
    return tuple(_resource(resource, by_resource.get(resource.name, []), room) for resource in everything)


def _all_devices(facts: NodeFacts) -> list[Device]:
    of_gpus = [device for gpu in facts.machine.gpus for device in (gpu.device, *(i.device for i in gpu.mig))]
    return [*of_gpus, *(device for kind in facts.others for device in kind.devices)]


def _by_name(resource: Resource) -> str:
    return resource.name


def _resource(resource: Resource, holders: Sequence[Holder], room: "_Room") -> ResourceStatus:
    device_of = {s.id: s.device.id for s in resource.slices}
    # A set: a kubelet before 1.34 also lists pods that have ended, so that two may name the same slice.
    held_ids = {slice_id for holder in holders for slice_id in holder.slice_ids if slice_id in device_of}
    held = Counter(device_of[slice_id] for slice_id in held_ids)
    replicas = Counter(device_of.values())
    devices = {s.device.id: s.device for s in resource.slices}
    of_devices = tuple(
        DeviceSlices(
            device=device.id,
            replicas=replicas[device.id],
            free=replicas[device.id] - held[device.id] if device.health.healthy else 0,
            held=held[device.id],
        )
        for device in sorted(devices.values(), key=index_order)
    )
    free = sum(d.free for d in of_devices)
    return ResourceStatus(
        name=resource.name,
        sharing=resource.sharing.value if resource.shared else SharingStrategy.NONE.value,
        one_per_request=resource.one_per_request,
        slices=len(resource.slices),
        held=len(held_ids),
        unhealthy=len(resource.slices) - len(held_ids) - free,
        free=free,
        devices=of_devices,
        holders=tuple(
            SliceHolder(
                namespace=holder.namespace,
                pod=holder.pod,
                container=holder.container,
                count=len(holder.slice_ids),
                slices=room.take(tuple(sorted(holder.slice_ids))),
            )
            for holder in holders
        ),
    )


class _Room:
    """How many ids may still be listed."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        taken = ids[: self._left]
        self._left -= len(taken)
        return taken


def _conditions(
    facts: NodeFacts, holders: Holders, summary: str, previous: Sequence[Condition], now: datetime
) -> tuple[Condition, ...]:
    before = {condition.type: condition for condition in previous}
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def condition(kind: str, trouble: str, reason: str, message: str) -> Condition:
        status: Final = "False" if trouble else "True"
        last = before.get(kind)
        since = last.last_transition_time if last is not None and last.status == status else stamp
        return Condition(
            type=kind, status=status, reason=reason, message=trouble or message, last_transition_time=since
        )

    ready_reason = facts.trouble_reason if facts.trouble else "Offering" if summary else "NothingToOffer"
    ready_message = "" if summary else "there are no devices, or the configuration leaves all of them out"
    holders_reason = "KubeletAway" if holders.unknown else "KubeletAnswers"
    return (
        condition(READY, facts.trouble, ready_reason, ready_message),
        condition(HOLDERS_KNOWN, holders.unknown, holders_reason, ""),
    )
