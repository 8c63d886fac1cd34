"""Trying a policy on pods in a file, without a cluster and without serving."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import yaml

from tasuki.kube.names import DOMAIN
from tasuki.process.sentences import shown
from webhooks.patch import apply, plain
from webhooks.review import review
from webhooks.world import World

# Where each kind has the pod that it makes.
_TEMPLATES: Final = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


_ANNOTATIONS: Final = "annotations"


class TrialError(Exception):
    """The file cannot be tried."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A pod of the file.

    Attributes:
        title: Kind and name of what it stands in.
        misplaced: What its user wrote beside it, where it does nothing.
    """

    title: str
    pod: dict[str, Any]
    misplaced: tuple[str, ...] = ()


def try_pods(file: Path, world: World, namespace: str, out: TextIO, report: TextIO) -> bool:
    """Write every pod of the file as it would be admitted to `out`, and what is said of it to `report`.

    Returns:
        Whether all are admitted.

    Raises:
        TrialError: The file cannot be read, or has nothing that makes pods.
    """
    every = list(_pods(file))
    if not every:
        raise TrialError(f"{file} has no pods; write one of {', '.join(_TEMPLATES)}")
    admitted = True
    for found in every:
        title, pod = found.title, found.pod
        where = _mapping(pod, "metadata", title).get("namespace") or namespace
        scene = world.scene(where)
        if scene is None:
            print(f"{title}: pods of namespace {where} are left alone", file=report)
            _write(pod, out)
            continue
        outcome = review(msgspec.json.encode(pod), scene)
        for warning in (*found.misplaced, *outcome.warnings):
            print(f"{title}: warning: {warning}", file=report)
        for key, note in outcome.notes.items():
            print(f"{title}: {key}: {note}", file=report)
        if outcome.refusal:
            print(f"{title}: refused: {outcome.refusal}", file=report)
            admitted = False
            continue
        _write(apply(plain(pod), outcome.operations), out)
    return admitted


def _pods(file: Path) -> Iterator[_Found]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TrialError(f"{file} cannot be read: {error}") from error
    for document in documents:
        yield from _found(document)


def _found(document: Any) -> Iterator[_Found]:
    if not isinstance(document, dict):
        raise TrialError(f"{shown(document)} is no Kubernetes object")
    kind = str(document.get("kind"))
    if kind in {"List", "PodList"}:
        items = document.get("items") or []
        if not isinstance(items, list):
            raise TrialError(f"{kind}: items is {shown(items)}; it must be a list")
        for item in items:
            yield from _found(item)
        return
    steps = _TEMPLATES.get(kind)
    if steps is None:
        return
    metadata = _mapping(document, "metadata", kind)
    title = f"{kind} {metadata.get('name') or metadata.get('generateName', '')}".strip()
    if not steps:
        yield _Found(title, document)
        return
    found, path = document, title
    beside: dict[str, Any] = {}
    for step in steps:
        beside |= _mapping(_mapping(found, "metadata", path), _ANNOTATIONS, path)
        found, path = _mapping(found, step, path), f"{path} {step}"
    namespace = {"namespace": metadata["namespace"]} if metadata.get("namespace") else {}
    spec, of_pod = _mapping(found, "spec", path), _mapping(found, "metadata", path)
    misplaced = tuple(_misplaced(beside, _mapping(of_pod, _ANNOTATIONS, path), ".".join(steps)))
    yield _Found(
        title, {"apiVersion": "v1", "kind": "Pod", "metadata": {**of_pod, **namespace}, "spec": spec}, misplaced
    )


def _misplaced(beside: Mapping[str, Any], of_pod: Mapping[str, Any], template: str) -> Iterator[str]:
    """Annotations of ours that stand beside a template; many tools write the same ones there and on the pods."""
    for name in beside:
        if str(name).startswith(f"{DOMAIN}/") and name not in of_pod:
            remedy = f"write it in {template}.metadata.{_ANNOTATIONS}"
            yield f"annotation {name} does not reach the pods and has no effect; {remedy}"


def _mapping(document: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    """What a key holds; empty if it is absent."""
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TrialError(f"{path}: {key} is {shown(value)}; it must be a mapping")
    return value


def _write(pod: dict[str, Any], out: TextIO) -> None:
    out.write("---\n")
    yaml.safe_dump(pod, out, sort_keys=False)
