"""Annotations and labels of our domain that do nothing."""

from collections.abc import Iterable, Iterator
from typing import Final

from tasuki.kube.names import (
    BOUND_DEVICES,
    BOUND_SLICES,
    CACHE,
    DATAFLOW,
    DOMAIN,
    FUNCTION,
    GPU_DEVICES,
    GPU_SHARING,
    GPU_SLICE,
    MODULES,
    MODULES_CONTAINERS,
    POD_ANNOTATIONS,
    VACCEL,
)
from tasuki.process.sentences import shown
from webhooks.mutations.wording import nearest
from webhooks.pod import Pod, annotation
from webhooks.scene import NOTHING, Change, Scene

# With the slash, so that others' sub-domains, and ours of devices, are not meant.
_OURS: Final = f"{DOMAIN}/"
_LABELS: Final = frozenset({DATAFLOW, FUNCTION})
_ANNOTATIONS: Final = frozenset(POD_ANNOTATIONS) - _LABELS

# What mutations read, all of which take an empty value for none. Others may read one into theirs.
_READ: Final = frozenset({GPU_SLICE, GPU_SHARING, GPU_DEVICES, MODULES, MODULES_CONTAINERS, VACCEL, CACHE})

_NAMES: Final = tuple(name.removeprefix(_OURS) for name in POD_ANNOTATIONS)

# To look for the nearest name takes time, and nobody reads more.
_MOST_NAMED: Final = 5


def unknown_annotations(pod: Pod, scene: Scene) -> Change:  # noqa: ARG001  mutations have one signature
    """Warn of names that we do not know, of labels written as annotations or the other way round, and of empty values.

    Of annotations that need another beside them, the mutation warns that they are for.
    """
    annotations = sorted([key for key in pod.metadata.annotations if key.startswith(_OURS)])
    labels = sorted([key for key in pod.metadata.labels if key.startswith(_OURS)])
    if not (annotations or labels):
        return NOTHING
    warnings = (
        *_unknown("annotation", [key for key in annotations if key not in _ANNOTATIONS], "label", _LABELS),
        *_unknown("label", [key for key in labels if key not in _LABELS], "annotation", _ANNOTATIONS),
        *_without_effect(pod, annotations),
    )
    return Change(warnings=warnings) if warnings else NOTHING


def _without_effect(pod: Pod, keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        if key in {BOUND_DEVICES, BOUND_SLICES}:
            yield f"annotation {key} is the scheduler's to write and reserves nothing; leave it out"
        elif key in _READ and not annotation(pod, key):
            yield f"annotation {key} is empty and has no effect"


def _unknown(written: str, keys: list[str], other: str, others: Iterable[str]) -> Iterator[str]:
    for key in keys[:_MOST_NAMED]:
        name = shown(key)
        if key in others:
            yield f"{written} {name} has no effect, because it must be {_a(other)}"
        elif near := nearest(key.removeprefix(_OURS), _NAMES):
            yield f"{written} {name} is unknown and has no effect; the nearest known name is {_OURS}{near}"
        else:
            yield f"{written} {name} is unknown and has no effect; no known name is like it"
    if len(keys) > _MOST_NAMED:
        yield f"{len(keys) - _MOST_NAMED} more {written}s of {_OURS} are unknown and have no effect"


def _a(noun: str) -> str:
    return f"an {noun}" if noun.startswith("a") else f"a {noun}"
