"""When a device is handed out, and when not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.health import (
    Fault,
    HealthBook,
    XidFilter,
    XidListError,
    judged,
    probed,
    record,
    without_lost_parts,
    xid_filter,
)
from deviceplugin.machine import Machine
from tests.builders import a_gpu, a_machine, a_mig_instance

MACHINE = a_machine(a_gpu(0), a_gpu(1, mig=(a_mig_instance(1, 0), a_mig_instance(1, 1))))
PRESENT = ("GPU-0", "GPU-1")
ALL = XidFilter()


def fault(gpu: str | None = "GPU-0", *, xid: int | None = 79, gi: int | None = None, ci: int | None = None) -> Fault:
    return Fault(gpu, f"XID {xid}", xid, gi, ci)


def book_of(*faults: Fault, critical: XidFilter = ALL) -> HealthBook:
    book = HealthBook()
    for each in faults:
        book = record(book, each, PRESENT, critical)
    return book


def sick(machine: Machine) -> set[str]:
    devices = [d for g in machine.gpus for d in (g.device, *(i.device for i in g.mig))]
    return {d.id for d in devices if not d.health.healthy}


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        pytest.param([fault()], {"GPU-0"}, id="a GPU"),
        pytest.param([fault("GPU-1")], {"GPU-1", "MIG-1-0", "MIG-1-1"}, id="a whole GPU takes its MIG devices along"),
        pytest.param([fault("GPU-1", gi=1, ci=0)], {"GPU-1", "MIG-1-0"}, id="a MIG device leaves its sibling alone"),
        pytest.param([fault("GPU-1", gi=2)], {"GPU-1", "MIG-1-1"}, id="a GPU instance"),
        pytest.param([fault(None)], {"GPU-0", "GPU-1", "MIG-1-0", "MIG-1-1"}, id="nobody knows which GPU"),
        pytest.param([fault(xid=31)], set(), id="an application's own error"),
        pytest.param([fault(xid=None)], {"GPU-0"}, id="no XID at all, such as a lost GPU"),
        pytest.param([fault("GPU-9")], set(), id="a GPU that is not here"),
    ],
)
def test_faults(faults: list[Fault], expected: set[str]) -> None:
    assert sick(judged(MACHINE, book_of(*faults))) == expected


def test_the_reason_is_kept() -> None:
    assert judged(MACHINE, book_of(fault())).gpus[0].device.health.reason == "XID 79"


@pytest.mark.parametrize(
    ("disabled", "enabled", "critical", "ignored"),
    [
        pytest.param("", "", {48, 79}, {13, 31, 43, 45, 68, 109}, id="as the peer by default"),
        pytest.param("48, 79", "", {74}, {13, 48, 79}, id="more to ignore"),
        pytest.param("all", "", set(), {13, 48, 79}, id="none is critical"),
        pytest.param("xids", "48", {48}, {13, 79}, id="none but the enabled"),
        pytest.param("", "31", {31, 79}, {13}, id="an application's error enabled"),
        pytest.param("48", "48", {48}, {13}, id="enabled wins"),
        pytest.param("48", "ALL", {13, 48, 79}, set(), id="everything enabled"),
    ],
)
def test_xid_lists(disabled: str, enabled: str, critical: set[int], ignored: set[int]) -> None:
    chosen = xid_filter(disabled, enabled)

    assert all(chosen.is_critical(xid) for xid in critical)
    assert not any(chosen.is_critical(xid) for xid in ignored)


@pytest.mark.parametrize("text", ["48;79", "abc", "-1", "4 8"])
def test_a_wrong_xid_list_is_refused(text: str) -> None:
    with pytest.raises(XidListError, match="DP_DISABLE_HEALTHCHECKS"):
        xid_filter(text, "")


def probe(book: HealthBook, *findings: tuple[float, str], recovery_seconds: float = 60) -> HealthBook:
    for now, finding in findings:
        book = probed(book, "GPU-0", finding, now, recovery_seconds)
    return book


@pytest.mark.parametrize(
    ("findings", "recovered"),
    [
        pytest.param([(0, "")], False, id="one good answer proves nothing"),
        pytest.param([(0, ""), (59, "")], False, id="not long enough"),
        pytest.param([(0, ""), (30, ""), (60, "")], True, id="well for long enough"),
        pytest.param([(0, ""), (30, "reset required"), (60, ""), (90, "")], False, id="a finding starts it over"),
        pytest.param([(0, ""), (30, "lost"), (40, ""), (100, "")], True, id="and then it can still end"),
    ],
)
def test_probation(findings: list[tuple[float, str]], recovered: bool) -> None:
    book = probe(book_of(fault()), *findings)

    assert (not sick(judged(MACHINE, book))) is recovered


def test_without_probation_a_device_stays_out() -> None:
    book = probe(book_of(fault()), (0, ""), (1e9, ""), recovery_seconds=0)

    assert sick(judged(MACHINE, book)) == {"GPU-0"}


def test_a_new_fault_starts_the_probation_over() -> None:
    book = probe(book_of(fault()), (0, ""), (59, ""))
    book = probe(record(book, fault(xid=48), PRESENT, ALL), (61, ""), (100, ""))

    assert sick(judged(MACHINE, book)) == {"GPU-0"}


def test_a_probe_says_nothing_about_another_gpu() -> None:
    book = book_of(fault("GPU-1"))

    assert probe(book, (0, ""), (100, "")) == book


def test_an_ailment_ends_with_the_mig_device_that_had_it() -> None:
    book = book_of(fault("GPU-1", gi=1, ci=0), fault("GPU-0"))
    anew = replace(a_mig_instance(1, 0), device=replace(a_mig_instance(1, 0).device, id="MIG-new"))
    after = a_machine(a_gpu(0), a_gpu(1, mig=(anew, a_mig_instance(1, 1))))

    assert sick(judged(after, without_lost_parts(book, MACHINE, after))) == {"GPU-0"}
    assert without_lost_parts(book, MACHINE, MACHINE) == book


@given(st.lists(st.tuples(st.sampled_from(["", "sick"]), st.floats(1, 100)), max_size=20))
def test_recovery_needs_an_unbroken_run_of_good_probes(steps: list[tuple[str, float]]) -> None:
    book, now, run_started = book_of(fault()), 0.0, None
    for finding, seconds in steps:
        now += seconds
        book = probed(book, "GPU-0", finding, now, 50)
        if finding:
            run_started = None
        elif run_started is None:
            run_started = now
        if not book.ailments:
            assert run_started is not None
            assert now - run_started >= 50
            return
