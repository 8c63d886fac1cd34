"""What the API server's Priority admission does to a pod, after plugin/pkg/admission/priority/admission.go of 1.36."""

import copy

from hypothesis import strategies as st

from tests.webhook_builders import Json, container, pod
from webhooks.cluster import Cluster, PriorityClass
from webhooks.nodes import AcceleratorNodes, Taint
from webhooks.pod import Pod
from webhooks.policy.model import CpuOnly, Policy, Team
from webhooks.scene import Scene

CPU = "tasuki-cpu-on-accelerator-node"
SYSTEM = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


class ForbiddenError(Exception):
    """The API server would refuse the pod."""


def admit_priority(before: Json, cluster: Cluster) -> Json:
    """The pod with class, priority and preemption policy filled in.

    Classes of value below 0 never preempt, so that there are both policies.
    """
    assert cluster.priority_classes is not None
    after = copy.deepcopy(before)
    spec = after["spec"]
    name = spec.get("priorityClassName", "")
    value, policy = 0, "PreemptLowerPriority"
    if name and name not in cluster.priority_classes:
        raise ForbiddenError(f"no PriorityClass with name {name} was found")
    defaults = [each for each in cluster.priority_classes.values() if each.global_default]
    found = cluster.priority_classes[name] if name else min(defaults, key=lambda each: each.value, default=None)
    if found is not None:
        spec["priorityClassName"] = found.name
        value, policy = found.value, "Never" if found.value < 0 else "PreemptLowerPriority"
    if spec.get("priority", value) != value:
        raise ForbiddenError(f"the integer value of priority ({spec['priority']}) must not be provided in pod spec")
    if spec.get("preemptionPolicy", policy) != policy:
        raise ForbiddenError("the string value of PreemptionPolicy must not be provided in pod spec")
    return {**after, "spec": spec | {"priority": value, "preemptionPolicy": policy}}


class OpenNodes:
    """Nodes with GPUs and without taints, on which every pod lands that does not select others."""

    resources = ("nvidia.com/gpu",)
    oldest_kubelet = (1, 36)
    may_have_nvidia = True

    def label_values(self, resource: str, wanted: object, selected: object = None) -> None:
        return None

    def taints(self, resource: str) -> tuple[Taint, ...]:
        return ()

    def could_land(self, pod: Pod) -> bool:
        return not pod.spec.node_selector


OPEN_NODES: AcceleratorNodes = OpenNodes()


def cluster_of(classes: dict[str, int], default: str = "") -> Cluster:
    values = {**SYSTEM, **classes}
    return Cluster(
        priority_classes={
            name: PriorityClass(name=name, value=value, global_default=name == default)
            for name, value in values.items()
        }
    )


_names = ["low", "normal", "high", CPU]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Clusters and policies in which some of the named classes exist, with any values and any default."""
    values = st.sampled_from([-1000, -10, 0, 10, 1000])
    there = draw(st.lists(st.sampled_from(_names), unique=True))
    classes = {name: draw(values) for name in there}
    name = st.sampled_from(["", *_names])
    team = Team(default_priority_class=draw(name), maximum_priority_class=draw(name))
    return Scene(
        namespace="research",
        policy=Policy(cpu_only=draw(st.sampled_from([None, CpuOnly()])), teams=draw(st.sampled_from([(), (team,)]))),
        cluster=cluster_of(classes, default=draw(st.sampled_from(["", *there]))),
        nodes=draw(st.sampled_from([None, OPEN_NODES])),
    )


@st.composite
def pods_in(draw: st.DrawFn, where: Scene) -> Json:
    """A pod as the API server has admitted it so far: it may name any class that there is."""
    assert where.cluster.priority_classes is not None
    spec: Json = {}
    if name := draw(st.sampled_from(["", *sorted(where.cluster.priority_classes)])):
        spec["priorityClassName"] = name
    if draw(st.booleans()):
        spec["nodeSelector"] = {"kind": "cpu"}
    made = pod(container(gpus=draw(st.sampled_from([None, 1]))), **spec)
    if draw(st.booleans()):
        made["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "1", "controller": True}
        ]
    return admit_priority(made, where.cluster)
