"""Which caches Envoys send requests to, decided from pods and their nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tasuki.kube.names import DOMAIN

# A node label: how much of its zone's keys the node keeps, in proportion to the others'.
WEIGHT_LABEL: Final = f"{DOMAIN}/cache-weight"
# Envoy adds the weights of a locality up in 32 bits; 400 nodes of this weight are far below.
MOST_WEIGHT: Final = 10_000

# Who sets them is about to take the node away, or says that it is gone already: cluster-autoscaler (utils/taints),
# Kubernetes' non-graceful node shutdown, Karpenter (pkg/apis/v1/taints.go).
LEAVING_TAINTS: Final = frozenset({
    "ToBeDeletedByClusterAutoscaler",
    "node.kubernetes.io/out-of-service",
    "karpenter.sh/disrupted",
})  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A cache as Envoys are told of it.

    Attributes:
        node: By whose name keys find it, so that a pod's new address moves no key.
        zone: Empty where nodes have none.
        weight: Of its share of the zone's keys.
        leaving: It answers what it was asked, and owns no key any more.
    """

    node: str
    address: str
    port: int
    zone: str = ""
    weight: int = 1
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class CachePod:
    """What matters of a cache's pod.

    Attributes:
        node: Empty while it has none.
        address: Empty while it has none.
        created: RFC 3339, by which the younger of two is known.
        leaving: It is being deleted.
    """

    name: str
    node: str
    address: str
    created: str
    ready: bool
    leaving: bool


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What matters of a node.

    Attributes:
        leaving: Cordoned, or about to go.
    """

    zone: str
    leaving: bool = False
    weight: int = 1


def members(pods: Iterable[CachePod], nodes: Mapping[str, NodeFacts], port: int) -> tuple[Member, ...]:
    """At most one of each node, sorted by node.

    A pod on a node that is not known yet is none: without its zone it would be taken for one of another zone.
    Of several pods on a node, as an update that surges has them, the one that stays counts, then the younger. Likewise
    of several with one address, as the last word of a pod that is gone may name another one's by now: Envoy takes the
    first of a zone by its address, and passes over the others.
    Where all nodes leave at once, as when an upgrade cordons them before there are new ones, their caches stay until
    their pods go: else there would be none.
    """
    chosen: dict[str, CachePod] = {}
    addresses: set[str] = set()
    for pod in sorted(pods, key=lambda each: (not each.leaving, each.created, each.name), reverse=True):
        usable = pod.node in nodes and pod.address and (pod.ready or pod.leaving)
        if usable and pod.node not in chosen and pod.address not in addresses:
            chosen[pod.node] = pod
            addresses.add(pod.address)
    others_stay = any(not (pod.leaving or nodes[pod.node].leaving) for pod in chosen.values())
    found = []
    for node, pod in sorted(chosen.items()):
        facts = nodes[node]
        leaving = pod.leaving or (facts.leaving and others_stay)
        found.append(Member(node, pod.address, port, facts.zone, facts.weight, leaving))
    return tuple(found)


def weight_of(labels: Mapping[str, str]) -> int:
    """As WEIGHT_LABEL says; 1 without it, and where it is no whole number from 1 to MOST_WEIGHT."""
    text = labels.get(WEIGHT_LABEL, "")
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MOST_WEIGHT)):
        return 1
    return int(text) if 1 <= int(text) <= MOST_WEIGHT else 1
