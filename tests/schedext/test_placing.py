"""Where pods sit on a node's devices: what fits, what is chosen, what it costs, and what a refusal says."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from schedext.costs import EDGES, EXCHANGE, FRAGMENTATION, PROGRAMMING, SHARING, Costs
from schedext.demand import Shape, Turn, Want
from schedext.look import EMPTY_LAYOUT, Look, Occupancy, WayBetween
from schedext.placement import Pick, Placement, Refusal
from schedext.placing import Neighbour, place
from tasuki.devices.model import DeviceKind
from tasuki.devices.topology import LinkKind
from tasuki.kube.names import NVIDIA_GPU
from tests.schedext.looks import (
    GI,
    GPU_WATTS,
    a_function,
    a_look,
    a_mig_look,
    a_shape,
    a_want,
    all_linked,
    an_fpga_look,
    pairs_linked,
    together,
)

MIG = "nvidia.com/mig-1g.5gb"
RESIZE, DECODE = a_function("resize"), a_function("decode")
COSTS = Costs()
SPREADING = Costs(policy="spread")
# So that only what is broken up counts.
IDLE_USERS = Costs(duty=0.0)


def placed(
    look: Look,
    *wants: Want,
    costs: Costs = COSTS,
    neighbours: tuple[Neighbour, ...] = (),
    spread: bool = False,
    pack: bool = False,
    memory_bytes: int = 0,
) -> Placement:
    shape = a_shape(wants, spread=spread, pack=pack, memory_bytes=memory_bytes)
    placement = place(shape, wants, look, costs, neighbours)
    assert isinstance(placement, Placement), placement
    return placement


def refused(
    look: Look, *wants: Want, spread: bool = False, pack: bool = False, memory_bytes: int = 0
) -> tuple[str, str]:
    """`never` or `busy`, and the reason."""
    shape = a_shape(wants, spread=spread, pack=pack, memory_bytes=memory_bytes)
    refusal = place(shape, wants, look, COSTS)
    assert isinstance(refusal, Refusal), refusal
    return "never" if refusal.never else "busy", refusal.reason


def slices(placement: Placement, resource: str = NVIDIA_GPU) -> dict[int, int]:
    """By part; of containers that all run at once."""
    found: Counter[int] = Counter()
    for pick in placement.picks:
        if pick.resource == resource:
            found[pick.part] += pick.count
    return dict(found)


# Whether it fits, and what is said if not.


@pytest.mark.parametrize(
    ("look", "wants", "wish", "expected"),
    [
        pytest.param(
            Look(EMPTY_LAYOUT, Occupancy()), [a_want()], {}, ("never", "it offers no nvidia.com/gpu"), id="no devices"
        ),
        pytest.param(
            an_fpga_look(), [a_want(1, a_function("infer"))], {},
            ("never", "it offers no fpga.tasuki.dev/infer"), id="a function that no region could hold",
        ),
        pytest.param(
            an_fpga_look(1, taken={"decode": [1]}, unlisted={"resize": [0]}), [a_want(1, RESIZE)], {},
            ("busy", "wants 1 fpga.tasuki.dev/resize, none is free"), id="a function that a region could hold later",
        ),
        pytest.param(
            a_look(2, trouble="its daemon is silent"), [a_want()], {}, ("busy", "its daemon is silent"), id="trouble"
        ),
        pytest.param(
            a_look(2, trouble="its daemon is silent"), [a_want(3)], {},
            ("never", "wants 3 nvidia.com/gpu, it has 2"), id="trouble, but it would never fit",
        ),
        pytest.param(
            a_look(4, 1, [1]), [a_want(4)], {}, ("busy", "wants 4 nvidia.com/gpu, 3 are free"), id="too few are free"
        ),
        pytest.param(
            a_look(2, 1, [1]), [a_want(2)], {}, ("busy", "wants 2 nvidia.com/gpu, 1 is free"), id="one is free"
        ),
        pytest.param(
            a_look(4, floating=1), [a_want(4)], {},
            ("busy", "wants 4 nvidia.com/gpu, 3 are free"), id="one is in use, nobody knows which",
        ),
        pytest.param(
            a_look(2, 10, one_per_request=True), [a_want(2)], {},
            ("never", "a container gets 1 nvidia.com/gpu at most there, as they are shares of devices: ask for 1"),
            id="one for each request",
        ),
        pytest.param(
            a_look(8, unhealthy=[0, 1]), [a_want(7)], {},
            ("busy", "wants 7 nvidia.com/gpu, 6 are free; 2 of 8 devices are unhealthy"), id="unhealthy ones lack",
        ),
        pytest.param(
            a_look(8, 1, [1, 1], unhealthy=[7]), [a_want(7)], {},
            ("busy", "wants 7 nvidia.com/gpu, 5 are free"), id="health would not help",
        ),
        pytest.param(
            a_look(2, 4, [3, 3]), [a_want(2)], {"pack": True},
            ("busy", "wants 2 nvidia.com/gpu on one device, at most 1 is free on any"), id="pack, no device has enough",
        ),
        pytest.param(
            a_look(2, 4), [a_want(5)], {"pack": True},
            ("never", "wants 5 nvidia.com/gpu on one device, none has more than 4"), id="pack, devices are too small",
        ),
        pytest.param(
            a_look(2, 4, [2, 3], floating=1), [a_want(2)], {"pack": True},
            ("busy", "wants 2 nvidia.com/gpu on one device, at most 1 is free on any"),
            id="pack, what is in use somewhere may be right there",
        ),
        pytest.param(
            a_look(4, 4, [4]), [a_want(4)], {"spread": True},
            ("busy", "wants 4 nvidia.com/gpu on distinct devices, 3 have one free"), id="spread, a device is full",
        ),
        pytest.param(
            a_look(8, 4), [a_want(9)], {"spread": True},
            ("never", "wants 9 nvidia.com/gpu on distinct devices, it has 8"), id="spread, too few devices",
        ),
        pytest.param(
            a_look(3, 4, [3], floating=1), [a_want(3)], {"spread": True},
            ("busy", "wants 3 nvidia.com/gpu on distinct devices, 2 have one free"),
            id="spread, what is in use somewhere may be a device's last slice",
        ),
        pytest.param(
            a_mig_look([2, 2]), [a_want(3, MIG)], {"spread": True},
            ("never", "wants 3 nvidia.com/mig-1g.5gb on distinct devices, it has 2"),
            id="spread, partitions of one GPU are one device",
        ),
        pytest.param(
            a_mig_look([3, 3], [1, 1, 0, 1, 1]), [a_want(2, MIG)], {"pack": True},
            ("busy", "wants 2 nvidia.com/mig-1g.5gb on one device, at most 1 is free on any"),
            id="pack, partitions of different GPUs",
        ),
        pytest.param(
            a_look(2, 10, promised_bytes=[30 * GI, 28 * GI]), [a_want()], {"memory_bytes": 20 * GI},
            ("busy", "needs 20Gi of memory on a device, at most 12Gi is left on any"), id="memory is promised",
        ),
        pytest.param(
            a_look(2, 10), [a_want()], {"memory_bytes": 80 * GI},
            ("never", "needs 80Gi of memory on a device, none has more than 40Gi"), id="memory is too small",
        ),
        pytest.param(
            a_look(2, 10, memory_bytes=0), [a_want()], {"memory_bytes": GI},
            ("never", "needs 1Gi of memory on a device, how much its devices have is not known"), id="memory unknown",
        ),
        pytest.param(
            a_look(3, 10, promised_bytes=[30 * GI, 0, 0]), [a_want(3)], {"memory_bytes": 20 * GI, "spread": True},
            ("busy", "wants 3 nvidia.com/gpu with 20Gi of memory left on distinct devices, 2 have one free"),
            id="memory, on too few of them",
        ),
        pytest.param(
            an_fpga_look(1), [a_want(1, RESIZE, "a"), a_want(1, DECODE, "b")], {},
            ("never", f"too few FPGA regions are there for {DECODE}, {RESIZE} at the same time"),
            id="two functions, one region",
        ),
        pytest.param(
            an_fpga_look(2, taken={"resize": [1]}), [a_want(1, RESIZE, "a"), a_want(1, DECODE, "b")], {},
            ("busy", f"too few FPGA regions are free for {DECODE}, {RESIZE} at the same time"),
            id="two functions, one free region",
        ),
        pytest.param(
            an_fpga_look(1, channels=4, taken={"decode": [1]}), [a_want(1, RESIZE)], {},
            ("busy", "wants 1 fpga.tasuki.dev/resize, none is free"), id="a region in use as something else",
        ),
    ],
)  # fmt: skip
def test_refusals(look: Look, wants: list[Want], wish: dict[str, Any], expected: tuple[str, str]) -> None:
    assert refused(look, *wants, **wish) == expected


@pytest.mark.parametrize(
    ("look", "wants", "wish"),
    [
        pytest.param(a_look(2, 4, [3, 2]), [a_want(2)], {"pack": True}, id="pack, one device has enough"),
        pytest.param(a_look(2, 4, [2, 2], floating=1), [a_want(2)], {"pack": True}, id="pack, one of two is enough"),
        pytest.param(a_look(4, 4, [3, 3, 3, 3]), [a_want(4)], {"spread": True}, id="spread, one slice on each"),
        pytest.param(a_look(2, 4, [2], floating=1), [a_want(2)], {"spread": True}, id="spread, each has one to spare"),
        pytest.param(a_mig_look([1, 1]), [a_want(2, MIG)], {"spread": True}, id="spread over GPUs with partitions"),
        pytest.param(a_mig_look([3]), [a_want(3, MIG)], {"pack": True}, id="pack partitions on one GPU"),
        pytest.param(a_look(1, 1, promised_bytes=[40 * GI]), [a_want()], {"memory_bytes": 40 * GI}, id="all memory"),
        pytest.param(a_look(1, 4), [a_want(3)], {"memory_bytes": 40 * GI}, id="memory counts once for a device"),
        pytest.param(an_fpga_look(1), [a_want(1, RESIZE)], {"memory_bytes": GI}, id="memory concerns no FPGA"),
        pytest.param(
            a_look(1, 4, kind=DeviceKind.VACCEL, memory_bytes=0), [a_want()], {"memory_bytes": GI},
            id="memory concerns no vAccel sessions",
        ),
        pytest.param(
            a_look(2, 10, one_per_request=True), [a_want(container="a"), a_want(container="b")], {},
            id="one for each of two requests",
        ),
    ],
)  # fmt: skip
def test_fits(look: Look, wants: list[Want], wish: dict[str, Any]) -> None:
    assert placed(look, *wants, **wish).picks


# Which devices are chosen.


@pytest.mark.parametrize(
    ("look", "wants", "costs", "expected"),
    [
        pytest.param(a_look(3, 8, [2, 1]), [a_want()], COSTS, {1: 1}, id="packed: the least waiting among those begun"),
        pytest.param(a_look(3, 8, [4, 3]), [a_want()], COSTS, {1: 1}, id="packed until its users keep it busy"),
        pytest.param(a_look(3, 8, [5, 5]), [a_want()], COSTS, {2: 1}, id="and then another is begun"),
        pytest.param(
            a_look(3, 8, [1, 1]), [a_want()], replace(COSTS, policy="spread"), {2: 1}, id="spread: one without users"
        ),
        pytest.param(a_look(3, 4, [2, 1]), [a_want()], IDLE_USERS, {0: 1}, id="the fullest, if users do not matter"),
        pytest.param(a_look(3, 4, [4, 1]), [a_want()], IDLE_USERS, {1: 1}, id="the fullest with room"),
        pytest.param(a_look(3, 4, [3, 1]), [a_want(2)], IDLE_USERS, {1: 2}, id="the fullest with room for all"),
        pytest.param(
            a_look(3, 4, [2, 2, 3], users=[1, 1, 1]), [a_want()], COSTS, {2: 1}, id="as many users: the fullest"
        ),
        pytest.param(
            a_look(3, 4, [2, 2, 3], users=[1, 1, 1]), [a_want()], SPREADING, {0: 1}, id="spreading: the emptiest"
        ),
        pytest.param(a_look(3, 4, [4, 3, 2]), [a_want(3)], COSTS, {1: 1, 2: 2}, id="over several if it must be"),
        pytest.param(a_look(2, 4), [a_want(4)], COSTS, {0: 4}, id="one device rather than two"),
        pytest.param(
            a_look(2, 4, [2, 1], floating=2), [a_want()], IDLE_USERS, {1: 1}, id="where a slice is free for certain"
        ),
        pytest.param(a_look(2, 4, unhealthy=[0]), [a_want()], COSTS, {1: 1}, id="a healthy one"),
        pytest.param(a_look(4, links=pairs_linked(4)), [a_want(2)], COSTS, {0: 1, 1: 1}, id="a linked pair"),
        pytest.param(
            a_look(4, 1, [1], links=pairs_linked(4)), [a_want(2)], COSTS, {2: 1, 3: 1}, id="the linked pair left"
        ),
        pytest.param(
            a_look(4, 1, [0, 1], links=pairs_linked(4)), [a_want()], COSTS, {0: 1}, id="one without its partner"
        ),
        pytest.param(a_look(8, 1, [1, 0, 1]), [a_want(4)], COSTS, {4: 1, 5: 1, 6: 1, 7: 1}, id="below one switch"),
        pytest.param(
            a_look(20, 1, [1], links=pairs_linked(20)), [a_want(2)], COSTS, {2: 1, 3: 1}, id="a pair of very many"
        ),
    ],
)  # fmt: skip
def test_choice(look: Look, wants: list[Want], costs: Costs, expected: dict[int, int]) -> None:
    assert slices(placed(look, *wants, costs=costs)) == expected


@pytest.mark.parametrize(
    ("look", "count", "wish", "expected"),
    [
        pytest.param(a_mig_look([2, 2], [0, 0, 1]), 1, {}, {5: 1}, id="of a GPU that is cut up already"),
        pytest.param(a_mig_look([3, 3, 3], [1, 0, 0, 1, 1]), 1, {}, {8: 1}, id="of the GPU with the fewest left"),
        pytest.param(a_mig_look([2, 3]), 3, {}, {4: 1, 5: 1, 6: 1}, id="of one GPU rather than two"),
        pytest.param(a_mig_look([2, 3], [1]), 2, {"pack": True}, {4: 1, 5: 1}, id="packed on one GPU"),
        pytest.param(a_mig_look([2, 3]), 2, {"spread": True}, {2: 1, 4: 1}, id="spread over two GPUs"),
    ],
)
def test_choice_of_partitions(look: Look, count: int, wish: dict[str, Any], expected: dict[int, int]) -> None:
    placement = placed(look, a_want(count, MIG), **wish)

    assert slices(placement, MIG) == expected


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        pytest.param(an_fpga_look(3, loaded=["", "resize"]), {1: 1}, id="where it is loaded"),
        pytest.param(an_fpga_look(3, loaded=["decode"]), {1: 1}, id="not over another function"),
        pytest.param(an_fpga_look(2, [{"resize": 9.0}, {"resize": 2.0}]), {1: 1}, id="where it is programmed soonest"),
        pytest.param(an_fpga_look(2, channels=4, taken={"resize": [0, 1]}), {1: 1}, id="a region in use for it"),
        pytest.param(an_fpga_look(2, taken={"decode": [1]}), {1: 1}, id="no region in use for another"),
    ],
)
def test_choice_of_regions(look: Look, expected: dict[int, int]) -> None:
    assert slices(placed(look, a_want(1, RESIZE)), RESIZE) == expected


def test_functions_of_one_pod_get_regions_of_their_own() -> None:
    look = an_fpga_look(3, [{"decode": 1.0, "resize": 1.0}, {"resize": 1.0}, {"decode": 1.0}], loaded=["resize"])

    placement = placed(look, a_want(2, RESIZE, "a"), a_want(1, DECODE, "b"))

    assert slices(placement, RESIZE) == {0: 1, 1: 1}
    assert slices(placement, DECODE) == {2: 1}


def test_no_region_serves_two_functions_of_a_pod() -> None:
    placement = placed(an_fpga_look(2, channels=4), a_want(1, RESIZE, "a"), a_want(1, DECODE, "b"))

    assert slices(placement, DECODE) == {0: 1}
    assert slices(placement, RESIZE) == {1: 1}


def test_a_function_makes_room_for_one_that_has_less_choice() -> None:
    # Decode alone would sit where it is loaded; there is a GPU, too, which nobody disputes.
    functions = [{"decode": 1.0, "resize": 1.0}, {"decode": 1.0}, {"resize": 1.0}]
    look = together(a_look(1), an_fpga_look(3, functions, loaded=["decode"]))

    placement = placed(look, a_want(1, DECODE, "a"), a_want(2, RESIZE, "b"), a_want(1, container="c"))

    assert slices(placement, DECODE) == {2: 1}
    assert slices(placement, RESIZE) == {1: 1, 3: 1}
    assert slices(placement) == {0: 1}


# What it costs.


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        pytest.param(0, 0.0, id="nobody"),
        pytest.param(1, 3600 * 0.25 / 1.25, id="one other"),
        pytest.param(4, 3600 * 1 / 2, id="as much as the device can do"),
    ],
)
def test_sharing(users: int, expected: float) -> None:
    placement = placed(a_look(1, 10, [users]), a_want())

    assert placement.seconds.get(SHARING, 0.0) == pytest.approx(expected)


def test_sharing_is_the_mean_over_devices() -> None:
    placement = placed(a_look(2, 2, [1, 0]), a_want(2), spread=True)

    assert placement.seconds[SHARING] == pytest.approx(3600 * 0.25 / 1.25 / 2)


@pytest.mark.parametrize(
    ("look", "want"),
    [
        pytest.param(a_look(1, 1, users=[3]), a_want(), id="a device that is not shared"),
        pytest.param(an_fpga_look(1, channels=4, taken={"resize": [2]}), a_want(1, RESIZE), id="an FPGA's channels"),
    ],
)
def test_nobody_waits_for(look: Look, want: Want) -> None:
    assert SHARING not in placed(look, want).seconds


def test_vaccel_sessions_wait_for_each_other() -> None:
    assert placed(a_look(1, 4, [1], kind=DeviceKind.VACCEL), a_want()).seconds[SHARING] == pytest.approx(720)


@pytest.mark.parametrize(
    ("count", "best_first"),
    [
        pytest.param(1, [1, 3, 5, 7, 2, 6, 4, 8], id="one GPU: odd ones first, the fullest node of them first"),
        pytest.param(2, [2, 3, 6, 7, 4, 5, 8], id="two: no four are broken up while there are two besides"),
        pytest.param(4, [4, 5, 6, 7, 8], id="four: the fullest node"),
    ],
)
def test_packed_nodes_are_filled_up_before_larger_rooms_are_broken_up(count: int, best_first: list[int]) -> None:
    seconds = {free: placed(a_look(free), a_want(count)).seconds[FRAGMENTATION] for free in range(count, 9)}

    assert sorted(seconds, key=lambda free: seconds[free]) == best_first


@pytest.mark.parametrize(
    ("look", "want", "expected"),
    [
        pytest.param(a_look(8), a_want(1), 150, id="one of 8 GPUs: one job less of 1, 2, 4 and 8"),
        pytest.param(a_look(4), a_want(1), 70, id="one of 4 GPUs: one job less of 1, 2 and 4"),
        pytest.param(a_look(3), a_want(1), 13, id="one of 3 GPUs: one job less of 1, and of 3, which are rare"),
        pytest.param(a_look(1), a_want(1), 10, id="the last GPU"),
        pytest.param(a_look(8), a_want(8), 344, id="all 8 GPUs"),
        pytest.param(a_look(4, floating=1), a_want(1), 13, id="one of 4 GPUs of which one is in use somewhere"),
        pytest.param(a_look(2, 4), a_want(1), 1800, id="a share of an unused GPU"),
        pytest.param(a_look(1, 4, [1]), a_want(1), 0, id="a share of a GPU in use"),
        pytest.param(a_mig_look([2]), a_want(2, MIG), 10, id="partitions of an unused GPU"),
        pytest.param(a_mig_look([2], [1]), a_want(1, MIG), 0, id="a partition of a GPU in use"),
        pytest.param(an_fpga_look(1), a_want(1, RESIZE), 10, id="an unused region"),
        pytest.param(an_fpga_look(1, loaded=["decode"]), a_want(1, RESIZE), 20, id="a region loaded with another"),
        pytest.param(
            an_fpga_look(1, channels=2, taken={"resize": [1]}), a_want(1, RESIZE), 0, id="a channel of a region in use"
        ),
        pytest.param(a_look(1, 4, kind=DeviceKind.VACCEL), a_want(), 0, id="a vAccel session"),
    ],
)
def test_fragmentation(look: Look, want: Want, expected: float) -> None:
    assert placed(look, want).seconds.get(FRAGMENTATION, 0.0) == pytest.approx(expected)
    assert FRAGMENTATION not in placed(look, want, costs=SPREADING).seconds


@pytest.mark.parametrize(
    ("look", "run_hours", "expected"),
    [
        pytest.param(an_fpga_look(1), 1.0, 2.0, id="empty"),
        pytest.param(an_fpga_look(1, loaded=["decode"]), 4.0, 0.5, id="another function, a long run"),
        pytest.param(an_fpga_look(1, loaded=["resize"]), 1.0, 0.0, id="loaded"),
        pytest.param(an_fpga_look(1, channels=2, taken={"resize": [1]}), 1.0, 0.0, id="being loaded for another pod"),
    ],
)
def test_programming(look: Look, run_hours: float, expected: float) -> None:
    placement = placed(look, a_want(1, RESIZE), costs=Costs(run_hours=run_hours))

    assert placement.seconds.get(PROGRAMMING, 0.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("look", "want", "expected"),
    [
        pytest.param(a_look(2), a_want(1), 0.0, id="one GPU"),
        pytest.param(a_look(2, links=all_linked(2)), a_want(2), 3600 * (0.7e-6 + 2**30 / 300e9), id="a published link"),
        pytest.param(a_look(2), a_want(2), 3600 * (1e-6 + 2**30 / 12e9), id="the switch above both"),
        pytest.param(
            a_look(3, links={(0, 1): WayBetween(LinkKind.NVLINK, 12e9, 0.0)}), a_want(3),
            3600 * (2 / 3 * 1e-6 + 2**30 / 12e9), id="the mean over pairs",
        ),
        pytest.param(a_look(2, 2), a_want(2), 0.0, id="shares exchange nothing"),
    ],
)  # fmt: skip
def test_exchange(look: Look, want: Want, expected: float) -> None:
    assert placed(look, want).seconds.get(EXCHANGE, 0.0) == pytest.approx(expected)


def edge(bytes_per_second: float, latency_seconds: float) -> float:
    """Thirty items of 1 MB a second, for an hour."""
    return 3600 * 30 * (latency_seconds + 1e6 / bytes_per_second)


@pytest.mark.parametrize(
    ("look", "want", "part", "expected"),
    [
        pytest.param(a_look(1, 2), a_want(), 0, edge(5000e9, 0), id="the same device"),
        pytest.param(a_mig_look([2], [1]), a_want(1, MIG), 1, edge(5000e9, 0), id="partitions of one GPU"),
        pytest.param(a_look(2, 1, [1], links=all_linked(2)), a_want(), 0, edge(300e9, 0.7e-6), id="a published link"),
        pytest.param(a_look(2, 1, [1]), a_want(), 0, edge(12e9, 1e-6), id="below one switch"),
        pytest.param(
            a_look(5, 1, [1, 1, 1, 1]), a_want(), 0, edge(10e9 * 5 / 6, 3.5e-6), id="another switch and memory node"
        ),
        pytest.param(a_look(1), a_want(), None, edge(10e9, 2.5e-6), id="a neighbour without device"),
        pytest.param(a_look(1), None, 0, edge(10e9, 2.5e-6), id="a pod without device"),
        pytest.param(a_look(2), a_want(2), 1, edge(5000e9, 0), id="the nearest of several devices"),
    ],
)
def test_edges(look: Look, want: Want | None, part: int | None, expected: float) -> None:
    placement = placed(look, *([want] if want else []), neighbours=(Neighbour(part, 1_000_000, 30.0),))

    assert placement.seconds[EDGES] == pytest.approx(expected)


def test_neighbours_draw_a_pod_near() -> None:
    look = a_look(8, 1, [0, 0, 0, 0, 0, 1])

    assert slices(placed(look, a_want(2), neighbours=(Neighbour(5, 6_220_800, 30.0),))) == {4: 1, 6: 1}


def test_neighbours_do_not_tear_apart_what_exchanges_more() -> None:
    # The neighbour is nearest to device 2, whose partner is taken.
    look = a_look(4, 1, [0, 0, 0, 1], links=pairs_linked(4))

    assert slices(placed(look, a_want(2), neighbours=(Neighbour(3, 1000, 1.0),))) == {0: 1, 1: 1}
    assert slices(placed(look, a_want(2), neighbours=(Neighbour(3, 10**9, 30.0),))) == {0: 1, 2: 1}


def test_a_pod_without_wishes_costs_nothing_anywhere() -> None:
    assert placed(a_look(1, trouble="its daemon is silent")) == Placement()


@pytest.mark.parametrize(
    ("watts", "expected"),
    [pytest.param(GPU_WATTS, 2 * GPU_WATTS, id="of all its devices"), pytest.param(0.0, 0.0, id="unknown")],
)
def test_watts(watts: float, expected: float) -> None:
    assert placed(a_look(4, watts=watts), a_want(2)).watts == expected


# Pods that see GPUs without holding slices of them.


def seen(look: Look, count: int, memory_bytes: int = 0) -> tuple[int, ...] | tuple[str, str]:
    outcome = place(Shape(visible_gpus=count, memory_bytes=memory_bytes), (), look, COSTS)
    if isinstance(outcome, Placement):
        return outcome.visible
    return "never" if outcome.never else "busy", outcome.reason


@pytest.mark.parametrize(
    ("look", "count", "expected"),
    [
        pytest.param(a_look(4, users=[2, 1, 0, 1]), 2, (1, 2), id="those with the fewest users"),
        pytest.param(a_look(3, unhealthy=[1]), -1, (0, 2), id="all that are healthy"),
        pytest.param(a_look(2), 3, ("never", "is to see 3 GPUs, it has 2"), id="more than there are"),
        pytest.param(a_look(2, unhealthy=[0]), 2, ("busy", "is to see 2 GPUs, 1 is healthy"), id="more than healthy"),
        pytest.param(an_fpga_look(), -1, ("never", "is to see 1 GPU, it has none"), id="no GPU"),
        pytest.param(a_mig_look([2]), 1, ("never", "is to see 1 GPU, it has none"), id="only partitions"),
        pytest.param(a_look(1, trouble="its daemon is silent"), 1, ("busy", "its daemon is silent"), id="trouble"),
    ],
)
def test_visible_gpus(look: Look, count: int, expected: object) -> None:
    assert seen(look, count) == expected


def test_visible_gpus_with_memory() -> None:
    look = a_look(2, promised_bytes=[30 * GI, 0])

    assert seen(look, 1, 20 * GI) == (1,)
    assert seen(look, 2, 20 * GI) == ("busy", "is to see 2 GPUs with 20Gi of memory left, 1 has that much")
    assert seen(look, 1, 80 * GI) == ("never", "is to see 1 GPU with 80Gi of memory, it has none")


def test_visible_gpus_are_shared() -> None:
    outcome = place(Shape(visible_gpus=2), (), a_look(2, users=[1, 1]), COSTS)

    assert isinstance(outcome, Placement)
    assert outcome.seconds == {SHARING: pytest.approx(720)}
    assert outcome.watts == 2 * GPU_WATTS


# Who gets what.


def test_an_init_containers_slices_are_handed_on() -> None:
    wants = (
        a_want(3, container="prepare", turn=Turn.INIT),
        a_want(1, container="proxy", turn=Turn.SIDECAR),
        a_want(2, container="warm", turn=Turn.INIT),
        a_want(1, container="main"),
    )

    placement = placed(a_look(3), *wants)

    assert placement.picks == (
        Pick("main", NVIDIA_GPU, 1, 1),
        Pick("prepare", NVIDIA_GPU, 0, 1),
        Pick("prepare", NVIDIA_GPU, 1, 1),
        Pick("prepare", NVIDIA_GPU, 2, 1),
        Pick("proxy", NVIDIA_GPU, 0, 1),
        Pick("warm", NVIDIA_GPU, 1, 1),
        Pick("warm", NVIDIA_GPU, 2, 1),
    )


def test_resources_that_nobody_publishes_are_left_alone() -> None:
    wants = (a_want(1), a_want(1, "example.com/card"))

    outcome = place(a_shape(wants[:1]), wants, a_look(1), COSTS)

    assert isinstance(outcome, Placement)
    assert outcome.picks == (Pick("main", NVIDIA_GPU, 0, 1),)
