"""Which resources the regions of a node's FPGAs become, under a catalogue of functions and the claims on them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from deviceplugin import fpga_names
from deviceplugin.config.model import (
    PROGRAMMING_BUDGET_SECONDS,
    FpgaFunction,
    FpgaImplementation,
    FpgaOptions,
    PeerNames,
)
from deviceplugin.config.values import canonical_id
from deviceplugin.fpga import Family, Fpgas, Region
from deviceplugin.fpga_claims import Claim, Knowledge, Ledger
from deviceplugin.node_status import Loaded
from deviceplugin.resources import Resource
from tasuki.devices.model import Slice, slices_of


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to program regions with.

    Attributes:
        families: Cards that can be programmed at all.
        images: File names in the folder of bitstreams; None if there is none, so that regions are offered as they are.
    """

    families: Collection[Family] = frozenset(Family)
    images: Collection[str] | None = frozenset()


@dataclass(frozen=True, slots=True)
class Failures:
    """What could not be programmed.

    Attributes:
        last: The function that failed last, by region.
        beforehand: Region and function of what failed lately while nobody waited for it.
    """

    last: Mapping[str, str] = field(default_factory=dict)
    beforehand: Collection[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Offering:
    """One region under one resource.

    Attributes:
        function: By the catalogue's name; empty under a peer's resource name.
        implementation: What is to be in the region; None under a peer's name.
        expects: The id that the region must hold when a container starts; empty if anything may be in it.
        seconds: How long programming takes; 0 if what is expected is there already.
    """

    region: Region
    function: str = ""
    implementation: FpgaImplementation | None = None
    expects: str = ""
    seconds: float = 0.0

    @property
    def channels(self) -> int:
        return self.implementation.channels if self.implementation else 1

    @property
    def users(self) -> int:
        return self.implementation.users if self.implementation else 1

    @property
    def slices(self) -> tuple[Slice, ...]:
        return slices_of(self.region.device, self.channels)


@dataclass(frozen=True, slots=True)
class FpgaPlan:
    """All that a node's regions are offered as.

    Attributes:
        resources: Sorted by name; also those with no slices at the moment, because others hold all their regions.
        offerings: By resource and region, whether or not they are in the lists at the moment.
        regions: By id.
        problems: Sentences for the operator, each on something that is left out and why.
        loaded: By region.
    """

    resources: tuple[Resource, ...] = ()
    offerings: Mapping[str, Mapping[str, Offering]] = field(default_factory=dict)
    regions: Mapping[str, Region] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    loaded: Mapping[str, Loaded] = field(default_factory=dict)


_INTEL: Final = frozenset({PeerNames.INTEL, PeerNames.ALL})
_AMD: Final = frozenset({PeerNames.AMD, PeerNames.ALL})


def plan(fpgas: Fpgas, options: FpgaOptions, ledger: Ledger, means: Means) -> FpgaPlan:
    """Cut the regions into resources.

    Args:
        fpgas: With each region's health as judged.
        options: The catalogue.
        ledger: Who holds what.
        means: What regions can be programmed with.
    """
    offerings: dict[str, dict[str, Offering]] = {}
    slices: dict[str, list[Slice]] = {}
    for region in fpgas.regions:
        possible = offered_as(region, options, means)
        for name, offering in possible.items():
            offerings.setdefault(name, {})[region.device.id] = offering
            slices.setdefault(name, [])
        for name, found in _listed(region, possible, ledger).items():
            slices[name].extend(found)
    known = ledger.knowledge is not Knowledge.WAITING
    return FpgaPlan(
        resources=tuple(Resource(name, tuple(slices[name])) for name in sorted(slices)) if known else (),
        offerings=offerings,
        regions={region.device.id: region for region in fpgas.regions},
        problems=(*fpgas.unreadable, *_problems(fpgas.regions, options, ledger, means)),
        loaded={region.device.id: _loaded(region, options, ledger, means) for region in fpgas.regions},
    )


def offered_as(region: Region, options: FpgaOptions, means: Means) -> dict[str, Offering]:
    """Every resource that a region could serve if nobody held it."""
    found: dict[str, Offering] = {}
    for function in options.functions:
        implementation = implementation_for(region, function)
        if implementation is None:
            continue
        seconds = 0.0 if holds(region, implementation) else implementation.programming_seconds
        if seconds and (why_not(region, implementation, means) or seconds > PROGRAMMING_BUDGET_SECONDS):
            continue
        found[fpga_names.function_resource(function.name)] = Offering(
            region, function.name, implementation, implementation.id, seconds
        )
    if options.peer_names in _INTEL:
        if name := fpga_names.intel_region(region):
            found[name] = Offering(region)
        if name := fpga_names.intel_af(region):
            found[name] = Offering(region, expects=canonical_id(region.loaded))
    if options.peer_names in _AMD and (name := fpga_names.amd(region)):
        found[name] = Offering(region)
    return found


def implementation_for(region: Region, function: FpgaFunction) -> FpgaImplementation | None:
    """A function's implementation for a region: the one that is in it, or else the first that fits."""
    fitting = [i for i in function.implementations if i.family is region.family and i.interface in _interfaces(region)]
    return next((i for i in fitting if holds(region, i)), fitting[0] if fitting else None)


def _interfaces(region: Region) -> frozenset[str]:
    """All that a region answers to: AMD's shells have a name besides their interface's UUID."""
    names = {canonical_id(region.interface)}
    if region.shell:
        names |= {canonical_id(region.shell), canonical_id(region.shell.rpartition("-")[0])}
    return frozenset(names)


def holds(region: Region, implementation: FpgaImplementation) -> bool:
    return bool(region.loaded) and canonical_id(region.loaded) == implementation.id


def why_not(region: Region, implementation: FpgaImplementation, means: Means) -> str:
    """Why a region cannot be programmed with an image that it does not hold; empty if it can."""
    if region.family not in means.families:
        return f"cards of family {region.family} need a command that programs them; set tasuki.fpga.programmer.command"
    if means.images is None:
        return "there is no folder of bitstreams"
    if implementation.bitstream not in means.images:
        return f"{implementation.bitstream} is not in the folder of bitstreams"
    return ""


def function_in(region: Region, options: FpgaOptions) -> str:
    """The function that a region holds, by the catalogue's name; empty if it is none of them."""
    for function in options.functions:
        implementation = implementation_for(region, function)
        if implementation is not None and holds(region, implementation):
            return function.name
    return ""


def may_run(region: Region, offering: Offering | None, options: FpgaOptions) -> bool:
    """Whether a container that holds a region under a resource may be at work in it.

    It cannot be if another function of the catalogue is loaded, or nothing: then it is still to be programmed for it.
    """
    if offering is None or not offering.seconds:
        return True
    if not region.loaded:
        # Of a region in a device tree nobody may know what is in it.
        return region.family is Family.FPGA_REGION
    return function_in(region, options) in ("", offering.function)


def _listed(region: Region, possible: Mapping[str, Offering], ledger: Ledger) -> dict[str, tuple[Slice, ...]]:
    """The slices of a region that are offered now, by resource; none of them under two that could be taken together."""
    claim = ledger.claims.get(region.device.id)
    if claim is not None:
        offering = possible.get(claim.resource)
        return {claim.resource: _left(offering, claim)} if offering is not None else {}
    id_ = region.device.id
    if id_ in ledger.reserved or id_ in ledger.programming or ledger.unjudged(id_):
        return {}
    if ledger.knowledge is Knowledge.BLIND:
        possible = _certain(region, possible)
    return {name: offering.slices for name, offering in possible.items()}


def _left(offering: Offering, claim: Claim) -> tuple[Slice, ...]:
    """What a claimed region still offers: what is held, so that the kubelet goes on counting it, and what is free."""
    full = len(claim.users) >= offering.users
    outdated = offering.seconds > 0 and any(user.running for user in claim.users)
    if full or outdated:
        return tuple(s for s in offering.slices if s.id in claim.slice_ids)
    return offering.slices


def _certain(region: Region, possible: Mapping[str, Offering]) -> Mapping[str, Offering]:
    """What can be offered without knowing who held the region before: what it holds goes on, an empty one is free."""
    if region.loaded:
        ready = {name: offering for name, offering in possible.items() if not offering.seconds}
        return ready if len(ready) == 1 else {}
    if region.family is Family.FPGA_REGION or not all(offering.function for offering in possible.values()):
        return {}
    return possible


def _loaded(region: Region, options: FpgaOptions, ledger: Ledger, means: Means) -> Loaded:
    id_ = region.device.id
    programmable = {
        function.name: implementation.programming_seconds
        for function in options.functions
        if (implementation := implementation_for(region, function)) is not None
        and (holds(region, implementation) or not why_not(region, implementation, means))
    }
    return Loaded(
        interface=region.interface,
        function=function_in(region, options),
        image=region.loaded,
        claimed=id_ in ledger.claims or id_ in ledger.programming,
        seconds=programmable,
    )


def _problems(regions: Sequence[Region], options: FpgaOptions, ledger: Ledger, means: Means) -> Iterator[str]:
    for function in options.functions:
        lacking = [
            (region.device.id, implementation.bitstream)
            for region in regions
            if (implementation := implementation_for(region, function)) is not None
            and not holds(region, implementation)
            and means.images is not None
            and implementation.bitstream not in means.images
        ]
        for image in dict.fromkeys(image for _, image in lacking):
            ids = ", ".join(id_ for id_, wanted in lacking if wanted == image)
            yield f"{image}, for {function.name} in {ids}, is not in the folder of bitstreams"
    for region in regions:
        reasons = [
            why_not(region, implementation, means)
            for function in options.functions
            if (implementation := implementation_for(region, function)) is not None
        ]
        if any(reasons) and not offered_as(region, options, means):
            held = region.loaded or "nothing"
            why = "; ".join(dict.fromkeys(filter(None, reasons)))
            yield f"region {region.device.id} is left out: it holds {held}, no function of the catalogue, and {why}"
        if region.device.id not in ledger.claims and ledger.unjudged(region.device.id):
            yield f"region {region.device.id} is left out until the kubelet has told who holds it (pod-resources)"
    if ledger.knowledge is Knowledge.BLIND and regions:
        yield (
            "the kubelet does not tell who holds which FPGA region (pod-resources): a region keeps the function that "
            "it holds, and only empty ones are programmed"
        )


def to_prewarm(
    made: FpgaPlan, options: FpgaOptions, ledger: Ledger, means: Means, *, excluded: Collection[tuple[str, str]]
) -> tuple[Offering, ...]:
    """The regions that are to be programmed beforehand now, each for one function; none that anybody holds.

    Args:
        made: The plan under the rest.
        options: Say how many regions of which function.
        ledger: Who holds what.
        means: What regions can be programmed with.
        excluded: Region and function of what failed lately.
    """
    functions = {function.name: function for function in options.functions}
    taken: set[str] = set()
    missing: list[tuple[FpgaFunction, int]] = []
    # What is there already stays, so that two entries never take turns on one region.
    for entry in options.prewarm:
        function = functions[entry.function]
        wanted = len(made.regions) if entry.regions == "all" else entry.regions
        ready = [id_ for id_, region in made.regions.items() if id_ not in taken and _has(region, function, ledger)]
        taken.update(ready[:wanted])
        missing.append((function, wanted - len(ready[:wanted])))
    chosen: list[Offering] = []
    for function, count in missing:
        free = [
            offering
            for region in made.regions.values()
            if region.device.id not in taken
            and (offering := _preparable(region, function, ledger, means)) is not None
            and (region.device.id, function.name) not in excluded
        ]
        free.sort(key=lambda offering: bool(offering.region.loaded))
        for offering in free[:count]:
            taken.add(offering.region.device.id)
            chosen.append(offering)
    return tuple(chosen)


def _has(region: Region, function: FpgaFunction, ledger: Ledger) -> bool:
    implementation = implementation_for(region, function)
    if implementation is None or not region.device.health.healthy:
        return False
    under = fpga_names.function_resource(function.name)
    return holds(region, implementation) or ledger.reserved.get(region.device.id) == under


def _preparable(region: Region, function: FpgaFunction, ledger: Ledger, means: Means) -> Offering | None:
    """A region that is free to be programmed with a function."""
    return _writable(region, function, means) if region.device.health.healthy and _idle(region, ledger) else None


def _writable(region: Region, function: FpgaFunction, means: Means, *, anew: bool = False) -> Offering | None:
    """A region with a function that it can be programmed with, and does not hold unless it is to be written anew."""
    implementation = implementation_for(region, function)
    if implementation is None or why_not(region, implementation, means):
        return None
    if holds(region, implementation) and not anew:
        return None
    return Offering(region, function.name, implementation, implementation.id, implementation.programming_seconds)


def _idle(region: Region, ledger: Ledger) -> bool:
    """Whether it is certain that nobody holds a region."""
    id_ = region.device.id
    if id_ in ledger.claims or id_ in ledger.reserved or id_ in ledger.programming or ledger.unjudged(id_):
        return False
    return ledger.knowledge is Knowledge.KNOWN or not (region.loaded or region.family is Family.FPGA_REGION)


def to_repair(
    made: FpgaPlan,
    options: FpgaOptions,
    ledger: Ledger,
    means: Means,
    *,
    failures: Failures,
) -> tuple[Offering, ...]:
    """The regions that a good image would end the trouble of, each with the function to try; none that anybody holds.

    Args:
        made: The plan under the rest.
        options: The catalogue.
        ledger: Who holds what.
        means: What regions can be programmed with.
        failures: What not to try, and what to try last, for its image may be bad.
    """
    chosen: list[Offering] = []
    for id_, region in made.regions.items():
        if not region.rewritable or not _idle(region, ledger):
            continue
        found = [
            offering
            for function in options.functions
            if (id_, function.name) not in failures.beforehand
            and (offering := _writable(region, function, means, anew=True)) is not None
        ]
        chosen += sorted(found, key=lambda offering: failures.last.get(offering.region.device.id) == offering.function)[
            :1
        ]
    return tuple(chosen)
