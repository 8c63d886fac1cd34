from typing import Any

import pytest

from tests.webhook_builders import Json, admit, container, pod, scene
from tests.webhooks.mutations.api_server import again
from webhooks.mutations.chains import chains
from webhooks.policy.model import Chains, Policy
from webhooks.scene import NOTHING

WITH_SCHEDULER = scene(Policy(chains=Chains(scheduler_name="tasuki")))
LABELS = {"tasuki.dev/dataflow": "camera-7", "tasuki.dev/function": "decode"}


def function(*containers: Json, **fields: Any) -> Json:
    return pod(*containers, labels=LABELS, **fields)


def test_a_function_knows_its_place_and_where_to_tell_that_it_is_connected() -> None:
    admitted = admit(chains, function(), WITH_SCHEDULER)

    [main] = admitted.pod["spec"]["containers"]
    values = {variable["name"]: variable.get("value") for variable in main["env"]}
    fields = {v["name"]: v["valueFrom"]["fieldRef"]["fieldPath"] for v in main["env"] if "valueFrom" in v}
    assert values["TASUKI_DATAFLOW"] == "camera-7"
    assert values["TASUKI_FUNCTION"] == "decode"
    assert values["TASUKI_READY_FILE"] == "/run/tasuki/ready"
    assert fields == {
        "TASUKI_POD_NAME": "metadata.name",
        "TASUKI_POD_NAMESPACE": "metadata.namespace",
        "TASUKI_POD_UID": "metadata.uid",
        "TASUKI_NODE_NAME": "spec.nodeName",
    }


def test_the_readiness_file_is_in_a_folder_that_the_pods_containers_share() -> None:
    admitted = admit(chains, function(container("one"), container("two"), init=(container("set-up"),)), WITH_SCHEDULER)

    spec = admitted.pod["spec"]
    assert spec["volumes"] == [{"name": "tasuki-ready", "emptyDir": {"sizeLimit": "1Mi"}}]
    for each in (*spec["initContainers"], *spec["containers"]):
        assert each["volumeMounts"] == [{"name": "tasuki-ready", "mountPath": "/run/tasuki"}]


def test_no_probe_and_no_readiness_gate_is_added() -> None:
    admitted = admit(chains, function(), WITH_SCHEDULER)

    assert "readinessGates" not in admitted.pod["spec"]
    assert "readinessProbe" not in admitted.pod["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("there", "policy", "expected"),
    [
        pytest.param({}, "tasuki", "tasuki", id="none yet"),
        pytest.param({"schedulerName": "default-scheduler"}, "tasuki", "tasuki", id="the default one"),
        pytest.param({"schedulerName": "tasuki"}, "tasuki", "tasuki", id="ours already"),
        pytest.param({"schedulerName": "volcano"}, "", "volcano", id="the policy has none"),
    ],
)
def test_the_scheduler_that_knows_chains(there: Json, policy: str, expected: str) -> None:
    admitted = admit(chains, function(**there), scene(Policy(chains=Chains(scheduler_name=policy))))

    assert admitted.pod["spec"]["schedulerName"] == expected
    assert admitted.change.warnings == ()


def test_a_scheduler_that_the_user_chose_is_kept_with_a_warning() -> None:
    admitted = admit(chains, function(schedulerName="volcano"), WITH_SCHEDULER)

    assert admitted.pod["spec"]["schedulerName"] == "volcano"
    [warning] = admitted.change.warnings
    assert "keeps its scheduler 'volcano'" in warning


def test_a_container_keeps_its_own_variables() -> None:
    admitted = admit(chains, function(container(env={"TASUKI_READY_FILE": "/tmp/ready"})), WITH_SCHEDULER)

    [main] = admitted.pod["spec"]["containers"]
    assert [v["value"] for v in main["env"] if v["name"] == "TASUKI_READY_FILE"] == ["/tmp/ready"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param({"tasuki.dev/dataflow": ""}, "is empty", id="an empty name"),
        pytest.param({"tasuki.dev/function": "f"}, "has no effect without tasuki.dev/dataflow", id="no DataFlow"),
    ],
)
def test_a_pod_of_no_dataflow_is_only_warned(labels: dict[str, str], expected: str) -> None:
    admitted = admit(chains, pod(labels=labels), WITH_SCHEDULER)

    [warning] = admitted.change.warnings
    assert expected in warning
    assert admitted.operations == []


def test_a_pod_without_a_function_is_warned_and_gets_the_rest() -> None:
    admitted = admit(chains, pod(labels={"tasuki.dev/dataflow": "camera-7"}), WITH_SCHEDULER)

    names = [variable["name"] for variable in admitted.pod["spec"]["containers"][0]["env"]]
    assert "TASUKI_DATAFLOW" in names
    assert "TASUKI_FUNCTION" not in names
    assert admitted.change.warnings == (
        "label tasuki.dev/dataflow is without tasuki.dev/function; name the pod's function",
    )


def test_a_cluster_without_chains_only_warns() -> None:
    admitted = admit(chains, function(), scene())

    [warning] = admitted.change.warnings
    assert "has no chains" in warning
    assert admitted.operations == []


def test_other_pods_are_left_alone() -> None:
    assert admit(chains, pod(labels={"app": "x"}), WITH_SCHEDULER).change is NOTHING


def test_the_second_round_of_admission_finds_nothing_to_do() -> None:
    admitted = admit(chains, function(init=(container("set-up"),)), WITH_SCHEDULER)

    change = again(chains, admitted.pod, WITH_SCHEDULER)

    assert (change.operations, change.warnings) == ((), ())
