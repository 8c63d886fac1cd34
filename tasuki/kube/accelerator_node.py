"""AcceleratorNode: what one node's daemon publishes of its devices, read by whoever places work."""

from typing import Final, Literal

import msgspec

from tasuki.devices.model import DeviceKind
from tasuki.devices.topology import LinkKind
from tasuki.kube.names import ACCELERATOR_NODE_KIND, API_GROUP, API_VERSION
from tasuki.kube.objects import ObjectMeta

READY: Final = "Ready"
HOLDERS_KNOWN: Final = "HoldersKnown"


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """As everywhere in Kubernetes; `last_transition_time` (RFC 3339) is when `status` last changed."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: str


class ObservedConfiguration(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The configuration in force: where it was read, and its content's digest."""

    origin: str
    digest: str


class FunctionStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A function that could be programmed into a device, and how long that takes."""

    name: str
    programming_seconds: float


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One device, or one partition of it.

    A partition (`parent` is set) sits where its parent does, so its place is left out.

    Attributes:
        reason: Why it is not healthy.
        numa_node: None where the firmware does not say.
        pcie_path: From the root complex down to the device.
        power_limit_watts: The most that it may draw, as it is set now; 0 if unknown, and for a partition.
        interface: What an image for it must be made for; only of reprogrammable devices, as all that follows.
        function: The function that is in it, by the catalogue's name.
        image: The id of what is in it, whether the catalogue knows it or not.
        claimed: Containers hold it, so that it cannot be reprogrammed.
        functions: What it could be programmed with.
    """

    id: str
    kind: DeviceKind
    index: str
    model: str
    memory_bytes: int
    healthy: bool
    reason: str = ""
    numa_node: int | None = None
    pcie_root: str = ""
    pci_address: str = ""
    pcie_path: tuple[str, ...] = ()
    parent: str = ""
    profile: str = ""
    power_limit_watts: float = 0.0
    interface: str = ""
    function: str = ""
    image: str = ""
    claimed: bool = False
    functions: tuple[FunctionStatus, ...] = ()


class DevicePair(msgspec.Struct, frozen=True, kw_only=True, rename={"origin": "from", "target": "to"}):
    """Two devices' ids; links are the same both ways, so each pair is listed once."""

    origin: str
    target: str


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All pairs of whole devices whose best link is of this kind and speed.

    Attributes:
        bytes_per_second: In one direction, with nobody else on the path.
        latency_seconds: Until the first byte arrives.
    """

    kind: LinkKind
    bytes_per_second: int
    latency_seconds: float
    pairs: tuple[DevicePair, ...]


class DeviceSlices(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A resource's slices of one device; those that are neither free nor held cannot be handed out."""

    device: str
    replicas: int
    free: int
    held: int = 0


class SliceHolder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A container and the slices that the kubelet has given to it.

    Attributes:
        count: How many slices it holds.
        slices: Their ids, in order; shorter than `count` on a node where so many are held that the list is cut.
    """

    namespace: str
    pod: str
    container: str
    count: int
    slices: tuple[str, ...]


class ResourceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One extended resource: `slices` = `held` + `unhealthy` + `free`.

    A resource that is no longer offered stays listed, with no slices, while a container holds a part of it.

    Attributes:
        sharing: `none`, `time-slicing` or `mps`.
        one_per_request: A container may ask for one slice at most.
        unhealthy: Slices of devices that are not healthy, held ones aside.
    """

    name: str
    sharing: str
    one_per_request: bool
    slices: int
    held: int
    unhealthy: int
    free: int
    devices: tuple[DeviceSlices, ...]
    holders: tuple[SliceHolder, ...]


class AcceleratorNodeStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that a node publishes.

    Every field is written each time, even if empty, and everything of variable shape sits in a list, so that a
    JSON merge patch replaces the whole status.

    Attributes:
        summary: The resources in a few words, for `kubectl get`.
        gpus: How many whole GPUs there are.
        problems: Sentences for the operator on what is left out, and why.
    """

    summary: str
    gpus: int
    machine: str
    driver_version: str
    cuda_version: str
    configuration: ObservedConfiguration
    devices: tuple[DeviceStatus, ...]
    links: tuple[LinkStatus, ...]
    resources: tuple[ResourceStatus, ...]
    problems: tuple[str, ...]
    conditions: tuple[Condition, ...]


class AcceleratorNode(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The object; its name is its node's."""

    api_version: str = f"{API_GROUP}/{API_VERSION}"
    kind: str = ACCELERATOR_NODE_KIND
    metadata: ObjectMeta
    status: AcceleratorNodeStatus | msgspec.UnsetType = msgspec.UNSET
