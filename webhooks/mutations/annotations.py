"""Annotations and labels of our domain that do nothing."""

from collections.abc import Iterable, Iterator
from typing import Final

from tasuki.kube.names import (
    DATAFLOW,
    DOMAIN,
    FUNCTION,
    POD_ANNOTATIONS,
)
from tasuki.process.sentences import shown
from webhooks.mutations.wording import nearest
from webhooks.pod import Pod
from webhooks.scene import NOTHING, Change, Scene

# With the slash, so that others' sub-domains, and ours of devices, are not meant.
_OURS: Final = f"{DOMAIN}/"
_LABELS: Final = frozenset({DATAFLOW, FUNCTION})
_ANNOTATIONS: Final = frozenset(POD_ANNOTATIONS) - _LABELS

_NAMES: Final = tuple(name.removeprefix(_OURS) for name in POD_ANNOTATIONS)

# To look for the nearest name takes time, and nobody reads more.
_MOST_NAMED: Final = 5


def unknown_annotations(pod: Pod, scene: Scene) -> Change:  # noqa: ARG001  mutations have one signature
    """Warn of names that we do not know, and of labels written as annotations or the other way round.

    Of annotations that need another beside them, the mutation warns that they are for.
    """
    annotations, labels = pod.metadata.annotations, pod.metadata.labels
    strange_annotations = sorted(key for key in annotations if key.startswith(_OURS) and key not in _ANNOTATIONS)
    strange_labels = sorted(key for key in labels if key.startswith(_OURS) and key not in _LABELS)
    if not (strange_annotations or strange_labels):
        return NOTHING
    warnings = (
        *_unknown("annotation", strange_annotations, "label", _LABELS),
        *_unknown("label", strange_labels, "annotation", _ANNOTATIONS),
    )
    return Change(warnings=warnings)


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
