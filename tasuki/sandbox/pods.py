"""Reading the pods of ordinary Kubernetes manifests."""

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import yaml

from tasuki.sandbox import manifests
from tasuki.sandbox.extended_resources import QuantityError, is_extended, is_native, whole_amount

T = TypeVar("T")

_STANDARD: Final = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES: Final = "hugepages-"
_SIDECAR: Final = "Always"
_UID_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "sandbox.tasuki.dev")


class ManifestError(ValueError):
    """A file that is no manifest of pods, or that the API server would refuse."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container.

    Attributes:
        wants: Extended resources by name, in the order of the names.
        env: What the pod itself sets; it wins over what a device plugin sets.
        init: Runs to its end before the others start, unless it is a sidecar.
        sidecar: An init container that goes on running (`restartPolicy: Always`).
    """

    name: str
    wants: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    init: bool = False
    sidecar: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod.

    Attributes:
        containers: Init containers first, each group in the manifest's order.
        job: The Job that it belongs to, so that it ends by itself; empty for other pods.
        follows: The pod of the same Job that must have ended before this one starts; empty if none.
    """

    name: str
    containers: tuple[Container, ...]
    namespace: str = "default"
    uid: str = ""
    job: str = ""
    follows: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def requests(self) -> dict[str, int]:
        """What the scheduler counts: all that run at once, or the largest init container if that is more."""
        together: dict[str, int] = {}
        largest: dict[str, int] = {}
        for container in self.containers:
            for resource, amount in container.wants.items():
                so_far = together.get(resource, 0) + amount
                if container.init and not container.sidecar:
                    largest[resource] = max(largest.get(resource, 0), so_far)
                else:
                    together[resource] = so_far
        names = sorted({*together, *largest})
        return {name: max(together.get(name, 0), largest.get(name, 0)) for name in names}


def read_all(files: Sequence[Path]) -> list[Pod]:
    """All pods of several files, in their order.

    Raises:
        ManifestError: Also if two pods have the same name.
    """
    found: dict[str, Pod] = {}
    for file in files:
        for pod in read_pods(file):
            if pod.uid in found:
                raise ManifestError(f"{file}: pod {pod} is there twice; give one of them another name")
            found[pod.uid] = pod
    return list(found.values())


def read_pods(file: Path) -> list[Pod]:
    """All pods of a file, in its order.

    Raises:
        ManifestError: With the file, the object, the container and the field.
    """
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: is not YAML: {error}") from error
    pods = [pod for document in documents if document is not None for pod in _pods(f"{file}", document)]
    if not pods:
        raise ManifestError(f"{file}: has no pods in it")
    return pods


def _pods(where: str, document: object) -> Iterator[Pod]:
    if not isinstance(document, dict):
        raise ManifestError(f"{where}: a manifest is a mapping, not {type(document).__name__}")
    kind = document.get("kind")
    if kind is None and "version" in document:
        raise ManifestError(f"{where}: is a sharing configuration, not pods; give it with --config")
    if kind == "List":
        for item in _convert(where, document, manifests.ListManifest).items:
            yield from _pods(where, item)
    elif kind == "Pod":
        manifest = _convert(where, document, manifests.PodManifest)
        name = manifest.metadata.name or manifest.metadata.generate_name.rstrip("-")
        yield _pod(f"{where}: Pod", name, manifest.metadata, manifest.spec)
    elif kind in _REPLICAS:
        workload = _convert(where, document, manifests.WorkloadManifest)
        yield from _REPLICAS[kind](f"{where}: {kind}", workload)
    elif kind is None:
        raise ManifestError(f"{where}: a manifest without kind")
    # Services, ConfigMaps and whatever else a file holds beside the pods need no devices.


def _replicated(where: str, workload: manifests.WorkloadManifest) -> Iterator[Pod]:
    for replica in range(workload.spec.replicas):
        name = f"{workload.metadata.name}-{replica}"
        yield _pod(where, name, workload.metadata, workload.spec.template.spec)


def _one_per_node(where: str, workload: manifests.WorkloadManifest) -> Iterator[Pod]:
    yield _pod(where, workload.metadata.name, workload.metadata, workload.spec.template.spec)


def _job(where: str, workload: manifests.WorkloadManifest) -> Iterator[Pod]:
    spec = workload.spec
    completions = spec.parallelism if spec.completions is None else spec.completions
    for number in range(completions):
        name = f"{workload.metadata.name}-{number}"
        before = number - spec.parallelism
        follows = f"{workload.metadata.name}-{before}" if before >= 0 else ""
        pod = _pod(where, name, workload.metadata, spec.template.spec)
        yield replace(pod, job=workload.metadata.name, follows=follows)


_REPLICAS: Final = {
    "Deployment": _replicated,
    "ReplicaSet": _replicated,
    "StatefulSet": _replicated,
    "DaemonSet": _one_per_node,
    "Job": _job,
}


def _pod(where: str, name: str, metadata: manifests.Metadata, spec: manifests.PodSpec) -> Pod:
    if not name:
        raise ManifestError(f"{where}: metadata.name is missing")
    where = f"{where} {metadata.namespace}/{name}"
    if not spec.containers:
        raise ManifestError(f"{where}: spec.containers is empty")
    containers = [_container(where, c, init=True) for c in spec.init_containers]
    containers += [_container(where, c, init=False) for c in spec.containers]
    names = [c.name for c in containers]
    for twice in sorted({n for n in names if names.count(n) > 1}):
        raise ManifestError(f"{where}: container {twice}: the name is there twice")
    uid = metadata.uid or str(uuid.uuid5(_UID_NAMESPACE, f"{metadata.namespace}/{name}"))
    return Pod(name, tuple(containers), metadata.namespace, uid)


def _container(where: str, container: manifests.Container, *, init: bool) -> Container:
    where = f"{where}: container {container.name}"
    return Container(
        name=container.name,
        wants=_wants(where, container.resources),
        env={variable.name: _value(variable) for variable in container.env},
        init=init,
        sidecar=init and container.restart_policy == _SIDECAR,
    )


def _wants(where: str, resources: manifests.Resources) -> dict[str, int]:
    """The extended resources, checked as the API server checks them."""
    limits = _amounts(f"{where}: resources.limits", resources.limits)
    requests = _amounts(f"{where}: resources.requests", resources.requests)
    for name, requested in requests.items():
        if name not in limits:
            raise ManifestError(
                f"{where}: resources.limits has no {name}, but resources.requests has; "
                "an extended resource cannot be overcommitted, so set its limit"
            )
        if requested != limits[name]:
            raise ManifestError(
                f"{where}: resources.requests[{name}] is {requested}, but its limit is {limits[name]}; "
                "for an extended resource both must be equal"
            )
    return limits


def _amounts(where: str, quantities: Mapping[str, str | float]) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for name, quantity in sorted(quantities.items()):
        if "/" not in name and name not in _STANDARD and not name.startswith(_HUGE_PAGES):
            raise ManifestError(
                f"{where}[{name}] is no standard resource; an extended one is spelled with its domain, "
                "for example nvidia.com/gpu"
            )
        if is_native(name):
            continue  # CPU and memory: the sandbox's node has enough of them
        if not is_extended(name):
            raise ManifestError(f"{where}[{name}] is not a valid name of an extended resource")
        try:
            amounts[name] = whole_amount(quantity)
        except QuantityError as error:
            raise ManifestError(f"{where}[{name}]: {error}") from error
    return amounts


def _value(variable: manifests.EnvVar) -> str:
    if variable.value_from is None:
        return variable.value
    return f"<{', '.join(sorted(variable.value_from))}>"


def _convert(where: str, document: dict[str, object], kind: type[T]) -> T:
    try:
        return msgspec.convert(_without_nulls(document), kind)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{where}: {_located(document, str(error))}") from error


def _without_nulls(value: object) -> object:
    """The API server takes a field that is null for one that is not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _located(document: dict[str, object], message: str) -> str:
    """Put names before msgspec's sentence, which ends in the field: `- at `$.spec.containers[0].env[1].value``."""
    metadata = document.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    located = [f"{document.get('kind')} {name}".rstrip()]
    text, _, path = message.partition(" - at `$")
    field_path = path.rstrip("`").lstrip(".")
    inside = re.match(r"(.*?(?:initC|c)ontainers)\[(\d+)\]", field_path)
    if inside is not None:
        containers: object = document
        for key in inside[1].split("."):
            containers = containers.get(key) if isinstance(containers, dict) else None
        container = containers[int(inside[2])] if isinstance(containers, list) else None
        if isinstance(container, dict) and "name" in container:
            located.append(f"container {container['name']}")
    if field_path:
        located.append(field_path)
    return ": ".join([*located, text])
