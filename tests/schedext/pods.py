"""Pods as the scheduler sends them, in one line each."""

from collections.abc import Mapping
from typing import Any

import msgspec

from schedext.pod import Pod

Json = dict[str, Any]
GPU = "nvidia.com/gpu"


def a_container(name: str = "main", *, sidecar: bool = False, **amounts: int | str) -> Json:
    """Resources with `_` for `.` and `__` for `/`; `gpus=1` is short for NVIDIA's."""
    named = {GPU if key == "gpus" else key.replace("__", "/").replace("_", "."): str(n) for key, n in amounts.items()}
    made: Json = {"name": name, "image": "example:1", "resources": {"limits": named, "requests": named}}
    return made | ({"restartPolicy": "Always"} if sidecar else {})


def pod_json(
    *containers: Json,
    name: str = "example",
    namespace: str = "research",
    uid: str = "",
    init: tuple[Json, ...] = (),
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    node: str = "",
    phase: str = "Pending",
    **metadata: Any,
) -> Json:
    """A pod as the API server has it; the uid follows from the name."""
    known = {"name": name, "namespace": namespace, "uid": uid or f"uid-of-{namespace}-{name}"}
    if annotations:
        known["annotations"] = dict(annotations)  # type: ignore[assignment]  # a JSON object holds anything
    if labels:
        known["labels"] = dict(labels)  # type: ignore[assignment]
    spec: Json = {"containers": list(containers) or [a_container()], "schedulerName": "default-scheduler"}
    if init:
        spec["initContainers"] = list(init)
    if node:
        spec["nodeName"] = node
    return {"metadata": known | metadata, "spec": spec, "status": {"phase": phase}}


def a_pod(*containers: Json, **options: Any) -> Pod:
    """The same, decoded."""
    return msgspec.convert(pod_json(*containers, **options), Pod)
