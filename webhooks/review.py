"""The whole decision: a pod and a scene go through every mutation, or through every check, to one outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tasuki.kube.objects import UNREADABLE
from webhooks.editing import ReservedNameError
from webhooks.mutations.annotations import unknown_annotations
from webhooks.mutations.cache import cache
from webhooks.mutations.chains import chains
from webhooks.mutations.cpu_only import cpu_only
from webhooks.mutations.gpu_slices import gpu_slices
from webhooks.mutations.modules import modules
from webhooks.mutations.protection import check_protection, protection
from webhooks.mutations.shared_nodes import shared_nodes
from webhooks.mutations.team_priority import check_team_priority, team_priority
from webhooks.mutations.tolerations import tolerations
from webhooks.mutations.vaccel import vaccel
from webhooks.patch import Operation, Operations, apply
from webhooks.pod import Pod
from webhooks.scene import Mutation, RefusedError, Scene
from webhooks.wire import without_nulls

Stages = Sequence[tuple[str, Mutation]]

# In an order in which each sees what it depends on: first what brings containers of its own, then what decides which
# devices all of them ask for, then what follows from that, then what keeps pods from reaching round it, and last how
# urgent the pod is.
MUTATIONS: Final[Stages] = (
    ("annotations", unknown_annotations),
    ("vaccel", vaccel),
    ("modules", modules),
    ("cache", cache),
    ("chains", chains),
    ("gpu-slice", gpu_slices),
    ("gpu-sharing", shared_nodes),
    ("tolerations", tolerations),
    ("protection", protection),
    ("cpu-only", cpu_only),
    ("team-priority", team_priority),
)

# What must hold of the pod as every webhook has left it.
CHECKS: Final[Stages] = (
    ("protection", check_protection),
    ("team-priority", check_team_priority),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a pod.

    Attributes:
        refusal: Empty if it is admitted.
        changed: Which mutations changed it.
        refused_by: Which one refused it; empty if none did.
        notes: For the audit log.
    """

    operations: Operations = ()
    warnings: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    changed: Sequence[str] = ()
    refusal: str = ""
    refused_by: str = ""


UNTOUCHED: Final = Outcome()

_NULL: Final = b"null"
_pods: Final = msgspec.json.Decoder(Pod)


def review(content: bytes, scene: Scene, stages: Stages = MUTATIONS) -> Outcome:
    """Decide on a pod as the API server sent it."""
    try:
        pod, document = _read(content)
    except UNREADABLE as error:
        return _unreadable(error)
    if not pod.spec.containers:
        return UNTOUCHED  # which the API server refuses in its own words
    operations: list[Operation] = []
    warnings: list[str] = []
    notes: dict[str, str] = {}
    changed: list[str] = []
    for name, stage in stages:
        try:
            change = stage(pod, scene)
        except (RefusedError, ReservedNameError) as error:
            return Outcome(warnings=warnings, notes=notes, refusal=str(error), refused_by=name)
        warnings += change.warnings
        notes.update(change.notes)
        if change.operations:
            changed.append(name)
            operations += change.operations
            document = apply(_document(content) if document is None else document, change.operations)
            try:
                pod = msgspec.convert(document, Pod)
            except msgspec.ValidationError as error:
                # With what was added, the pod has more of something than we take.
                return _unreadable(error)
    if not (operations or warnings or notes):
        return UNTOUCHED
    if changed:
        notes["changed"] = ",".join(changed)
    return Outcome(operations=tuple(operations), warnings=warnings, notes=notes, changed=changed)


def _unreadable(error: Exception) -> Outcome:
    return Outcome(refusal=f"the pod cannot be admitted as it is written: {error}", refused_by="decoding")


def _read(content: bytes) -> tuple[Pod, Any]:
    """The pod, and the document that it was made from if that had to be made."""
    try:
        return _pods.decode(content), None
    except msgspec.ValidationError:
        # Nulls are all that a well-formed pod can have and we do not read.
        if _NULL not in content:
            raise
        document = _document(content)
        return msgspec.convert(document, Pod), document


def _document(content: bytes) -> Any:
    document = msgspec.json.decode(content)
    # Go leaves empty fields out, so that hardly any pod has a null, and looking for one is cheap.
    return without_nulls(document) if _NULL in content else document
