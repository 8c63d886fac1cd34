"""What scheduler, planner and device plugin tell one another of a pod's devices, as annotations spell it."""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from tasuki.kube.objects import UNREADABLE

# By container, resource and device id: how many slices.
Slices = Mapping[str, Mapping[str, Mapping[str, int]]]

_Count = Annotated[int, msgspec.Meta(ge=1)]
_SLICES: Final = msgspec.json.Decoder(dict[str, dict[str, dict[str, _Count]]])
_ENCODER: Final = msgspec.json.Encoder(order="sorted")

# Kubernetes allows 256 KiB for all annotations of a pod.
_MOST_BYTES: Final = 256 * 2**10


class PlacementError(ValueError):
    """What is written is not what this annotation may say."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a chain's planner wants a pod.

    Attributes:
        node: The only node that the pod may go to while the plan lasts.
        until: RFC 3339; from then on the plan says nothing any more.
        slices: What is kept for the pod on that node meanwhile; empty if only the node matters.
    """

    node: str
    until: str
    slices: dict[str, dict[str, dict[str, _Count]]] = {}


_PLAN: Final = msgspec.json.Decoder(Plan)


def slices_text(slices: Slices) -> str:
    """The value of the annotation `tasuki.dev/slices`; the same text for equal slices."""
    return _ENCODER.encode(slices).decode()


def read_slices(text: str) -> Slices:
    """What the annotation `tasuki.dev/slices` says.

    Raises:
        PlacementError: It is not what `slices_text` writes.
    """
    try:
        return _SLICES.decode(_bounded(text))
    except UNREADABLE as error:
        raise PlacementError(f'{error}; it is {{"container": {{"resource": {{"device": count}}}}}}') from error


def plan_text(plan: Plan) -> str:
    """The value of the annotation `tasuki.dev/plan`."""
    return _ENCODER.encode(plan).decode()


def read_plan(text: str) -> Plan:
    """What the annotation `tasuki.dev/plan` says.

    Raises:
        PlacementError: It is not what `plan_text` writes.
    """
    try:
        plan = _PLAN.decode(_bounded(text))
    except UNREADABLE as error:
        raise PlacementError(f'{error}; it is {{"node": …, "until": "2026-01-31T12:00:00Z", "slices": …}}') from error
    if not plan.node:
        raise PlacementError("`node` is empty; name the node")
    return plan


def _bounded(text: str) -> str:
    if len(text) > _MOST_BYTES:
        raise PlacementError(f"{len(text)} characters are more than all annotations of a pod may have")
    return text
