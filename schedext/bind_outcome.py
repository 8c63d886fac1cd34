"""What a bind writes, and what it has come to; read `annotations` and `End`."""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, Protocol

from tasuki.kube.names import BOUND_DEVICES, BOUND_SLICES
from tasuki.kube.placement import Slices, slices_text

# What became of an attempt, as the metrics count it.
Word = Literal["bound", "again", "refused", "conflict", "gone", "failed", "unknown"]


class Chosen(Protocol):
    """What a pod gets on a node, by the devices' ids."""

    @property
    def slices(self) -> Slices: ...

    @property
    def visible(self) -> tuple[str, ...]: ...


def annotations(chosen: Chosen, order: tuple[str, ...]) -> dict[str, str]:
    """What the Binding says of the devices; nothing if there are none.

    Args:
        chosen: The devices.
        order: In which their node lists them.
    """
    places = {device: place for place, device in enumerate(order)}
    devices = sorted({*_devices(chosen)}, key=lambda device: (places.get(device, len(places)), device))
    written = {BOUND_DEVICES: ",".join(devices)} if devices else {}
    return {**written, BOUND_SLICES: slices_text(chosen.slices)} if chosen.slices else written


def _devices(chosen: Chosen) -> Iterator[str]:
    yield from chosen.visible
    for resources in chosen.slices.values():
        for devices in resources.values():
            yield from devices


class End(NamedTuple):
    """`is_over`: no request of ours can bind the pod any more, also none that was sent before."""

    word: Word
    error: str
    is_over: bool = False


BOUND: Final = End("bound", "")
AGAIN: Final = End("again", "")
GONE: Final = End("gone", "the pod was deleted", is_over=True)
ANEW: Final = End("gone", "the pod was deleted and made anew", is_over=True)


class Sight(NamedTuple):
    """What a second look at a pod showed: that it is there, perhaps with a node, or that it is gone, or nothing."""

    what: Literal["there", "gone", "anew", "unseen"]
    node: str = ""


def after_refusal(sight: Sight, node: str, error: str) -> End:
    """What a bind has come to that the server refused because of how the pod is."""
    if sight.what == "there" and not sight.node:
        return End("conflict", error)
    return after_silence(sight, node, error)


def after_silence(sight: Sight, node: str, error: str) -> End:
    """What a bind has come to of which nobody said whether it took effect."""
    if sight.what == "gone":
        return GONE
    if sight.what == "anew":
        return ANEW
    if sight.what == "there" and sight.node:
        return BOUND if sight.node == node else bound_elsewhere(sight.node)
    return End("unknown", f"{error}; whether the pod is bound will be seen at the next attempt")


def bound_elsewhere(node: str) -> End:
    return End("conflict", f"the pod is bound to {node} already", is_over=True)
