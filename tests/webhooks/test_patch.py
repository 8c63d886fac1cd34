"""JSON Patch: ours does what an independent library does, and the helpers make what they promise."""

import copy
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhooks.patch import (
    Operation,
    Operations,
    PatchError,
    add,
    append,
    apply,
    covers,
    plain,
    pointer,
    prepend,
    remove,
    replace,
    set_keys,
)
from webhooks.pod import EnvVar

KEYS = st.sampled_from(["a", "b", "~", "/", "~1", "a/b~c", "", "0", "-", "é"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
DOCUMENTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)


def by_library(document: Any, operations: Operations) -> Any:
    return jsonpatch.apply_patch(copy.deepcopy(document), [plain(operation) for operation in operations])


def paths(value: Any, *above: str | int) -> list[str]:
    """Every place in a document, and some beside it."""
    found = [pointer(*above)] if above else []
    if isinstance(value, dict):
        found += [pointer(*above, "absent"), *(path for key in value for path in paths(value[key], *above, key))]
    if isinstance(value, list):
        found += [pointer(*above, step) for step in ("-", len(value), len(value) + 1, -1, "00", "a")]
        found += [path for index, each in enumerate(value) for path in paths(each, *above, index)]
    return found


@st.composite
def patches(draw: st.DrawFn) -> tuple[Any, Operation]:
    document = draw(DOCUMENTS)
    path = draw(st.sampled_from(paths(document)))
    made = st.sampled_from([add, replace])
    return document, draw(st.just(remove(path)) | st.builds(lambda make, value: make(path, value), made, VALUES))


@settings(max_examples=250, deadline=None)
@given(patches())
def test_an_operation_does_what_the_library_does_or_is_refused_by_both(patch: tuple[Any, Operation]) -> None:
    document, operation = patch
    try:
        expected = by_library(document, (operation,))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError):
        with pytest.raises(PatchError):
            apply(copy.deepcopy(document), [operation])
        return

    assert apply(copy.deepcopy(document), [operation]) == expected


def test_a_later_operation_does_not_change_an_earlier_ones_value() -> None:
    first = add("/env", [{"name": "A"}])

    apply({}, [first, add("/env/-", {"name": "B"}), add("/env/0/value", "1")])

    assert first == add("/env", [{"name": "A"}])


def test_an_error_names_the_operation() -> None:
    with pytest.raises(PatchError, match="remove /spec/absent: there is no such place"):
        apply({"spec": {}}, [remove("/spec/absent")])


@settings(max_examples=100, deadline=None)
@given(there=st.lists(SCALARS, max_size=3), wanted=st.lists(SCALARS, max_size=3))
def test_values_are_put_after_or_before_those_of_a_list(there: list[Any], wanted: list[Any]) -> None:
    document = {"list": there} if there else {}

    after = by_library(document, append("/list", there, wanted))
    before = by_library(document, prepend("/list", there, wanted))

    assert after.get("list", []) == there + wanted
    assert before.get("list", []) == wanted + there


@settings(max_examples=100, deadline=None)
@given(there=st.dictionaries(KEYS, SCALARS, max_size=3), wanted=st.dictionaries(KEYS, SCALARS, max_size=3))
def test_keys_are_set_once(there: dict[str, Any], wanted: dict[str, Any]) -> None:
    after = by_library({"labels": there} if there else {}, set_keys("/labels", there, wanted)).get("labels", {})

    assert after == there | wanted
    assert set_keys("/labels", after, wanted) == ()


@pytest.mark.parametrize("there", [pytest.param({}, id="absent"), pytest.param({"a": "1"}, id="there already")])
def test_nothing_wanted_makes_nothing(there: dict[str, str]) -> None:
    assert set_keys("/labels", there, {}) == append("/list", [*there], []) == prepend("/list", [*there], []) == ()


def test_structs_are_written_as_kubernetes_spells_them_without_defaults() -> None:
    made = add("/env/-", EnvVar(name="A", value_from={"fieldRef": {"fieldPath": "metadata.name"}}))

    assert plain(made) == {
        "op": "add",
        "path": "/env/-",
        "value": {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    }


def test_a_removal_carries_no_value() -> None:
    assert plain(remove("/spec/priority")) == {"op": "remove", "path": "/spec/priority"}


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        pytest.param({"a": 1, "b": 2}, {"a": 1}, True, id="a key more"),
        pytest.param({"b": 2}, {"a": 1}, False, id="a key less"),
        pytest.param({"a": {"x": 1, "y": 2}}, {"a": {"y": 2}}, True, id="a key more further in"),
        pytest.param([{"a": 1, "b": 2}], [{"a": 1}], True, id="a key more in a list"),
        pytest.param([1, 2], [1], False, id="a longer list"),
        pytest.param([2, 1], [1, 2], False, id="another order"),
        pytest.param(None, {"a": 1}, False, id="nothing for an object"),
        pytest.param("ab", ["a", "b"], False, id="a text for a list"),
        pytest.param((1,), [1], True, id="a tuple for a list"),
    ],
)
def test_covering(found: object, wanted: object, expected: bool) -> None:
    assert covers(found, wanted) is expected
