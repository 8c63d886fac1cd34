"""All mutations together: what they make of a pod is valid, final, and nothing where nothing is asked for."""

import copy
from typing import Any

import jsonpatch
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasuki.kube.quantity import parse
from tests.webhook_builders import Json, assert_valid, container, pod, scene
from tests.webhooks.mutations.api_server import defaulted
from tests.webhooks.pod_validation import aggregate, complaints, in_thousandths, with_requests
from tests.webhooks.priority_admission import admit_priority, cluster_of
from webhooks.catalogue import Catalogue
from webhooks.cluster import Cluster
from webhooks.node_index import index_nodes
from webhooks.nodes import NodeFacts, Taint
from webhooks.patch import plain
from webhooks.policy.model import (
    Cache,
    Chains,
    CpuOnly,
    Modules,
    ModuleVolume,
    Policy,
    Protection,
    Requests,
    SharedNodes,
    Team,
    Vaccel,
    VaccelSandbox,
    VaccelSidecar,
)
from webhooks.review import CHECKS, Outcome, review
from webhooks.scene import Scene

EVERYTHING = Policy(
    shared_nodes=SharedNodes(),
    cpu_only=CpuOnly(),
    teams=(Team(default_priority_class="normal", maximum_priority_class="normal"),),
    modules=Modules(
        volumes=(ModuleVolume(name="apps", source={"persistentVolumeClaim": {"claimName": "a"}}, mount_path="/apps"),),
        module_path=("/apps/modules",),
    ),
    vaccel=Vaccel(sidecar=VaccelSidecar(image="agent:1"), sandbox=VaccelSandbox()),
    cache=Cache(url="http://cache.example"),
    chains=Chains(scheduler_name="tasuki-scheduler"),
    protection=(Protection(visible_devices="strip", privileged="strip", host_devices="strip"),),
)

# Requests of less than is ever counted.
LEAST = msgspec.structs.replace(EVERYTHING, shared_nodes=SharedNodes(requests=Requests(cpu="300u", memory="1Mi")))


def cluster(kubelet: tuple[int, int] = (1, 36)) -> Cluster:
    """A tainted and an open node with GPUs, one without, and the classes that the policy names."""
    nodes = [
        NodeFacts(
            name="timeshared",
            labels={"nvidia.com/gpu.sharing-strategy": "time-slicing", "tasuki.dev/pool": "shared"},
            taints=(Taint("nvidia.com/gpu", "present", "NoSchedule"),),
            resources=frozenset({"nvidia.com/gpu.shared", "nvidia.com/mig-1g.5gb"}),
            kubelet_version=kubelet,
        ),
        NodeFacts(
            name="open",
            labels={"nvidia.com/gpu.sharing-strategy": "none", "kubernetes.io/arch": "amd64"},
            taints=(),
            resources=frozenset({"nvidia.com/gpu", "fpga.tasuki.dev/resize"}),
            kubelet_version=kubelet,
        ),
        NodeFacts(
            name="windows",
            labels={"kubernetes.io/os": "windows", "nvidia.com/gpu.present": "true"},
            taints=(),
            resources=frozenset({"nvidia.com/gpu"}),
            kubelet_version=kubelet,
        ),
        NodeFacts(name="cpu", labels={}, taints=(), resources=frozenset(), kubelet_version=kubelet),
    ]
    classes = cluster_of({"normal": 0, "tasuki-cpu-on-accelerator-node": -10, "urgent": 1000})
    return Cluster(
        priority_classes=classes.priority_classes,
        nodes={node.name: node for node in nodes},
        namespaces={"research": {}},
        server_version=(1, 36),
        catalogue=Catalogue({"gcc": ("12", "13"), "cuda": ("12.4",)}),
    )


def everywhere(policy: Policy = EVERYTHING, kubelet: tuple[int, int] = (1, 36)) -> Scene:
    known = cluster(kubelet)
    assert known.nodes is not None
    return scene(policy, cluster=known, nodes=index_nodes(known.nodes.values(), policy))


def reviewed(asked: Json, where: Scene) -> Outcome:
    return review(msgspec.json.encode(asked), where)


def applied(before: Json, outcome: Outcome) -> Json:
    after: Json = jsonpatch.apply_patch(copy.deepcopy(before), plain(outcome.operations))
    return after


def next_round(pod: Json, known: Cluster) -> Json:
    """The pod as the API server shows it when it asks again."""
    urgency = {key: pod["spec"].get(key) for key in ("priority", "preemptionPolicy")}
    filled = with_requests(defaulted(pod))
    spec = {key: value for key, value in (filled["spec"] | urgency).items() if value is not None}
    return admit_priority({**filled, "spec": spec}, known)


ANNOTATIONS: dict[str, list[str]] = {
    "tasuki.dev/gpu-slice": ["timeshare", "whole", "mig-1g.5gb", "half"],
    "tasuki.dev/gpu-sharing": ["shared-node", "yes"],
    "tasuki.dev/gpu-devices": ["0,2", "GPU-11111111-2222-3333-4444-555555555555"],
    "tasuki.dev/modules": ["gcc/12 cuda/12.4", "gcc", "fortran"],
    "tasuki.dev/vaccel": ["session", "sidecar", "sandbox"],
    "tasuki.dev/cache": ["train", "train, val"],
    "tasuki.dev/nonsense": ["x"],
    "example.com/other": ["y"],
}
ENVIRONMENT: list[Json] = [
    {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
    {"name": "CUDA_VISIBLE_DEVICES", "value": "0"},
    {"name": "PATH", "value": "/usr/bin"},
    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
]


DEVICES = ("nvidia.com/gpu", "nvidia.com/gpu.shared", "fpga.tasuki.dev/resize", "vaccel.tasuki.dev/session")
# Also some that are much like those of containers that Tasuki adds.
INIT_NAMES = ("fetch", "tasuki-fetch", "tasuki-modules", "tasuki-modules-1", "tasuki-modules-mine")


@st.composite
def containers(draw: st.DrawFn, name: str) -> Json:
    made = container(name)
    resources: dict[str, dict[str, str]] = {}
    if draw(st.booleans()):
        cpu = draw(st.sampled_from(["50m", "100m", "1", "4"]))
        resources = {"limits": {"cpu": cpu, "memory": "1Gi"}, "requests": {"cpu": cpu, "memory": "1Gi"}}
    if device := draw(st.sampled_from(["", "", *DEVICES])):
        for each in ("limits", "requests"):
            resources.setdefault(each, {})[device] = "1"
    if resources:
        made["resources"] = resources
    if env := draw(st.lists(st.sampled_from(ENVIRONMENT), unique_by=lambda each: str(each["name"]), max_size=3)):
        made["env"] = copy.deepcopy(env)
    if draw(st.booleans()):
        made["command"] = ["python", "train.py"]
    if draw(st.integers(0, 4)) == 0:
        made["securityContext"] = {"privileged": True}
    if draw(st.integers(0, 4)) == 0:
        made["volumeMounts"] = [{"name": "dev", "mountPath": "/host"}]
    return made


@st.composite
def pods(draw: st.DrawFn) -> Json:
    chosen = draw(st.lists(st.sampled_from(sorted(ANNOTATIONS)), unique=True, max_size=3))
    made = pod(
        *[draw(containers(f"c{index}")) for index in range(draw(st.integers(1, 3)))],
        annotations={key: draw(st.sampled_from(ANNOTATIONS[key])) for key in chosen},
        labels={"tasuki.dev/dataflow": "video", "tasuki.dev/function": "decode"} if draw(st.booleans()) else None,
        init=tuple(
            draw(containers(name)) | draw(st.sampled_from([{}, {"restartPolicy": "Always"}]))
            for name in draw(st.lists(st.sampled_from(INIT_NAMES), unique=True, max_size=2))
        ),
        volumes=[{"name": "dev", "hostPath": {"path": draw(st.sampled_from(["/dev", "/data"]))}}],
    )
    if draw(st.booleans()):
        made["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    if draw(st.integers(0, 3)) == 0:
        made["spec"]["nodeSelector"] = {"kubernetes.io/arch": "amd64"}
    if draw(st.integers(0, 2)) == 0:
        made["spec"]["priorityClassName"] = draw(st.sampled_from(["normal", "urgent"]))
    match draw(st.integers(0, 5)):
        case 0 | 1:
            made["spec"]["resources"] = draw(resources_of_pods(made["spec"]))
        case 2:
            made["spec"]["os"] = {"name": "windows"}
            for each in (*made["spec"]["containers"], *made["spec"].get("initContainers", [])):
                each.pop("securityContext", None)
        case 3:
            made["spec"]["os"] = {"name": "linux"}
    return made


@st.composite
def resources_of_pods(draw: st.DrawFn, spec: Json) -> Json:
    """Of a pod as a whole: enough for its containers, and for nothing besides if it comes to that."""
    made: Json = {}
    for name, spare in (("cpu", "2"), ("memory", "4Gi")):
        least = aggregate(spec, name)
        enough = in_thousandths(draw(st.sampled_from([least or parse(spare), least + parse(spare)])))
        for section in draw(st.sampled_from([["limits", "requests"], ["limits"], ["requests"], list[str]()])):
            made.setdefault(section, {})[name] = enough
    return made or {"requests": {"cpu": "64"}}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=pods(), kubelet=st.sampled_from([(1, 36), (1, 31)]), policy=st.sampled_from([EVERYTHING, LEAST]))
def test_one_pass_is_all_it_takes_and_the_pod_stays_valid(
    asked: Json, kubelet: tuple[int, int], policy: Policy
) -> None:
    where = everywhere(policy, kubelet)
    assert where.cluster.priority_classes is not None
    before = admit_priority(with_requests(asked), where.cluster)
    assert complaints(before) == []

    outcome = reviewed(before, where)

    if outcome.refusal:
        assert outcome.operations == ()
        return
    after = next_round(applied(before, outcome), where.cluster)
    assert_valid(after)
    assert complaints(after) == []
    again = reviewed(after, where)
    assert (plain(again.operations), again.refusal) == ([], "")
    assert review(msgspec.json.encode(after), where, CHECKS).refusal == ""


@settings(max_examples=60, deadline=None)
@given(asked=pods())
def test_a_pod_is_what_it_was_where_nothing_applies(asked: Json) -> None:
    for step in ("annotations", "labels"):
        asked["metadata"].pop(step, None)
    for each in [*asked["spec"]["containers"], *asked["spec"].get("initContainers", [])]:
        each.pop("resources", None)

    outcome = reviewed(asked, scene(Policy(protection=())))

    assert outcome == Outcome()


@settings(max_examples=60, deadline=None)
@given(asked=pods())
def test_the_same_pod_gets_the_same_bytes(asked: Json) -> None:
    first, second = reviewed(asked, everywhere()), reviewed(copy.deepcopy(asked), everywhere())

    assert msgspec.json.encode(plain(first.operations)) == msgspec.json.encode(plain(second.operations))
    assert first == second


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(spec=st.fixed_dictionaries({}, optional=dict.fromkeys(["containers", "volumes", "affinity", "env"], _json)))
def test_what_is_no_pod_gets_an_answer_and_never_a_crash(spec: Any) -> None:
    outcome = reviewed({"metadata": {"annotations": {"tasuki.dev/cache": "a"}}, "spec": spec}, everywhere())

    assert outcome.refused_by in {"", "decoding", "cache"}


@pytest.mark.parametrize("name", sorted(key for key in ANNOTATIONS if "tasuki" in key and "nonsense" not in key))
@settings(max_examples=60, deadline=None)
@given(value=st.text(max_size=40))
def test_any_text_in_an_annotation_gets_an_answer(name: str, value: str) -> None:
    asked = pod(annotations={name: value})

    outcome = reviewed(asked, everywhere())

    if not outcome.refusal:
        assert_valid(applied(asked, outcome))


def test_a_refusal_names_the_mutation_and_changes_nothing() -> None:
    outcome = reviewed(pod(container(gpus=1), annotations={"tasuki.dev/gpu-slice": "half"}), everywhere())

    assert outcome.refused_by == "gpu-slice"
    assert outcome.operations == ()


@pytest.mark.parametrize("spec", [{}, {"containers": []}, None], ids=["empty", "no containers", "none"])
def test_a_pod_without_containers_is_the_api_servers_to_refuse(spec: Json | None) -> None:
    asked = {"metadata": {"name": "a"}, **({} if spec is None else {"spec": spec})}

    assert reviewed(asked, everywhere()) == Outcome()
