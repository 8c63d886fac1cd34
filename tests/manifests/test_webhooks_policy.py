"""What the manifests' policy and the example do to a cluster as they are."""

from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.webhook_builders import Json, container, pod, scene
from tests.webhooks.priority_admission import CPU, OPEN_NODES, admit_priority, cluster_of
from webhooks.policy.model import Policy
from webhooks.policy.reading import read_policy
from webhooks.review import CHECKS, MUTATIONS, UNTOUCHED, review
from webhooks.world import World

ROOT: Final = Path(__file__).parents[2]
BASE: Final = ROOT / "manifests" / "webhooks" / "base" / "policy.yaml"
EXAMPLE: Final = ROOT / "examples" / "admission" / "policy.yaml"

CLUSTER: Final = cluster_of({CPU: -10, "standard": 100, "urgent": 1000})

# Where the parts of clusters are installed by their own manifests and charts.
PARTS: Final = [
    "calico-system",
    "tigera-operator",
    "cilium-secrets",
    "kube-flannel",
    "istio-system",
    "cert-manager",
    "gpu-operator",
    "gpu-operator-resources",
    "nvidia-gpu-operator",
    "network-operator",
    "kueue-system",
    "longhorn-system",
    "rook-ceph",
    "monitoring",
    "gke-managed-system",
    "gmp-system",
    "openshift-monitoring",
    "kube-system",
]


@pytest.fixture(params=[BASE, EXAMPLE], ids=["the manifests' policy", "the example"])
def policy(request: pytest.FixtureRequest) -> Policy:
    file: Path = request.param
    return read_policy(file.read_bytes())


@pytest.mark.parametrize("name", PARTS)
def test_what_clusters_are_made_of_is_left_alone(policy: Policy, name: str) -> None:
    world = World("tasuki-system")
    world.use_policy(policy)

    assert world.scene(name) is None
    assert world.scene("research") is not None


@pytest.mark.parametrize("name", ["system-node-critical", "system-cluster-critical"])
def test_no_part_of_a_cluster_is_refused_in_a_namespace_that_nobody_listed(policy: Policy, name: str) -> None:
    where = scene(policy, namespace="our-own-network", cluster=CLUSTER, nodes=OPEN_NODES)
    asked = msgspec.json.encode(admit_priority(pod(priorityClassName=name), CLUSTER))

    mutated, checked = review(asked, where, MUTATIONS), review(asked, where, CHECKS)

    assert (mutated.refusal, checked.refusal) == ("", "")
    assert "/spec/priorityClassName" not in {operation.path for operation in mutated.operations}


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(pod(), id="an ordinary pod"),
        pytest.param(pod(container(securityContext={"privileged": True})), id="a privileged pod"),
        pytest.param(pod(hostNetwork=True), id="a pod in the host's network"),
    ],
)
def test_the_manifests_policy_changes_nothing_far_from_accelerators(asked: Json) -> None:
    where = scene(read_policy(BASE.read_bytes()), cluster=CLUSTER, nodes=OPEN_NODES)
    elsewhere = {**asked, "spec": {**asked["spec"], "nodeSelector": {"kind": "cpu"}}}
    content = msgspec.json.encode(admit_priority(elsewhere, CLUSTER))

    assert review(content, where, MUTATIONS) is UNTOUCHED
    assert review(content, where, CHECKS) is UNTOUCHED


def test_the_manifests_policy_lowers_and_hides_beside_accelerators() -> None:
    where = scene(read_policy(BASE.read_bytes()), cluster=CLUSTER, nodes=OPEN_NODES)
    content = msgspec.json.encode(admit_priority(pod(), CLUSTER))

    assert list(review(content, where).changed) == ["protection", "cpu-only"]
