"""Whose call it is, and which slices were meant for it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin import bound
from deviceplugin.bound import Advice, Ask, Outcome, Pending, PodName, PodOnNode, advise, choice_of
from deviceplugin.node_status import Holder
from tasuki.devices.model import Slice, slices_of
from tasuki.devices.preference import Policy, PreferenceError, pack, spread
from tests.builders import a_device

GPU = "nvidia.com/gpu"
AT = 1000.0


def slices(devices: int, replicas: int | None = None) -> list[Slice]:
    return [s for i in range(devices) for s in slices_of(a_device(i), replicas)]


def named(text: str, among: Sequence[Slice]) -> list[Slice]:
    return [s for s in among if s.id.removeprefix("GPU-") in text.split()]


def an_ask(text: str, resource: str = GPU) -> Ask:
    """`main 2` nobody chose for; `main 2 = 0 3` and `main 2 = 1*2` somebody did."""
    asked, _, chosen = text.partition("=")
    container, count = asked.split()
    counts: Counter[str] = Counter()
    for word in chosen.split():
        device, _, times = word.partition("*")
        counts[f"GPU-{device}"] += int(times or 1)
    return Ask(container, resource, int(count), choice_of(counts, int(count)))


def a_pod(uid: str, *asks: str, resource: str = GPU) -> PodOnNode:
    return PodOnNode(uid=uid, created=f"2026-01-01T00:00:0{uid}Z", asks=tuple(an_ask(ask, resource) for ask in asks))


def name_of(uid: str) -> PodName:
    return PodName("default", f"pod-{uid}")


def pending(*pods: PodOnNode) -> Pending:
    return bound.all_seen(Pending(), {name_of(pod.uid): pod for pod in pods}, AT)


def chosen(advice: Advice) -> str:
    return " ".join(s.id.removeprefix("GPU-") for s in advice.slices)


def asked(state: Pending, size: int = 1, *, free: Sequence[Slice], required: str = "") -> tuple[str, str]:
    advice = advise(state, GPU, free, named(required, free), size)
    return advice.outcome.value, chosen(advice)


WHOLE = slices(4)


@pytest.mark.parametrize(
    ("pods", "size", "expected"),
    [
        pytest.param([["main 1 = 3"]], 1, ("followed", "3"), id="one pod's choice"),
        pytest.param([["main 2 = 3 1"]], 2, ("followed", "1 3"), id="several devices"),
        pytest.param([["main 1 = 3"], ["main 1 = 3"]], 1, ("followed", "3"), id="two pods with the same choice"),
        pytest.param([["main 1 = 3"], ["main 1 = 2"]], 1, ("followed", "3"), id="the first of two pods"),
        pytest.param([["main 1 = 3"], ["main 2 = 0 1"]], 1, ("followed", "3"), id="another size is another call"),
        pytest.param([["main 1 = 3"], ["main 1"]], 1, ("followed", "3"), id="before a pod that nobody chose for"),
        pytest.param([["main 1"], ["main 1 = 3"]], 1, ("ordinary", "0 1 2"), id="after a pod that nobody chose for"),
        pytest.param([["main 1"]], 1, ("ordinary", "0 1 2 3"), id="nobody chose"),
        pytest.param([], 1, ("ordinary", "0 1 2 3"), id="nobody is known"),
        pytest.param([["main 2 = 3 1"]], 1, ("ordinary", "0 2"), id="nobody asks for so many"),
        pytest.param([["main 2 = 2 1"]], 3, ("ordinary", "0 1 2 3"), id="others were promised too much"),
        pytest.param([["main 1 = 9"]], 1, ("ordinary", "0 1 2 3"), id="a device that is not free"),
        pytest.param([["main 1 = 9"], ["main 1 = 3"]], 1, ("followed", "3"), id="the first choice is not free"),
        pytest.param([["main 2 = 9 3"], ["main 2 = 8 2"]], 2, ("ordinary", "0 1 3"), id="no choice is wholly free"),
        pytest.param([["one 1 = 3", "two 1 = 2"]], 1, ("followed", "3"), id="a pod's first container goes first"),
        pytest.param([["main 2 = 3*1"]], 2, ("ordinary", "0 1 2 3"), id="a choice of too few is none"),
    ],
)
def test_what_is_preferred(pods: list[list[str]], size: int, expected: tuple[str, str]) -> None:
    state = pending(*(a_pod(str(n), *asks) for n, asks in enumerate(pods)))

    assert asked(state, size, free=WHOLE) == expected


@pytest.mark.parametrize(
    ("choice", "free", "required", "expected"),
    [
        pytest.param("1*2", "0::0 1::1 1::2 1::3", "", ("followed", "1::1 1::2"), id="the first free slices"),
        pytest.param("1*2", "0::0 1::1 1::2 1::3", "1::3", ("followed", "1::3 1::1"), id="required ones first"),
        pytest.param("0 1", "0::0 1::1 1::2", "1::2", ("followed", "0::0 1::2"), id="on two devices"),
        pytest.param("1*2", "0::0 1::1 1::2", "0::0", ("ordinary", "0::0 1::1 1::2"), id="required is not chosen"),
        pytest.param("1*2", "0::0 0::1 1::2", "", ("ordinary", "0::0 0::1 1::2"), id="too few slices are free"),
        pytest.param("1*2", "1::0 1::1 1::2", "1::0 1::2", ("followed", "1::0 1::2"), id="all are required"),
    ],
)
def test_slices_of_the_chosen_devices(choice: str, free: str, required: str, expected: tuple[str, str]) -> None:
    state = pending(a_pod("1", f"main 2 = {choice}"))

    assert asked(state, 2, free=named(free, slices(2, 4)), required=required) == expected


def test_another_resource_is_another_call() -> None:
    state = pending(a_pod("1", "main 1 = 3", resource="nvidia.com/other"))

    assert asked(state, free=WHOLE) == ("ordinary", "0 1 2 3")


def test_a_pod_is_served_once_what_was_chosen_is_allocated() -> None:
    state = pending(a_pod("1", "main 1 = 3"), a_pod("2", "main 1 = 2"))

    state = bound.allocated(state, GPU, named("3", WHOLE), AT)

    assert asked(state, free=WHOLE) == ("followed", "2")


def test_a_pods_containers_are_served_one_after_the_other() -> None:
    state = pending(a_pod("1", "one 1 = 3", "two 1 = 2"))

    state = bound.allocated(state, GPU, named("3", WHOLE), AT)

    assert asked(state, free=WHOLE) == ("followed", "2")


def test_of_equal_choices_the_first_is_served() -> None:
    shared = slices(2, 4)
    state = pending(a_pod("2", "main 1 = 1"), a_pod("1", "main 1 = 1", "more 2 = 0*2"))

    state = bound.allocated(state, GPU, named("1::0", shared), AT)
    state = bound.gone(state, name_of("2"))

    assert not bound.is_expected(state, GPU, 1)
    assert bound.is_expected(state, GPU, 2)


def test_who_gets_other_slices_than_were_chosen_is_served() -> None:
    state = pending(a_pod("1", "main 1 = 3"), a_pod("2", "main 1 = 2"))

    state = bound.allocated(state, GPU, named("0", WHOLE), AT)

    assert asked(state, free=WHOLE) == ("followed", "2")


def test_an_allocation_of_another_size_serves_nobody() -> None:
    state = pending(a_pod("1", "main 2 = 3 2"))

    state = bound.allocated(state, GPU, named("3", WHOLE), AT)

    assert asked(state, 2, free=WHOLE) == ("followed", "2 3")


def test_pods_have_their_turns_as_they_came_and_not_by_age() -> None:
    state = bound.seen(Pending(), name_of("2"), a_pod("2", "main 1 = 2"), AT)
    state = bound.seen(state, name_of("1"), a_pod("1", "main 1 = 1"), AT + 1)
    state = bound.seen(state, name_of("2"), a_pod("2", "main 1 = 2"), AT + 2)

    assert asked(state, free=WHOLE) == ("followed", "2")


def test_pods_of_one_list_have_their_turns_by_age() -> None:
    state = pending(a_pod("2", "main 1 = 2"), a_pod("1", "main 1 = 1"))

    assert asked(state, free=WHOLE) == ("followed", "1")


def test_slices_of_several_choices_are_never_mixed() -> None:
    shared = slices(2, 2)
    state = pending(a_pod("1", "main 2 = 1*2"), a_pod("2", "main 2 = 0*2"))

    assert asked(state, 2, free=shared) == ("followed", "1::0 1::1")


def test_as_many_slices_of_a_device_are_left_alone_as_were_promised() -> None:
    shared = slices(2, 3)
    state = pending(a_pod("1", "main 2 = 1*2"))

    assert asked(state, free=shared) == ("ordinary", "0::0 0::1 0::2 1::2")


def a_holder(uid: str, container: str = "main") -> Holder:
    return Holder("default", f"pod-{uid}", container, GPU, ("GPU-0",))


def test_whom_the_kubelet_lists_is_served() -> None:
    state = pending(a_pod("1", "main 1 = 3"), a_pod("2", "main 1 = 2"))

    state = bound.held(state, [a_holder("1")], AT)

    assert asked(state, free=WHOLE) == ("followed", "2")


def test_a_list_from_before_a_pod_says_nothing_of_it() -> None:
    state = pending(a_pod("1", "main 1 = 3"))

    state = bound.held(state, [a_holder("1")], AT - 0.1)

    assert asked(state, free=WHOLE) == ("followed", "3")


def test_a_conclusion_that_the_kubelet_does_not_confirm_is_dropped() -> None:
    state = bound.allocated(pending(a_pod("1", "main 1 = 3")), GPU, named("3", WHOLE), AT)

    early = bound.held(state, [], AT + 1)
    late = bound.held(state, [], AT + bound.LISTED_AFTER_SECONDS)

    assert not bound.is_expected(early, GPU, 1)
    assert bound.is_expected(late, GPU, 1)


def test_a_list_without_a_pod_that_was_listed_changes_nothing() -> None:
    state = bound.held(pending(a_pod("1", "main 1 = 3")), [a_holder("1")], AT)

    state = bound.held(state, [], AT + 100)

    assert not bound.is_expected(state, GPU, 1)


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
def test_a_new_pod_of_the_same_name_is_another(order: tuple[str, str]) -> None:
    before, after = order
    name = PodName("default", "web-0")
    state = bound.seen(Pending(), name, a_pod(before, "main 1 = 3"), AT)
    state = bound.allocated(state, GPU, named("3", WHOLE), AT)

    state = bound.seen(state, name, a_pod(after, "main 1 = 2"), AT + 1)

    assert asked(state, free=WHOLE) == ("followed", "2")


def test_a_list_from_before_a_new_pod_of_the_same_name_says_nothing_of_it() -> None:
    state = bound.seen(pending(a_pod("1", "main 1 = 3")), name_of("1"), a_pod("2", "main 1 = 2"), AT + 1)

    state = bound.held(state, [a_holder("1")], AT + 0.5)

    assert asked(state, free=WHOLE) == ("followed", "2")


def test_what_an_init_container_had_tells_whose_turn_it_is() -> None:
    state = pending(a_pod("1", "main 2 = 2 3"), a_pod("2", "main 2 = 1 2"))

    assert asked(state, 2, free=WHOLE, required="1") == ("followed", "1 2")


def test_what_an_init_container_had_is_never_left_alone() -> None:
    state = pending(a_pod("1", "main 1 = 0"), a_pod("2", "other 2 = 0 1"))

    assert asked(state, 3, free=WHOLE, required="0") == ("ordinary", "0 2 3")


def test_a_started_pod_waits_for_nothing() -> None:
    pod = a_pod("1", "main 1 = 3")
    state = bound.seen(pending(pod), name_of("1"), replace(pod, is_started=True), AT)

    assert not bound.is_expected(state, GPU, 1)
    assert state.has_seen_choices


def test_a_list_of_pods_drops_all_others() -> None:
    state = pending(a_pod("1", "main 1 = 3"), a_pod("2", "main 1 = 2"))

    state = bound.all_seen(state, {name_of("2"): a_pod("2", "main 1 = 2")}, AT)

    assert asked(state, free=WHOLE) == ("followed", "2")


@pytest.mark.parametrize(
    ("available", "required", "size", "message"),
    [
        pytest.param("0", "1", 1, "not all available", id="required and not available"),
        pytest.param("0 1", "", 3, "only 2 are available", id="too few"),
        pytest.param("0 1", "0 1", 1, "2 slices must be included", id="more required than asked for"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(available: str, required: str, size: int, message: str) -> None:
    state = pending(a_pod("1", f"main {size} = 3"))

    with pytest.raises(PreferenceError, match=message):
        advise(state, GPU, named(available, WHOLE), named(required, WHOLE), size)


SHARED = slices(3, 3)
counts = st.dictionaries(st.sampled_from(["GPU-0", "GPU-1", "GPU-2", "GPU-9"]), st.integers(1, 3), max_size=3)
pods = st.lists(st.lists(st.tuples(st.integers(1, 4), counts), min_size=1, max_size=3), max_size=4)


@settings(deadline=None)
@given(
    pods=pods,
    available=st.sets(st.sampled_from(SHARED), min_size=1),
    allocations=st.lists(st.sets(st.sampled_from(SHARED), min_size=1), max_size=3),
    policy=st.sampled_from([spread, pack]),
    picked=st.data(),
)
def test_a_preference_is_always_one_that_the_kubelet_can_use(
    pods: list[list[tuple[int, dict[str, int]]]],
    available: set[Slice],
    allocations: list[set[Slice]],
    policy: Policy,
    picked: st.DataObject,
) -> None:
    size = picked.draw(st.integers(0, len(available)))
    free = sorted(available, key=lambda s: s.id)
    required = picked.draw(st.lists(st.sampled_from(free), unique=True, max_size=size)) if size else []
    state = pending(
        *(
            PodOnNode(str(n), "", tuple(Ask(f"c{m}", GPU, k, choice_of(c, k)) for m, (k, c) in enumerate(asks)))
            for n, asks in enumerate(pods)
        )
    )
    for allocation in allocations:
        state = bound.allocated(state, GPU, sorted(allocation, key=lambda s: s.id), AT)

    advice = advise(state, GPU, free, required, size)
    preferred = policy(advice.slices, required, size)

    assert len(preferred) == len({s.id for s in preferred}) == size
    assert {s.id for s in required} <= {s.id for s in preferred} <= {s.id for s in available}
    if advice.outcome is Outcome.FOLLOWED:
        taken = choice_of(Counter(s.device.id for s in preferred), size)
        assert taken in {choice_of(c, k) for asks in pods for k, c in asks}
    if advice.outcome is Outcome.ORDINARY and len(advice.slices) < len(free):
        meant = {device for asks in pods for _, c in asks for device in c}
        assert all(s in advice.slices or s.device.id in meant for s in free)
