"""What a mutation may know besides the pod, and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from webhooks.cluster import Cluster
from webhooks.nodes import AcceleratorNodes
from webhooks.patch import Operations
from webhooks.pod import Pod
from webhooks.policy.model import Policy


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a pod is about to be created.

    Attributes:
        namespace: From the request; the pod's own may be empty.
        namespace_labels: None while they are not known.
        nodes: None while the nodes are not known.
    """

    namespace: str
    policy: Policy
    cluster: Cluster = field(default_factory=Cluster)
    namespace_labels: Mapping[str, str] | None = None
    nodes: AcceleratorNodes | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a mutation wants.

    Attributes:
        warnings: Sentences that the user sees at once, when something that was written was adjusted.
        notes: For the audit log, by a short key of letters and dashes.
    """

    operations: Operations = ()
    warnings: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


NOTHING = Change()


class RefusedError(Exception):
    """The pod may not be created; the text tells the user what to write instead."""


# Raises RefusedError, or ReservedNameError where the pod uses a name of ours for something else.
Mutation = Callable[[Pod, Scene], Change]
