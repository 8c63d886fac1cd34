"""What is known of one node's devices and of everybody who has a stake in them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from schedext.layouts import Accelerators, Looks, PodName
from schedext.ledger import NO_CHARGE, Charge, Claim, Entry, charge, occupancy
from schedext.look import EMPTY_LAYOUT, Look
from schedext.tracked import TrackedPod, agrees
from tasuki.kube.placement import Slices

NOTHING: Final = Accelerators(EMPTY_LAYOUT, ())


@dataclass(frozen=True, slots=True)
class Stake:
    """What one pod has on one node.

    Attributes:
        since: The moment since which it has any there.
        slices: Chosen for it, by whoever placed it.
        visible: Ids of the devices that it sees without holding slices.
        is_plan: Nobody but its planner has chosen so far.
    """

    pod: TrackedPod
    node: str
    since: int
    slices: Slices | None
    visible: tuple[str, ...] = ()
    is_plan: bool = False


class Account:
    """Counts a pod anew only if something changed that concerns it.

    A moment is any number that grows: entries of the kubelet have names only, and those from before a pod was known
    on the node may be of a predecessor of its name.
    """

    __slots__ = ("_charges", "_moments", "_parts", "_stakes", "accelerators", "offered")

    def __init__(self) -> None:
        self.accelerators = NOTHING
        self.offered: frozenset[str] = frozenset()
        self._parts: dict[str, int] = {}
        self._moments: dict[PodName, tuple[int, ...]] = {}
        self._stakes: dict[str, Stake] = {}
        self._charges: dict[str, Charge] = {}

    @property
    def is_idle(self) -> bool:
        return self.accelerators is NOTHING and not self._stakes

    def take(self, accelerators: Accelerators, moment: int) -> None:
        before = self.accelerators
        self.accelerators = accelerators
        alike = accelerators.layout is before.layout and accelerators.device_ids == before.device_ids
        if not alike:
            self._parts = {device: index for index, device in enumerate(accelerators.device_ids)}
            self.offered = frozenset(accelerators.layout.offers)
        self._moments = {
            pod: _moments(entries, before.entries.get(pod, ()), self._moments.get(pod, ()), moment)
            for pod, entries in accelerators.entries.items()
        }
        for uid, stake in self._stakes.items():
            name = stake.pod.namespace, stake.pod.name
            if not alike or accelerators.entries.get(name) != before.entries.get(name):
                self._charges.pop(uid, None)

    def put(self, uid: str, stake: Stake) -> None:
        self._stakes[uid] = stake
        self._charges.pop(uid, None)

    def remove(self, uid: str) -> None:
        del self._stakes[uid]
        self._charges.pop(uid, None)

    def has_any(self, uids: Collection[str]) -> bool:
        return not self._stakes.keys().isdisjoint(uids)

    def charge(self, uid: str) -> Charge:
        """What the pod counts for there."""
        found = self._charges.get(uid)
        if found is None:
            found = self._charges[uid] = self._charged(self._stakes[uid])
        return found

    def look(self, looks: Looks, without: Collection[str] = ()) -> Look:
        """How the node looks, but for some pods."""
        found = self.accelerators
        charges = {uid: self.charge(uid) for uid in self._stakes if uid not in without}
        return looks.look(found.layout, occupancy(found.layout, found.condition, charges), found.trouble)

    def _charged(self, stake: Stake) -> Charge:
        wanted = stake.pod.demand
        memory_bytes = wanted.shape.memory_bytes
        if self.accelerators is NOTHING:
            return NO_CHARGE
        if stake.is_plan:
            # It counts as far as it says where, and not at all if that cannot be.
            named = {resource for resources in (stake.slices or {}).values() for resource in resources}
            wants = tuple(want for want in wanted.wants if want.resource in named)
            followed = self._can_follow(stake)
            return charge(Claim(wants, memory_bytes, stake.slices), self._parts, ()) if followed else NO_CHARGE
        sure, doubtful = self._entries(stake)
        claim = Claim(wanted.wants, memory_bytes, stake.slices, stake.visible, sure, doubtful)
        return charge(claim, self._parts, self.offered)

    def _can_follow(self, stake: Stake) -> bool:
        slices = stake.slices or {}
        named = {device for resources in slices.values() for devices in resources.values() for device in devices}
        return agrees(slices, stake.pod.demand.wants) and named <= self._parts.keys()

    def _entries(self, stake: Stake) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """The kubelet's word of the pod, and what may be of a predecessor."""
        name = stake.pod.namespace, stake.pod.name
        entries = self.accelerators.entries.get(name, ())
        dated = tuple(zip(entries, self._moments.get(name, ()), strict=True))
        return (
            tuple(entry for entry, moment in dated if moment >= stake.since),
            tuple(entry for entry, moment in dated if moment < stake.since),
        )


def _moments(
    entries: tuple[Entry, ...], before: tuple[Entry, ...], moments: tuple[int, ...], moment: int
) -> tuple[int, ...]:
    """When each entry became what it is."""
    if entries == before:
        return moments
    known: Mapping[Entry, int] = dict(zip(before, moments, strict=True))
    return tuple(known.get(each, moment) for each in entries)
