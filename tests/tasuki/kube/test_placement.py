import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasuki.kube.placement import PlacementError, Plan, plan_text, read_plan, read_slices, slices_text

names = st.text(min_size=1, max_size=8)
slices = st.dictionaries(names, st.dictionaries(names, st.dictionaries(names, st.integers(1, 64), max_size=3)))


@given(slices)
def test_slices_are_read_as_they_were_written(written: dict[str, dict[str, dict[str, int]]]) -> None:
    assert read_slices(slices_text(written)) == written


def test_equal_slices_are_the_same_text() -> None:
    one = {"a": {"r": {"x": 1, "y": 2}}, "b": {"r": {"z": 1}}}
    other = {"b": {"r": {"z": 1}}, "a": {"r": {"y": 2, "x": 1}}}

    assert slices_text(one) == slices_text(other) == '{"a":{"r":{"x":1,"y":2}},"b":{"r":{"z":1}}}'


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = Plan(node="n1", until="2026-01-31T12:00:00Z", slices={"main": {"nvidia.com/gpu": {"GPU-1": 1}}})

    assert read_plan(plan_text(plan)) == plan


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("GPU-1,GPU-2", id="devices alone"),
        pytest.param('{"main":{"nvidia.com/gpu":{"GPU-1":0}}}', id="no slices of a device"),
        pytest.param('{"main":{"nvidia.com/gpu":["GPU-1"]}}', id="a list"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"a":' * 60_000 + "1" + "}" * 60_000, id="too long"),
    ],
)
def test_what_are_no_slices_is_told(text: str) -> None:
    with pytest.raises(PlacementError):
        read_slices(text)


@pytest.mark.parametrize("text", ["", "{}", '{"node":"a"}', '{"node":"","until":"x"}', '{"node":1,"until":"x"}'])
def test_what_is_no_plan_is_told(text: str) -> None:
    with pytest.raises(PlacementError):
        read_plan(text)
