import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import admit, pod, scene
from webhooks.mutations.annotations import unknown_annotations
from webhooks.scene import NOTHING


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("tasuki.dev/gpu-slices", "tasuki.dev/gpu-slice", id="a letter too many"),
        pytest.param("tasuki.dev/Modules", "tasuki.dev/modules", id="upper case"),
        pytest.param("tasuki.dev/cach", "tasuki.dev/cache", id="a letter is missing"),
    ],
)
def test_an_unknown_annotation_is_told_with_the_nearest_known_name(name: str, expected: str) -> None:
    admitted = admit(unknown_annotations, pod(annotations={name: "x"}), scene())

    [warning] = admitted.change.warnings
    assert repr(name) in warning
    assert warning.endswith(f"nearest known name is {expected}")
    assert admitted.operations == []


def test_an_unknown_label_is_told() -> None:
    admitted = admit(unknown_annotations, pod(labels={"tasuki.dev/data-flow": "x"}), scene())

    [warning] = admitted.change.warnings
    assert "label 'tasuki.dev/data-flow' is unknown" in warning
    assert warning.endswith("tasuki.dev/dataflow")


def test_a_name_like_no_other_has_no_nearest() -> None:
    admitted = admit(unknown_annotations, pod(annotations={"tasuki.dev/zzz": ""}), scene())

    [warning] = admitted.change.warnings
    assert "no known name is like it" in warning


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tasuki.dev/cache", id="ours"),
        pytest.param("tasuki.dev/cache-buckets", id="one that we write"),
        pytest.param("fpga.tasuki.dev/anything", id="a sub-domain"),
        pytest.param("nottasuki.dev/anything", id="a domain that ends alike"),
        pytest.param("tasuki.dev", id="no domain"),
        pytest.param("example.com/tasuki.dev/x", id="someone else's"),
    ],
)
def test_other_annotations_are_left_in_peace(name: str) -> None:
    admitted = admit(unknown_annotations, pod(annotations={name: "x"}), scene())

    assert admitted.change is NOTHING


@pytest.mark.parametrize(
    ("labels", "annotations", "expected"),
    [
        pytest.param({"tasuki.dev/cache": "x"}, {}, "must be an annotation", id="an annotation written as label"),
        pytest.param({}, {"tasuki.dev/dataflow": "x"}, "must be a label", id="a label written as annotation"),
    ],
)
def test_a_known_name_in_the_wrong_place_is_told(
    labels: dict[str, str], annotations: dict[str, str], expected: str
) -> None:
    admitted = admit(unknown_annotations, pod(labels=labels, annotations=annotations), scene())

    [warning] = admitted.change.warnings
    assert warning.endswith(expected)


@pytest.mark.parametrize("value", ["", " \n"], ids=["empty", "white space"])
@pytest.mark.parametrize(
    "name", ["gpu-slice", "gpu-sharing", "gpu-devices", "modules", "modules-containers", "vaccel", "cache"]
)
def test_an_annotation_without_a_value_is_told_to_have_no_effect(name: str, value: str) -> None:
    admitted = admit(unknown_annotations, pod(annotations={f"tasuki.dev/{name}": value}), scene())

    assert admitted.change.warnings == (f"annotation tasuki.dev/{name} is empty and has no effect",)


@pytest.mark.parametrize("name", ["spread", "pack", "gpu-memory", "objective", "cache-buckets"])
def test_what_others_read_may_be_empty(name: str) -> None:
    assert admit(unknown_annotations, pod(annotations={f"tasuki.dev/{name}": ""}), scene()).change is NOTHING


@pytest.mark.parametrize("name", ["devices", "slices"])
def test_devices_that_a_user_writes_are_told_to_reserve_nothing(name: str) -> None:
    admitted = admit(unknown_annotations, pod(annotations={f"tasuki.dev/{name}": "GPU-1"}), scene())

    [warning] = admitted.change.warnings
    assert f"tasuki.dev/{name} is the scheduler's to write" in warning
    assert len(warning) < 200


def test_only_some_of_many_unknown_names_are_told() -> None:
    many = {f"tasuki.dev/name-{index}": "" for index in range(1000)}

    admitted = admit(unknown_annotations, pod(annotations=many), scene())

    assert len(admitted.change.warnings) == 6
    assert admitted.change.warnings[-1].startswith("995 more annotations")


@settings(max_examples=100, deadline=None)
@given(name=st.text(max_size=400))
def test_any_name_makes_short_warnings_on_one_line(name: str) -> None:
    strange = {f"tasuki.dev/{name}": "x"}

    admitted = admit(unknown_annotations, pod(labels=strange, annotations=strange), scene())

    assert all(len(warning) < 200 and warning.isprintable() for warning in admitted.change.warnings)
