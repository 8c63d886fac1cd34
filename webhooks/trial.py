"""Trying a policy on pods in a file, without a cluster and without serving."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import yaml

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


class TrialError(Exception):
    """The file cannot be tried."""


def try_pods(file: Path, world: World, namespace: str, out: TextIO, report: TextIO) -> bool:
    """Write every pod of the file as it would be admitted to `out`, and what is said of it to `report`.

    Returns:
        Whether all are admitted.

    Raises:
        TrialError: The file cannot be read, or has nothing that makes pods.
    """
    pods = list(_pods(file))
    if not pods:
        raise TrialError(f"{file} has no pods; write one of {', '.join(_TEMPLATES)}")
    admitted = True
    for title, pod in pods:
        where = _mapping(pod, "metadata", title).get("namespace") or namespace
        scene = world.scene(where)
        if scene is None:
            print(f"{title}: pods of namespace {where} are left alone", file=report)
            _write(pod, out)
            continue
        outcome = review(msgspec.json.encode(pod), scene)
        for warning in outcome.warnings:
            print(f"{title}: warning: {warning}", file=report)
        for key, note in outcome.notes.items():
            print(f"{title}: {key}: {note}", file=report)
        if outcome.refusal:
            print(f"{title}: refused: {outcome.refusal}", file=report)
            admitted = False
            continue
        _write(apply(plain(pod), outcome.operations), out)
    return admitted


def _pods(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each pod with the kind and name of what it stands in."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TrialError(f"{file} cannot be read: {error}") from error
    for document in documents:
        yield from _found(document)


def _found(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(document, dict):
        raise TrialError(f"{shown(document)} is no Kubernetes object")
    kind = str(document.get("kind"))
    if kind == "List":
        items = document.get("items") or []
        if not isinstance(items, list):
            raise TrialError(f"List: items is {shown(items)}; it must be a list")
        for item in items:
            yield from _found(item)
        return
    steps = _TEMPLATES.get(kind)
    if steps is None:
        return
    metadata = _mapping(document, "metadata", kind)
    title = f"{kind} {metadata.get('name') or metadata.get('generateName', '')}".strip()
    if not steps:
        yield title, document
        return
    found, path = document, title
    for step in steps:
        found, path = _mapping(found, step, path), f"{path} {step}"
    namespace = {"namespace": metadata["namespace"]} if metadata.get("namespace") else {}
    spec, of_pod = _mapping(found, "spec", path), _mapping(found, "metadata", path)
    yield title, {"apiVersion": "v1", "kind": "Pod", "metadata": {**of_pod, **namespace}, "spec": spec}


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
