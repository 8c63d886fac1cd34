"""FPGA functions as a kind of accelerator: offered by a catalogue, claimed by Allocate, programmed on demand.

Read fpga_plan for what is offered, fpga_claims for who may have it. Claims are touched from the event loop alone; scans
and plans are made in a worker thread, from snapshots.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

from deviceplugin import fpga_claims
from deviceplugin.allocation import fpga as allocation
from deviceplugin.allocation.errors import UnknownSliceError
from deviceplugin.allocation.gpu import granted
from deviceplugin.config.kinds import FPGA
from deviceplugin.config.model import PROGRAMMING_BUDGET_SECONDS, Config, FpgaOptions
from deviceplugin.config.values import canonical_id
from deviceplugin.container import ContainerEdits, RefusedError
from deviceplugin.fpga import Fpgas, Region
from deviceplugin.fpga_claims import Knowledge, Ledger, Wanted
from deviceplugin.fpga_names import function_resource
from deviceplugin.fpga_plan import Failures, FpgaPlan, Means, Offering, may_run, plan, to_prewarm, to_repair
from deviceplugin.fpga_preference import Standing, preferred, root_of
from deviceplugin.health import Fault, HealthBook, judged_device
from deviceplugin.kind import Offered
from deviceplugin.node_status import Holder
from deviceplugin.offers import too_large
from deviceplugin.programming.images import ImageError, NoFolderError
from deviceplugin.programming.programmer import ProgrammingError
from deviceplugin.programming.workbench import Job, Programmed, Workbench
from deviceplugin.resources import Resource
from tasuki.devices.model import Device, Slice, index_order, slices_of, unhealthy
from tasuki.devices.preference import Policy
from tasuki.kube.events import Occurrence

# Pre-warming has no kubelet that waits.
_PREWARM_LIMIT_SECONDS: Final = 600.0
_PREWARM_AGAIN_SECONDS: Final = 600.0

# The kubelet asks for the containers of one pod in a row, within milliseconds.
_SAME_POD_SECONDS: Final = 2.0

# A kubelet that starts beside us has its pod-resources socket open within seconds.
_BLIND_AFTER_SECONDS: Final = 60.0


class Source(Protocol):
    """Where regions are found; `kind.Kind` says what each method is for."""

    def scan(self) -> Fpgas: ...
    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]: ...
    def probe(self, device_id: str) -> str: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FpgaOutlets:
    """Where the kind tells what it does.

    Attributes:
        changed: Called when other slices can be had than before.
        record: Takes an event.
        programmed: Takes how long each programming took.
        spawn: Starts a task that lasts as long as the daemon.
    """

    changed: Callable[[], None]
    record: Callable[[Occurrence], None]
    programmed: Callable[[Programmed], None]
    spawn: Callable[[Coroutine[Any, Any, None]], object]


@dataclass(frozen=True, slots=True)
class _Planned:
    """A plan, and what it was made under."""

    made: FpgaPlan
    options: FpgaOptions
    means: Means


class FpgaKind:
    """The FPGAs of one node; `kind.Kind` says what its methods are for."""

    def __init__(
        self,
        source: Source,
        workbench: Workbench,
        outlets: FpgaOutlets,
        *,
        settle_seconds: float = 2.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put the parts together.

        Args:
            source: Finds regions.
            workbench: Programs them.
            outlets: Where to tell what happens.
            settle_seconds: How long a region that is to be programmed beforehand is out of all lists before that
                begins, so that the kubelet has taken it in.
            now: The clock on which `holders_seen` tells the time.
        """
        self.name: Final = FPGA
        self._source: Final = source
        self._workbench: Final = workbench
        self._outlets: Final = outlets
        self._settle_seconds: Final = settle_seconds
        self._now: Final = now
        self._ledger = Ledger()
        self._planned: _Planned | None = None
        self._last: tuple[str, float] = ("", float("-inf"))
        self._silent_since: float | None = None
        self._failed: dict[tuple[str, str], float] = {}
        self._failed_last: dict[str, str] = {}
        self._stopping = False
        self._early: Callable[[], object] | None = None
        self._seen_at = float("-inf")

    def scan(self) -> Fpgas:
        return self._workbench.scan(self._source.scan)

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        return self._source.wait_for_faults(timeout_seconds)

    def probe(self, device: str) -> str:
        return self._source.probe(device)

    def close(self) -> None:
        self._source.close()

    def stop(self) -> None:
        """Begin no more programming; in the event loop. Claims stay as they are: the next process learns of them."""
        self._stopping = True
        self._workbench.stop()

    def devices(self, found: Fpgas) -> tuple[Device, ...]:
        return tuple(region.device for region in found.regions)

    def settled(self, book: HealthBook, before: Fpgas, after: Fpgas) -> HealthBook:  # noqa: ARG002 - cards have no parts
        return book

    def check(self, found: Fpgas, config: Config) -> tuple[str, ...]:
        options = config.tasuki.fpga
        means, _ = self._means(options)
        free = Ledger(knowledge=Knowledge.KNOWN, judged=frozenset(region.device.id for region in found.regions))
        return too_large(plan(found, options, free, means).resources)

    def plan(self, found: Fpgas, book: HealthBook, config: Config, trouble: str) -> Offered:
        options = config.tasuki.fpga
        fresh = self._workbench.freshened(found)
        judged = tuple(_judged(region, book, trouble) for region in fresh.regions)
        means, problems = self._means(options)
        made = plan(replace(fresh, regions=judged), options, self._ledger, means)
        planned = _Planned(made, options, means)
        self._planned = planned
        early, self._early = self._early, None
        if early is not None:
            early()
        return Offered(
            devices=tuple(region.device for region in judged),
            resources=made.resources,
            grant=partial(self._grant, planned),
            policy=lambda resource: self._policy(planned, resource),
            start=partial(self._start, planned),
            problems=(*problems, *made.problems) if judged else made.problems,
            trouble=trouble,
            waiting=self._waiting(made),
            loaded=made.loaded,
        )

    def _waiting(self, made: FpgaPlan) -> str:
        """Why nothing is offered although there are regions with functions; empty otherwise."""
        if self._ledger.knowledge is not Knowledge.WAITING or not made.offerings:
            return ""
        return "the kubelet has not said yet who holds which region; is its pod-resources socket mounted?"

    def _means(self, options: FpgaOptions) -> tuple[Means, tuple[str, ...]]:
        families = self._workbench.families(options.programmer)
        if not options.functions:
            return Means(families), ()
        try:
            return Means(families, self._workbench.images()), ()
        except NoFolderError:
            return Means(families, None), ()
        except ImageError as error:
            return Means(families, None), (str(error),)

    def holders_seen(self, holders: Collection[Holder], at: float) -> None:
        """Take in the kubelet's list of who holds what, in the event loop.

        Args:
            holders: All of them, of whatever resources.
            at: When the list was asked for.
        """
        planned = self._planned
        if planned is None:
            # Slices mean nothing before there are regions; the first plan asks for this again.
            loop = asyncio.get_running_loop()
            self._early = partial(loop.call_soon_threadsafe, self.holders_seen, tuple(holders), at)
            return
        if at < self._seen_at:
            return
        self._seen_at = at
        made = planned.made

        def state(region: str, resource: str) -> tuple[bool, bool]:
            offering = made.offerings.get(resource, {}).get(region)
            running = may_run(made.regions[region], offering, planned.options)
            return running, offering is not None and not offering.seconds

        held = fpga_claims.held_regions(holders, _region_of(made), state)
        ledger, conflicts = fpga_claims.seen(self._ledger, held, at, made.regions)
        for conflict in conflicts:
            self._outlets.record(Occurrence("Warning", "RegionHeldTwice", conflict))
        self._become(ledger)
        self._prewarm(planned)

    def holders_unavailable(self, at: float) -> None:
        """Note that the kubelet did not tell who holds what; in the event loop."""
        if self._silent_since is None:
            self._silent_since = at
        if at - self._silent_since >= _BLIND_AFTER_SECONDS:
            self._become(fpga_claims.blinded(self._ledger))
            if self._planned is not None:
                self._prewarm(self._planned)

    def _become(self, ledger: Ledger) -> None:
        if ledger != self._ledger:
            self._ledger = ledger
            self._outlets.changed()

    def _grant(
        self, planned: _Planned, resource: Resource, slices: Mapping[str, Slice], slice_ids: Sequence[str]
    ) -> ContainerEdits:
        self._refuse_held(planned, resource, slices, slice_ids)
        chosen = granted(resource, slice_ids, slices)
        wanted = _wanted(planned.made, resource, chosen)
        function = planned.made.offerings[resource.name][wanted[0].region].function if wanted else ""
        edits = allocation.edits(chosen, planned.made.regions, function)
        now = self._now()
        self._become(fpga_claims.allocated(self._ledger, resource.name, wanted, now))
        if chosen:
            self._last = (root_of(chosen[0].device), now)
        return edits

    def _refuse_held(
        self, planned: _Planned, resource: Resource, slices: Mapping[str, Slice], slice_ids: Sequence[str]
    ) -> None:
        """Say who holds the regions of slices that are not in the list any more.

        Raises:
            RefusedError: There are such slices, and they cannot be had.
        """
        region_of = _region_of(planned.made)
        offerings = planned.made.offerings.get(resource.name, {})
        for slice_id in slice_ids:
            region = region_of(slice_id)
            if slice_id in slices or region is None:
                continue
            users = offerings[region].users if region in offerings else 1
            fpga_claims.allocated(
                self._ledger, resource.name, [Wanted(region, frozenset({slice_id}), users)], self._now()
            )

    def _policy(self, planned: _Planned, resource: Resource) -> Policy:
        offerings = planned.made.offerings.get(resource.name, {})

        def choose(available: Sequence[Slice], required: Sequence[Slice], size: int) -> list[Slice]:
            standings = {id_: self._standing(resource.name, offering) for id_, offering in offerings.items()}
            root, at = self._last
            near = root if self._now() - at <= _SAME_POD_SECONDS else ""
            return preferred(available, required, size, standings, near)

        return choose

    def _standing(self, resource: str, offering: Offering) -> Standing:
        id_ = offering.region.device.id
        claim = self._ledger.claims.get(id_)
        if claim is None:
            overwrites = offering.seconds > 0 and bool(offering.region.loaded)
            return Standing(id_ in self._ledger.programming, offering.seconds, overwrites)
        mine = claim.resource == resource
        return Standing(not mine or len(claim.users) >= offering.users, offering.seconds, claimed=mine)

    async def _start(
        self, planned: _Planned, resource: Resource, slices: Mapping[str, Slice], slice_ids: Sequence[str]
    ) -> None:
        """Have every region of a container hold its function before it starts.

        Raises:
            RefusedError: It does not, and why.
        """
        self._refuse_held(planned, resource, slices, slice_ids)
        # Whether a region is well was asked by Allocate; of what ails it since, a good image may be the cure.
        wanted = _wanted(planned.made, resource, _named(slices, slice_ids))
        self._become(fpga_claims.resumed(self._ledger, resource.name, wanted, self._now()))
        offerings = planned.made.offerings[resource.name]
        try:
            async with asyncio.timeout(PROGRAMMING_BUDGET_SECONDS):
                found = await asyncio.gather(
                    *(self._readied(planned, resource.name, offerings[each.region], each, wanted) for each in wanted)
                )
        except TimeoutError:
            raise RefusedError(
                f"{', '.join(each.region for each in wanted)}: not ready for {resource.name} within "
                f"{PROGRAMMING_BUDGET_SECONDS:g} s; programming goes on, and the kubelet will ask again"
            ) from None
        if reasons := [reason for reason in found if reason]:
            raise RefusedError("; ".join(reasons))
        for each in wanted:
            # One region was ready, and while the other was made ready an earlier attempt of this container failed.
            if not fpga_claims.holds(self._ledger, resource.name, each):
                raise RefusedError(f"region {each.region} was given back while the others were made ready; try again")

    async def _readied(
        self, planned: _Planned, resource: str, offering: Offering, mine: Wanted, all_wanted: Sequence[Wanted]
    ) -> str:
        """Have one region hold what it should; why it does not, empty if it does."""
        if not offering.expects:
            return ""
        try:
            if offering.implementation is None:
                return await self._unchanged(offering)
            job = Job(
                region=offering.region,
                function=offering.function,
                implementation=offering.implementation,
                options=planned.options.programmer,
                limit_seconds=PROGRAMMING_BUDGET_SECONDS,
                finished=partial(self._finished, resource, mine, all_wanted),
                rewrite=offering.region.rewritable,
            )
            done = await self._workbench.ensure(job, partial(self._permit, resource, offering, mine))
            if done is None:
                self._started(resource, mine)
                return ""
        except RefusedError as error:
            return str(error)
        except ProgrammingError as error:
            if self._stopping:
                return str(error)
            self._become(fpga_claims.rolled_back(self._ledger, resource, all_wanted))
            return str(error)
        return _failure(done)

    async def _unchanged(self, offering: Offering) -> str:
        """Under Intel's name a region is what is in it."""
        loaded = canonical_id(await self._workbench.loaded(offering.region))
        if loaded == offering.expects:
            return ""
        return f"region {offering.region.device.id} holds {loaded or 'nothing'} by now, not {offering.expects}"

    def _permit(self, resource: str, offering: Offering, mine: Wanted) -> None:
        """Refuse to program a region under a container that is at work in it, with an image of before."""
        # While this waited for the card, an earlier attempt of the same container may have failed and given it back.
        self._become(fpga_claims.resumed(self._ledger, resource, [mine], self._now()))
        if fpga_claims.others_running(self._ledger, mine):
            raise RefusedError(
                f"region {mine.region} is in use with another image of {offering.function} than the catalogue has now; "
                "it can be programmed once the containers that hold it have ended"
            )

    def _started(self, resource: str, mine: Wanted) -> None:
        """Note that a region is ready for a container, whatever became of its claim meanwhile.

        Raises:
            RegionHeldError: Others have it by now.
        """
        ledger = fpga_claims.resumed(self._ledger, resource, [mine], self._now())
        self._become(fpga_claims.running(ledger, resource, [mine]))

    def _finished(self, resource: str, mine: Wanted, all_wanted: Sequence[Wanted], done: Programmed) -> None:
        if done.reason:
            self._failed_last[done.region] = done.function
            self._ledger = fpga_claims.rolled_back(self._ledger, resource, all_wanted)
        else:
            # The kubelet may have hung up long ago: a claim that is gone by now stays so.
            self._ledger = fpga_claims.running(self._ledger, resource, [mine])
        self._told(done)

    def _told(self, done: Programmed) -> None:
        if done.reason:
            self._outlets.record(Occurrence("Warning", "ProgrammingFailed", _failure(done)))
        else:
            note = f"region {done.region} was programmed with {done.function}"
            self._outlets.record(Occurrence("Normal", "Programmed", note))
        self._outlets.programmed(done)
        self._outlets.changed()

    def _prewarm(self, planned: _Planned) -> None:
        """Begin to program what is to be ready beforehand or was left broken by an image, and is free."""
        if self._ledger.knowledge is Knowledge.WAITING:
            return
        now = self._now()
        lately = {key for key, at in self._failed.items() if now - at < _PREWARM_AGAIN_SECONDS}
        plan_of = (planned.made, planned.options, self._ledger, planned.means)
        chosen = to_prewarm(*plan_of, excluded=lately) + to_repair(
            *plan_of, failures=Failures(self._failed_last, lately)
        )
        ledger = self._ledger
        for offering in chosen:
            ledger = fpga_claims.reserved(ledger, offering.region.device.id, function_resource(offering.function))
        self._become(ledger)
        for offering in chosen:
            self._outlets.spawn(self._prewarmed(planned, offering))

    async def _prewarmed(self, planned: _Planned, offering: Offering) -> None:
        """Program a reserved region, unless it is handed out before that begins."""
        assert offering.implementation is not None
        id_ = offering.region.device.id
        job = Job(
            region=offering.region,
            function=offering.function,
            implementation=offering.implementation,
            options=planned.options.programmer,
            limit_seconds=_PREWARM_LIMIT_SECONDS,
            finished=partial(self._prewarm_finished, (id_, offering.function)),
            rewrite=offering.region.rewritable,
        )
        try:
            await asyncio.sleep(self._settle_seconds)
            await self._workbench.ensure(job, partial(self._permit_prewarm, id_))
        except RefusedError:
            pass  # a container has it now
        except ProgrammingError as error:
            if self._stopping:
                return
            self._prewarm_finished((id_, offering.function), Programmed(id_, offering.function, 0.0, str(error)))
        finally:
            self._become(fpga_claims.released(self._ledger, id_))

    def _permit_prewarm(self, region: str) -> None:
        if region not in self._ledger.reserved:
            raise RefusedError(f"region {region} was handed out meanwhile")
        self._ledger = fpga_claims.programming(self._ledger, region)

    def _prewarm_finished(self, key: tuple[str, str], done: Programmed) -> None:
        if done.reason:
            self._failed[key] = self._now()
            self._failed_last[done.region] = done.function
        else:
            self._failed.pop(key, None)
        self._told(done)


def _failure(done: Programmed) -> str:
    """What to say of a programming that failed; empty if it did not."""
    return f"region {done.region} could not be programmed with {done.function}: {done.reason}" if done.reason else ""


def _judged(region: Region, book: HealthBook, trouble: str) -> Region:
    device = region.device
    judged = replace(device, health=unhealthy(trouble)) if trouble else judged_device(device, book)
    return replace(region, device=judged, rewritable=region.rewritable and judged.health == device.health)


def _region_of(made: FpgaPlan) -> Callable[[str], str | None]:
    """Finds the region that a slice belongs to; None for slices of other devices."""
    # A slice's id begins with its region's, whatever the number of channels was when it was handed out.
    prefixes = [(slices_of(r.device, 1)[0].id.removesuffix("0"), id_) for id_, r in made.regions.items()]
    return lambda slice_id: next((id_ for prefix, id_ in prefixes if slice_id.startswith(prefix)), None)


def _named(slices: Mapping[str, Slice], slice_ids: Sequence[str]) -> tuple[Slice, ...]:
    """Slices in the order of their index.

    Raises:
        UnknownSliceError: One of them does not exist.
    """
    for slice_id in slice_ids:
        if slice_id not in slices:
            raise UnknownSliceError(f"unknown device: {slice_id}")
    return tuple(sorted((slices[id_] for id_ in set(slice_ids)), key=lambda s: (index_order(s.device), s.replica)))


def _wanted(made: FpgaPlan, resource: Resource, chosen: Sequence[Slice]) -> tuple[Wanted, ...]:
    """What a container asks of each region, in the order of their index.

    Raises:
        RefusedError: One of them cannot serve this resource any more.
    """
    offerings = made.offerings.get(resource.name, {})
    of_region: dict[str, set[str]] = {}
    for a_slice in chosen:
        of_region.setdefault(a_slice.device.id, set()).add(a_slice.id)
    for region in of_region:
        if region not in offerings:
            raise RefusedError(f"region {region} cannot serve {resource.name} any more")
    return tuple(Wanted(region, frozenset(ids), offerings[region].users) for region, ids in of_region.items())
