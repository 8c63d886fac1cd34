from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from kubernetes import client

from tasuki.sandbox import manifests
from tasuki.sandbox.pods import Container, Pod
from tasuki.sandbox.reading import ManifestError, read_all, read_pods
from tasuki.sandbox.settings import PODS

GPU = "nvidia.com/gpu"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pods.yaml"


ONE_CONTAINER = "template: {spec: {containers: [{name: a}]}}"


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
        pytest.param("kind: ReplicaSet, spec: {replicas: 2, ", ["w-0", "w-1"], id="ReplicaSet"),
        pytest.param("kind: ReplicationController, spec: {replicas: 2, ", ["w-0", "w-1"], id="ReplicationController"),
    ],
)
def test_a_workload_has_pods(file: Path, workload: str, names: list[str]) -> None:
    file.write_text(f"{{metadata: {{name: w}}, {workload}template: {{spec: {{containers: [{{name: main}}]}}}}}}}}\n")

    assert [pod.name for pod in read_pods(file)] == names


def test_a_cron_job_has_the_pods_of_one_run(file: Path) -> None:
    file.write_text(
        "{kind: CronJob, metadata: {name: w}, spec: {schedule: '* * * * *', jobTemplate: {spec: {completions: 2, "
        "template: {spec: {containers: [{name: main}]}}}}}}"
    )

    assert [(pod.name, pod.job, pod.follows) for pod in read_pods(file)] == [("w-0", "w", ""), ("w-1", "w", "w-0")]


@pytest.mark.parametrize("kind", ["List", "PodList"])
@pytest.mark.parametrize("item", [pod_with("image: a"), pod_with("image: a").replace("kind: Pod, ", "")])
def test_the_items_of_a_list_have_the_lists_kind_or_their_own(file: Path, kind: str, item: str) -> None:
    file.write_text(f"{{apiVersion: v1, kind: {kind}, items: [{item}]}}")

    if kind == "List" and "kind" not in item:
        with pytest.raises(ManifestError, match="without kind"):
            read_pods(file)
    else:
        assert [pod.name for pod in read_pods(file)] == ["a"]


def test_an_anchor_is_used_again(file: Path) -> None:
    file.write_text(
        dedent("""
        kind: Pod
        metadata: {name: a}
        spec:
          containers:
            - &main {name: main, resources: {limits: {nvidia.com/gpu: 1}}}
            - {<<: *main, name: second}
        """)
    )

    assert read_pods(file)[0].requests == {GPU: 2}


@pytest.mark.parametrize("count", [1000, 1001])
def test_there_are_a_thousand_pods_at_most(file: Path, tmp_path: Path, count: int) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(pod_with("image: a"))
    file.write_text(
        f"{{kind: Deployment, metadata: {{name: w}}, spec: {{replicas: {count - 1}, "
        "template: {spec: {containers: [{name: main}]}}}}"
    )

    if count == 1000:
        assert len(read_all([other, file])) == 1000
    else:
        with pytest.raises(ManifestError, match=r"more than 1000 pods.* ask for fewer replicas"):
            read_all([other, file])


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
        pytest.param(pod_with("resources: {limits: {nvidia.com/gpu: 1:30}}"), "'1:30' is not", id="minutes"),
        pytest.param(
            pod_with("resources: {limits: {nvidia.com/gpu: \uff12}}"), "'\uff12' is not", id="a digit of another script"
        ),
        pytest.param(
            pod_with('resources: {limits: {nvidia.com/gpu: "1e400000000"}}'), "beyond", id="out of all bounds"
        ),
        pytest.param(pod_with("resources: {limits: {nvidia.com/gpu: 1e30}}"), "more than 92", id="more than 63 bits"),
        pytest.param(pod_with(f"resources: {{limits: {{nvidia.com/gpu: '{'1' * 99}'}}}}"), "…", id="100 digits"),
        pytest.param(
            pod_with("resources: {limit: {nvidia.com/gpu: 1}}"),
            "resources: there is no key 'limit'; did you mean 'limits'?",
            id="misspelt limits",
        ),
        pytest.param(
            pod_with("resource: {limits: {nvidia.com/gpu: 1}}"),
            "spec.containers[0]: there is no key 'resource'; did you mean 'resources'?",
            id="misspelt resources",
        ),
        pytest.param(
            pod_with("image: a").replace("containers", "container"),
            "did you mean 'containers'?",
            id="misspelt containers",
        ),
        pytest.param(
            f"{{kind: Deployment, metadata: {{name: w}}, spec: {{replica: 2, {ONE_CONTAINER}}}}}",
            "spec: there is no key 'replica'; did you mean 'replicas'?",
            id="misspelt replicas",
        ),
        pytest.param(
            f"{{kind: Deployment, metadata: {{name: w}}, spec: {{replicas: -1, {ONE_CONTAINER}}}}}",
            "Deployment w: spec.replicas is -1: Expected `int` >= 0",
            id="negative replicas",
        ),
        pytest.param(
            f"{{kind: Deployment, metadata: {{name: w}}, spec: {{replicas: 100000000, {ONE_CONTAINER}}}}}",
            "more than 1000 pods",
            id="replicas without end",
        ),
        pytest.param(
            f"{{kind: Job, metadata: {{name: w}}, spec: {{completions: 3, parallelism: 0, {ONE_CONTAINER}}}}}",
            "has no pods",
            id="a Job that runs nothing",
        ),
        pytest.param(
            pod_with("image: a").replace("spec: {", "spec: {resources: {limits: {nvidia.com/gpu: 1}}, "),
            "spec.resources has nvidia.com/gpu, but of a whole pod",
            id="devices for the whole pod",
        ),
        pytest.param(
            "{kind: [Pod], metadata: {name: a}}", "kind is ['Pod']; it must be one word", id="a list of kinds"
        ),
        pytest.param(
            pod_with("image: a").replace("Pod", "pod"),
            "which pods come of it; did you mean 'Pod'?",
            id="misspelt kind",
        ),
        pytest.param(
            "{kind: Rollout, spec: {template: {spec: {containers: [{name: a}]}}}}",
            "known are Pod, Deployment",
            id="unknown kind with pods",
        ),
        pytest.param("kind: Pod\nkind: Job", "line 2: the key 'kind' is there twice", id="a key twice"),
        pytest.param("[" * 500_000, "nested more than 100 levels deep", id="deep lists"),
        pytest.param("- " * 400_000, "nested more than 100 levels deep", id="deep lists by indentation"),
        pytest.param(
            "&l {kind: List, items: [*l]}", "'*l' refers to nothing that ends before it", id="a List in itself"
        ),
        pytest.param(
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{c}: &{c} [{','.join(9 * [f'*{p}'])}]\n" for p, c in pairwise("abcdefghij")),
            "aliases counted in full",
            id="aliases that multiply",
        ),
        pytest.param("#" * 1024 * 1025, "is larger than 1048576 bytes; split it", id="a large file"),
        pytest.param("? [a]\n: b", "a key that is not a plain word", id="a list as key"),
        pytest.param("!!python/name:os.system a", "has no meaning here", id="a tag"),
        pytest.param(
            r'{kind: Pod, metadata: {name: "a\e[31m"}, spec: {containers: [{name: a}]}}',
            r"name is 'a\x1b[31m'; it must be",
            id="an escape sequence for a name",
        ),
        pytest.param("{kind: Pod, metadata: {name: A}, spec: {containers: [{name: a}]}}", "name is 'A'", id="capitals"),
        pytest.param(
            "{kind: Pod, metadata: {name: a, namespace: b.c}, spec: {containers: [{name: a}]}}",
            "metadata.namespace is 'b.c'",
            id="a namespace with a dot",
        ),
        pytest.param(
            "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: a_b}]}}",
            "a container's name is 'a_b'",
            id="a container with an underscore",
        ),
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


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (manifests.PodManifest, [client.V1Pod]),
        (manifests.PodSpec, [client.V1PodSpec]),
        (manifests.Container, [client.V1Container]),
        (manifests.EnvVar, [client.V1EnvVar]),
        (manifests.Resources, [client.V1ResourceRequirements]),
        (manifests.Metadata, [client.V1ObjectMeta]),
        (manifests.PodTemplate, [client.V1PodTemplateSpec]),
        (manifests.WorkloadManifest, [client.V1Deployment, client.V1Job]),
        (
            manifests.WorkloadSpec,
            [
                client.V1DeploymentSpec,
                client.V1ReplicaSetSpec,
                client.V1ReplicationControllerSpec,
                client.V1StatefulSetSpec,
                client.V1DaemonSetSpec,
                client.V1JobSpec,
            ],
        ),
        (manifests.CronJobSpec, [client.V1CronJobSpec]),
        (manifests.JobTemplate, [client.V1JobTemplateSpec]),
        (manifests.ListManifest, [client.V1PodList]),
    ],
)
def test_no_key_of_the_api_is_taken_for_a_slip(ours: type[manifests.Part], theirs: list[Any]) -> None:
    keys = {key for kind in theirs for key in kind.attribute_map.values()}

    assert list(manifests.slips(dict.fromkeys(keys), ours)) == []


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
    assert read_pods(PODS / name)
