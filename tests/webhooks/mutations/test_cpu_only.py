"""Pods without accelerators that could land beside one: which of them are lowered, and how."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Admitted, Json, admit, container, pod, scene
from tests.webhooks.priority_admission import CPU, OPEN_NODES, admit_priority, cluster_of, pods_in, scenes
from webhooks.cluster import Cluster
from webhooks.mutations.cpu_only import cpu_only
from webhooks.policy.model import CpuOnly, Policy, Team, Vaccel, VaccelSandbox
from webhooks.scene import NOTHING, Scene

CLASSES = {CPU: -10, "urgent": 100, "idle": -50}
POLICY = Policy(cpu_only=CpuOnly())
DAEMON = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1", "controller": True}


def where(policy: Policy = POLICY, *, default: str = "", **fields: Any) -> Scene:
    return scene(policy, cluster=cluster_of(CLASSES, default), nodes=OPEN_NODES, **fields)


def lowered(before: Json, place: Scene) -> Admitted:
    """As it goes in a cluster: the API server's own admission comes first, and comes again after us."""
    admitted = admit(cpu_only, admit_priority(before, place.cluster), place)
    return Admitted(
        pod=admit_priority(admitted.pod, place.cluster), change=admitted.change, operations=admitted.operations
    )


def priority(admitted: Admitted) -> tuple[str | None, int, str]:
    spec = admitted.pod["spec"]
    return spec.get("priorityClassName"), spec["priority"], spec["preemptionPolicy"]


@pytest.mark.parametrize(
    ("before", "place"),
    [
        pytest.param(pod(), where(), id="without a class"),
        pytest.param(pod(), where(default="urgent"), id="with the cluster's default class"),
        pytest.param(
            pod(priorityClassName="urgent"),
            where(Policy(cpu_only=CpuOnly(), teams=(Team(default_priority_class="urgent"),))),
            id="with the team's default class",
        ),
        pytest.param(
            pod(container(resources={"limits": {"nvidia.com/gpu": "0"}, "requests": {"nvidia.com/gpu": "0"}})),
            where(),
            id="requesting no GPU explicitly",
        ),
        pytest.param(
            pod() | {"metadata": {"name": "p", "ownerReferences": [DAEMON]}},
            where(Policy(cpu_only=CpuOnly(exempt_daemon_sets=False))),
            id="of a DaemonSet that is not exempt",
        ),
    ],
)
def test_pods_are_lowered_without_a_word(before: Json, place: Scene) -> None:
    admitted = lowered(before, place)

    assert priority(admitted) == (CPU, -10, "Never")
    assert admitted.change.warnings == ()
    assert admitted.change.notes == {"cpu-only": f"lowered to {CPU}"}


@pytest.mark.parametrize("way", ["sidecar", "sandbox"])
def test_an_annotation_with_which_nothing_is_requested_does_not_spare_a_pod(way: str) -> None:
    admitted = lowered(pod(annotations={"tasuki.dev/vaccel": way}), where())

    assert priority(admitted) == (CPU, -10, "Never")


def test_a_sandbox_uses_what_nothing_can_be_requested_for() -> None:
    place = where(Policy(cpu_only=CpuOnly(), vaccel=Vaccel(sandbox=VaccelSandbox())))

    assert lowered(pod(annotations={"tasuki.dev/vaccel": "sandbox"}), place).operations == []


def test_who_asks_for_too_much_is_left_to_the_team_to_refuse() -> None:
    place = where(Policy(cpu_only=CpuOnly(), teams=(Team(namespaces=("research",), maximum_priority_class="idle"),)))

    assert lowered(pod(priorityClassName="urgent"), place).operations == []


def test_a_class_that_the_user_chose_is_replaced_with_a_warning() -> None:
    admitted = lowered(pod(priorityClassName="urgent"), where())

    assert priority(admitted) == (CPU, -10, "Never")
    (warning,) = admitted.change.warnings
    assert warning.startswith("priority class 'urgent' became 'tasuki-cpu-on-accelerator-node': the pod uses no accel")
    assert warning.endswith("request one, or select nodes without")


def test_what_the_api_server_computed_from_the_former_class_goes_with_it() -> None:
    admitted = admit(cpu_only, pod(priority=0, preemptionPolicy="PreemptLowerPriority"), where())

    assert admitted.operations == [
        {"op": "add", "path": "/spec/priorityClassName", "value": CPU},
        {"op": "remove", "path": "/spec/priority"},
        {"op": "remove", "path": "/spec/preemptionPolicy"},
    ]


def test_nothing_is_removed_that_is_not_there() -> None:
    admitted = admit(cpu_only, pod(), where())

    assert [operation["op"] for operation in admitted.operations] == ["add"]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(pod(container(gpus=1)), id="a GPU in a container"),
        pytest.param(pod(init=(container("init", gpus=1),)), id="a GPU in an init container"),
        pytest.param(pod(resourceClaims=[{"name": "gpu"}]), id="a claim"),
        pytest.param(pod(annotations={"tasuki.dev/gpu-sharing": "shared-node"}), id="a shared node"),
        pytest.param(pod(annotations={"tasuki.dev/gpu-slice": "whole"}), id="a slice"),
        pytest.param(
            pod(container(resources={"limits": {"vaccel.tasuki.dev/session": "1"}})), id="a session of an agent"
        ),
        pytest.param(pod(nodeSelector={"kind": "cpu"}), id="selects nodes without"),
        pytest.param(pod() | {"metadata": {"name": "p", "ownerReferences": [DAEMON]}}, id="of a DaemonSet"),
        pytest.param(pod(priorityClassName="idle"), id="lower already"),
        pytest.param(pod(priorityClassName=CPU), id="in the class already"),
        pytest.param(pod(priorityClassName="system-cluster-critical"), id="critical for the cluster"),
        pytest.param(pod(priorityClassName="system-node-critical"), id="critical for its node"),
    ],
)
def test_other_pods_are_left_alone(before: Json) -> None:
    assert lowered(before, where()).change is NOTHING


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(scene(cluster=cluster_of(CLASSES), nodes=OPEN_NODES), id="not in the policy"),
        pytest.param(where(Policy(cpu_only=CpuOnly(exempt_namespaces=("res*",)))), id="in an exempt namespace"),
        pytest.param(scene(POLICY, cluster=cluster_of(CLASSES)), id="while the nodes are not known"),
        pytest.param(where(Policy(cpu_only=CpuOnly(priority_class="urgent"))), id="where it would raise them"),
        pytest.param(
            where(Policy(cpu_only=CpuOnly(), teams=(Team(default_priority_class="idle"),))),
            id="where the team's default is lower",
        ),
        pytest.param(
            where(Policy(cpu_only=CpuOnly(), teams=(Team(maximum_priority_class="idle"),))),
            id="where the team's maximum is lower",
        ),
    ],
)
def test_pods_are_left_alone(place: Scene) -> None:
    assert lowered(pod(), place).change is NOTHING


def test_a_class_that_the_team_may_not_have_is_left_for_the_team_to_refuse() -> None:
    place = where(Policy(cpu_only=CpuOnly(), teams=(Team(maximum_priority_class="idle"),)))

    assert lowered(pod(priorityClassName="urgent"), place).change is NOTHING


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(Cluster(), id="known yet"),
        pytest.param(cluster_of({"urgent": 100}), id="of the cluster"),
    ],
)
def test_a_class_that_is_not_there_is_noted_and_not_given(cluster: Cluster) -> None:
    admitted = admit(cpu_only, pod(), scene(POLICY, cluster=cluster, nodes=OPEN_NODES))

    assert admitted.operations == []
    assert admitted.change.notes == {"cpu-only": f"not lowered: PriorityClass {CPU} is not known"}


def test_pods_that_are_not_concerned_get_no_note_of_a_missing_class() -> None:
    admitted = admit(cpu_only, pod(container(gpus=1)), scene(POLICY, nodes=OPEN_NODES))

    assert admitted.change is NOTHING


def test_a_class_that_is_new_to_us_has_the_priority_that_the_api_server_computed() -> None:
    admitted = admit(cpu_only, pod(priorityClassName="brand-new", priority=7), where())

    assert admitted.pod["spec"]["priorityClassName"] == CPU


def test_a_class_of_which_nothing_is_known_stays() -> None:
    admitted = admit(cpu_only, pod(priorityClassName="brand-new"), where())

    assert admitted.change is NOTHING


def test_warnings_stay_readable_with_long_names() -> None:
    long = {"a" * 253: 5, "b" * 253: 1}
    place = scene(Policy(cpu_only=CpuOnly(priority_class="b" * 253)), cluster=cluster_of(long), nodes=OPEN_NODES)

    (warning,) = admit(cpu_only, pod(priorityClassName="a" * 253), place).change.warnings

    assert len(warning) < 200


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_pod_is_ever_raised_or_refused_by_the_api_server(choices: st.DataObject) -> None:
    place = choices.draw(scenes())
    before = choices.draw(pods_in(place))

    admitted = admit(cpu_only, before, place)

    after = admit_priority(admitted.pod, place.cluster)
    assert after["spec"]["priority"] <= before["spec"]["priority"]
    assert bool(admitted.operations) == (after["spec"]["priority"] < before["spec"]["priority"])
    assert admit(cpu_only, after, place).operations == []


def test_a_pod_that_came_to_use_an_accelerator_is_warned_of_the_class() -> None:
    before = lowered(pod(), where()).pod
    before["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}

    admitted = lowered(before, where())

    assert admitted.operations == []
    assert admitted.change.warnings == (
        f"priority class '{CPU}' is for pods without accelerators, and others preempt it; name another",
    )
