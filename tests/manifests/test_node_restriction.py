"""The admission policy, evaluated by the CEL project's own implementation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cel_expr_python import cel  # type: ignore[import-untyped]  # ships no types

from tasuki.kube.names import ACCELERATOR_NODE_PLURAL, NFD_NODE_NAME_LABEL, NODE_FEATURE_PREFIX

NODE: Final = "worker-1"
DAEMON: Final = "system:serviceaccount:tasuki-system:tasuki-deviceplugin"
NOT_ASKED: Final = "not asked"


class Policy:
    """Decides as the API server does: conditions, then variables in order, then validations."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        names = ("request", "object", "oldObject", "variables")
        self._environment = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))

    def _value(self, expression: str, known: Mapping[str, Any]) -> Any:
        found = self._environment.compile(expression).eval(data=dict(known))
        # The API server, too, refuses what it cannot evaluate; no request here should need that.
        assert found.type() != cel.Type.ERROR, f"{expression}: {found.value()}"
        return found.plain_value()

    def refusals(self, request: Mapping[str, Any], new: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
        """Why a request is refused, in the policy's words; empty if it is not."""
        variables: dict[str, Any] = {}
        known = {"request": request, "object": new, "oldObject": old, "variables": variables}
        if not all(self._value(each["expression"], known) for each in self._spec["matchConditions"]):
            return [NOT_ASKED]
        for each in self._spec["variables"]:
            variables[each["name"]] = self._value(each["expression"], known)
        return [
            each["message"] if "message" in each else str(self._value(each["messageExpression"], known))
            for each in self._spec["validations"]
            if not self._value(each["expression"], known)
        ]


@pytest.fixture(scope="module")
def policy() -> Policy:
    path = Path(__file__).parents[2] / "manifests" / "deviceplugin" / "base" / "node-restriction.yaml"
    found, _binding = yaml.safe_load_all(path.read_text())
    return Policy(found["spec"])


def request(resource: str, user: str = DAEMON, node: str | None = NODE) -> dict[str, Any]:
    extra = {} if node is None else {"extra": {"authentication.kubernetes.io/node-name": [node]}}
    return {"resource": {"resource": resource}, "userInfo": {"username": user, **extra}}


def node(
    name: str = NODE,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, **others}
    if labels is not None:
        metadata["labels"] = dict(labels)
    if annotations is not None:
        metadata["annotations"] = dict(annotations)
    return {"metadata": metadata, "spec": dict(spec or {})}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({"zone": "a"}, {"zone": "a", "nvidia.com/gpu.count": "8"}, id="a label of NVIDIA's is added"),
        pytest.param({"zone": "a"}, {"zone": "a", "vaccel.tasuki.dev/plugin.noop": "true"}, id="a label of vAccel's"),
        pytest.param({"nvidia.com/gpu.count": "8"}, {"nvidia.com/gpu.count": "7"}, id="one is changed"),
        pytest.param({"nvidia.com/gpu.count": "8"}, {}, id="one is removed"),
        pytest.param(None, {"nvidia.com/gpu.count": "8"}, id="the first label"),
        pytest.param({"nvidia.com/gpu.count": "8"}, None, id="the last label"),
    ],
)
def test_the_daemon_labels_its_own_node(
    policy: Policy, old: Mapping[str, str] | None, new: Mapping[str, str] | None
) -> None:
    assert policy.refusals(request("nodes"), node(labels=new), node(labels=old)) == []


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        pytest.param(node(labels={}), node(labels={"zone": "b"}), "labels", id="another's label added"),
        pytest.param(node(labels={"zone": "a"}), node(labels={"zone": "b"}), "labels", id="another's label changed"),
        pytest.param(node(labels={"zone": "a"}), node(), "labels", id="another's label removed"),
        pytest.param(node(), node(spec={"unschedulable": True}), "spec", id="cordoned"),
        pytest.param(node(spec={"taints": []}), node(spec={"taints": [{"key": "x"}]}), "spec", id="tainted"),
        pytest.param(node(), node(annotations={"a": "b"}), "annotations", id="annotated"),
        pytest.param(node(), node(finalizers=["a/b"]), "finalizers", id="kept from being deleted"),
        pytest.param(node(finalizers=["a/b"]), node(), "finalizers", id="a finalizer removed"),
        pytest.param(node(), node(ownerReferences=[{"uid": "gone"}]), "owners", id="given an owner that is not there"),
        pytest.param(node(ownerReferences=[{"uid": "a"}]), node(), "owners", id="an owner removed"),
        pytest.param(
            node("worker-2"),
            node("worker-2"),
            "the daemon of node worker-1 may not write nodes worker-2",
            id="other node",
        ),
    ],
)
def test_the_daemon_changes_nothing_else_of_nodes(
    policy: Policy, old: dict[str, Any], new: dict[str, Any], refusal: str
) -> None:
    [reason] = policy.refusals(request("nodes"), new, old)

    assert refusal in reason


def test_a_token_without_a_node_writes_nothing(policy: Policy) -> None:
    reasons = policy.refusals(request("nodes", node=None), node(), node())

    assert any("the token names no node" in reason for reason in reasons)


@pytest.mark.parametrize(
    "user",
    [
        pytest.param("system:node:worker-1", id="kubelet"),
        pytest.param("system:serviceaccount:kube-system:node-controller", id="controller"),
        pytest.param("admin", id="person"),
        pytest.param("tasuki-deviceplugin", id="person of the same name"),
    ],
)
def test_others_are_not_asked(policy: Policy, user: str) -> None:
    assert policy.refusals(request("nodes", user, None), node(labels={"zone": "b"}), node()) == [NOT_ASKED]


@pytest.mark.parametrize(
    ("name", "allowed"), [pytest.param(NODE, True, id="own"), pytest.param("worker-2", False, id="another's")]
)
def test_an_accelerator_node_is_its_own_nodes(policy: Policy, name: str, allowed: bool) -> None:
    for old in (None, node(name)):
        assert (policy.refusals(request(ACCELERATOR_NODE_PLURAL), node(name), old) == []) == allowed


@pytest.mark.parametrize(
    ("namespace", "regarding", "allowed"),
    [
        pytest.param("default", {"kind": "Node", "name": NODE}, True, id="its node"),
        pytest.param("default", {"kind": "Node", "name": "worker-2"}, False, id="another node"),
        pytest.param("default", {"kind": "Pod", "name": NODE}, False, id="a pod"),
        pytest.param("kube-system", {"kind": "Node", "name": NODE}, False, id="another namespace"),
    ],
)
def test_events_are_about_its_own_node(
    policy: Policy,
    namespace: str,
    regarding: dict[str, str],
    allowed: bool,
) -> None:
    event = {"metadata": {"name": f"{NODE}.1f", "namespace": namespace}, "regarding": regarding}

    assert (policy.refusals(request("events"), event, None) == []) == allowed


@pytest.mark.parametrize(
    ("name", "label", "allowed"),
    [
        pytest.param(NODE, NODE, True, id="its own"),
        pytest.param("worker-2", NODE, False, id="another's object"),
        pytest.param(NODE, "worker-2", False, id="for another node"),
    ],
)
def test_node_features_are_its_own_nodes(policy: Policy, name: str, label: str, allowed: bool) -> None:
    metadata = {"name": f"{NODE_FEATURE_PREFIX}{name}", "labels": {NFD_NODE_NAME_LABEL: label}}

    assert (policy.refusals(request("nodefeatures"), {"metadata": metadata}, None) == []) == allowed
