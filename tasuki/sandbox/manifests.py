"""The parts of Kubernetes' manifests that the sandbox reads; everything else in them is left alone."""

import msgspec


class EnvVar(msgspec.Struct, frozen=True, rename="camel"):
    """`value_from` is kept as it is: there is no cluster to look it up in."""

    name: str
    value: str = ""
    value_from: dict[str, object] | None = None


class Resources(msgspec.Struct, frozen=True):
    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}


class Container(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    env: tuple[EnvVar, ...] = ()
    resources: Resources = Resources()
    restart_policy: str | None = None


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    generate_name: str = ""
    namespace: str = "default"
    uid: str = ""


class PodManifest(msgspec.Struct, frozen=True):
    spec: PodSpec
    metadata: Metadata = Metadata()


class PodTemplate(msgspec.Struct, frozen=True):
    spec: PodSpec


class WorkloadSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What Deployment, ReplicaSet, StatefulSet, DaemonSet and Job have in common or alone."""

    template: PodTemplate
    replicas: int = 1
    completions: int | None = None
    parallelism: int = 1


class WorkloadManifest(msgspec.Struct, frozen=True):
    spec: WorkloadSpec
    metadata: Metadata


class ListManifest(msgspec.Struct, frozen=True):
    items: tuple[dict[str, object], ...] = ()
