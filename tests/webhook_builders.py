"""Pods, scenes and what a mutation makes of them, applied by a JSON Patch library that is not ours."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonpatch
import kubernetes_validate
import msgspec

from webhooks.cluster import Cluster, PriorityClass
from webhooks.node_index import index_nodes
from webhooks.nodes import AcceleratorNodes, NodeFacts
from webhooks.patch import plain
from webhooks.pod import Pod
from webhooks.policy.model import Policy
from webhooks.scene import Change, Mutation, Scene

Json = dict[str, Any]


def container(name: str = "main", **fields: Any) -> Json:
    """A container as JSON; `env={"A": "1"}` and `gpus=1` are short for what they mean."""
    made: Json = {"name": name, "image": "example:1"}
    env = fields.pop("env", None)
    if env is not None:
        made["env"] = [{"name": key, "value": value} for key, value in env.items()] if isinstance(env, dict) else env
    gpus = fields.pop("gpus", None)
    if gpus is not None:
        fields["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}, "requests": {"nvidia.com/gpu": str(gpus)}}
    return made | fields


def pod(
    *containers: Json,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    init: tuple[Json, ...] = (),
    **spec: Any,
) -> Json:
    """A pod as the API server sends it to a webhook: with a name, priority and scheduler already there."""
    metadata: Json = {"name": "example"}
    if annotations:
        metadata["annotations"] = dict(annotations)
    if labels:
        metadata["labels"] = dict(labels)
    whole: Json = {"containers": list(containers) or [container()]}
    if init:
        whole["initContainers"] = list(init)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole | spec}


def priority_classes(**values: int) -> dict[str, PriorityClass]:
    """Underscores become dashes."""
    return {
        name.replace("_", "-"): PriorityClass(name=name.replace("_", "-"), value=value)
        for name, value in values.items()
    }


def scene(
    policy: Policy | None = None,
    *,
    namespace: str = "research",
    labels: Mapping[str, str] | None = None,
    cluster: Cluster | None = None,
    nodes: AcceleratorNodes | None = None,
) -> Scene:
    return Scene(
        namespace=namespace,
        policy=policy or Policy(),
        cluster=cluster or Cluster(),
        namespace_labels=labels or {},
        nodes=nodes,
    )


def without_accelerators(kubelet: tuple[int, int]) -> AcceleratorNodes:
    """A cluster of one node, with a kubelet of this version and no accelerator."""
    plain_node = NodeFacts(name="node", labels={}, taints=(), resources=frozenset(), kubelet_version=kubelet)
    return index_nodes([plain_node], Policy())


def admission_review(pod: Any, **changes: Any) -> Json:
    """With the keys that a live API server 1.36 sends; `changes` are to its request."""
    asked: Json = {
        "uid": "9f0d3b1c-0000-4000-8000-000000000001",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "name": "example",
        "namespace": "research",
        "operation": "CREATE",
        "userInfo": {"username": "kubernetes-admin", "groups": ["system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": asked | changes}


@dataclass(frozen=True)
class Admitted:
    """A pod after a mutation.

    Attributes:
        pod: As JSON.
        operations: Those of the first pass, as JSON.
    """

    pod: Json
    change: Change
    operations: list[Json]


def admit(mutation: Mutation, before: Json, where: Scene) -> Admitted:
    """Mutate twice: the first pass must keep a valid pod valid, and the second must find nothing left to do."""
    change = mutation(msgspec.convert(before, Pod), where)
    operations = [plain(operation) for operation in change.operations]
    after = jsonpatch.apply_patch(copy.deepcopy(before), operations)
    again = mutation(msgspec.convert(after, Pod), where)
    assert [plain(operation) for operation in again.operations] == []
    if operations:
        assert_valid(after)
    return Admitted(pod=after, change=change, operations=operations)


def assert_valid(after: Json) -> None:
    """Against Kubernetes' own schema of a Pod."""
    kubernetes_validate.validate(after, "1.36", strict=True)
