"""Who holds which region of an FPGA under which resource, so that no region serves two functions.

A region may be listed under several resources, which the kubelet takes for different devices. Allocate therefore
claims it for one of them. A claim ends only on evidence: the kubelet's own list of holders no longer has its slices,
or the kubelet hands the same slice out again, which it does only with one that was given back.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from deviceplugin.container import RefusedError
from deviceplugin.node_status import Holder

# Between Allocate's answer and the kubelet's list that has it, with room for a slow node.
LISTED_AFTER_SECONDS: Final = 5.0

# A kubelet that restarts lists pods as it hears of them again, so a list that lacks one proves nothing by itself.
ABSENT_FOR_SECONDS: Final = 5.0


class RegionHeldError(RefusedError):
    """A region cannot be claimed, because others hold it."""


class Knowledge(StrEnum):
    """What is known of containers that were given regions before this process began.

    WAITING: nothing yet. BLIND: the kubelet cannot be asked. KNOWN: it has answered.
    """

    WAITING = "waiting"
    BLIND = "blind"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class User:
    """One container's part of a region.

    Attributes:
        since: When it was given, on the caller's clock.
        running: Its container may have been started, so that nothing else may be programmed under it.
        absent_since: Since when the kubelet's lists lack it; None if the newest has it.
    """

    slice_ids: frozenset[str]
    since: float
    running: bool = False
    absent_since: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The one resource that a region is handed out under, and to whom; never without users."""

    resource: str
    users: tuple[User, ...]

    @property
    def slice_ids(self) -> frozenset[str]:
        return frozenset[str]().union(*(user.slice_ids for user in self.users))


@dataclass(frozen=True, slots=True)
class Ledger:
    """All claims of a node; a new one for each change.

    Attributes:
        claims: By region.
        reserved: Regions that are to be programmed beforehand, with the resource that it is for.
        programming: Those of them where it has begun, so that they cannot be claimed.
        disowned: Resource and slice of containers whose region could not be programmed: the kubelet lists them as
            holders, but their claim was rolled back.
        judged: Regions that were there when one of the kubelet's lists was read. Of others nobody knows who holds them.
    """

    claims: Mapping[str, Claim] = field(default_factory=dict)
    reserved: Mapping[str, str] = field(default_factory=dict)
    programming: frozenset[str] = frozenset()
    disowned: frozenset[tuple[str, str]] = frozenset()
    knowledge: Knowledge = Knowledge.WAITING
    judged: frozenset[str] = frozenset()

    def unjudged(self, region: str) -> bool:
        """Whether the kubelet tells who holds which region, but has not been asked since this one appeared."""
        return self.knowledge is Knowledge.KNOWN and region not in self.judged


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one container asks of one region.

    Attributes:
        users: How many containers may hold the region at once.
    """

    region: str
    slice_ids: frozenset[str]
    users: int


@dataclass(frozen=True, slots=True)
class Held:
    """What the kubelet says of one container and one region.

    Attributes:
        running: The container may have been started.
        fits: What is loaded in the region is what the resource stands for.
    """

    region: str
    resource: str
    slice_ids: frozenset[str]
    running: bool = True
    fits: bool = False


def allocated(ledger: Ledger, resource: str, wanted: Sequence[Wanted], now: float) -> Ledger:
    """Claim regions for a container that the kubelet gives slices of them.

    Whoever held one of the slices under this resource has given it back, or is an init container of the same pod.

    Raises:
        RegionHeldError: One of them is held under another resource, or by as many containers as may. Then none is
            claimed.
    """
    for each in wanted:
        ledger = _claimed(ledger, resource, each, User(each.slice_ids, now))
    return ledger


def resumed(ledger: Ledger, resource: str, wanted: Sequence[Wanted], now: float) -> Ledger:
    """Make sure that a container which is about to start has its regions.

    It has them since Allocate, unless this process began later or programming failed before.

    Raises:
        RegionHeldError: As for `allocated`.
    """
    for each in wanted:
        if not holds(ledger, resource, each):
            ledger = _claimed(ledger, resource, each, User(each.slice_ids, now))
    return ledger


def holds(ledger: Ledger, resource: str, wanted: Wanted) -> bool:
    """Whether a container's claim on a region stands."""
    claim = ledger.claims.get(wanted.region)
    return claim is not None and claim.resource == resource and not claim.slice_ids.isdisjoint(wanted.slice_ids)


def _claimed(ledger: Ledger, resource: str, wanted: Wanted, user: User) -> Ledger:
    region = wanted.region
    if region in ledger.programming:
        raise RegionHeldError(
            f"region {region} is being programmed for {ledger.reserved.get(region, resource)} at the moment; try again"
        )
    claim = ledger.claims.get(region)
    if claim is not None and claim.resource != resource:
        raise held_otherwise(region, resource, claim)
    others = tuple(u for u in claim.users if u.slice_ids.isdisjoint(wanted.slice_ids)) if claim else ()
    if len(others) >= wanted.users:
        raise RegionHeldError(
            f"region {region} is held by {_containers(len(others))}, which is as many as {resource} allows"
        )
    return replace(
        ledger,
        claims={**ledger.claims, region: Claim(resource, (*others, user))},
        reserved={name: purpose for name, purpose in ledger.reserved.items() if name != region},
        disowned=ledger.disowned - {(resource, slice_id) for slice_id in wanted.slice_ids},
    )


def held_otherwise(region: str, resource: str, claim: Claim) -> RegionHeldError:
    return RegionHeldError(
        f"region {region} is held under {claim.resource} by {_containers(len(claim.users))}; "
        f"it can serve {resource} once they have ended"
    )


def _containers(count: int) -> str:
    return "a container" if count == 1 else f"{count} containers"


def others_running(ledger: Ledger, wanted: Wanted) -> bool:
    """Whether a region has users besides this one that may be at work."""
    claim = ledger.claims.get(wanted.region)
    return claim is not None and any(u.running and u.slice_ids.isdisjoint(wanted.slice_ids) for u in claim.users)


def running(ledger: Ledger, resource: str, wanted: Sequence[Wanted]) -> Ledger:
    """Note that a container starts now, where its claim stands."""
    claims = dict(ledger.claims)
    for each in wanted:
        claim = claims.get(each.region)
        if claim is not None and claim.resource == resource:
            users = tuple(
                u if u.slice_ids.isdisjoint(each.slice_ids) else replace(u, running=True) for u in claim.users
            )
            claims[each.region] = replace(claim, users=users)
    return replace(ledger, claims=claims)


def rolled_back(ledger: Ledger, resource: str, wanted: Sequence[Wanted]) -> Ledger:
    """Give a container's regions back, because it cannot use one of them; the kubelet still counts it as a holder."""
    claims = dict(ledger.claims)
    for each in wanted:
        claim = claims.get(each.region)
        if claim is None or claim.resource != resource:
            continue
        _keep(claims, each.region, claim, [u for u in claim.users if u.slice_ids.isdisjoint(each.slice_ids)])
    disowned = {(resource, slice_id) for each in wanted for slice_id in each.slice_ids}
    return replace(ledger, claims=claims, disowned=ledger.disowned | disowned)


def _keep(claims: dict[str, Claim], region: str, claim: Claim, users: Sequence[User]) -> None:
    if users:
        claims[region] = replace(claim, users=tuple(users))
    else:
        del claims[region]


def blinded(ledger: Ledger) -> Ledger:
    """Note that the kubelet cannot be asked; what it said before stays true."""
    return replace(ledger, knowledge=Knowledge.BLIND) if ledger.knowledge is Knowledge.WAITING else ledger


def reserved(ledger: Ledger, region: str, resource: str) -> Ledger:
    """Keep a region that nobody holds for being programmed beforehand."""
    return replace(ledger, reserved={**ledger.reserved, region: resource})


def programming(ledger: Ledger, region: str) -> Ledger:
    """Note that a reserved region is being programmed now."""
    return replace(ledger, programming=ledger.programming | {region})


def released(ledger: Ledger, region: str) -> Ledger:
    """End a reservation."""
    return replace(
        ledger,
        reserved={name: purpose for name, purpose in ledger.reserved.items() if name != region},
        programming=ledger.programming - {region},
    )


def held_regions(
    holders: Collection[Holder],
    region_of: Callable[[str], str | None],
    state: Callable[[str, str], tuple[bool, bool]],
) -> tuple[Held, ...]:
    """What the kubelet's list says of regions, in a stable order.

    Args:
        holders: Of whatever resources.
        region_of: The region that a slice belongs to; None for slices of other devices.
        state: For a region and a resource, `Held.running` and `Held.fits`.
    """
    found: dict[tuple[str, str], list[frozenset[str]]] = {}
    for holder in holders:
        of_region: dict[str, set[str]] = {}
        for slice_id in holder.slice_ids:
            region = region_of(slice_id)
            if region is not None:
                of_region.setdefault(region, set()).add(slice_id)
        for region, ids in of_region.items():
            found.setdefault((region, holder.resource), []).append(frozenset(ids))
    return tuple(
        Held(region, resource, ids, *state(region, resource))
        for (region, resource), parts in sorted(found.items())
        for ids in sorted(parts, key=sorted)
    )


def seen(ledger: Ledger, held: Sequence[Held], at: float, present: Collection[str]) -> tuple[Ledger, tuple[str, ...]]:
    """Take in the kubelet's list: end what it no longer has, and learn what was given before this process began.

    Args:
        ledger: So far.
        held: What the list says.
        at: When it was asked for, on the clock of `allocated`.
        present: The regions that `held` was read with; what it has of others is not in it.

    Returns:
        The new ledger, and a sentence for each region that containers of two resources hold.
    """
    claims = _still_held(ledger.claims, held, at)
    disowned = ledger.disowned & {(h.resource, slice_id) for h in held for slice_id in h.slice_ids}
    conflicts: list[str] = []
    # Where two resources hold one region, what is loaded tells which of them was first.
    for each in sorted(held, key=lambda h: (not h.fits, h.region, h.resource, sorted(h.slice_ids))):
        names = {(each.resource, slice_id) for slice_id in each.slice_ids}
        if not disowned.isdisjoint(names) or each.region in ledger.programming:
            continue
        claim = claims.get(each.region)
        if claim is not None and claim.resource != each.resource:
            conflicts.append(
                f"region {each.region} is held under {claim.resource}, but the kubelet also has a container that holds "
                f"it under {each.resource}; that container will not be started, delete its pod"
            )
            disowned |= names
            continue
        if claim is None or claim.slice_ids.isdisjoint(each.slice_ids):
            users = list(claim.users) if claim else []
            user = User(each.slice_ids, at, running=each.running)
            claims[each.region] = Claim(each.resource, (*users, user))
    free = {name: purpose for name, purpose in ledger.reserved.items() if name not in claims}
    changed = replace(
        ledger,
        claims=claims,
        reserved=free,
        disowned=disowned,
        knowledge=Knowledge.KNOWN,
        judged=ledger.judged | frozenset(present),
    )
    return changed, tuple(conflicts)


def _still_held(before: Mapping[str, Claim], held: Sequence[Held], at: float) -> dict[str, Claim]:
    claims: dict[str, Claim] = {}
    for region, claim in before.items():
        listed = [h.slice_ids for h in held if (h.region, h.resource) == (region, claim.resource)]
        users = [user for u in claim.users if (user := _looked_up(u, listed, at)) is not None]
        if users:
            claims[region] = replace(claim, users=tuple(users))
    return claims


def _looked_up(user: User, listed: Sequence[frozenset[str]], at: float) -> User | None:
    """A user as the list leaves it; None if it has ended."""
    if any(not user.slice_ids.isdisjoint(ids) for ids in listed):
        return replace(user, absent_since=None)
    if at < user.since + LISTED_AFTER_SECONDS:
        return user
    if user.absent_since is None:
        return replace(user, absent_since=at)
    return None if at - user.absent_since >= ABSENT_FOR_SECONDS else user
