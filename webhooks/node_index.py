"""The nodes with accelerators, indexed so that a question costs microseconds however many there are."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Final

from webhooks.nodes import PASSING_TAINTS, AcceleratorNodes, NodeFacts, Taint, tolerated
from webhooks.pod import WINDOWS, NodeSelector, Pod, Requirement, SelectorTerm, Toleration
from webhooks.policy.model import OTHER_MAKERS, Glob, Policy, accelerators_among, any_match, label_matches

# A set of nodes: bit i is the i-th node with accelerators. Whole clusters are joined and cut in one instruction each.
_Nodes = int

# What keeps a pod away from a node rather than only making it look for another first.
_HARD: Final = frozenset({"NoSchedule", "NoExecute"})

# Each kubelet gives it to its node, from the system that it was built for.
_OS: Final = "kubernetes.io/os"

# As Go's strconv.ParseInt with base 10, which Python's int is wider than.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
_INT64: Final = range(-(2**63), 2**63)

# The tolerations that pods are free to invent, and of which the latest are remembered; each is of some 600 bytes.
_MOST_TOLERATIONS: Final = 32
_MOST_POD_KINDS: Final = 256


@dataclass(frozen=True, slots=True)
class _Label:
    """Which nodes have a label.

    Attributes:
        nodes: With any value.
        by_value: Sorted.
        numbers: The values that are integers, sorted.
        at_least: For each of `numbers`, the nodes with that or more; none after the last.
    """

    nodes: _Nodes
    by_value: Mapping[str, _Nodes]
    numbers: Sequence[int]
    at_least: Sequence[_Nodes]


_NO_LABEL: Final = _Label(nodes=0, by_value={}, numbers=(), at_least=(0,))


def index_nodes(nodes: Iterable[NodeFacts], policy: Policy) -> AcceleratorNodes:
    """Index those of the nodes that have accelerators by the policy: a resource, or one of the labels."""
    every = sorted(nodes, key=lambda node: node.name)
    return NodeIndex(
        [node for node in every if _has_accelerators(node, policy)],
        resources=sorted(accelerators_among(frozenset().union(*(_offered(node) for node in every)), policy)),
        oldest_kubelet=min((node.kubelet_version for node in every), default=(0, 0)),
        may_have_nvidia=any(_may_have_nvidia(node, policy) for node in every),
    )


def _has_accelerators(node: NodeFacts, policy: Policy) -> bool:
    return bool(accelerators_among(node.resources | node.idle, policy)) or _is_labelled(node, policy)


def _may_have_nvidia(node: NodeFacts, policy: Policy) -> bool:
    found = accelerators_among(node.resources | node.idle, policy)
    return any(not any_match(OTHER_MAKERS, name) for name in found) or _is_labelled(node, policy)


def _is_labelled(node: NodeFacts, policy: Policy) -> bool:
    wanted = policy.accelerators.node_labels
    return any(label_matches(glob, node.labels.get(key)) for key, glob in wanted.items())


def _offered(node: NodeFacts) -> frozenset[str]:
    """What the node has, and what it will have again when a device plugin is back.

    When a plugin gives a resource another name, the kubelet keeps the former at zero for ever (GetCapacity in
    pkg/kubelet/cm/devicemanager/manager.go): a name at zero beside others of its domain is one that nobody offers.
    """
    if not node.idle:
        return node.resources
    alive = {_domain(name) for name in node.resources}
    return node.resources | {name for name in node.idle if _domain(name) not in alive}


def _domain(resource: str) -> str:
    return resource.partition("/")[0]


class NodeIndex:
    """Implements `AcceleratorNodes` for nodes that do not change.

    What is derived from the nodes is derived when it is first asked for, and kept. Of what pods are free to invent,
    only the tolerations of the latest are kept, unless they are many.
    """

    def __init__(
        self,
        nodes: Sequence[NodeFacts],
        *,
        resources: Sequence[str],
        oldest_kubelet: tuple[int, int],
        may_have_nvidia: bool,
    ) -> None:
        self._all: _Nodes = (1 << len(nodes)) - 1
        self._by_name = {node.name: 1 << index for index, node in enumerate(nodes)}
        self._resources = tuple(resources)
        self._oldest_kubelet = oldest_kubelet
        self._may_have_nvidia = may_have_nvidia
        self._offering = _offering(nodes)
        self._taints = _taints(nodes)
        # Closures over the nodes, not over self: a replaced index is freed at once.
        self._known_label = cache(partial(_label, nodes))
        self._label_keys = frozenset[str]().union(*(node.labels for node in nodes))
        self._tolerated = partial(_tolerated, _with_hard_taint(nodes), self._all)
        self._lately_tolerated = lru_cache(maxsize=_MOST_POD_KINDS)(self._tolerated)

    @property
    def resources(self) -> Sequence[str]:
        return self._resources

    @property
    def oldest_kubelet(self) -> tuple[int, int]:
        return self._oldest_kubelet

    @property
    def may_have_nvidia(self) -> bool:
        return self._may_have_nvidia

    def label_values(
        self, resource: str, wanted: Mapping[str, Glob], selected: Mapping[str, str] = {}
    ) -> Mapping[str, Sequence[str]] | None:
        found = self._offering.get(resource, 0)
        for key, value in selected.items():
            found &= self._label(key).by_value.get(value, 0)
        for key, glob in wanted.items():
            found &= self._suiting(key, glob)
        if not found:
            return None
        return {
            key: tuple(value for value, having in self._label(key).by_value.items() if having & found) for key in wanted
        }

    def _suiting(self, key: str, glob: Glob) -> _Nodes:
        label = self._label(key)
        suiting = self._all & ~label.nodes if label_matches(glob, None) else 0
        for value, having in label.by_value.items():
            if label_matches(glob, value):
                suiting |= having
        return suiting

    def _label(self, key: str) -> _Label:
        return self._known_label(key) if key in self._label_keys else _NO_LABEL

    def taints(self, resource: str) -> Sequence[Taint]:
        return self._taints.get(resource, ())

    def could_land(self, pod: Pod) -> bool:
        """See `AcceleratorNodes`.

        Taints of passing conditions keep no pod away: one that waits lands when they are over, and what admission
        decides holds for the whole life of the pod.
        """
        spec = pod.spec
        if spec.node_name:
            # The pod goes past the scheduler, and with it past taints and affinity.
            return self._by_name.get(spec.node_name, 0) & self._running(spec.os.name) != 0
        remembered = len(spec.tolerations) <= _MOST_TOLERATIONS
        open_to = (self._lately_tolerated if remembered else self._tolerated)(spec.tolerations)
        open_to &= self._running(spec.os.name)
        for key, value in spec.node_selector.items():
            if not open_to:
                return False
            open_to &= self._label(key).by_value.get(value, 0)
        affinity = spec.affinity.node_affinity if spec.affinity else None
        required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
        if open_to and required is not None:
            open_to &= self._selected(required)
        return open_to != 0

    def _running(self, system: str) -> _Nodes:
        """No kubelet runs a pod that is for another system than its own (pkg/kubelet/lifecycle/predicate.go)."""
        if not system:
            return self._all
        windows = self._label(_OS).by_value.get(WINDOWS, 0)
        return windows if system == WINDOWS else self._all & ~windows

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
                return self._label(requirement.key).nodes
            case "DoesNotExist":
                return self._all & ~self._label(requirement.key).nodes
            case "Gt" | "Lt":
                return self._compared(requirement)
        return 0

    def _having(self, requirement: Requirement) -> _Nodes:
        having = self._label(requirement.key).by_value
        return _union(having.get(value, 0) for value in requirement.values)

    def _compared(self, requirement: Requirement) -> _Nodes:
        bound = _integer(requirement.values[0])
        if bound is None or len(requirement.values) != 1:
            return 0
        label = self._label(requirement.key)
        if requirement.operator == "Gt":
            return label.at_least[bisect_right(label.numbers, bound)]
        return label.at_least[0] & ~label.at_least[bisect_left(label.numbers, bound)]


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
        for resource in _offered(node):
            found[resource] = found.get(resource, 0) | 1 << index
    return found


def _taints(nodes: Sequence[NodeFacts]) -> Mapping[str, Sequence[Taint]]:
    """By resource."""
    found: dict[str, set[Taint]] = {}
    for node in nodes:
        for resource in node.resources | node.idle:
            found.setdefault(resource, set()).update(node.taints)
    return {resource: tuple(sorted(taints)) for resource, taints in found.items()}


def _with_hard_taint(nodes: Sequence[NodeFacts]) -> Mapping[Taint, _Nodes]:
    found: dict[Taint, _Nodes] = {}
    for index, node in enumerate(nodes):
        for taint in node.taints:
            if taint.effect in _HARD and not taint.key.startswith(PASSING_TAINTS):
                found[taint] = found.get(taint, 0) | 1 << index
    return found


def _label(nodes: Sequence[NodeFacts], key: str) -> _Label:
    found: dict[str, _Nodes] = {}
    for index, node in enumerate(nodes):
        value = node.labels.get(key)
        if value is not None:
            found[value] = found.get(value, 0) | 1 << index
    numbered = sorted((number, having) for value, having in found.items() if (number := _integer(value)) is not None)
    at_least = [0]
    for _, having in reversed(numbered):
        at_least.append(at_least[-1] | having)
    return _Label(
        nodes=_union(found.values()),
        by_value=dict(sorted(found.items())),
        numbers=[number for number, _ in numbered],
        at_least=at_least[::-1],
    )


def _tolerated(tainted: Mapping[Taint, _Nodes], every: _Nodes, tolerations: tuple[Toleration, ...]) -> _Nodes:
    harmless = frozenset(tolerated(tolerations, tainted))
    return every & ~_union(having for taint, having in tainted.items() if taint not in harmless)
