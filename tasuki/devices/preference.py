"""Which of the free slices a container should get."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Final

from tasuki.devices.model import Device, Slice, index_order
from tasuki.devices.nearest import nearest_devices

Policy = Callable[[Sequence[Slice], Sequence[Slice], int], list[Slice]]


class PreferenceError(ValueError):
    """The kubelet asked for what cannot be chosen."""


def check(available: Sequence[Slice], required: Sequence[Slice], size: int) -> None:
    """Refuse a request that no choice could satisfy."""
    repeated = [s.id for s in available] if len({s.id for s in available}) < len(available) else []
    repeated += [s.id for s in required] if len({s.id for s in required}) < len(required) else []
    if repeated:
        raise PreferenceError(f"a slice is named twice: {sorted(repeated)}")
    if size < 0:
        raise PreferenceError(f"{size} slices were asked for")
    missing = sorted({s.id for s in required} - {s.id for s in available})
    if missing:
        raise PreferenceError(f"the slices that must be included are not all available: {missing}")
    if len(required) > size:
        raise PreferenceError(f"{len(required)} slices must be included, but only {size} were asked for")
    if size > len(available):
        raise PreferenceError(f"{size} slices were asked for, but only {len(available)} are available")


def spread(available: Sequence[Slice], required: Sequence[Slice], size: int) -> list[Slice]:
    """Take each slice from the device that is used least, counting what is taken here."""
    return _one_by_one(available, required, size, least_used_first=True)


def pack(available: Sequence[Slice], required: Sequence[Slice], size: int) -> list[Slice]:
    """Take each slice from the device that is used most, so that other devices stay free."""
    return _one_by_one(available, required, size, least_used_first=False)


POLICIES: Final[Mapping[str, Policy]] = {"distributed": spread, "packed": pack}


def _one_by_one(
    available: Sequence[Slice], required: Sequence[Slice], size: int, *, least_used_first: bool
) -> list[Slice]:
    check(available, required, size)
    chosen = sorted(required, key=_order)
    taken = {s.id for s in chosen}
    free: dict[str, list[Slice]] = defaultdict(list)
    for candidate in available:
        if candidate.id not in taken:
            free[candidate.device.id].append(candidate)
    for slices in free.values():
        slices.sort(key=lambda s: s.replica, reverse=True)

    # What is neither free nor chosen here is in use by others, and what is chosen here will be.
    sign = 1 if least_used_first else -1
    heap = [
        (sign * (slices[0].replicas - len(slices)), index_order(slices[0].device), device_id)
        for device_id, slices in free.items()
    ]
    heapify(heap)
    while len(chosen) < size:
        used, index, device_id = heap[0]
        chosen.append(free[device_id].pop())
        if free[device_id]:
            heapreplace(heap, (used + sign, index, device_id))
        else:
            heappop(heap)
    return chosen


def nearest(distances: Mapping[tuple[str, str], tuple[float, float]]) -> Policy:
    """The policy for whole devices: the set whose members reach each other soonest."""

    def choose(available: Sequence[Slice], required: Sequence[Slice], size: int) -> list[Slice]:
        check(available, required, size)
        by_device: dict[str, Slice] = {s.device.id: s for s in available}
        devices: list[Device] = sorted((s.device for s in by_device.values()), key=index_order)
        needed = [s.device.id for s in required]
        ids = nearest_devices([d.id for d in devices], needed, size, distances)
        return [by_device[device_id] for device_id in ids]

    return choose


def _order(candidate: Slice) -> tuple[tuple[int, ...], int]:
    return index_order(candidate.device), candidate.replica
