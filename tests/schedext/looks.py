"""Builders of what a node looks like, in one line each: GPUs, partitions, FPGA regions, and several kinds at once."""

from collections.abc import Collection, Mapping, Sequence

from schedext.demand import Shape, Turn, Want, at_once
from schedext.look import Layout, Look, Occupancy, Offer, Part, WayBetween
from tasuki.devices.model import DeviceKind
from tasuki.devices.topology import LinkKind
from tasuki.kube.names import FPGA_DOMAIN, NVIDIA_GPU

GI = 2**30
GPU_BYTES = 40 * GI
GPU_WATTS = 400.0
NVLINK = WayBetween(LinkKind.NVLINK, 300e9, 0.7e-6)

Functions = Mapping[str, float]


def a_look(
    devices: int = 8,
    replicas: int = 1,
    taken: Sequence[int] = (),
    *,
    resource: str = NVIDIA_GPU,
    kind: DeviceKind = DeviceKind.GPU,
    unhealthy: Collection[int] = (),
    floating: int = 0,
    users: Sequence[int] | None = None,
    promised_bytes: Sequence[int] | None = None,
    memory_bytes: int | Sequence[int] = GPU_BYTES,
    watts: float = GPU_WATTS,
    one_per_request: bool = False,
    trouble: str = "",
    links: Mapping[tuple[int, int], WayBetween] | None = None,
) -> Look:
    """A node of whole devices; four share a PCIe switch and a memory node.

    Args:
        devices: How many.
        replicas: Into how many slices each is cut.
        taken: Slices in use, from the first device on.
        resource: That all are offered as.
        kind: Of all.
        unhealthy: Indices.
        floating: Slices in use on unknown devices.
        users: By default one pod for each slice that is taken.
        promised_bytes: By default an equal share for each slice that is taken.
        memory_bytes: Of all, or of each.
        watts: Of each.
        one_per_request: A container may ask for one slice at most.
        trouble: Why the node offers nothing at the moment.
        links: By pairs, one way round.
    """
    memory = [memory_bytes] * devices if isinstance(memory_bytes, int) else list(memory_bytes)
    used = (*taken, *(0 for _ in range(devices - len(taken))))
    layout = Layout(
        parts=tuple(
            Part(kind, "A100", memory[d], physical=d, numa_node=d // 4, pcie_path=a_pcie_path(d), watts=watts)
            for d in range(devices)
        ),
        offers={resource: Offer(resource, tuple((d, replicas) for d in range(devices)), one_per_request)},
        ways=both_ways(links or {}),
    )
    occupancy = Occupancy(
        healthy=tuple(d not in unhealthy for d in range(devices)),
        loaded=("",) * devices,
        taken=((resource, used),) if any(used) else (),
        floating=((resource, floating),) if floating else (),
        users=tuple(users or used),
        promised_bytes=tuple(promised_bytes or (n * m // replicas for n, m in zip(used, memory, strict=True))),
    )
    return Look(layout, occupancy, trouble)


def a_mig_look(
    partitions: Sequence[int],
    taken: Sequence[int] = (),
    *,
    resource: str = "nvidia.com/mig-1g.5gb",
    replicas: int = 1,
    unhealthy: Collection[int] = (),
    floating: int = 0,
    memory_bytes: int = 5 * GI,
) -> Look:
    """A node of GPUs with so many partitions each.

    The GPUs are the first parts, the partitions follow; `taken` and `unhealthy` count from the first partition on.
    """
    gpus = len(partitions)
    parents = [gpu for gpu, count in enumerate(partitions) for _ in range(count)]
    whole = tuple(
        Part(DeviceKind.GPU, "A100", GPU_BYTES, gpu, gpu // 4, a_pcie_path(gpu), watts=GPU_WATTS) for gpu in range(gpus)
    )
    cut = tuple(
        Part(DeviceKind.MIG, "A100", memory_bytes, gpu, gpu // 4, a_pcie_path(gpu), "1g.5gb", watts=GPU_WATTS / 7)
        for gpu in parents
    )
    used = (*(0 for _ in range(gpus)), *taken, *(0 for _ in range(len(parents) - len(taken))))
    layout = Layout(
        parts=whole + cut,
        offers={resource: Offer(resource, tuple((gpus + n, replicas) for n in range(len(parents))))},
    )
    occupancy = Occupancy(
        healthy=tuple(d - gpus not in unhealthy for d in range(gpus + len(parents))),
        loaded=("",) * (gpus + len(parents)),
        taken=((resource, used),) if any(used) else (),
        floating=((resource, floating),) if floating else (),
        users=used,
        promised_bytes=tuple(n * memory_bytes // replicas for n in used),
    )
    return Look(layout, occupancy)


def a_function(name: str) -> str:
    """The resource of an FPGA's function."""
    return f"{FPGA_DOMAIN}/{name}"


def an_fpga_look(
    regions: int = 2,
    functions: Functions | Sequence[Functions] | None = None,
    *,
    channels: int = 1,
    loaded: Sequence[str] = (),
    taken: Mapping[str, Sequence[int]] | None = None,
    unlisted: Mapping[str, Collection[int]] | None = None,
    unhealthy: Collection[int] = (),
    watts: float = 75.0,
) -> Look:
    """A node of FPGA cards with one region each.

    Args:
        regions: How many.
        functions: Seconds by name, of all or of each region; by default `resize` and `decode`.
        channels: Into how many slices each region with a function is cut.
        loaded: From the first region on.
        taken: By function's name, from the first region on.
        unlisted: By function's name: regions that could hold it but are not offered for it at the moment.
        unhealthy: Indices.
        watts: Of each.
    """
    default: Functions = {"decode": 4.0, "resize": 2.0}
    of_each: list[Functions] = (
        [functions or default] * regions if functions is None or isinstance(functions, Mapping) else list(functions)
    )
    names = sorted({name for each in of_each for name in each})
    layout = Layout(
        parts=tuple(
            Part(DeviceKind.FPGA, "N3000", 0, d, d // 2, a_pcie_path(d), "", tuple(sorted(of_each[d].items())), watts)
            for d in range(regions)
        ),
        offers={
            a_function(name): Offer(
                a_function(name),
                tuple(
                    (d, channels)
                    for d in range(regions)
                    if name in of_each[d] and d not in (unlisted or {}).get(name, ())
                ),
            )
            for name in names
        },
    )
    used = {name: (*counts, *(0 for _ in range(regions - len(counts)))) for name, counts in (taken or {}).items()}
    occupancy = Occupancy(
        healthy=tuple(d not in unhealthy for d in range(regions)),
        loaded=(*loaded, *("" for _ in range(regions - len(loaded)))),
        taken=tuple((a_function(name), counts) for name, counts in sorted(used.items()) if any(counts)),
        users=tuple(sum(counts[d] for counts in used.values()) for d in range(regions)),
        promised_bytes=(0,) * regions,
    )
    return Look(layout, occupancy)


def together(one: Look, other: Look) -> Look:
    """A node with the devices of both, the second's after the first's."""
    shift = len(one.layout.parts)
    moved = tuple(
        Part(
            p.kind,
            p.model,
            p.memory_bytes,
            p.physical + shift,
            p.numa_node,
            p.pcie_path,
            p.profile,
            p.functions,
            p.watts,
        )
        for p in other.layout.parts
    )
    offers = {
        name: Offer(name, tuple((d + shift, n) for d, n in offer.devices), offer.one_per_request)
        for name, offer in other.layout.offers.items()
    }
    ways = {(i + shift, j + shift): way for (i, j), way in other.layout.ways.items()}
    layout = Layout(one.layout.parts + moved, {**one.layout.offers, **offers}, {**one.layout.ways, **ways})
    first, second = one.occupancy, other.occupancy
    taken = {name: (*counts, *(0 for _ in moved)) for name, counts in first.taken}
    taken |= {name: (*(0 for _ in range(shift)), *counts) for name, counts in second.taken}
    occupancy = Occupancy(
        healthy=first.healthy + second.healthy,
        loaded=first.loaded + second.loaded,
        taken=tuple(sorted(taken.items())),
        floating=tuple(sorted(first.floating + second.floating)),
        users=first.users + second.users,
        promised_bytes=first.promised_bytes + second.promised_bytes,
    )
    return Look(layout, occupancy, one.trouble or other.trouble)


def a_pcie_path(device: int) -> tuple[str, ...]:
    """Four devices on a switch, each switch on a root complex of its own."""
    root = f"pci0000:{device // 4:02x}"
    return (root, f"{root}:01.0", f"{root}:switch", f"{root}:port{device % 4}", f"{root}:device{device % 4}")


def both_ways(links: Mapping[tuple[int, int], WayBetween]) -> dict[tuple[int, int], WayBetween]:
    return {**links, **{(j, i): way for (i, j), way in links.items()}}


def pairs_linked(devices: int) -> dict[tuple[int, int], WayBetween]:
    """NVLink between the devices 0 and 1, 2 and 3, and so on."""
    return {(d, d + 1): NVLINK for d in range(0, devices - 1, 2)}


def all_linked(devices: int) -> dict[tuple[int, int], WayBetween]:
    """NVLink between any two devices, as behind a switch."""
    return {(i, j): NVLINK for i in range(devices) for j in range(i + 1, devices)}


def a_want(count: int = 1, resource: str = NVIDIA_GPU, container: str = "main", turn: Turn = Turn.MAIN) -> Want:
    return Want(container, turn, resource, count)


def a_shape(wants: Sequence[Want], *, spread: bool = False, pack: bool = False, memory_bytes: int = 0) -> Shape:
    """As `schedext.demand.demand` has it."""
    counts = tuple(sorted(at_once(tuple(wants)).items()))
    return Shape(
        counts=counts,
        largest=tuple(max(want.count for want in wants if want.resource == resource) for resource, _ in counts),
        spread=spread,
        pack=pack,
        memory_bytes=memory_bytes,
    )
