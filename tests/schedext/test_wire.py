"""Bytes as a live kube-scheduler sends and reads them."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedext import wire
from schedext.wire import FilterResult, Victims, WireError

Json = dict[str, Any]

# As the scheduler's informer keeps a pod: without apiVersion, kind and managedFields.
POD: Json = {
    "metadata": {
        "name": "train-0",
        "namespace": "research",
        "uid": "7a6c0a5e-0000-4000-8000-000000000001",
        "resourceVersion": "123",
        "creationTimestamp": None,
        "labels": None,
        "annotations": {"tasuki.dev/spread": "devices"},
    },
    "spec": {
        "volumes": None,
        "containers": [
            {"name": "main", "image": "a", "resources": {"limits": {"nvidia.com/gpu": "2"}, "requests": None}}
        ],
        "initContainers": None,
        "schedulerName": "default-scheduler",
        "tolerations": None,
    },
    "status": {"phase": "Pending", "conditions": None},
}


def body(**content: Any) -> bytes:
    return json.dumps(content).encode()


def lower(value: Any, keys: frozenset[str]) -> Any:
    """As a client that writes these keys in lower case."""
    if isinstance(value, dict):
        return {key.lower() if key in keys else key: lower(each, keys) for key, each in value.items()}
    return [lower(each, keys) for each in value] if isinstance(value, list) else value


def test_the_question_of_a_live_scheduler() -> None:
    asked = wire.extender_args(body(Pod=POD, Nodes=None, NodeNames=["node-0", "node-1"]))

    assert asked.names == ["node-0", "node-1"]
    assert asked.pod.metadata.uid == "7a6c0a5e-0000-4000-8000-000000000001"
    assert asked.pod.metadata.annotations == {"tasuki.dev/spread": "devices"}
    assert asked.pod.spec.containers is not None
    assert asked.pod.spec.containers[0].resources.limits == {"nvidia.com/gpu": "2"}


@pytest.mark.parametrize("count", [0, 5_000, 100_000])
def test_many_names(count: int) -> None:
    names = [f"node-{each}" for each in range(count)]

    assert wire.extender_args(body(Pod=POD, Nodes=None, NodeNames=names)).names == names


def test_more_names_than_there_can_be_nodes_are_refused() -> None:
    with pytest.raises(WireError, match="100001 NodeNames; at most 100000"):
        wire.extender_args(body(Pod=POD, NodeNames=["n"] * 100_001))


def test_no_names_are_no_nodes() -> None:
    assert wire.extender_args(body(Pod=POD, Nodes=None, NodeNames=None)).names == []


@pytest.mark.parametrize("spelled", [str.lower, str.upper, lambda key: key[0].lower() + key[1:]])
def test_names_of_any_case_are_read(spelled: Any) -> None:
    asked = wire.extender_args(body(**{spelled("Pod"): POD, spelled("NodeNames"): ["a"]}))
    bound = wire.binding_args(
        body(**{spelled("PodName"): "p", spelled("PodNamespace"): "n", spelled("PodUID"): "u", spelled("Node"): "a"})
    )

    assert (asked.pod.metadata.name, asked.names) == ("train-0", ["a"])
    assert (bound.name, bound.namespace, bound.uid, bound.node) == ("p", "n", "u", "a")


@pytest.mark.parametrize("names", [None, "absent"])
@pytest.mark.parametrize("key", ["Nodes", "nodes"])
def test_whole_nodes_are_refused_with_the_remedy(key: str, names: str | None) -> None:
    content: Json = {"Pod": POD, key: {"metadata": {}, "items": [{"metadata": {"name": "a"}}]}}
    if names is None:
        content["NodeNames"] = None

    with pytest.raises(WireError, match="nodeCacheCapable: true"):
        wire.extender_args(body(**content))


BAD = [
    pytest.param(b"", "truncated", id="nothing"),
    pytest.param(b'{"Pod": {"metadata": {"na', "truncated", id="truncated"),
    pytest.param(b"nodes, please", "malformed", id="no JSON"),
    pytest.param(b"[]", "object", id="a list"),
    pytest.param(b"null", "object", id="null"),
    pytest.param(b'{"Pod": {"metadata": {"name": "\xff"}}, "PodName": "\xff"}', "utf-8", id="no UTF-8"),
    pytest.param(b'{"a":' * 100_000, "recursion", id="endlessly deep"),
]


@pytest.mark.parametrize("read", [wire.extender_args, wire.preemption_args, wire.binding_args])
@pytest.mark.parametrize(("content", "told"), BAD)
def test_what_is_no_question_is_told_so(read: Any, content: bytes, told: str) -> None:
    with pytest.raises(WireError, match=f"(?s)the scheduler extender API v1.*{told}"):
        read(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param({}, "no Pod", id="empty"),
        pytest.param({"Pod": None, "NodeNames": ["a"]}, "no Pod", id="no pod"),
        pytest.param({"Pod": POD, "NodeNames": "a"}, "NodeNames", id="one name"),
        pytest.param({"Pod": POD, "NodeNames": [1]}, "NodeNames", id="a number for a name"),
        pytest.param({"Pod": {"metadata": []}, "NodeNames": ["a"]}, "metadata", id="a broken pod"),
    ],
)
def test_what_is_wrong_in_a_question_is_named(content: Json, told: str) -> None:
    with pytest.raises(WireError, match=told):
        wire.extender_args(body(**content))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    for read in (wire.extender_args, wire.preemption_args, wire.binding_args):
        with suppress(WireError):
            read(content)

    assert wire.names_in(content) == []


def test_names_are_found_beside_a_pod_that_cannot_be_read() -> None:
    assert wire.names_in(body(Pod=[], NodeNames=["a", "b"])) == ["a", "b"]
    assert wire.names_in(body(pod=[], nodenames=["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize("missing", ["PodName", "PodNamespace", "PodUID", "Node"])
def test_a_binding_says_all(missing: str) -> None:
    content = {"PodName": "p", "PodNamespace": "n", "PodUID": "u", "Node": "a"}

    with pytest.raises(WireError, match=f"empty {missing}"):
        wire.binding_args(body(**{**content, missing: ""}))
    with pytest.raises(WireError, match=missing):
        wire.binding_args(body(**{key: value for key, value in content.items() if key != missing}))


VICTIMS: Json = {
    "node-0": {"Pods": [{"UID": "u1"}, {"UID": "u2"}], "NumPDBViolations": 1},
    "node-1": {"Pods": None, "NumPDBViolations": 0},
}
PREEMPTION_KEYS = frozenset({"Pod", "NodeNameToMetaVictims", "Pods", "UID", "NumPDBViolations"})


@pytest.mark.parametrize("spelled", ["exact", "lower"])
def test_victims_are_read_by_node(spelled: str) -> None:
    content: Json = {"Pod": POD, "NodeNameToVictims": None, "NodeNameToMetaVictims": VICTIMS}

    asked = wire.preemption_args(body(**(lower(content, PREEMPTION_KEYS) if spelled == "lower" else content)))

    assert asked.pod.metadata.name == "train-0"
    assert asked.victims == {"node-0": Victims(("u1", "u2"), 1), "node-1": Victims()}


def test_whole_victims_are_refused_with_the_remedy() -> None:
    whole = {"node-0": {"Pods": [POD], "NumPDBViolations": 0}}

    with pytest.raises(WireError, match="nodeCacheCapable: true"):
        wire.preemption_args(body(Pod=POD, NodeNameToVictims=whole, NodeNameToMetaVictims=None))


def test_victims_are_answered_as_they_came() -> None:
    asked = wire.preemption_args(body(Pod=POD, NodeNameToMetaVictims={"node-0": VICTIMS["node-0"]}))

    answered = json.loads(wire.preemption_result(asked.victims))

    assert answered == {"NodeNameToMetaVictims": {"node-0": VICTIMS["node-0"]}}


def test_a_node_without_victims_is_never_answered() -> None:
    victims = {"node-0": Victims(), "node-1": Victims(("u",), 1)}

    answered = json.loads(wire.preemption_result(victims))

    assert answered["NodeNameToMetaVictims"] == {"node-1": {"Pods": [{"UID": "u"}], "NumPDBViolations": 1}}


def test_answers_are_spelled_as_go_spells_them() -> None:
    result = FilterResult(names=["a"], failed={"b": "busy"}, unresolvable={"c": "never"})

    assert wire.filter_result(result) == (
        b'{"Nodes":null,"NodeNames":["a"],"FailedNodes":{"b":"busy"},'
        b'"FailedAndUnresolvableNodes":{"c":"never"},"Error":""}'
    )
    assert wire.priorities([b'{"Host":"a","Score":3}', b'{"Host":"b","Score":0}']) == (
        b'[{"Host":"a","Score":3},{"Host":"b","Score":0}]'
    )
    assert wire.priorities([]) == b"[]"
    assert wire.equal_priorities(["a", "b"]) == b'[{"Host":"a","Score":0},{"Host":"b","Score":0}]'
    assert wire.binding_result() == b'{"Error":""}'
    assert json.loads(wire.binding_result('no "room"')) == {"Error": 'no "room"'}


def test_two_results_share_nothing() -> None:
    FilterResult().names.append("a")

    assert FilterResult() == FilterResult(names=[], failed={}, unresolvable={}, error="")
