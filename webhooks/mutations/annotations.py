"""Annotations and labels of our domain that do nothing."""

from collections.abc import Iterable, Iterator
from typing import Final

from tasuki.kube.names import (
    DATAFLOW,
    DOMAIN,
    FUNCTION,
    GPU_DEVICES,
    GPU_SHARING,
    MODULES,
    MODULES_CONTAINERS,
    POD_ANNOTATIONS,
)
from tasuki.process.sentences import nearest, shown
from webhooks.pod import Pod
from webhooks.scene import NOTHING, Change, Scene

# With the slash, so that others' sub-domains, and ours of devices, are not meant.
_OURS: Final = f"{DOMAIN}/"
_LABELS: Final = frozenset({DATAFLOW, FUNCTION})
_ANNOTATIONS: Final = frozenset(POD_ANNOTATIONS) - _LABELS

_NAMES: Final = tuple(name.removeprefix(_OURS) for name in POD_ANNOTATIONS)

# Without the second, the first has no effect.
_PAIRS: Final = ((GPU_DEVICES, GPU_SHARING), (MODULES_CONTAINERS, MODULES))

# To look for the nearest name takes time, the more the longer the name, and nobody reads more.
_MOST_NAMED: Final = 5
_LONGEST_COMPARED: Final = 64


def unknown_annotations(pod: Pod, scene: Scene) -> Change:  # noqa: ARG001  mutations have one signature
    """Warn of names that we do not know, and of known ones that are without effect where they stand."""
    annotations, labels = pod.metadata.annotations, pod.metadata.labels
    strange_annotations = sorted(key for key in annotations if key.startswith(_OURS) and key not in _ANNOTATIONS)
    strange_labels = sorted(key for key in labels if key.startswith(_OURS) and key not in _LABELS)
    lonely = [(key, other) for key, other in _PAIRS if key in annotations and other not in annotations]
    if not (strange_annotations or strange_labels or lonely):
        return NOTHING
    warnings = (
        *(f"annotation {key} has no effect without {other}" for key, other in lonely),
        *_unknown("annotation", strange_annotations, "label", _LABELS),
        *_unknown("label", strange_labels, "annotation", _ANNOTATIONS),
    )
    return Change(warnings=warnings)


def _unknown(written: str, keys: list[str], other: str, others: Iterable[str]) -> Iterator[str]:
    for key in keys[:_MOST_NAMED]:
        name = shown(key)
        if key in others:
            yield f"{written} {name} has no effect, because it must be {_a(other)}"
        elif near := nearest(key.removeprefix(_OURS)[:_LONGEST_COMPARED], _NAMES, alike=0.5):
            yield f"{written} {name} is unknown and has no effect; the nearest known name is {_OURS}{near}"
        else:
            yield f"{written} {name} is unknown and has no effect; no known name is like it"
    if len(keys) > _MOST_NAMED:
        yield f"{len(keys) - _MOST_NAMED} more {written}s of {_OURS} are unknown and have no effect"


def _a(noun: str) -> str:
    return f"an {noun}" if noun.startswith("a") else f"a {noun}"
