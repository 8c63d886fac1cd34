"""Reading the pods of ordinary Kubernetes manifests."""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tasuki.process.sentences import shown
from tasuki.sandbox import documents, manifests
from tasuki.sandbox.extended_resources import (
    QuantityError,
    is_extended,
    is_label,
    is_native,
    is_subdomain,
    whole_amount,
)
from tasuki.sandbox.pods import Container, Pod

Part = TypeVar("Part", bound=manifests.Part)

# As many as any node runs; the kubelet's own default is 110.
MAX_PODS: Final = 1000

_STANDARD: Final = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES: Final = "hugepages-"
_SIDECAR: Final = "Always"
_UID_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "sandbox.tasuki.dev")
_LIST: Final = "List"
# Where a manifest whose kind is not known here would have pods.
_CONTAINERS: Final = (
    ("spec", "containers"),
    ("spec", "template", "spec", "containers"),
    ("spec", "jobTemplate", "spec", "template", "spec", "containers"),
)


class ManifestError(ValueError):
    """A file that is no manifest of pods, or that the API server would refuse."""


def read_all(files: Sequence[Path]) -> list[Pod]:
    """All pods of several files, in their order.

    Raises:
        ManifestError: Also if two pods have the same name, or there are too many.
    """
    found: dict[str, Pod] = {}
    for file in files:
        for pod in read_pods(file):
            if pod.uid in found:
                raise ManifestError(f"{file}: pod {pod} is there twice; give one of them another name")
            found[pod.uid] = pod
        _check_number(file, len(found))
    return list(found.values())


def read_pods(file: Path) -> list[Pod]:
    """All pods of a file, in its order.

    Raises:
        ManifestError: With the file, the object, the container and the field.
    """
    try:
        contents = documents.read(file)
    except documents.DocumentError as error:
        raise ManifestError(f"{file}: {error}") from error
    every = (pod for document in contents if document is not None for pod in _pods(f"{file}", document))
    pods = list(islice(every, MAX_PODS + 1))
    _check_number(file, len(pods))
    if not pods:
        raise ManifestError(f"{file}: has no pods in it")
    return pods


def _check_number(file: Path, count: int) -> None:
    if count > MAX_PODS:
        raise ManifestError(
            f"{file}: with it there are more than {MAX_PODS} pods, which is all that the sandbox takes; "
            "ask for fewer replicas or name fewer files"
        )


def _pods(where: str, document: object) -> Iterator[Pod]:
    if not isinstance(document, dict):
        raise ManifestError(f"{where}: a manifest is a mapping, not {shown(document)}")
    kind = document.get("kind")
    if kind is None and "version" in document:
        raise ManifestError(f"{where}: is a sharing configuration, not pods; give it with --config")
    if kind is None:
        raise ManifestError(f"{where}: a manifest without kind")
    if not isinstance(kind, str):
        raise ManifestError(f"{where}: kind is {shown(kind)}; it must be one word, such as Pod")
    if kind in _KINDS:
        yield from _KINDS[kind](where, document)
    elif kind == _LIST or kind.removesuffix(_LIST) in _KINDS:
        # The API server leaves the kind out of the items of a PodList.
        of = {"kind": kind.removesuffix(_LIST)} if kind != _LIST else {}
        for item in _convert(where, document, manifests.ListManifest).items:
            yield from _pods(where, {**of, **item})
    else:
        # Services, ConfigMaps and whatever else a file holds beside the pods need no devices.
        _check_without_pods(where, kind, document)


def _check_without_pods(where: str, kind: str, document: Mapping[str, object]) -> None:
    """Refuse a kind with containers in it: its pods would be left out silently."""
    for path in _CONTAINERS:
        inner: object = document
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if inner is not None:
            near = get_close_matches(kind.lower(), [known.lower() for known in _KINDS], n=1)
            meant = next((known for known in _KINDS if known.lower() in near), None)
            remedy = f"did you mean {meant!r}?" if meant else f"known are {', '.join(_KINDS)} and Lists of them"
            raise ManifestError(
                f"{where}: kind is {shown(kind)}, with containers in {'.'.join(path)}, but the sandbox does not know "
                f"which pods come of it; {remedy}"
            )


def _lone_pod(where: str, document: dict[str, object]) -> Iterator[Pod]:
    manifest = _convert(where, document, manifests.PodManifest)
    where = f"{where}: Pod"
    yield _pod(where, _name(where, manifest.metadata), manifest.metadata, manifest.spec)


def _replicated(where: str, document: dict[str, object]) -> Iterator[Pod]:
    workload = _convert(where, document, manifests.WorkloadManifest)
    where = f"{where}: {document['kind']}"
    name = _name(where, workload.metadata)
    for replica in range(workload.spec.replicas):
        yield _pod(where, f"{name}-{replica}", workload.metadata, workload.spec.template.spec)


def _one_per_node(where: str, document: dict[str, object]) -> Iterator[Pod]:
    workload = _convert(where, document, manifests.WorkloadManifest)
    where = f"{where}: {document['kind']}"
    yield _pod(where, _name(where, workload.metadata), workload.metadata, workload.spec.template.spec)


def _job(where: str, document: dict[str, object]) -> Iterator[Pod]:
    workload = _convert(where, document, manifests.WorkloadManifest)
    yield from _pods_of_job(f"{where}: Job", workload.metadata, workload.spec)


def _one_run(where: str, document: dict[str, object]) -> Iterator[Pod]:
    """The pods of one of a CronJob's Jobs."""
    workload = _convert(where, document, manifests.CronJobManifest)
    yield from _pods_of_job(f"{where}: CronJob", workload.metadata, workload.spec.job_template.spec)


def _pods_of_job(where: str, metadata: manifests.Metadata, spec: manifests.WorkloadSpec) -> Iterator[Pod]:
    name = _name(where, metadata)
    completions = spec.parallelism if spec.completions is None else spec.completions
    for number in range(completions if spec.parallelism else 0):
        before = number - spec.parallelism
        pod = _pod(where, f"{name}-{number}", metadata, spec.template.spec)
        yield replace(pod, job=name, follows=f"{name}-{before}" if before >= 0 else "")


_KINDS: Final[Mapping[str, Callable[[str, dict[str, object]], Iterator[Pod]]]] = {
    "Pod": _lone_pod,
    "Deployment": _replicated,
    "ReplicaSet": _replicated,
    "ReplicationController": _replicated,
    "StatefulSet": _replicated,
    "DaemonSet": _one_per_node,
    "Job": _job,
    "CronJob": _one_run,
}


def _name(where: str, metadata: manifests.Metadata) -> str:
    name = metadata.name or metadata.generate_name.rstrip("-")
    if not name:
        raise ManifestError(f"{where}: metadata.name is missing")
    return name


def _pod(where: str, name: str, metadata: manifests.Metadata, spec: manifests.PodSpec) -> Pod:
    if not is_subdomain(name):
        raise ManifestError(
            f"{where}: the pod's name is {shown(name)}; it must be lower-case letters, digits, '-' and '.', "
            "253 characters at most, with a letter or a digit at both ends of each part"
        )
    _check_label(f"{where} {name}: metadata.namespace", metadata.namespace)
    where = f"{where} {metadata.namespace}/{name}"
    if not spec.containers:
        raise ManifestError(f"{where}: spec.containers is empty")
    if extended := _amounts(f"{where}: spec.resources", {**spec.resources.limits, **spec.resources.requests}):
        raise ManifestError(
            f"{where}: spec.resources has {', '.join(extended)}, but of a whole pod Kubernetes takes only cpu, memory "
            "and hugepages; set it in a container's resources.limits"
        )
    containers = [_container(where, c, init=True) for c in spec.init_containers]
    containers += [_container(where, c, init=False) for c in spec.containers]
    names = [c.name for c in containers]
    for twice in sorted({n for n in names if names.count(n) > 1}):
        raise ManifestError(f"{where}: container {twice}: the name is there twice")
    uid = metadata.uid or str(uuid.uuid5(_UID_NAMESPACE, f"{metadata.namespace}/{name}"))
    return Pod(name, tuple(containers), metadata.namespace, uid)


def _check_label(where: str, text: str) -> None:
    if not is_label(text):
        raise ManifestError(
            f"{where} is {shown(text)}; it must be lower-case letters, digits and '-', 63 characters at most, with a "
            "letter or a digit at both ends"
        )


def _container(where: str, container: manifests.Container, *, init: bool) -> Container:
    _check_label(f"{where}: a container's name", container.name)
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


def _convert(where: str, document: dict[str, object], kind: type[Part]) -> Part:
    content = _without_nulls(document)
    for slip in manifests.slips(content, kind):
        raise ManifestError(f"{where}: {_titled(document)}: {slip}")
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{where}: {_located(document, str(error))}") from error


def _without_nulls(value: object) -> object:
    """The API server takes a field that is null for one that is not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _titled(document: dict[str, object]) -> str:
    """An object's kind and name."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind')} {name if isinstance(name, str) and is_subdomain(name) else ''}".rstrip()


def _located(document: dict[str, object], message: str) -> str:
    """Put names before msgspec's sentence, which ends in the field: `- at `$.spec.containers[0].env[1].value``."""
    text, _, path = message.partition(" - at `$")
    field_path = path.rstrip("`").lstrip(".")
    located = [_titled(document)]
    inside = re.match(r".*?(?:initC|c)ontainers\[\d+\]", field_path)
    container = _at(document, inside[0]) if inside is not None else None
    if isinstance(container, dict) and isinstance(container.get("name"), str):
        located.append(f"container {container['name']}")
    if field_path:
        located.append(f"{field_path} is {shown(_at(document, field_path))}")
    return ": ".join([*located, text])


def _at(content: object, path: str) -> object:
    """What is at a path of msgspec's; the innermost mapping or list where the path does not say which value."""
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(content, list) and step.isdigit():
            content = content[int(step)]
        elif isinstance(content, dict) and step in content:
            content = content[step]
    return content
