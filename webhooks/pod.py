"""The parts of a Pod that admission reads, as frozen values, with the questions that several mutations ask of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

# Any JSON object that is only passed on or compared.
Json = dict[str, Any]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Absent and empty read alike, and neither is written."""


class OwnerReference(_Part, frozen=True, kw_only=True):
    kind: str = ""
    name: str = ""
    controller: bool = False


class Metadata(_Part, frozen=True, kw_only=True):
    """`name` is empty where `generateName` is used, and `namespace` may be: the request has it."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class EnvVar(_Part, frozen=True, kw_only=True):
    name: str
    value: str = ""
    value_from: Json | None = None


class Resources(_Part, frozen=True, kw_only=True):
    """Quantities are strings, or numbers as JSON has them."""

    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}
    claims: tuple[Json, ...] = ()


class VolumeMount(_Part, frozen=True, kw_only=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    mount_propagation: str = ""


class Capabilities(_Part, frozen=True, kw_only=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


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
    proc_mount: str = ""


class Container(_Part, frozen=True, kw_only=True):
    name: str
    image: str = ""
    image_pull_policy: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[Json, ...] = ()
    resources: Resources = Resources()
    restart_policy: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    volume_devices: tuple[Json, ...] = ()
    security_context: SecurityContext = SecurityContext()


class HostPath(_Part, frozen=True, kw_only=True):
    path: str
    type: str = ""


class Volume(_Part, frozen=True, kw_only=True):
    """Only the sources that we read or make; all others are None throughout."""

    name: str
    host_path: HostPath | None = None
    empty_dir: Json | None = None
    projected: Json | None = None
    image: Json | None = None
    csi: Json | None = None
    persistent_volume_claim: Json | None = None
    config_map: Json | None = None
    nfs: Json | None = None


class Toleration(_Part, frozen=True, kw_only=True):
    """`operator` empty means Equal; `key` empty with Exists tolerates everything."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
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

    node_selector_terms: tuple[SelectorTerm, ...] = ()


class NodeAffinity(_Part, frozen=True, kw_only=True):
    required_during_scheduling_ignored_during_execution: NodeSelector | None = None


class Affinity(_Part, frozen=True, kw_only=True):
    node_affinity: NodeAffinity | None = None


class PodSecurityContext(_Part, frozen=True, kw_only=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None


class PodSpec(_Part, frozen=True, kw_only=True):
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = {}
    node_name: str = ""
    affinity: Affinity | None = None
    priority: int | None = None
    priority_class_name: str = ""
    preemption_policy: str = ""
    runtime_class_name: str = ""
    scheduler_name: str = ""
    service_account_name: str = ""
    resources: Resources = Resources()
    resource_claims: tuple[Json, ...] = ()
    security_context: PodSecurityContext = PodSecurityContext()


class Pod(_Part, frozen=True, kw_only=True):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()


_NONE: Final[frozenset[str]] = frozenset()
_ZERO: Final = ("0", 0)

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


def is_of_daemon_set(pod: Pod) -> bool:
    return any(owner.controller and owner.kind == "DaemonSet" for owner in pod.metadata.owner_references)


def requested(container: Container) -> frozenset[str]:
    """The names of all resources of which a container wants more than none."""
    limits, requests = container.resources.limits, container.resources.requests
    if not limits and not requests:
        return _NONE
    wanted = {**requests, **limits} if limits.keys() != requests.keys() else limits
    return frozenset([name for name, amount in wanted.items() if amount not in _ZERO])
