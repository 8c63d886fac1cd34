"""The admission policy that narrows what the scheduler extender writes, evaluated by the CEL project's own code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tasuki.kube.names import ROOM_FREED

EXTENDER: Final = "system:serviceaccount:tasuki-system:tasuki-schedext"
NOT_ASKED: Final = "not asked"

Refusals = Callable[..., list[str]]


@pytest.fixture(scope="module")
def refusals(evaluate: Callable[[str, Mapping[str, Any]], Any], schedext_folder: Path) -> Refusals:
    """Why the change of a node is refused, decided as the API server does: conditions, variables, validations."""
    policy, _binding = yaml.safe_load_all((schedext_folder / "base" / "node-restriction.yaml").read_text())

    def run(old: Mapping[str, Any], new: Mapping[str, Any], user: str = EXTENDER) -> list[str]:
        variables: dict[str, Any] = {}
        request = {"resource": {"resource": "nodes"}, "userInfo": {"username": user}}
        known = {"request": request, "object": new, "oldObject": old, "variables": variables}
        if not all(evaluate(each["expression"], known) for each in policy["spec"]["matchConditions"]):
            return [NOT_ASKED]
        for each in policy["spec"]["variables"]:
            variables[each["name"]] = evaluate(each["expression"], known)
        return [each["message"] for each in policy["spec"]["validations"] if not evaluate(each["expression"], known)]

    return run


def node(spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "worker-1", **metadata}, **({} if spec is None else {"spec": dict(spec)})}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(node(), node(annotations={ROOM_FREED: "1"}), id="the first annotation"),
        pytest.param(
            node(annotations={"a": "b"}), node(annotations={"a": "b", ROOM_FREED: "1"}), id="beside another's"
        ),
        pytest.param(node(annotations={ROOM_FREED: "1"}), node(annotations={ROOM_FREED: "2"}), id="changed"),
        pytest.param(node(annotations={ROOM_FREED: "1"}), node(), id="removed"),
        pytest.param(
            node({"taints": [{"key": "x"}]}, labels={"zone": "a"}, finalizers=["f"], ownerReferences=[{"uid": "1"}]),
            node(
                {"taints": [{"key": "x"}]},
                labels={"zone": "a"},
                finalizers=["f"],
                ownerReferences=[{"uid": "1"}],
                annotations={ROOM_FREED: "1"},
                managedFields=[{"manager": "tasuki-schedext"}],
            ),
            id="all else stays",
        ),
    ],
)
def test_the_extender_wakes_pods(refusals: Refusals, old: dict[str, Any], new: dict[str, Any]) -> None:
    assert refusals(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        pytest.param(node(), node(annotations={"a": "b"}), "annotation", id="another's annotation added"),
        pytest.param(
            node(annotations={"a": "b"}), node(annotations={"a": "c", ROOM_FREED: "1"}), "annotation", id="changed"
        ),
        pytest.param(node(annotations={"a": "b"}), node(annotations={ROOM_FREED: "1"}), "annotation", id="removed"),
        pytest.param(node(annotations={"a": "b"}), node(), "annotation", id="all annotations removed"),
        pytest.param(
            node(), node(annotations={f"{ROOM_FREED}.x": "1"}), "annotation", id="one whose name begins like ours"
        ),
        pytest.param(node(), node(labels={"zone": "a"}), "labels", id="a first label"),
        pytest.param(node(labels={"zone": "a"}), node(labels={"zone": "b"}), "labels", id="a label changed"),
        pytest.param(node(labels={"zone": "a"}), node(), "labels", id="labels removed"),
        pytest.param(node({}), node({"unschedulable": True}), "spec", id="cordoned"),
        pytest.param(node({"taints": []}), node({"taints": [{"key": "x"}]}), "spec", id="tainted"),
        pytest.param(node(), node({"taints": [{"key": "x"}]}), "spec", id="a first spec"),
        pytest.param(node({"podCIDR": "10.0.0.0/24"}), node(), "spec", id="spec removed"),
        pytest.param(node(), node(finalizers=["x"]), "finalizers", id="kept from being deleted"),
        pytest.param(node(finalizers=["x"]), node(), "finalizers", id="a finalizer removed"),
        pytest.param(node(finalizers=["x"]), node(finalizers=["y"]), "finalizers", id="a finalizer changed"),
        pytest.param(node(), node(ownerReferences=[{"uid": "gone"}]), "owners", id="given to the garbage collector"),
        pytest.param(node(ownerReferences=[{"uid": "1"}]), node(), "owners", id="an owner removed"),
        pytest.param(
            node(ownerReferences=[{"uid": "1"}]),
            node(ownerReferences=[{"uid": "gone"}]),
            "owners",
            id="an owner changed",
        ),
    ],
)
def test_the_extender_changes_nothing_else_of_nodes(
    refusals: Refusals, old: dict[str, Any], new: dict[str, Any], refusal: str
) -> None:
    [reason] = refusals(old, new)

    assert refusal in reason


@pytest.mark.parametrize(
    "user",
    [
        pytest.param("system:node:worker-1", id="kubelet"),
        pytest.param("system:serviceaccount:tasuki-system:tasuki-deviceplugin", id="device plugin"),
        pytest.param("system:serviceaccount:kube-system:node-controller", id="controller"),
        pytest.param("admin", id="person"),
        pytest.param("tasuki-schedext", id="person of the same name"),
    ],
)
def test_others_are_not_asked(refusals: Refusals, user: str) -> None:
    assert refusals(node(), node({"unschedulable": True}, labels={"a": "b"}), user) == [NOT_ASKED]


def test_it_holds_in_whichever_namespace_the_extender_runs(refusals: Refusals) -> None:
    assert refusals(node(), node(labels={"a": "b"}), EXTENDER.replace("tasuki-system", "elsewhere")) != [NOT_ASKED]


def test_every_way_brings_the_policy_and_its_binding(extender: list[dict[str, Any]]) -> None:
    [policy] = [each for each in extender if each["kind"] == "ValidatingAdmissionPolicy"]
    [binding] = [each for each in extender if each["kind"] == "ValidatingAdmissionPolicyBinding"]

    assert policy["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
