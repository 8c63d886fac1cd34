"""The admission policies, evaluated by the CEL project's own implementation."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jsonpatch
import msgspec
import pytest

from tests.webhook_builders import assert_valid, container, pod, scene
from webhooks.mutations.protection_findings import findings
from webhooks.mutations.tolerations import tolerations
from webhooks.patch import plain
from webhooks.pod import Pod, is_of_daemon_set
from webhooks.policy.model import Policy as TasukiPolicy

Json = dict[str, Any]
Objects = list[Json]
Evaluate = Callable[[str, Mapping[str, Any]], Any]

CPU_ONLY: Final = {"tasuki.dev/cpu-only-priority-class": "low"}
DEFAULT: Final = {"tasuki.dev/default-priority-class": "team"}
NOT_READY: Final = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
USER: Final = {"username": "ana", "groups": ["research"]}


class Policy:
    """Decides as the API server does: conditions, then variables in order, then mutations or validations."""

    def __init__(self, spec: Json, evaluate: Evaluate) -> None:
        self._spec = spec
        self._evaluate = evaluate

    def mutated(self, before: Json, labels: Mapping[str, str] | None = None) -> Json:
        """A pod after the policy, which a second time must leave it as it is."""
        once = self._mutated(before, labels)
        assert self._mutated(once, labels) == once
        assert_valid(once)
        return once

    def _mutated(self, before: Json, labels: Mapping[str, str] | None) -> Json:
        after = copy.deepcopy(before)
        known = self._known(before, labels, "CREATE")
        if known is None:
            return after
        for mutation in self._spec["mutations"]:
            after = jsonpatch.apply_patch(after, self._evaluate(mutation["jsonPatch"]["expression"], known))
        return after

    def refusals(self, asked: Json, labels: Mapping[str, str] | None = None, operation: str = "CREATE") -> list[str]:
        """Why a pod is refused, in the policy's words; empty if it is not."""
        known = self._known(asked, labels, operation)
        if known is None:
            return []
        return [
            self._evaluate(each["messageExpression"], known)
            for each in self._spec["validations"]
            if not self._evaluate(each["expression"], known)
        ]

    def _known(self, asked: Json, labels: Mapping[str, str] | None, operation: str) -> Json | None:
        """What the expressions may speak of; None if a condition leaves the request out."""
        variables: Json = {}
        metadata: Json = {"name": "research"} | ({"labels": dict(labels)} if labels is not None else {})
        known: Json = {
            "request": {"namespace": "research", "operation": operation, "userInfo": USER},
            "object": asked,
            "variables": variables,
        }
        # Conditions do not see the namespace, in neither kind of policy: Match of k8s.io/apiserver,
        # pkg/admission/plugin/webhook/matchconditions/matcher.go, is given none. What speaks of it there is an error,
        # which failurePolicy Ignore takes for "not this policy".
        if not all(self._evaluate(each["expression"], known) for each in self._spec["matchConditions"]):
            return None
        known["namespaceObject"] = {"metadata": metadata}
        for each in self._spec["variables"]:
            variables[each["name"]] = self._evaluate(each["expression"], known)
        return known


@pytest.fixture
def policy(admission_policies: Objects, evaluate: Evaluate) -> Callable[[str], Policy]:
    specs = {each["metadata"]["name"]: each["spec"] for each in admission_policies if each["kind"].endswith("Policy")}
    return lambda name: Policy(specs[name], evaluate)


def requesting(*resources: str, amount: str = "1") -> Json:
    """A container with limits; the API server has copied them to the requests."""
    amounts = dict.fromkeys(resources, amount)
    return container(resources={"limits": amounts, "requests": amounts})


def admitted(name: str = "", value: int = 0, *containers: Json, **spec: Any) -> Json:
    """A pod with what the plugin Priority has written by the time of the policies."""
    made = pod(*containers, priority=value, preemptionPolicy="PreemptLowerPriority", **spec)
    if name:
        made["spec"]["priorityClassName"] = name
    return made


def keys(changed: Json) -> list[str]:
    return [each["key"] for each in changed["spec"].get("tolerations", [])]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(pod(), [], id="no accelerator"),
        pytest.param(pod(requesting("cpu", "memory")), [], id="CPU and memory"),
        pytest.param(pod(requesting("nvidia.com/gpu")), ["nvidia.com/gpu"], id="a GPU"),
        pytest.param(pod(requesting("nvidia.com/mig-1g.5gb")), ["nvidia.com/gpu"], id="a MIG device"),
        pytest.param(
            pod(requesting("nvidia.com/gpu.shared")), ["nvidia.com/gpu", "nvidia.com/gpu.shared"], id="a shared GPU"
        ),
        pytest.param(pod(requesting("fpga.tasuki.dev/fft")), ["fpga.tasuki.dev/function"], id="an FPGA function"),
        pytest.param(pod(requesting("amd.com/gpu")), ["amd.com/gpu"], id="AMD's GPU"),
        pytest.param(pod(requesting("google.com/tpu")), ["google.com/tpu"], id="a TPU"),
        pytest.param(pod(requesting("nvidia.com/gpu", amount="0")), [], id="none of them"),
        pytest.param(pod(requesting("example.com/nvidia.com")), [], id="somebody else's resource"),
        pytest.param(
            pod(container(), init=(requesting("nvidia.com/gpu") | {"name": "init"},)),
            ["nvidia.com/gpu"],
            id="an init container's",
        ),
        pytest.param(
            pod(requesting("nvidia.com/gpu"), requesting("nvidia.com/gpu") | {"name": "other"}),
            ["nvidia.com/gpu"],
            id="two containers, one toleration",
        ),
    ],
)
def test_requests_are_tolerated(policy: Callable[[str], Policy], asked: Json, expected: list[str]) -> None:
    bare = policy("tasuki-accelerator-tolerations").mutated(asked)
    listed = policy("tasuki-accelerator-tolerations").mutated(
        asked | {"spec": asked["spec"] | {"tolerations": [NOT_READY]}}
    )

    assert keys(bare) == expected
    assert keys(listed) == [NOT_READY["key"], *expected]


@pytest.mark.parametrize(
    ("toleration", "suffices"),
    [
        pytest.param({"key": "nvidia.com/gpu", "operator": "Exists"}, True, id="every effect"),
        pytest.param({"operator": "Exists"}, True, id="everything"),
        pytest.param({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, True, id="the same"),
        pytest.param({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, False, id="other effect"),
        pytest.param({"key": "nvidia.com/gpu", "operator": "Equal", "value": "present"}, False, id="one value"),
        pytest.param({"key": "nvidia.com/gpu", "value": "present"}, False, id="no operator"),
    ],
)
def test_what_is_tolerated_is_not_added(
    policy: Callable[[str], Policy], toleration: dict[str, str], suffices: bool
) -> None:
    asked = pod(requesting("nvidia.com/gpu"), tolerations=[toleration])

    changed = policy("tasuki-accelerator-tolerations").mutated(asked)

    assert len(changed["spec"]["tolerations"]) == (1 if suffices else 2)


@pytest.mark.parametrize(
    "resource",
    ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared", "fpga.tasuki.dev/fft", "amd.com/gpu"],
)
def test_beside_the_webhooks_no_toleration_is_new(policy: Callable[[str], Policy], resource: str) -> None:
    asked = pod(requesting(resource))
    change = tolerations(msgspec.convert(asked, Pod), scene())
    by_webhook = jsonpatch.apply_patch(asked, [plain(each) for each in change.operations])

    by_policy = policy("tasuki-accelerator-tolerations").mutated(asked)

    assert set(keys(by_policy)) <= set(keys(by_webhook))


@pytest.mark.parametrize(
    ("asked", "labels", "expected"),
    [
        pytest.param(admitted(), CPU_ONLY, "low", id="CPU only"),
        pytest.param(admitted("high", 1000), CPU_ONLY, "low", id="CPU only, whatever it names"),
        pytest.param(admitted("", 0, requesting("nvidia.com/gpu")), CPU_ONLY, None, id="with a GPU"),
        pytest.param(admitted("", 0, requesting("nvidia.com/gpu", amount="0")), CPU_ONLY, "low", id="with none"),
        pytest.param(admitted("", 0, requesting("fpga.tasuki.dev/fft")), CPU_ONLY, None, id="with an FPGA function"),
        pytest.param(admitted("system-node-critical", 2000001000), CPU_ONLY, "system-node-critical", id="the system's"),
        pytest.param(
            admitted(resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}]), CPU_ONLY, None, id="with a claim"
        ),
        pytest.param(admitted(), DEFAULT, "team", id="the team's default"),
        pytest.param(admitted("high", 1000), DEFAULT, "high", id="a class of its own"),
        pytest.param(admitted(), CPU_ONLY | DEFAULT, "low", id="both, CPU only"),
        pytest.param(admitted("", 0, requesting("nvidia.com/gpu")), CPU_ONLY | DEFAULT, "team", id="both, with a GPU"),
        pytest.param(admitted(), {"example.com/team": "vision"}, None, id="no label"),
        pytest.param(admitted(), None, None, id="no labels at all"),
    ],
)
def test_the_namespace_names_the_class(
    policy: Callable[[str], Policy], asked: Json, labels: Mapping[str, str] | None, expected: str | None
) -> None:
    changed = policy("tasuki-priority").mutated(asked, labels)

    keeps_its_class = asked["spec"].get("priorityClassName") == expected
    # A number beside another class is refused by the plugin Priority, which computes it anew where there is none.
    numbers = {"priority", "preemptionPolicy"} if keeps_its_class else set()
    assert changed["spec"].get("priorityClassName") == expected
    assert {"priority", "preemptionPolicy"} & changed["spec"].keys() == numbers


def test_pods_of_daemon_sets_keep_their_class(policy: Callable[[str], Policy]) -> None:
    asked = admitted("node-agents", 500)
    asked["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1", "controller": True}
    ]

    assert policy("tasuki-priority").mutated(asked, CPU_ONLY) == asked


@pytest.mark.parametrize(
    "controller",
    [
        pytest.param({}, id="no controller"),
        pytest.param({"controller": False}, id="expressly no controller"),
    ],
)
def test_a_daemon_set_that_does_not_control_a_pod_does_not_count(
    policy: Callable[[str], Policy], controller: Mapping[str, bool]
) -> None:
    asked = admitted("node-agents", 500)
    asked["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1", **controller}
    ]

    changed = policy("tasuki-priority").mutated(asked, CPU_ONLY)

    assert changed["spec"]["priorityClassName"] == "low"
    assert not is_of_daemon_set(msgspec.convert(asked, Pod))


def test_a_pod_without_a_number_gets_the_class_alone(policy: Callable[[str], Policy]) -> None:
    changed = policy("tasuki-priority").mutated(pod(), CPU_ONLY)

    assert changed["spec"]["priorityClassName"] == "low"


@pytest.mark.parametrize(
    ("asked", "maximum", "words"),
    [
        pytest.param(admitted("team", 100), "100", None, id="just as much"),
        pytest.param(admitted("low", -10), "0", None, id="less than nothing"),
        pytest.param(pod(), "0", None, id="none computed"),
        pytest.param(admitted("high", 101), "100", "priority 101 (priorityClassName: high) is above 100", id="more"),
        pytest.param(admitted("", 7), "0", "priority 7 (priorityClassName: none) is above 0", id="more, by none"),
        pytest.param(admitted("team", 1), "high", "tasuki.dev/maximum-priority=high", id="a label that is no number"),
        pytest.param(admitted("team", 1), "", "is not a whole number", id="an empty label"),
        pytest.param(admitted("team", 1), "99999999999999999999", "is not a whole number", id="a label beyond numbers"),
    ],
)
def test_no_pod_is_above_the_namespaces_maximum(
    policy: Callable[[str], Policy], asked: Json, maximum: str, words: str | None
) -> None:
    refusals = policy("tasuki-maximum-priority").refusals(asked, {"tasuki.dev/maximum-priority": maximum})

    assert len(refusals) == (0 if words is None else 1)
    assert all(words is not None and words in each and "namespace research" in each for each in refusals)


@pytest.mark.parametrize(
    ("env", "allowed"),
    [
        pytest.param([], True, id="nothing"),
        pytest.param([{"name": "PATH", "value": "/bin"}], True, id="another variable"),
        pytest.param([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}], False, id="every device"),
        pytest.param([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}], True, id="no device"),
        pytest.param([{"name": "NVIDIA_VISIBLE_DEVICES", "value": ""}], True, id="an empty list of devices"),
        pytest.param([{"name": "NVIDIA_VISIBLE_DEVICES"}], True, id="an empty list, as the API server writes it"),
        pytest.param([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "none"}], False, id="none, once read as all"),
        pytest.param([{"name": "CUDA_VISIBLE_DEVICES", "value": "-1"}], True, id="the device that there is not"),
        pytest.param([{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}], False, id="the first"),
        pytest.param([{"name": "CUDA_VISIBLE_DEVICES", "value": ""}], True, id="none for CUDA"),
        pytest.param([{"name": "CUDA_VISIBLE_DEVICES"}], True, id="none for CUDA, as the API server writes it"),
        pytest.param(
            [{"name": "CUDA_VISIBLE_DEVICES", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a']"}}}],
            False,
            id="from elsewhere",
        ),
    ],
)
@pytest.mark.parametrize("where", ["containers", "initContainers"])
def test_containers_do_not_name_devices(
    policy: Callable[[str], Policy], env: list[Json], allowed: bool, where: str
) -> None:
    asked = pod(container())
    asked["spec"].setdefault(where, []).append(container("named", env=env))

    refusals = policy("tasuki-visible-devices").refusals(asked)

    assert len(refusals) == (0 if allowed else 1)
    assert all("containers [named] set" in each and "resources.limits" in each for each in refusals)
    assert _is_found_by_the_webhooks(asked) is not allowed


def _is_found_by_the_webhooks(asked: Json) -> bool:
    """Of which the policy's word must be the same."""
    return any(each.rule == "visible_devices" for each in findings(msgspec.convert(asked, Pod), TasukiPolicy()))


@pytest.mark.parametrize("folder", ["mutating", "validating"])
def test_the_validating_policies_can_be_had_alone(
    build: Callable[[Path], Objects], webhooks_folder: Path, admission_policies: Objects, folder: str
) -> None:
    found = build(webhooks_folder / "admission-policies" / folder)

    beginning = folder.removesuffix("ing")
    assert found == [each for each in admission_policies if each["kind"].lower().startswith(beginning)]
    assert len(found) == 4


def test_a_pod_on_the_shared_pool_sees_every_device(policy: Callable[[str], Policy]) -> None:
    env = {"NVIDIA_VISIBLE_DEVICES": "all"}

    for selector, refused in (({"tasuki.dev/pool": "shared"}, 0), ({"tasuki.dev/pool": "batch"}, 1), ({}, 1)):
        asked = pod(container(env=env), nodeSelector=selector)
        assert len(policy("tasuki-visible-devices").refusals(asked)) == refused


def test_debugging_brings_no_devices_and_is_possible_in_older_pods(policy: Callable[[str], Policy]) -> None:
    older = pod(container(env={"NVIDIA_VISIBLE_DEVICES": "all"}))
    plain_shell = copy.deepcopy(older)
    plain_shell["spec"]["ephemeralContainers"] = [container("debugger")]
    reaching = copy.deepcopy(older)
    reaching["spec"]["ephemeralContainers"] = [container("debugger", env={"NVIDIA_VISIBLE_DEVICES": "all"})]

    assert policy("tasuki-visible-devices").refusals(older, operation="UPDATE") == []
    assert policy("tasuki-visible-devices").refusals(plain_shell, operation="UPDATE") == []
    [reason] = policy("tasuki-visible-devices").refusals(reaching, operation="UPDATE")
    assert "containers [debugger] set" in reason
