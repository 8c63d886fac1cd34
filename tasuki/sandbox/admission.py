"""What a pod gets when the kubelet admits it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from deviceplugin.container import ContainerEdits
from protos.deviceplugin.v1beta1 import api_pb2
from tasuki.sandbox.pods import Container, Pod

UNEXPECTED_ADMISSION_ERROR: Final = "UnexpectedAdmissionError"


@dataclass(frozen=True, slots=True)
class HeldDevices:
    """What a container holds of one resource.

    Attributes:
        numa_nodes: By device, as listed when it was allocated.
        answer: The plugin's, to Allocate.
    """

    devices: tuple[str, ...]
    numa_nodes: Mapping[str, tuple[int, ...] | None]
    answer: api_pb2.ContainerAllocateResponse


@dataclass(frozen=True, slots=True)
class AdmittedContainer:
    """A container as the runtime would start it.

    Attributes:
        devices: Ids by resource, both in order.
        edits: What the plugins asked for, with the pod's own environment over it.
        conflicts: Sentences on what two plugins set differently.
        not_started: Why the container could not start; empty if it did.
        prepared_seconds: How long PreStartContainer took, by resource; only where the plugin wants it.
    """

    container: Container
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    edits: ContainerEdits = field(default_factory=ContainerEdits)
    conflicts: tuple[str, ...] = ()
    not_started: str = ""
    prepared_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """The kubelet's answer to a pod.

    Attributes:
        reason: The word in the pod's status; empty for an admitted pod.
        message: The sentence beside it.
        containers: In the pod's order; empty for a rejected pod.
    """

    pod: Pod
    reason: str = ""
    message: str = ""
    containers: tuple[AdmittedContainer, ...] = ()

    @property
    def admitted(self) -> bool:
        return not self.reason

    @property
    def started(self) -> bool:
        return self.admitted and not any(c.not_started for c in self.containers)

    def container(self, name: str) -> AdmittedContainer:
        return next(c for c in self.containers if c.container.name == name)
