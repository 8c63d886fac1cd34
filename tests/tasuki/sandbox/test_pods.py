from pathlib import Path
from textwrap import dedent

import pytest

from tasuki.sandbox.pods import Container, ManifestError, Pod, read_all, read_pods
from tasuki.sandbox.settings import EXAMPLES

GPU = "nvidia.com/gpu"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pods.yaml"


def pod_with(container: str) -> str:
    return f"{{kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: main, {container}}}]}}}}"


def test_a_pod_has_its_containers_resources_and_environment(file: Path) -> None:
    file.write_text(
        dedent("""
        apiVersion: v1
        kind: Pod
        metadata: {name: a, namespace: research, labels: {app: a}}
        spec:
          nodeSelector: {disk: ssd}
          initContainers:
            - {name: setup, resources: {limits: {nvidia.com/gpu: 2}}}
            - {name: proxy, restartPolicy: Always}
          containers:
            - name: main
              env: [{name: A, value: "1"}, {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
              resources: {limits: {cpu: 500m, nvidia.com/gpu: "1", example.com/nic: 1}, requests: {nvidia.com/gpu: 1}}
        """)
    )

    (pod,) = read_pods(file)

    assert str(pod) == "research/a"
    assert pod.containers == (
        Container("setup", {GPU: 2}, init=True),
        Container("proxy", init=True, sidecar=True),
        Container("main", {"example.com/nic": 1, GPU: 1}, {"A": "1", "B": "<fieldRef>"}),
    )


@pytest.mark.parametrize(
    ("workload", "names"),
    [
        pytest.param("kind: Deployment, spec: {replicas: 2, ", ["w-0", "w-1"], id="Deployment"),
        pytest.param("kind: StatefulSet, spec: {", ["w-0"], id="StatefulSet of one by default"),
        pytest.param("kind: DaemonSet, spec: {", ["w"], id="DaemonSet once on the one node"),
        pytest.param("kind: Job, spec: {completions: 3, ", ["w-0", "w-1", "w-2"], id="Job by completions"),
        pytest.param("kind: Job, spec: {parallelism: 2, ", ["w-0", "w-1"], id="Job by parallelism"),
    ],
)
def test_a_workload_has_pods(file: Path, workload: str, names: list[str]) -> None:
    file.write_text(f"{{metadata: {{name: w}}, {workload}template: {{spec: {{containers: [{{name: main}}]}}}}}}}}\n")

    assert [pod.name for pod in read_pods(file)] == names


def test_each_pod_of_a_job_waits_for_the_one_that_is_parallelism_before_it(file: Path) -> None:
    file.write_text(
        "{kind: Job, metadata: {name: w}, spec: {completions: 4, parallelism: 2, "
        "template: {spec: {containers: [{name: main}]}}}}"
    )

    assert [pod.follows for pod in read_pods(file)] == ["", "", "w-0", "w-1"]


def test_lists_and_several_documents_are_read_and_other_kinds_passed_over(file: Path) -> None:
    pod = pod_with("resources: {}")
    file.write_text(
        f"---\n{{kind: Service, metadata: {{name: s}}}}\n---\n---\n{{kind: List, items: [{pod}]}}\n---\n"
        "{kind: Pod, metadata: {generateName: b-}, spec: {containers: [{name: main, env: }]}}\n"
    )

    assert [pod.name for pod in read_pods(file)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(pod_with("resources: {limits: {nvidia.com/gpu: 1.5}}"), "1.5 is not a whole", id="half a GPU"),
        pytest.param(pod_with("resources: {limits: {nvidia.com/gpu: -1}}"), "-1 is negative", id="negative"),
        pytest.param(pod_with("resources: {limits: {nvidia.com/gpu: two}}"), "'two' is not a quantity", id="a word"),
        pytest.param(
            pod_with("resources: {limits: {nvidia.com/gpu: 2}, requests: {nvidia.com/gpu: 1}}"),
            "resources.requests[nvidia.com/gpu] is 1, but its limit is 2",
            id="request differs from limit",
        ),
        pytest.param(
            pod_with("resources: {requests: {nvidia.com/gpu: 1}}"),
            "resources.limits has no nvidia.com/gpu",
            id="request without limit",
        ),
        pytest.param(pod_with("resources: {limits: {gpu: 1}}"), "[gpu] is no standard resource", id="no domain"),
        pytest.param(pod_with("resources: {limits: {a.b/c/d: 1}}"), "not a valid name", id="two slashes"),
        pytest.param(
            pod_with("env: [{name: A, value: true}]"),
            "container main: spec.containers[0].env[0].value",
            id="environment that is no string",
        ),
        pytest.param("{kind: Pod, spec: {containers: [{name: a}]}}", "metadata.name is missing", id="no name"),
        pytest.param("{kind: Pod, metadata: {name: a}, spec: {containers: []}}", "is empty", id="no containers"),
        pytest.param(
            "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}, {name: c}]}}",
            "the name is there twice",
            id="two containers of one name",
        ),
        pytest.param("{kind: Pod, metadata: {name: a}}", "missing required field `spec`", id="no spec"),
        pytest.param("{metadata: {name: a}}", "without kind", id="no kind"),
        pytest.param("version: v1\nsharing: {}", "give it with --config", id="a sharing configuration"),
        pytest.param("- 1", "is a mapping", id="a list"),
        pytest.param("{", "is not YAML", id="no YAML"),
        pytest.param("kind: Service", "has no pods", id="no pods"),
    ],
)
def test_what_the_api_server_would_refuse_is_told_with_the_place(file: Path, text: str, told: str) -> None:
    file.write_text(text)

    with pytest.raises(ManifestError) as refused:
        read_pods(file)

    assert str(refused.value).startswith(str(file))
    assert told in str(refused.value)


def test_a_file_that_is_not_there_is_told(file: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read_pods(file)


def test_the_same_pod_in_two_files_is_refused(file: Path) -> None:
    file.write_text(pod_with("resources: {}"))

    with pytest.raises(ManifestError, match="default/a is there twice"):
        read_all([file, file])


@pytest.mark.parametrize("quantity", ["2", 2, "2000m", "2.0", "0.002k"])
def test_a_whole_quantity_may_be_spelled_in_any_way(file: Path, quantity: object) -> None:
    file.write_text(pod_with(f"resources: {{limits: {{nvidia.com/gpu: {quantity}}}}}"))

    assert read_pods(file)[0].requests == {GPU: 2}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        pytest.param((Container("a", {GPU: 1}), Container("b", {GPU: 2})), 3, id="containers add up"),
        pytest.param((Container("i", {GPU: 4}, init=True), Container("a", {GPU: 1})), 4, id="largest init container"),
        pytest.param(
            (
                Container("s", {GPU: 1}, init=True, sidecar=True),
                Container("i", {GPU: 2}, init=True),
                Container("a", {GPU: 1}),
            ),
            3,
            id="an init container beside a sidecar",
        ),
        pytest.param(
            (Container("s", {GPU: 1}, init=True, sidecar=True), Container("a", {GPU: 1})), 2, id="sidecars add up"
        ),
    ],
)
def test_a_pod_requests_what_it_needs_at_once(containers: tuple[Container, ...], expected: int) -> None:
    assert Pod("a", containers).requests == {GPU: expected}


@pytest.mark.parametrize("name", ["whole-gpus.yaml", "timeshared.yaml", "mig.yaml", "too-much.yaml"])
def test_the_examples_are_valid(name: str) -> None:
    assert read_pods(EXAMPLES / name)
