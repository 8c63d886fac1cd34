"""The nodes with accelerators, indexed so that a question costs microseconds however many there are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from webhooks.nodes import AcceleratorNodes, NodeFacts, Taint, tolerates
from webhooks.pod import NodeSelector, Pod, Requirement, SelectorTerm, Toleration
from webhooks.policy.model import Glob, Policy, accelerators_among, any_match, label_matches

# A set of nodes: bit i is the i-th node with accelerators. Whole clusters are joined and cut in one instruction each.
_Nodes = int

# What keeps a pod away from a node rather than only making it look for another first.
_HARD: Final = frozenset({"NoSchedule", "NoExecute"})
# Conditions of the moment (not ready, cordoned, not initialized) with which a node comes, goes and is repaired: a pod
# that waits lands when they are over, and what admission decides holds for the whole life of the pod.
# https://kubernetes.io/docs/reference/labels-annotations-taints/
_PASSING: Final = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")

# As Go's strconv.ParseInt with base 10, which Python's int is wider than.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
_INT64: Final = range(-(2**63), 2**63)


def index_nodes(nodes: Iterable[NodeFacts], policy: Policy) -> AcceleratorNodes:
    """Index those of the nodes that have accelerators by the policy: a resource, or one of the labels."""
    every = sorted(nodes, key=lambda node: node.name)
    return NodeIndex(
        [node for node in every if _has_accelerators(node, policy)],
        resources=sorted(accelerators_among(frozenset().union(*(node.resources for node in every)), policy)),
        oldest_kubelet=min((node.kubelet_version for node in every), default=(0, 0)),
    )


def _has_accelerators(node: NodeFacts, policy: Policy) -> bool:
    accelerators = policy.accelerators
    return any(any_match(accelerators.resources, name) for name in node.resources) or any(
        label_matches(glob, node.labels.get(key)) for key, glob in accelerators.node_labels.items()
    )


class NodeIndex:
    """Implements `AcceleratorNodes` for nodes that do not change.

    What is derived from the nodes is derived when it is first asked for, and kept. What pods are free to invent is
    kept within bounds: the tolerations of the latest pods, the labels that the latest pods asked for.
    """

    def __init__(
        self, nodes: Sequence[NodeFacts], *, resources: Sequence[str], oldest_kubelet: tuple[int, int]
    ) -> None:
        self._all: _Nodes = (1 << len(nodes)) - 1
        self._by_name = {node.name: 1 << index for index, node in enumerate(nodes)}
        self._resources = tuple(resources)
        self._oldest_kubelet = oldest_kubelet
        self._offering = _offering(nodes)
        self._taints = _taints(nodes)
        # Closures over the nodes, not over self: a replaced index is freed at once.
        self._with_label = lru_cache(maxsize=256)(partial(_with_label, nodes))
        self._tolerated = lru_cache(maxsize=1024)(partial(_tolerated, _with_hard_taint(nodes), self._all))

    @property
    def resources(self) -> Sequence[str]:
        return self._resources

    @property
    def oldest_kubelet(self) -> tuple[int, int]:
        return self._oldest_kubelet

    def label_values(self, resource: str, wanted: Mapping[str, Glob]) -> Mapping[str, Sequence[str]] | None:
        found = self._offering.get(resource, 0)
        for key, glob in wanted.items():
            found &= self._suiting(key, glob)
        if not found:
            return None
        return {
            key: tuple(value for value, having in self._with_label(key).items() if having & found) for key in wanted
        }

    def _suiting(self, key: str, glob: Glob) -> _Nodes:
        suiting = self._all & ~self._labelled(key) if label_matches(glob, None) else 0
        for value, having in self._with_label(key).items():
            if label_matches(glob, value):
                suiting |= having
        return suiting

    def _labelled(self, key: str) -> _Nodes:
        return _union(self._with_label(key).values())

    def taints(self, resource: str) -> Sequence[Taint]:
        return self._taints.get(resource, ())

    def could_land(self, pod: Pod) -> bool:
        """See `AcceleratorNodes`. Taints of passing conditions keep no pod away."""
        spec = pod.spec
        if spec.node_name:
            # The pod goes past the scheduler, and with it past taints and affinity.
            return spec.node_name in self._by_name
        open_to = self._tolerated(spec.tolerations)
        for key, value in spec.node_selector.items():
            if not open_to:
                return False
            open_to &= self._with_label(key).get(value, 0)
        affinity = spec.affinity.node_affinity if spec.affinity else None
        required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
        if open_to and required is not None:
            open_to &= self._selected(required)
        return open_to != 0

    def _selected(self, selector: NodeSelector) -> _Nodes:
        return _union(self._meeting(term) for term in selector.node_selector_terms)

    def _meeting(self, term: SelectorTerm) -> _Nodes:
        if not term.match_expressions and not term.match_fields:
            return 0
        found = self._all
        for requirement in term.match_fields:
            found &= self._with_field(requirement)
        for requirement in term.match_expressions:
            if not found:
                break
            found &= self._with_expression(requirement)
        return found

    def _with_field(self, requirement: Requirement) -> _Nodes:
        # The only field there is, and with one value only; the API server refuses all else.
        if requirement.key != "metadata.name" or len(requirement.values) != 1:
            return 0
        named = self._by_name.get(requirement.values[0], 0)
        match requirement.operator:
            case "In":
                return named
            case "NotIn":
                return self._all & ~named
        return 0

    def _with_expression(self, requirement: Requirement) -> _Nodes:
        """A requirement that is not well-formed is met by no node, as in the scheduler."""
        if bool(requirement.values) != (requirement.operator not in ("Exists", "DoesNotExist")):
            return 0
        match requirement.operator:
            case "In":
                return self._having(requirement)
            case "NotIn":
                return self._all & ~self._having(requirement)
            case "Exists":
                return self._labelled(requirement.key)
            case "DoesNotExist":
                return self._all & ~self._labelled(requirement.key)
            case "Gt" | "Lt":
                return self._compared(requirement)
        return 0

    def _having(self, requirement: Requirement) -> _Nodes:
        having = self._with_label(requirement.key)
        return _union(having.get(value, 0) for value in requirement.values)

    def _compared(self, requirement: Requirement) -> _Nodes:
        bound = _integer(requirement.values[0])
        if bound is None or len(requirement.values) != 1:
            return 0
        found = 0
        for value, having in self._with_label(requirement.key).items():
            number = _integer(value)
            if number is not None and (number > bound if requirement.operator == "Gt" else number < bound):
                found |= having
        return found


def _integer(text: str) -> int | None:
    if _INTEGER.fullmatch(text) and int(text) in _INT64:
        return int(text)
    return None


def _union(sets: Iterable[_Nodes]) -> _Nodes:
    found = 0
    for each in sets:
        found |= each
    return found


def _offering(nodes: Sequence[NodeFacts]) -> Mapping[str, _Nodes]:
    found: dict[str, _Nodes] = {}
    for index, node in enumerate(nodes):
        for resource in node.resources:
            found[resource] = found.get(resource, 0) | 1 << index
    return found


def _taints(nodes: Sequence[NodeFacts]) -> Mapping[str, Sequence[Taint]]:
    """By resource."""
    found: dict[str, set[Taint]] = {}
    for node in nodes:
        for resource in node.resources:
            found.setdefault(resource, set()).update(node.taints)
    return {resource: tuple(sorted(taints)) for resource, taints in found.items()}


def _with_hard_taint(nodes: Sequence[NodeFacts]) -> Mapping[Taint, _Nodes]:
    found: dict[Taint, _Nodes] = {}
    for index, node in enumerate(nodes):
        for taint in node.taints:
            if taint.effect in _HARD and not taint.key.startswith(_PASSING):
                found[taint] = found.get(taint, 0) | 1 << index
    return found


def _with_label(nodes: Sequence[NodeFacts], key: str) -> Mapping[str, _Nodes]:
    """By the label's value, sorted."""
    found: dict[str, _Nodes] = {}
    for index, node in enumerate(nodes):
        value = node.labels.get(key)
        if value is not None:
            found[value] = found.get(value, 0) | 1 << index
    return dict(sorted(found.items()))


def _tolerated(tainted: Mapping[Taint, _Nodes], every: _Nodes, tolerations: tuple[Toleration, ...]) -> _Nodes:
    return every & ~_union(
        having for taint, having in tainted.items() if not any(tolerates(each, taint) for each in tolerations)
    )
