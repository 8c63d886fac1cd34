"""Which nodes have accelerators, what they offer, and which pods could land on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from webhooks.pod import Pod, Toleration


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
        resources: The names of extended resources in its capacity, also of those of which it has none just now.
        kubelet_version: (1, 36).
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    resources: frozenset[str]
    kubelet_version: tuple[int, int] = (0, 0)


class AcceleratorNodes(Protocol):
    """What mutations ask about the nodes with accelerators; made once for each policy and set of nodes."""

    @property
    def resources(self) -> Sequence[str]:
        """The accelerator resources that some node offers, sorted."""

    @property
    def oldest_kubelet(self) -> tuple[int, int]:
        """The lowest version of any node's kubelet, with or without accelerators; (0, 0) if there is no node."""

    def label_values(self, resource: str, wanted: Mapping[str, str]) -> Mapping[str, Sequence[str]] | None:
        """The values, sorted, that these labels have on nodes which offer `resource`.

        `wanted` gives a glob for each label; only nodes count on which every label suits its glob, as in a policy's
        slice offers: one after `!` must not match. None if there is no such node.
        """

    def taints(self, resource: str) -> Sequence[Taint]:
        """The taints of the nodes that offer `resource`, sorted, each once."""

    def could_land(self, pod: Pod) -> bool:
        """Whether the pod's tolerations, node selector and required node affinity admit it to one of the nodes."""


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """As the scheduler decides it; the alpha operators Gt and Lt tolerate nothing.

    https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/api/core/v1/toleration.go
    """
    if toleration.effect not in ("", taint.effect) or toleration.key not in ("", taint.key):
        return False
    return toleration.operator == "Exists" or (toleration.operator in ("", "Equal") and toleration.value == taint.value)
