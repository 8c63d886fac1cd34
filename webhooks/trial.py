"""Trying a policy on pods in a file, without a cluster and without serving."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import yaml

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


def try_pods(file: Path, world: World, namespace: str, out: TextIO = sys.stdout, report: TextIO = sys.stderr) -> bool:
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
        where = pod.get("metadata", {}).get("namespace") or namespace
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
        if not isinstance(document, dict):
            raise TrialError(f"{file} has a document that is no Kubernetes object")
        items = document.get("items") if document.get("kind") == "List" else [document]
        for item in items or []:
            yield from _pod(item)


def _pod(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    steps = _TEMPLATES.get(str(document.get("kind"))) if isinstance(document, dict) else None
    if steps is None:
        return
    title = f"{document['kind']} {(document.get('metadata') or {}).get('name', '')}".strip()
    found = document
    for step in steps:
        found = found.get(step) or {}
    if found is document:
        yield title, document
        return
    namespace = (document.get("metadata") or {}).get("namespace")
    metadata = {**(found.get("metadata") or {}), **({"namespace": namespace} if namespace else {})}
    yield title, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": found.get("spec") or {}}


def _write(pod: dict[str, Any], out: TextIO) -> None:
    out.write("---\n")
    yaml.safe_dump(pod, out, sort_keys=False)
