"""The parts of a Pod that admission reads, as frozen values, with the questions that several mutations ask of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

# Any JSON object that is only passed on or compared.
Json = dict[str, Any]

# Kubernetes' own bounds, but it looks at them only when admission is over. With them here, whatever mutations copy into
# each container, compare, cite or remember is short (staging/src/k8s.io/apimachinery/pkg/util/validation).
QualifiedName = Annotated[str, Meta(max_length=253 + 1 + 63)]
Subdomain = Annotated[str, Meta(max_length=253)]
Label = Annotated[str, Meta(max_length=63)]

# Of what mutations add to one by one, or compare one by one with what they want. Kubernetes has no bound for these, but
# etcd would not take the pod with what we add to many more.
_FEW: Final = Meta(max_length=1000)


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Absent and empty read alike, and neither is written."""


class OwnerReference(_Part, frozen=True, kw_only=True):
    kind: str = ""
    controller: bool = False


class Metadata(_Part, frozen=True, kw_only=True):
    """`name` is empty where `generateName` is used, and `namespace` may be: the request has it."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    labels: dict[QualifiedName, Label] = {}
    annotations: dict[QualifiedName, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class EnvVar(_Part, frozen=True, kw_only=True):
    name: str
    value: str = ""
    value_from: Json | None = None


# In each of many containers, and of every name is asked whether it is an accelerator's.
Amounts = Annotated[dict[QualifiedName, str | int | float], Meta(max_length=64)]


class Resources(_Part, frozen=True, kw_only=True):
    """Quantities are strings, or numbers as JSON has them."""

    limits: Amounts = {}
    requests: Amounts = {}
    claims: tuple[Json, ...] = ()


class VolumeMount(_Part, frozen=True, kw_only=True):
    name: Label
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    mount_propagation: str = ""


# Linux has 41.
CapabilityNames = Annotated[tuple[str, ...], Meta(max_length=64)]


class Capabilities(_Part, frozen=True, kw_only=True):
    add: CapabilityNames = ()
    drop: CapabilityNames = ()


class SecurityContext(_Part, frozen=True, kw_only=True):
    privileged: bool = False
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities | None = None
    read_only_root_filesystem: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    seccomp_profile: Json | None = None
    se_linux_options: Json | None = None
    app_armor_profile: Json | None = None


class Container(_Part, frozen=True, kw_only=True):
    name: Label
    image: str = ""
    image_pull_policy: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[Json, ...] = ()
    resources: Resources = Resources()
    restart_policy: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    security_context: SecurityContext = SecurityContext()


class HostPath(_Part, frozen=True, kw_only=True):
    path: str
    type: str = ""


class Volume(_Part, frozen=True, kw_only=True):
    """Only the sources that we read or make; all others are None throughout."""

    name: Label
    host_path: HostPath | None = None
    empty_dir: Json | None = None
    projected: Json | None = None
    image: Json | None = None
    csi: Json | None = None
    persistent_volume_claim: Json | None = None
    nfs: Json | None = None


class Toleration(_Part, frozen=True, kw_only=True):
    """`operator` empty means Equal; `key` empty with Exists tolerates everything."""

    key: QualifiedName = ""
    operator: Label = ""
    value: Label = ""
    effect: Label = ""
    toleration_seconds: int | None = None


class Requirement(_Part, frozen=True, kw_only=True):
    """One of a node selector term's expressions; `operator` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class SelectorTerm(_Part, frozen=True, kw_only=True):
    """All of its requirements must hold; an empty term matches no node."""

    match_expressions: tuple[Requirement, ...] = ()
    match_fields: tuple[Requirement, ...] = ()


class NodeSelector(_Part, frozen=True, kw_only=True):
    """One of its terms must hold."""

    node_selector_terms: Annotated[tuple[SelectorTerm, ...], _FEW] = ()


class NodeAffinity(_Part, frozen=True, kw_only=True):
    required_during_scheduling_ignored_during_execution: NodeSelector | None = None


class Affinity(_Part, frozen=True, kw_only=True):
    node_affinity: NodeAffinity | None = None


class PodOS(_Part, frozen=True, kw_only=True):
    """`name` is linux, windows, or empty where the pod does not say."""

    name: Label = ""


Containers = Annotated[tuple[Container, ...], _FEW]


class PodSpec(_Part, frozen=True, kw_only=True):
    containers: Containers = ()
    init_containers: Containers = ()
    ephemeral_containers: Containers = ()
    volumes: tuple[Volume, ...] = ()
    tolerations: Annotated[tuple[Toleration, ...], _FEW] = ()
    node_selector: dict[QualifiedName, Label] = {}
    node_name: Subdomain = ""
    os: PodOS = PodOS()
    affinity: Affinity | None = None
    priority: int | None = None
    priority_class_name: Subdomain = ""
    preemption_policy: str = ""
    runtime_class_name: Subdomain = ""
    scheduler_name: str = ""
    service_account_name: Subdomain = ""
    resources: Resources = Resources()
    resource_claims: tuple[Json, ...] = ()


class Pod(_Part, frozen=True, kw_only=True):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()


_NONE: Final[frozenset[str]] = frozenset()
_ZERO: Final = ("0", 0)
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
WINDOWS: Final = "windows"

Kind = Literal["containers", "initContainers", "ephemeralContainers"]


@dataclass(frozen=True, slots=True)
class Place:
    """A container and where it stands.

    Attributes:
        path: As JSON Pointer, `/spec/containers/0`.
    """

    kind: Kind
    path: str
    container: Container


def places(pod: Pod, *kinds: Kind) -> Iterator[Place]:
    """The containers of these kinds, of all kinds if none is named."""
    spec = pod.spec
    of_kind: dict[Kind, tuple[Container, ...]] = {
        "initContainers": spec.init_containers,
        "containers": spec.containers,
        "ephemeralContainers": spec.ephemeral_containers,
    }
    for kind, containers in of_kind.items():
        if not kinds or kind in kinds:
            for index, container in enumerate(containers):
                yield Place(kind, f"/spec/{kind}/{index}", container)


def annotation(pod: Pod, name: str) -> str:
    """Without the white space around it; empty if it is absent."""
    return pod.metadata.annotations.get(name, "").strip()


def default_container(pod: Pod) -> Place | None:
    """The one that `kubectl logs` and `exec` take, which is the first where the annotation names none of them."""
    regular = tuple(places(pod, "containers"))
    wanted = annotation(pod, _DEFAULT_CONTAINER)
    return next((place for place in regular if place.container.name == wanted), regular[0] if regular else None)


def is_of_daemon_set(pod: Pod) -> bool:
    return any(owner.controller and owner.kind == "DaemonSet" for owner in pod.metadata.owner_references)


def requested(container: Container) -> frozenset[str]:
    """The names of all resources of which a container wants more than none."""
    limits, requests = container.resources.limits, container.resources.requests
    if not limits and not requests:
        return _NONE
    wanted = {**requests, **limits} if limits.keys() != requests.keys() else limits
    return frozenset([name for name, amount in wanted.items() if amount not in _ZERO])
