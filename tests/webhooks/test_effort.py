"""However a pod is made, to review it takes effort in proportion to its size, and leaves next to nothing behind."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import pytest

from tests.webhook_builders import Json, container, pod, scene
from tests.webhooks.test_review import EVERYTHING, cluster
from webhooks.node_index import index_nodes
from webhooks.nodes import AcceleratorNodes, NodeFacts, Taint
from webhooks.pod import Pod
from webhooks.review import CHECKS, MUTATIONS, Outcome, Stages, review
from webhooks.scene import Scene

GPU = "nvidia.com/gpu"


def calls(act: Callable[[], object]) -> int:
    """How many functions are called, be they Python's or C's; the same number every time."""
    counted = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in {"call", "c_call"}

    former = sys.getprofile()
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(former)
    return counted


def with_taints(count: int) -> AcceleratorNodes:
    """Nodes of which each is for one team, has a number, and has been asked for its labels before."""
    nodes = index_nodes(
        [
            NodeFacts(
                name=f"node-{index}",
                labels={"number": str(index), "team": f"team-{index}"},
                taints=(Taint("team", f"team-{index}", "NoSchedule"),),
                resources=frozenset({GPU}),
                kubelet_version=(1, 36),
            )
            for index in range(count)
        ],
        EVERYTHING,
    )
    for key in ("number", "team"):
        nodes.could_land(parsed(pod(tolerations=[{"operator": "Exists"}], nodeSelector={key: "x"})))
    return nodes


def parsed(before: Json) -> Pod:
    return msgspec.convert(before, Pod)


def where(nodes: AcceleratorNodes | None = None) -> Scene:
    return scene(EVERYTHING, cluster=cluster(), nodes=nodes or with_taints(4))


def reviewed(asked: Json, stages: Stages = MUTATIONS) -> Outcome:
    return review(msgspec.json.encode(asked), where(), stages)


def affine(*expressions: Json) -> Json:
    terms = [{"matchExpressions": list(expressions)}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def expression(key: str, operator: str, *values: str) -> Json:
    return {"key": key, "operator": operator, "values": list(values)}


def open_to_all(*expressions: Json) -> Json:
    return pod(tolerations=[{"operator": "Exists"}], affinity=affine(*expressions))


def each_named(count: int, **fields: Any) -> list[Json]:
    return [container(f"c{index}", image=f"image:{index}", **fields) for index in range(count)]


# Each takes a size.
SHAPES: dict[str, Callable[[int], Json]] = {
    "containers": lambda size: pod(*each_named(size)),
    "containers with commands": lambda size: pod(*each_named(size, command=["run"])),
    "containers with GPUs": lambda size: pod(*each_named(size, gpus=1)),
    "init containers": lambda size: pod(init=tuple(each_named(size))),
    "init containers named as ours": lambda size: pod(
        *each_named(size),
        init=tuple(
            container(f"tasuki-modules-{index}", volumeMounts=[{"name": "tasuki-modules", "mountPath": "/x"}])
            for index in range(size)
        ),
    ),
    "variables": lambda size: pod(container(env={f"V{index}": "'" for index in range(5 * size)})),
    "one variable again and again": lambda size: pod(container(env=[{"name": "PATH", "value": "'"}] * (5 * size))),
    "mounts": lambda size: pod(
        container(volumeMounts=[{"name": f"v{index}", "mountPath": f"/{index}"} for index in range(5 * size)]),
        volumes=[{"name": f"v{index}", "emptyDir": {}} for index in range(5 * size)],
    ),
    "host volumes": lambda size: pod(
        container(volumeMounts=[{"name": f"v{index}", "mountPath": f"/{index}"} for index in range(5 * size)]),
        volumes=[{"name": f"v{index}", "hostPath": {"path": "/dev"}} for index in range(5 * size)],
    ),
    "devices named again and again": lambda size: pod(
        container(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}] * (5 * size))
    ),
    "tolerations": lambda size: pod(
        container(gpus=1), tolerations=[{"key": GPU, "value": f"v{index}"} for index in range(5 * size)]
    ),
    "node selector": lambda size: pod(nodeSelector={f"key-{index}": "x" for index in range(5 * size)}),
    "resources": lambda size: pod(
        *(container(f"c{index}", resources={"limits": {f"example.com/{size}-{index}": "1"}}) for index in range(size))
    ),
}
ANNOTATIONS = {
    "nothing": {},
    "modules": {"tasuki.dev/modules": "gcc/12"},
    "modules of one container": {"tasuki.dev/modules": "gcc/12", "tasuki.dev/modules-containers": "c0,main"},
    "sidecar": {"tasuki.dev/vaccel": "sidecar"},
    "session": {"tasuki.dev/vaccel": "session"},
    "cache": {"tasuki.dev/cache": "train"},
    "timeshare": {"tasuki.dev/gpu-slice": "timeshare"},
    "shared node": {"tasuki.dev/gpu-sharing": "shared-node"},
}


@pytest.mark.parametrize("annotations", ANNOTATIONS.values(), ids=list(ANNOTATIONS))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_twice_the_pod_takes_at_most_twice_the_effort(
    shape: Callable[[int], Json], annotations: dict[str, str]
) -> None:
    labels = {"tasuki.dev/dataflow": "video", "tasuki.dev/function": "decode"}

    def effort(size: int) -> int:
        asked = shape(size)
        asked["metadata"] |= {"annotations": annotations, "labels": labels}
        content, known = msgspec.json.encode(asked), where()
        return calls(lambda: (review(content, known), review(content, known, CHECKS)))

    small, large = effort(50), effort(100)

    assert large <= 2.2 * small


NODE_QUESTIONS: dict[str, Callable[[int], Json]] = {
    "tolerations of one team each": lambda size: pod(
        tolerations=[{"key": "team", "value": f"other-{index}"} for index in range(size)]
    ),
    "tolerations of an effect that is none": lambda size: pod(
        tolerations=[{"operator": "Exists", "effect": f"No{index}"} for index in range(size)]
    ),
    "labels that no node has": lambda size: open_to_all(
        *(expression(f"key-{index}", "DoesNotExist") for index in range(size))
    ),
    "numbers": lambda size: open_to_all(*(expression("number", "Gt", str(-index)) for index in range(1, size))),
}


@pytest.mark.parametrize("shape", NODE_QUESTIONS.values(), ids=list(NODE_QUESTIONS))
def test_no_part_of_a_pod_is_compared_with_every_node(shape: Callable[[int], Json]) -> None:
    def effort(size: int) -> int:
        nodes, asked = with_taints(size), parsed(shape(size))
        return calls(lambda: nodes.could_land(asked))

    small, large = effort(200), effort(400)

    assert large <= 2.2 * small


LONG = "x" * 100_000
TOO_LONG: dict[str, Json] = {
    "name of a container": pod(container(LONG)),
    "name of a volume": pod(volumes=[{"name": LONG, "emptyDir": {}}]),
    "name of a resource": pod(container(resources={"limits": {f"nvidia.com/{LONG}": "1"}})),
    "key of a toleration": pod(tolerations=[{"key": LONG}]),
    "value of a toleration": pod(tolerations=[{"key": "a", "value": LONG}]),
    "key of a node selector": pod(nodeSelector={LONG: "x"}),
    "value of a label": pod(labels={"tasuki.dev/dataflow": LONG}),
    "key of an annotation": pod(annotations={f"tasuki.dev/{LONG}": "x"}),
    "priority class": pod(priorityClassName=LONG),
}


@pytest.mark.parametrize("asked", TOO_LONG.values(), ids=list(TOO_LONG))
def test_what_kubernetes_calls_too_long_is_refused_before_anything_is_made_of_it(asked: Json) -> None:
    outcome = reviewed(asked)

    assert outcome.refused_by == "decoding"
    assert len(outcome.refusal) < 200


@pytest.mark.parametrize("stages", [pytest.param(MUTATIONS, id="mutations"), pytest.param(CHECKS, id="checks")])
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        pytest.param(pod(*each_named(1001)), "<= 1000 - at `$.spec.containers`", id="containers"),
        pytest.param(pod(init=tuple(each_named(1001))), "<= 1000 - at `$.spec.initContainers`", id="init containers"),
        pytest.param(
            pod(tolerations=[{"key": f"k{index}"} for index in range(1001)]),
            "<= 1000 - at `$.spec.tolerations`",
            id="tolerations",
        ),
        pytest.param(
            pod(container(resources={"limits": {f"example.com/{index}": "1" for index in range(65)}})),
            "<= 64 - at `$.spec.containers[0].resources.limits`",
            id="resources",
        ),
        pytest.param(
            pod(container(securityContext={"capabilities": {"add": ["ALL"] * 65}})),
            "<= 64 - at `$.spec.containers[0].securityContext.capabilities.add`",
            id="capabilities",
        ),
    ],
)
def test_a_pod_with_far_too_many_of_something_is_refused(asked: Json, told: str, stages: Stages) -> None:
    outcome = reviewed(asked, stages)

    assert outcome.refused_by == "decoding"
    assert told in outcome.refusal


def test_a_pod_that_would_have_too_many_containers_with_ours_is_refused() -> None:
    asked = pod(init=tuple(each_named(1000)), annotations={"tasuki.dev/vaccel": "sidecar"})

    assert "$.spec.initContainers" in reviewed(asked).refusal


def test_what_pods_invent_is_not_remembered_beyond_bounds() -> None:
    nodes = with_taints(4)
    few = [{"key": "k" * 300, "value": "v" * 60, "operator": "Equal"}] * 33
    before = sys.getallocatedblocks()

    for number in range(2000):
        invented = [{**each, "effect": f"{number}-{index}"} for index, each in enumerate(few)]
        nodes.could_land(parsed(pod(tolerations=invented, nodeSelector={f"invented-{number}": "x"})))

    assert sys.getallocatedblocks() - before < 5000
