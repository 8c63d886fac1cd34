"""Which nodes have accelerators, what they offer, and which pods could land on them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from webhooks.pod import Pod, Toleration

# Conditions of the moment (not ready, cordoned, not initialized) with which a node comes, goes and is repaired.
# https://kubernetes.io/docs/reference/labels-annotations-taints/
PASSING_TAINTS: Final = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")


@dataclass(frozen=True, slots=True, order=True)
class Taint:
    """A node's taint; `effect` is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What admission needs of a Node; two that are equal make no difference to any pod.

    Attributes:
        resources: The names of extended resources of which it has some.
        kubelet_version: (1, 36).
        idle: The names of those of which it has none just now, or no longer.
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    resources: frozenset[str]
    kubelet_version: tuple[int, int] = (0, 0)
    idle: frozenset[str] = frozenset()


class AcceleratorNodes(Protocol):
    """What mutations ask about the nodes with accelerators; made once for each policy and set of nodes."""

    @property
    def resources(self) -> Sequence[str]:
        """The accelerator resources that some node offers, sorted."""

    @property
    def oldest_kubelet(self) -> tuple[int, int]:
        """The lowest version of any node's kubelet, with or without accelerators; (0, 0) if there is no node."""

    @property
    def may_have_nvidia(self) -> bool:
        """Whether one of them may have NVIDIA's GPUs: all but those that offer other makers' accelerators only."""

    def label_values(
        self, resource: str, wanted: Mapping[str, str], selected: Mapping[str, str] = {}
    ) -> Mapping[str, Sequence[str]] | None:
        """The values, sorted, that these labels have on nodes which offer `resource`.

        `wanted` gives a glob for each label; only nodes count on which every label suits its glob, as in a policy's
        slice offers: one after `!` must not match, and on which every label of `selected` has just that value. None if
        there is no such node.
        """

    def taints(self, resource: str) -> Sequence[Taint]:
        """The taints of the nodes that offer `resource`, or did or will, sorted, each once."""

    def could_land(self, pod: Pod) -> bool:
        """Whether the pod could run on one of the nodes.

        By its `nodeName`, or else by its tolerations, node selector and required node affinity; and by its `os`.
        """


def tolerated(tolerations: Iterable[Toleration], taints: Iterable[Taint]) -> Sequence[Taint]:
    """Those of the taints that one of the tolerations is for.

    As the scheduler decides it; the alpha operators Gt and Lt tolerate nothing. However many both are, no toleration is
    compared with every taint.
    https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/api/core/v1/toleration.go
    """
    every = tuple(tolerations)
    any_value = {(each.key, each.effect) for each in every if each.operator == "Exists"}
    one_value = {(each.key, each.effect, each.value) for each in every if each.operator in ("", "Equal")}
    return [
        taint
        for taint in taints
        if any(
            (key, effect) in any_value or (key, effect, taint.value) in one_value
            for key in ("", taint.key)
            for effect in ("", taint.effect)
        )
    ]
