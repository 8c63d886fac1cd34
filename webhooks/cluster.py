"""What is known of the cluster while a pod is admitted: a snapshot that watches replace, never asked for on the way."""

from collections.abc import Mapping
from dataclasses import dataclass

from webhooks.catalogue import Catalogue
from webhooks.nodes import NodeFacts


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """A PriorityClass of the cluster.

    Attributes:
        value: The larger, the more urgent.
        global_default: Pods that name none get this one, from the API server, before a webhook sees them.
    """

    name: str
    value: int
    global_default: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """Each part is None until it was seen for the first time; from then on it is the last that was seen.

    Attributes:
        priority_classes: By name.
        nodes: Of every node, by name.
        namespaces: The labels of each.
        server_version: Of the API server, (1, 36).
        catalogue: The environment modules that can be loaded.
    """

    priority_classes: Mapping[str, PriorityClass] | None = None
    nodes: Mapping[str, NodeFacts] | None = None
    namespaces: Mapping[str, Mapping[str, str]] | None = None
    server_version: tuple[int, int] | None = None
    catalogue: Catalogue | None = None
