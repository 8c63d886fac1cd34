"""Placing against all possibilities, on small nodes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedext.costs import Costs
from schedext.demand import Shape, Turn, Want, at_once, matches_wants
from schedext.look import Look
from schedext.placement import Placement, Refusal
from schedext.placing import Neighbour, place
from tasuki.devices.model import DeviceKind
from tasuki.kube.names import NVIDIA_GPU
from tests.schedext.looks import (
    a_look,
    a_mig_look,
    a_shape,
    a_want,
    all_linked,
    an_fpga_look,
    pairs_linked,
    together,
)

COSTS = Costs()
SPREADING = Costs(policy="spread")
# So that only what is broken up counts.
IDLE_USERS = Costs(duty=0.0)

SMALL = st.integers(0, 3)


@st.composite
def gpu_looks(draw: st.DrawFn) -> Look:
    devices, replicas = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    taken = draw(st.lists(st.integers(0, replicas), max_size=devices))
    return a_look(
        devices,
        replicas,
        taken,
        unhealthy=draw(st.sets(st.integers(0, devices - 1), max_size=2)),
        floating=draw(st.sampled_from([0, 0, 0, 1, 2])),
        promised_bytes=draw(st.lists(st.integers(0, 4), min_size=devices, max_size=devices)),
        memory_bytes=draw(st.lists(st.integers(0, 4), min_size=devices, max_size=devices)),
        links=draw(st.sampled_from([{}, pairs_linked(devices), all_linked(devices)])),
    )


@st.composite
def mig_looks(draw: st.DrawFn) -> Look:
    partitions, replicas = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)), draw(st.integers(1, 2))
    return a_mig_look(
        partitions,
        draw(st.lists(st.integers(0, replicas), max_size=sum(partitions))),
        replicas=replicas,
        unhealthy=draw(st.sets(SMALL, max_size=1)),
        floating=draw(st.sampled_from([0, 0, 1, 2])),
        memory_bytes=4,
    )


@st.composite
def fpga_looks(draw: st.DrawFn) -> Look:
    regions, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    able = draw(st.lists(st.sets(st.sampled_from("abc"), min_size=1), min_size=regions, max_size=regions))
    taken: dict[str, list[int]] = {name: [0] * regions for name in "abc"}
    for region in range(regions):
        taken[draw(st.sampled_from(sorted(able[region])))][region] = draw(st.integers(0, channels))
    return an_fpga_look(
        regions,
        [{name: draw(st.floats(0.5, 3)) for name in sorted(names)} for names in able],
        channels=channels,
        loaded=[draw(st.sampled_from(["", *sorted(names)])) for names in able],
        taken=taken,
        unhealthy=draw(st.sets(SMALL, max_size=1)),
    )


LOOKS = st.one_of(gpu_looks(), mig_looks(), fpga_looks(), st.builds(together, gpu_looks(), fpga_looks()))


@st.composite
def questions(draw: st.DrawFn) -> tuple[Shape, tuple[Want, ...], Look]:
    look = draw(LOOKS)
    resources = sorted(look.layout.offers) or [NVIDIA_GPU]
    names = draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True))
    turns = dict(zip(names, sorted(draw(st.sampled_from(list(Turn))) for _ in names), strict=True))
    wants = tuple(
        a_want(draw(st.sampled_from([1, 1, 1, 2, 3])), resource, name, turns[name])
        for name in names
        for resource in draw(st.lists(st.sampled_from(resources), min_size=1, max_size=3, unique=True))
    )
    wish = draw(st.sampled_from(["", "", "spread", "pack"]))
    shape = a_shape(wants, spread=wish == "spread", pack=wish == "pack", memory_bytes=draw(st.sampled_from([0, 0, 2])))
    return shape, wants, look


# By resource and part.
Allocation = Mapping[str, Mapping[int, int]]


def exists(shape: Shape, look: Look, *, empty: bool) -> bool:
    """Whether an allocation obeys every rule, wherever the slices that are in use on unknown devices may be."""
    free = {resource: free_slices(shape, look, resource, empty=empty) for resource, _ in shape.counts}
    spoilt = [
        list(dict.fromkeys(reduced(free[resource], 0 if empty else look.floating(resource))))
        for resource, _ in shape.counts
    ]
    return all(
        any(obeys(shape, look, allocation) for allocation in allocations(shape, dict(zip(free, case, strict=True))))
        for case in product(*spoilt)
    )


def free_slices(shape: Shape, look: Look, resource: str, *, empty: bool) -> tuple[tuple[int, int], ...]:
    layout, occupancy = look.layout, look.occupancy
    found = []
    offer = layout.offers.get(resource)
    for d, cut in offer.devices if offer else ():
        part = layout.parts[d]
        promised = occupancy.promised_bytes[d] if cut > 1 and not empty else 0
        if part.kind is not DeviceKind.FPGA and shape.memory_bytes > max(0, part.memory_bytes - promised):
            continue
        if not empty and not occupancy.healthy[d]:
            continue
        elsewhere = any(taken[d] for name, taken in occupancy.taken if name != resource)
        if elsewhere and not empty:
            continue
        left = cut if empty else cut - look.taken(resource)[d]
        # Who does not say what memory it needs gets an equal share with each slice.
        share = part.memory_bytes // cut if part.kind is not DeviceKind.FPGA and not shape.memory_bytes else 0
        while share and left > 0 and left * share > max(0, part.memory_bytes - promised):
            left -= 1
        found.append((d, left))
    return tuple(found)


def reduced(free: tuple[tuple[int, int], ...], floating: int) -> list[tuple[tuple[int, int], ...]]:
    total = sum(count for _, count in free)
    return [
        tuple((d, left) for (d, _), left in zip(free, case, strict=True))
        for case in product(*(range(count + 1) for _, count in free))
        if total - sum(case) == min(total, floating)
    ]


def allocations(shape: Shape, free: Mapping[str, Sequence[tuple[int, int]]]) -> list[Allocation]:
    of_each = [
        [
            {d: n for (d, _), n in zip(free[resource], case, strict=True) if n}
            for case in product(*(range(count + 1) for _, count in free[resource]))
            if sum(case) == wanted
        ]
        for resource, wanted in shape.counts
    ]
    return [dict(zip(free, case, strict=True)) for case in product(*of_each)]


def obeys(shape: Shape, look: Look, allocation: Allocation) -> bool:
    parts = look.layout.parts
    for slices_of in allocation.values():
        devices: Counter[int] = Counter()
        for d, count in slices_of.items():
            devices[parts[d].physical if parts[d].kind is DeviceKind.MIG else d] += count
        if (shape.spread and max(devices.values()) > 1) or (shape.pack and len(devices) > 1):
            return False
    regions = [d for slices_of in allocation.values() for d in slices_of if parts[d].kind is DeviceKind.FPGA]
    return len(regions) == len(set(regions))


def held(wants: Sequence[Want], placement: Placement) -> Allocation:
    """The most that the pod's containers hold at once of each part, as the kubelet hands out slices."""
    found: dict[str, dict[int, int]] = {}
    for pick in placement.picks:
        found.setdefault(pick.resource, {}).setdefault(pick.part, 0)
    for resource, parts in found.items():
        for part in parts:
            of_part = tuple(
                replace(want, count=pick.count)
                for want in wants
                for pick in placement.picks
                if (pick.container, pick.resource, pick.part) == (want.container, resource, part)
                and want.resource == resource
            )
            parts[part] = at_once(of_part)[resource]
    return found


@settings(max_examples=400, deadline=None)
@given(questions())
def test_placements_obey_and_refusals_are_without_alternative(question: tuple[Shape, tuple[Want, ...], Look]) -> None:
    shape, wants, look = question

    outcome = place(shape, wants, look, COSTS)

    if isinstance(outcome, Refusal):
        assert not exists(shape, look, empty=False)
        assert outcome.never is not exists(shape, look, empty=True)
        return
    assert exists(shape, look, empty=False)
    allocation = held(wants, outcome)
    assert {resource: sum(slices_of.values()) for resource, slices_of in allocation.items()} == dict(shape.counts)
    assert obeys(shape, look, allocation)
    for resource, slices_of in allocation.items():
        free = dict(free_slices(shape, look, resource, empty=False))
        assert all(count <= free[d] for d, count in slices_of.items())


@settings(max_examples=200, deadline=None)
@given(questions())
def test_picks_are_what_the_containers_want(question: tuple[Shape, tuple[Want, ...], Look]) -> None:
    shape, wants, look = question
    outcome = place(shape, wants, look, COSTS)
    if isinstance(outcome, Refusal):
        return
    named: dict[str, dict[str, dict[str, int]]] = {}
    for pick in outcome.picks:
        named.setdefault(pick.container, {}).setdefault(pick.resource, {})[str(pick.part)] = pick.count

    assert matches_wants(named, wants)
    assert outcome.picks == tuple(sorted(outcome.picks, key=lambda pick: (pick.container, pick.resource, pick.part)))
    assert outcome == place(shape, wants, look, COSTS)


@settings(max_examples=200, deadline=None)
@given(questions(), st.data())
def test_freeing_slices_never_turns_a_placement_into_a_refusal(
    question: tuple[Shape, tuple[Want, ...], Look], data: st.DataObject
) -> None:
    shape, wants, look = question
    freed = replace(
        look.occupancy,
        taken=tuple(
            (name, tuple(data.draw(st.integers(0, count)) for count in counts)) for name, counts in look.occupancy.taken
        ),
        floating=tuple((name, data.draw(st.integers(0, count))) for name, count in look.occupancy.floating),
        promised_bytes=tuple(data.draw(st.integers(0, size)) for size in look.occupancy.promised_bytes),
    )

    if isinstance(place(shape, wants, look, COSTS), Placement):
        assert isinstance(place(shape, wants, Look(look.layout, freed), COSTS), Placement)


def seconds(look: Look, count: int, costs: Costs, neighbours: tuple[Neighbour, ...]) -> float:
    placement = place(a_shape([a_want(count)]), (a_want(count),), look, costs, neighbours)
    assert isinstance(placement, Placement)
    return placement.total_seconds


def only(look: Look, *parts: int) -> Look:
    """With no other device healthy."""
    healthy = tuple(d in parts for d in range(len(look.layout.parts)))
    return Look(look.layout, replace(look.occupancy, healthy=healthy))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.sampled_from([COSTS, SPREADING, IDLE_USERS]),
    st.sampled_from([(), (Neighbour(0, 10**6, 30.0),)]),
)
def test_one_slice_sits_where_the_seconds_are_fewest(
    taken: list[int], costs: Costs, neighbours: tuple[Neighbour, ...]
) -> None:
    look = a_look(len(taken), 4, taken)
    least = min(seconds(only(look, part), 1, costs, neighbours) for part in range(len(taken)))

    assert seconds(look, 1, costs, neighbours) == pytest.approx(least)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 5), st.sampled_from([10**3, 10**6, 10**9]), st.data())
def test_whole_gpus_near_a_neighbour_cost_the_least_of_all_sets(
    devices: int, count: int, part: int, item_bytes: int, data: st.DataObject
) -> None:
    look = a_look(devices, links=data.draw(st.sampled_from([{}, pairs_linked(devices), all_linked(devices)])))
    count, neighbours = min(count, devices), (Neighbour(min(part, devices - 1), item_bytes, 30.0),)
    sets = combinations(range(devices), count)
    least = min(seconds(only(look, *chosen), count, SPREADING, neighbours) for chosen in sets)

    assert seconds(look, count, SPREADING, neighbours) == pytest.approx(least)
