"""What the kubelet knows of a resource at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

from protos.deviceplugin.v1beta1 import api_pb2

# The only word that counts; any other means that the device must not be handed out.
HEALTHY_WORD: Final = "Healthy"


@dataclass(frozen=True, slots=True)
class ResourceView:
    """One resource of the node.

    Attributes:
        numa_nodes: By device id, of all devices of the last list; None for a device that said nothing of its
            topology, which is not the same as saying that it has none.
        connected: Whether its plugin is there. The kubelet keeps the resource for a while without it.
        pre_start_required: Whether PreStartContainer is called before a container starts.
        prefers: Whether GetPreferredAllocation is called.
    """

    name: str
    healthy: frozenset[str] = frozenset()
    unhealthy: frozenset[str] = frozenset()
    numa_nodes: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    connected: bool = False
    pre_start_required: bool = False
    prefers: bool = False

    @property
    def capacity(self) -> int:
        return len(self.healthy) + len(self.unhealthy)

    @property
    def allocatable(self) -> int:
        return len(self.healthy)

    def listed(self, response: api_pb2.ListAndWatchResponse) -> Self:
        """The view after one message of ListAndWatch, which replaces all that was known."""
        numa_nodes = {
            device.ID: tuple(node.ID for node in device.topology.nodes) if device.HasField("topology") else None
            for device in response.devices
        }
        healthy = frozenset(device.ID for device in response.devices if device.health == HEALTHY_WORD)
        unhealthy = frozenset(device.ID for device in response.devices if device.health != HEALTHY_WORD)
        return replace(self, healthy=healthy, unhealthy=unhealthy, numa_nodes=numa_nodes)

    def disconnected(self) -> Self:
        """The view after the plugin went away: no device of it is handed out any more."""
        return replace(self, healthy=frozenset(), unhealthy=self.healthy | self.unhealthy, connected=False)
