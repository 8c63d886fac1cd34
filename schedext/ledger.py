"""Who holds what of a node's devices; read `charge`, then `occupancy`."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from schedext.demand import Turn, Want, at_once
from schedext.look import Layout, Look, Occupancy
from tasuki.kube.placement import Slices

# Of one container and one resource.
_Row = tuple[str, str]
# Slices by part.
_Parts = dict[int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the kubelet says that one container holds of one resource.

    Attributes:
        parts: Slices by index of the part, ascending.
        unlisted: How many more it holds, of parts that are not listed.
        mark: Differs if the slices differ, even of the same part.
    """

    container: str
    resource: str
    parts: tuple[tuple[int, int], ...]
    unlisted: int = 0
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """All that is known of one pod on one node.

    Attributes:
        slices: What was chosen for it.
        visible: Ids of devices that it sees without holding slices.
        entries: What the kubelet says of it.
        doubtful: What the kubelet says of it, or perhaps of a predecessor of the same name.
    """

    wants: tuple[Want, ...] = ()
    memory_bytes: int = 0
    slices: Slices | None = None
    visible: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    doubtful: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """What a pod counts for on a node.

    Attributes:
        taken: Resource, index of the part, slices; sorted.
        floating: Slices by resource on devices nobody knows; sorted.
        unlisted: Slices by resource that the kubelet gave to it without saying where; sorted.
        supposed: What of `taken` the kubelet holds without listing it.
        parts: Indices of those that it holds slices of or sees, ascending.
        memory_bytes: That it needs of each part; 0 if it does not say.
    """

    taken: tuple[tuple[str, int, int], ...] = ()
    floating: tuple[tuple[str, int], ...] = ()
    unlisted: tuple[tuple[str, int], ...] = ()
    supposed: tuple[tuple[str, int, int], ...] = ()
    parts: tuple[int, ...] = ()
    memory_bytes: int = 0


NO_CHARGE: Final = Charge()


@dataclass(frozen=True, slots=True)
class Condition:
    """How the devices themselves are, in the order of their parts.

    Attributes:
        unlisted: Of resources whose list of holders is cut, how many held slices of each part it leaves out.
    """

    healthy: tuple[bool, ...] = ()
    loaded: tuple[str, ...] = ()
    unlisted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def charge(claim: Claim, parts: Mapping[str, int], offered: Collection[str]) -> Charge:
    """What a pod counts for.

    The kubelet's word goes before what was chosen for it, and that before what the kubelet may say of another pod.

    Args:
        claim: What is known of it.
        parts: The node's devices: indices by id.
        offered: Resources that the node offers or could offer; of others nothing is counted that no device is known of.
    """
    chosen = _chosen(claim.slices, parts)
    said, unlisted, supposed = _said(claim, chosen)
    held = {**chosen, **said}
    most = at_once(claim.wants)
    taken: list[tuple[str, int, int]] = []
    floating: list[tuple[str, int]] = []
    for resource in sorted({*most, *(resource for _, resource in held)}):
        used, rest = _of_resource(resource, claim.wants, said, held, most.get(resource, 0) - unlisted[resource])
        taken += ((resource, part, used[part]) for part in sorted(used))
        if rest and resource in offered:
            floating.append((resource, rest))
    return Charge(
        taken=tuple(taken),
        floating=tuple(floating),
        unlisted=tuple(sorted(unlisted.items())),
        supposed=tuple(supposed),
        parts=tuple(sorted({part for _, part, _ in taken} | {parts[each] for each in claim.visible if each in parts})),
        memory_bytes=claim.memory_bytes,
    )


def _chosen(slices: Slices | None, parts: Mapping[str, int]) -> dict[_Row, _Parts]:
    """Nothing if any of the devices is not there: then it cannot have been followed."""
    found: dict[_Row, _Parts] = {}
    for container, resources in (slices or {}).items():
        for resource, devices in resources.items():
            if any(device not in parts for device in devices):
                return {}
            found[container, resource] = {parts[device]: count for device, count in devices.items()}
    return found


def _said(
    claim: Claim, chosen: dict[_Row, _Parts]
) -> tuple[dict[_Row, _Parts], Counter[str], list[tuple[str, int, int]]]:
    """Of the containers that the kubelet speaks of: what is known of them, what is not listed, what was supposed."""
    sure = {(entry.container, entry.resource) for entry in claim.entries}
    better = {*sure, *chosen}
    doubtful = (entry for entry in claim.doubtful if (entry.container, entry.resource) not in better)
    said: dict[_Row, _Parts] = {}
    unlisted: Counter[str] = Counter()
    supposed: list[tuple[str, int, int]] = []
    for entry in chain(claim.entries, doubtful):
        row = said.setdefault((entry.container, entry.resource), {})
        for part, count in entry.parts:
            row[part] = row.get(part, 0) + count
        missing = entry.unlisted
        for part, count in sorted(chosen.get((entry.container, entry.resource), {}).items()) if missing else ():
            if (more := min(missing, count - row.get(part, 0))) > 0:
                row[part] = row.get(part, 0) + more
                supposed.append((entry.resource, part, more))
                missing -= more
        if missing:
            unlisted[entry.resource] += missing
    return said, unlisted, supposed


def _of_resource(
    resource: str, wants: tuple[Want, ...], said: dict[_Row, _Parts], held: dict[_Row, _Parts], most: int
) -> tuple[_Parts, int]:
    """Slices by part, and how many more it has somewhere.

    What the kubelet does not say fills up what the pod holds at once, and no more: an init container's slices are
    handed on.
    """
    used: _Parts = {}
    for (_, name), row in said.items():
        if name == resource:
            for part, count in row.items():
                used[part] = used.get(part, 0) + count
    room = max(0, most - sum(used.values()))
    if not room:
        return used, 0
    for row in _along_the_chain(resource, wants, held):
        for part, count in sorted(row.items()):
            if (more := min(room, count - used.get(part, 0))) > 0:
                used[part] = used.get(part, 0) + more
                room -= more
    return used, room


def _along_the_chain(resource: str, wants: tuple[Want, ...], held: dict[_Row, _Parts]) -> tuple[_Parts, _Parts]:
    """What stays until the end, and the most of each part from the first init container on, as `at_once` counts."""
    lasting: Counter[int] = Counter()
    mains: Counter[int] = Counter()
    most: _Parts = {}
    for want in wants:
        row = held.get((want.container, want.resource), {}) if want.resource == resource else {}
        if want.turn is Turn.INIT:
            for part, count in row.items():
                most[part] = max(most.get(part, 0), lasting[part] + count)
        else:
            (lasting if want.turn is Turn.SIDECAR else mains).update(row)
    lasting.update(mains)
    return lasting, most


def occupancy(layout: Layout, condition: Condition, charges: Mapping[str, Charge]) -> Occupancy:
    """How the devices are with all that is charged, by pod."""
    sums = _Sums(layout)
    for each in charges.values():
        sums.add(each)
    _spread_unlisted(charges, condition.unlisted, sums)
    return Occupancy(
        healthy=condition.healthy,
        loaded=condition.loaded,
        taken=tuple((resource, tuple(row)) for resource, row in sorted(sums.taken.items())),
        floating=tuple((resource, count) for resource, count in sorted(sums.floating.items()) if count),
        users=tuple(sums.users),
        promised_bytes=tuple(sums.promised),
    )


class _Sums:
    """Of one occupancy, while it is counted."""

    def __init__(self, layout: Layout) -> None:
        size = len(layout.parts)
        self._layout: Final = layout
        self._share: Final[dict[tuple[str, int], int]] = {}
        self.taken: Final[dict[str, list[int]]] = defaultdict(lambda: [0] * size)
        self.floating: Final[Counter[str]] = Counter()
        self.users: Final = [0] * size
        self.promised: Final = [0] * size

    def add(self, each: Charge) -> None:
        for resource, part, count in each.taken:
            self.take(each, resource, part, count)
        for resource, count in each.floating:
            self.floating[resource] += count
        for part in each.parts:
            self.use(each, part)

    def take(self, each: Charge, resource: str, part: int, count: int) -> None:
        self.taken[resource][part] += count
        if not each.memory_bytes:
            self.promised[part] += count * self._share_bytes(resource, part)

    def use(self, each: Charge, part: int) -> None:
        self.users[part] += 1
        self.promised[part] += each.memory_bytes

    def _share_bytes(self, resource: str, part: int) -> int:
        key = resource, part
        if key not in self._share:
            self._share[key] = self._layout.parts[part].memory_bytes // _replicas(self._layout, resource, part)
        return self._share[key]


def _replicas(layout: Layout, resource: str, part: int) -> int:
    """Of a resource that is offered no longer, as the part is cut now."""
    offer = layout.offers.get(resource)
    offers = [offer] if offer is not None else []
    cuts = [cut for each in (*offers, *layout.offers.values()) for index, cut in each.devices if index == part]
    return max(1, cuts[0]) if cuts else 1


def _spread_unlisted(charges: Mapping[str, Charge], unlisted: Mapping[str, tuple[int, ...]], sums: _Sums) -> None:
    """Give what the kubelet holds without saying for whom to those whose list is cut, as far as it goes."""
    cut = sorted(uid for uid, each in charges.items() if each.unlisted)
    if not cut:
        return
    left = {resource: list(row) for resource, row in unlisted.items()}
    for each in charges.values():
        for resource, part, count in each.supposed:
            if resource in left:
                left[resource][part] = max(0, left[resource][part] - count)
    for uid in cut:
        each = charges[uid]
        used = {*each.parts}
        for resource, count in each.unlisted:
            missing = count
            for part, more in _from(left.get(resource, []), missing):
                sums.take(each, resource, part, more)
                if part not in used:
                    used.add(part)
                    sums.use(each, part)
                missing -= more
            sums.floating[resource] += missing


def _from(left: list[int], count: int) -> Iterator[tuple[int, int]]:
    for part, there in enumerate(left):
        if more := min(there, count):
            left[part] -= more
            count -= more
            yield part, more


def free(look: Look) -> Iterable[tuple[str, int, tuple[int, ...]]]:
    """Each resource with how many of its slices are free, and how many on each of its devices."""
    healthy = look.occupancy.healthy
    for resource, offer in look.layout.offers.items():
        taken = look.taken(resource)
        row = tuple(max(0, cut - taken[part]) if healthy[part] else 0 for part, cut in offer.devices)
        yield resource, max(0, sum(row) - look.floating(resource)), row


def has_more_room(after: Look, before: Look) -> bool:
    """Whether a pod may fit now that did not before."""
    if after is before or after.trouble:
        return False
    if before.trouble:
        return True
    was = {resource: (count, row) for resource, count, row in free(before)}
    alike = after.layout is before.layout
    for resource, count, row in free(after):
        old_count, old_row = was.get(resource, (0, ()))
        if count > old_count or (alike and any(new > old for new, old in zip(row, old_row, strict=True))):
            return True
    if not alike:
        return False
    now, then = after.occupancy, before.occupancy
    # Of what is in use as another resource nothing is free, whatever the counts say: fewer users may have ended that.
    return any(new and not old for new, old in zip(now.healthy, then.healthy, strict=True)) or any(
        new < old
        for row, before_row in ((now.promised_bytes, then.promised_bytes), (now.users, then.users))
        for new, old in zip(row, before_row, strict=True)
    )
