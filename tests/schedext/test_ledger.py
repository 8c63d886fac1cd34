"""Who holds what of a node's devices, rule by rule."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedext.demand import Turn, Want, at_once
from schedext.ledger import Charge, Claim, Condition, Entry, charge, has_more_room, occupancy
from schedext.look import Layout, Look, Occupancy, Offer, Part
from tasuki.devices.model import DeviceKind
from tests.schedext.accelerators import GIB, GPU

MEMORY = 80 * GIB
PARTS = {"a": 0, "b": 1, "c": 2}


def part(index: int, kind: DeviceKind = DeviceKind.GPU, functions: tuple[tuple[str, float], ...] = ()) -> Part:
    return Part(kind, "A100", MEMORY, index, functions=functions)


def a_layout(replicas: int = 4, resource: str = GPU) -> Layout:
    offer = Offer(resource, tuple((index, replicas) for index in range(3)))
    return Layout(tuple(part(index) for index in range(3)), {resource: offer})


LAYOUT = a_layout()
HEALTHY = Condition((True,) * 3, ("",) * 3)


def wants(text: str) -> tuple[Want, ...]:
    """`setup:init=2 main=1`, in the kubelet's order."""
    found = []
    for word in text.split():
        name, _, count = word.partition("=")
        container, _, turn = name.partition(":")
        found.append(Want(container, Turn(turn or "main"), GPU, int(count)))
    return tuple(found)


def slices(**containers: str) -> dict[str, dict[str, dict[str, int]]]:
    """`main="aab"`: two of a, one of b."""
    return {name: {GPU: {device: text.count(device) for device in text}} for name, text in containers.items()}


def entry(container: str, text: str, unlisted: int = 0) -> Entry:
    counts = {PARTS[device]: text.count(device) for device in text}
    return Entry(container, GPU, tuple(sorted(counts.items())), unlisted)


def charged(claim: Claim) -> Charge:
    return charge(claim, PARTS, {GPU})


def spelled(found: Charge) -> str:
    """`aab ?2`: two of a, one of b, two of nobody knows which."""
    where = "".join("abc"[part] * count for _, part, count in found.taken)
    return " ".join(filter(None, (where, *(f"?{count}" for _, count in found.floating))))


@pytest.mark.parametrize(
    ("wanted", "bound", "said", "perhaps", "expected"),
    [
        pytest.param("main=2", {}, [], [], "?2", id="nothing is known of it"),
        pytest.param("main=2", {"main": "ab"}, [], [], "ab", id="as it was bound"),
        pytest.param("main=2", {"main": "ab"}, [entry("main", "bc")], [], "bc", id="the kubelet decided otherwise"),
        pytest.param("main=2", {}, [entry("main", "ac")], [], "ac", id="the kubelet alone knows"),
        pytest.param("main=2", {"main": "az"}, [], [], "?2", id="bound to a device that is not there"),
        pytest.param("main=1", {"main": "a"}, [], [entry("main", "b")], "a", id="a predecessor's entry"),
        pytest.param("main=1", {}, [], [entry("main", "b")], "b", id="perhaps a predecessor's, but nothing better"),
        pytest.param("one=1 two=1", {}, [entry("one", "a")], [], "a ?1", id="the second is still being allocated"),
        pytest.param(
            "one=1 two=1", {"one": "a", "two": "b"}, [entry("one", "c")], [], "bc", id="the second as it was bound"
        ),
        pytest.param(
            "one=1 two=1", {}, [entry("one", "a")], [entry("two", "b")], "ab", id="the second perhaps a predecessor's"
        ),
        pytest.param("one=1", {}, [entry("one", "a")], [entry("one", "b")], "a", id="old and new entry of a container"),
        pytest.param("setup:init=1 main=1", {"setup": "a", "main": "a"}, [], [], "a", id="handed on"),
        pytest.param("setup:init=3 main=1", {"setup": "abc", "main": "a"}, [], [], "abc", id="the first needs more"),
        pytest.param("setup:init=1 main=1", {}, [entry("main", "b")], [], "b", id="handed on, says the kubelet"),
        pytest.param("setup:init=3 main=1", {}, [entry("main", "b")], [], "b ?2", id="what was not handed on floats"),
        pytest.param(
            "setup:init=1 main=1",
            {"setup": "a", "main": "a"},
            [entry("main", "b")],
            [],
            "b",
            id="what the first was bound to was not followed",
        ),
        pytest.param(
            "proxy:sidecar=1 setup:init=1 main=2",
            {"proxy": "a", "setup": "b", "main": "bc"},
            [],
            [],
            "abc",
            id="a sidecar keeps its own",
        ),
        pytest.param(
            "setup:init=2 proxy:sidecar=1 main=1",
            {"setup": "aa", "proxy": "a", "main": "a"},
            [],
            [],
            "aa",
            id="several of one device",
        ),
        pytest.param(
            "setup:init=2 main=2", {"setup": "ab", "main": "cc"}, [], [], "cc", id="bound to what is not handed on"
        ),
        pytest.param("", {}, [entry("main", "ab")], [], "ab", id="its wants cannot be read"),
        pytest.param("main=3", {}, [entry("main", "a", 2)], [], "a", id="not listed is not floating yet"),
        pytest.param("main=3", {"main": "abc"}, [entry("main", "a", 2)], [], "abc", id="not listed, but bound"),
        pytest.param("main=3", {"main": "abb"}, [entry("main", "c", 2)], [], "abc", id="not listed, bound elsewhere"),
    ],
)
def test_what_a_pod_holds(
    wanted: str, bound: dict[str, str], said: list[Entry], perhaps: list[Entry], expected: str
) -> None:
    found = charged(Claim(wants(wanted), 0, slices(**bound), (), tuple(said), tuple(perhaps)))

    assert spelled(found) == expected


def test_what_the_list_leaves_out_is_remembered() -> None:
    assert charged(Claim(wants("main=3"), entries=(entry("main", "a", 2),))).unlisted == ((GPU, 2),)
    bound = charged(Claim(wants("main=3"), 0, slices(main="abb"), (), (entry("main", "a", 2),)))
    assert (bound.unlisted, bound.supposed) == ((), ((GPU, 1, 2),))


def test_resources_of_others_do_not_float() -> None:
    claim = Claim((Want("main", Turn.MAIN, "rdma.dev/nic", 1), Want("main", Turn.MAIN, GPU, 1)))

    assert charged(claim).floating == ((GPU, 1),)


def test_devices_that_are_only_seen() -> None:
    found = charged(Claim(visible=("c", "a", "gone"), memory_bytes=5))

    assert (found.taken, found.parts, found.memory_bytes) == ((), (0, 2), 5)


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    turns = draw(st.lists(st.sampled_from(Turn), min_size=1, max_size=4))
    # The kubelet starts init containers and sidecars before the others.
    turns.sort(key=lambda turn: turn is Turn.MAIN)
    devices = {f"c{n}": draw(st.text("abc", min_size=1, max_size=4)) for n, _ in enumerate(turns)}
    wanted = tuple(Want(name, turn, GPU, len(text)) for (name, text), turn in zip(devices.items(), turns, strict=True))
    told = {w.container for w in wanted if w.turn is not Turn.INIT and draw(st.booleans())}
    entries = tuple(
        entry(name, "".join(draw(st.permutations(list(text)))), 0) for name, text in devices.items() if name in told
    )
    bound = slices(**devices) if draw(st.booleans()) else None
    return Claim(wanted, 0, bound, (), entries)


@given(claims())
def test_a_pod_counts_for_what_it_holds_at_once(claim: Claim) -> None:
    found = charged(claim)
    taken = sum(count for *_, count in found.taken)
    floating = sum(count for _, count in found.floating)

    most = at_once(claim.wants)[GPU]
    assert taken + floating == most
    if claim.slices is None and not claim.entries:
        assert taken == 0


def test_the_sum_of_all_pods() -> None:
    charges = {
        "one": charged(Claim(wants("main=2"), 0, slices(main="aa"))),
        "two": charged(Claim(wants("main=2"), 7, slices(main="ab"))),
        "sees": charged(Claim(memory_bytes=3, visible=("b",))),
        "floats": charged(Claim(wants("main=1"))),
    }
    share = MEMORY // 4

    assert occupancy(LAYOUT, Condition((True, False, True), ("", "", "f")), charges) == Occupancy(
        healthy=(True, False, True),
        loaded=("", "", "f"),
        taken=((GPU, (3, 1, 0)),),
        floating=((GPU, 1),),
        users=(2, 2, 0),
        promised_bytes=(2 * share + 7, 7 + 3, 0),
    )


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        pytest.param(a_layout(1), MEMORY, id="whole"),
        pytest.param(a_layout(3), MEMORY // 3, id="shared"),
        pytest.param(a_layout(5, "other.dev/gpu"), MEMORY // 5, id="offered under another name now"),
        pytest.param(Layout(LAYOUT.parts), MEMORY, id="not offered any more"),
    ],
)
def test_memory_of_who_did_not_say(layout: Layout, expected: int) -> None:
    held = {"one": charged(Claim(wants("main=1"), 0, slices(main="b")))}

    assert occupancy(layout, HEALTHY, held).promised_bytes == (0, expected, 0)


def unlisted(*row: int) -> Condition:
    return Condition(HEALTHY.healthy, HEALTHY.loaded, {GPU: row})


def test_held_slices_without_a_name_go_to_those_whose_list_is_cut() -> None:
    charges = {
        "two": charged(Claim(wants("main=2"), entries=(entry("main", "", 2),))),
        "one": charged(Claim(wants("main=3"), entries=(entry("main", "a", 2),))),
        "whole": charged(Claim(wants("main=1"), entries=(entry("main", "c"),))),
    }
    found = occupancy(LAYOUT, unlisted(1, 2, 0), charges)

    assert found.taken == ((GPU, (2, 2, 1)),)
    assert found.floating == ((GPU, 1),)
    assert found.users == (1, 2, 1)
    assert found.promised_bytes == (2 * (MEMORY // 4), 2 * (MEMORY // 4), MEMORY // 4)


def test_what_is_known_of_a_cut_list_is_not_given_to_others() -> None:
    charges = {
        "bound": charged(Claim(wants("main=2"), 0, slices(main="aa"), (), (entry("main", "", 2),))),
        "cut": charged(Claim(wants("main=2"), entries=(entry("main", "", 2),))),
    }
    found = occupancy(LAYOUT, unlisted(2, 2, 0), charges)

    assert found.taken == ((GPU, (2, 2, 0)),)
    assert found.floating == ()


def test_a_cut_list_of_which_nothing_is_held_floats() -> None:
    charges = {"cut": charged(Claim(wants("main=2"), entries=(entry("main", "", 2),)))}

    assert occupancy(LAYOUT, HEALTHY, charges).floating == ((GPU, 2),)


def a_look(
    *,
    taken: tuple[int, ...] = (2, 2, 2),
    floating: int = 0,
    healthy: tuple[bool, ...] = (True, True, True),
    promised: tuple[int, ...] = (9, 9, 9),
    trouble: str = "",
    layout: Layout = LAYOUT,
    users: tuple[int, ...] = (1, 1, 1),
) -> Look:
    floats = ((GPU, floating),) if floating else ()
    return Look(layout, Occupancy(healthy, ("",) * 3, ((GPU, taken),), floats, users, promised), trouble)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(a_look(), a_look(taken=(2, 1, 2)), True, id="a slice is given back"),
        pytest.param(a_look(), a_look(taken=(2, 3, 2)), False, id="a slice is taken"),
        pytest.param(a_look(), a_look(), False, id="nothing changed"),
        pytest.param(a_look(), a_look(taken=(3, 1, 2)), True, id="moved from one device to another"),
        pytest.param(a_look(floating=1), a_look(), True, id="a floating one is gone"),
        pytest.param(a_look(floating=1), a_look(taken=(2, 3, 2)), False, id="a floating one is found"),
        pytest.param(a_look(healthy=(True, False, True)), a_look(), True, id="a device is healthy again"),
        pytest.param(
            a_look(taken=(2, 4, 2), healthy=(True, False, True)),
            a_look(taken=(2, 4, 2)),
            True,
            id="a full device is healthy again",
        ),
        pytest.param(a_look(), a_look(healthy=(True, False, True)), False, id="a device fails"),
        pytest.param(a_look(trouble="t"), a_look(), True, id="the device plugin is back"),
        pytest.param(a_look(), a_look(taken=(0, 0, 0), trouble="t"), False, id="the device plugin is away"),
        pytest.param(a_look(), a_look(promised=(9, 8, 9)), True, id="memory is given back"),
        pytest.param(a_look(), a_look(promised=(9, 10, 9)), False, id="memory is promised"),
        pytest.param(a_look(), a_look(users=(1, 0, 1)), True, id="what was in use as another resource is not any more"),
        pytest.param(a_look(), a_look(users=(1, 2, 1)), False, id="another user comes"),
        pytest.param(a_look(), a_look(layout=a_layout(5)), True, id="cut into more slices"),
        pytest.param(a_look(), a_look(layout=a_layout(3)), False, id="cut into fewer slices"),
        pytest.param(a_look(), a_look(layout=a_layout(1, "other.dev/gpu")), True, id="a new resource"),
    ],
)
def test_room(before: Look, after: Look, expected: bool) -> None:
    assert has_more_room(after, before) is expected


def test_charges_do_not_depend_on_the_order_of_what_is_said() -> None:
    row: Mapping[str, Mapping[str, Mapping[str, int]]] = {"main": {GPU: {"b": 1, "a": 1}}}

    assert charged(Claim(wants("main=2"), 0, row)) == charged(Claim(wants("main=2"), 0, slices(main="ab")))
