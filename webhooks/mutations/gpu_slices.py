"""`tasuki.dev/gpu-slice`: a timeshared GPU, a MIG slice or a whole GPU, requested in the words of this cluster."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from textwrap import shorten
from typing import Final

from tasuki.kube.names import GPU_SHARING, GPU_SLICE, NVIDIA_GPU
from tasuki.kube.resources import is_extended
from tasuki.process.sentences import shown
from webhooks.editing import request_one, require
from webhooks.mutations.wording import nearest, selects_too_late
from webhooks.nodes import AcceleratorNodes
from webhooks.patch import Operation, Operations, add, pointer, remove
from webhooks.pod import Place, Pod, Requirement, annotation, default_container, places, requested
from webhooks.policy.model import Glob, GpuSlices, SliceOffer, label_matches
from webhooks.scene import NOTHING, Change, RefusedError, Scene

_PROFILE_GAP: Final = "{profile}"
# As NVIDIA writes MIG profiles (go-nvlib, mig_profile.go): `1g.5gb`, `1c.2g.10gb`, `1g.10gb+me`, `1g.24gb-me`. In the
# names of resources and in labels, which admit no `+`, it is `1g.10gb.me`.
_PROFILE: Final = re.compile(r"(?:[1-9]c\.)?[1-9][0-9]?g\.[1-9][0-9]{0,3}gb(?:[+.-][a-z][a-z0-9.]{0,18}[a-z0-9])?")
_EXAMPLE: Final = "mig-1g.5gb"
_WILDCARDS: Final = frozenset("*?[")
_WARNING_CHARACTERS: Final = 199

_LabelValues = Mapping[str, Sequence[str]]

_ANYWHERE: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class _Slice:
    """What the annotation asks for.

    Attributes:
        word: As it is written, a profile's `+` as a dot.
        offers: The policy's, with the profile in place.
    """

    word: str
    offers: tuple[SliceOffer, ...]


def gpu_slices(pod: Pod, scene: Scene) -> Change:
    value = annotation(pod, GPU_SLICE)
    if not value:
        return NOTHING
    if annotation(pod, GPU_SHARING):
        raise RefusedError(
            f"annotations {GPU_SLICE} and {GPU_SHARING} exclude one another: the one requests a GPU, the other uses "
            "GPUs without requesting any; remove one of them"
        )
    wanted = _slice(value, scene.policy.gpu_slices)
    if wanted is None:
        raise RefusedError(_unknown(value, scene))
    if not wanted.offers:
        raise RefusedError(f"annotation {GPU_SLICE}: this cluster's policy offers no {wanted.word!r}; {_forms(scene)}")
    suiting = _made(wanted.offers, scene.nodes, pod.spec.node_selector)
    made = suiting or _made(wanted.offers, scene.nodes)
    chosen, seen = made or (wanted.offers[0], {})
    requests = _requests(pod, wanted, chosen.resource, scene.policy.gpu_slices)
    selection = require(pod, _requirements(pod, wanted.word, chosen, seen, scene.nodes))
    return Change(
        (*requests, *selection),
        warnings=(
            *((_nobody_offers(wanted.word, scene, elsewhere=made is not None),) if scene.nodes and not suiting else ()),
            *selects_too_late(pod, f"{GPU_SLICE}: {wanted.word}", selection),
        ),
        notes={"gpu-slice": f"{wanted.word} is {chosen.resource}"},
    )


def _slice(word: str, policy: GpuSlices) -> _Slice | None:
    """None if there is no such word."""
    match word:
        case "timeshare":
            return _Slice(word, policy.timeshare)
        case "whole":
            return _Slice(word, policy.whole)
    profile = word.removeprefix("mig-")
    if profile == word or not _PROFILE.fullmatch(profile):
        return None
    profile = profile.replace("+", ".")
    return _Slice(f"mig-{profile}", tuple(_filled(offer, profile) for offer in policy.mig))


def _filled(offer: SliceOffer, profile: Glob) -> SliceOffer:
    return SliceOffer(
        resource=offer.resource.replace(_PROFILE_GAP, profile),
        node_labels={key: glob.replace(_PROFILE_GAP, profile) for key, glob in offer.node_labels.items()},
    )


def _made(
    offers: Iterable[SliceOffer], nodes: AcceleratorNodes | None, selector: Mapping[str, str] = _ANYWHERE
) -> tuple[SliceOffer, _LabelValues] | None:
    """The first offer that a node makes which the selector admits, with the values of its labels."""
    if nodes is not None:
        for offer in offers:
            seen = nodes.label_values(offer.resource, offer.node_labels, selector)
            if seen is not None:
                return offer, seen
    return None


# Requests


def _requests(pod: Pod, wanted: _Slice, resource: str, policy: GpuSlices) -> Operations:
    """Rename what asks for a GPU in general, or ask for one where nothing does."""
    general = {NVIDIA_GPU, *(offer.resource for offer in wanted.offers)}
    others = [offer.resource for offer in policy.offers]
    made: list[Operation] = []
    asked = False
    for place in places(pod, "initContainers", "containers"):
        names = {name for name in requested(place.container) if is_extended(name)}
        for name in sorted(names - general):
            if any(_is_named_by(template, name) for template in others):
                raise RefusedError(
                    f"container {place.container.name!r} asks for {name}, but annotation {GPU_SLICE} says "
                    f"{wanted.word!r}; ask for {NVIDIA_GPU} instead, or remove the annotation"
                )
        found = sorted(names & general)
        if len(found) > 1:
            raise RefusedError(
                f"container {place.container.name!r} asks for {' and '.join(found)}, but annotation {GPU_SLICE} makes "
                f"one resource of them; ask for {NVIDIA_GPU} only"
            )
        asked = asked or bool(found)
        if found and found != [resource]:
            made += _renamed(place, found[0], resource)
    if asked:
        return tuple(made)
    chosen = default_container(pod)
    return request_one(chosen, resource) if chosen is not None else ()


def _is_named_by(template: str, resource: str) -> bool:
    head, gap, tail = template.partition(_PROFILE_GAP)
    return resource.startswith(head) and resource.endswith(tail) if gap else resource == template


def _renamed(place: Place, old: str, new: str) -> Iterator[Operation]:
    resources = place.container.resources
    for field, amounts in (("limits", resources.limits), ("requests", resources.requests)):
        if old in amounts:
            path = f"{place.path}/resources/{field}"
            yield remove(path + pointer(old))
            yield add(path + pointer(new), amounts[old])


# Nodes


def _requirements(
    pod: Pod, word: str, offer: SliceOffer, seen: _LabelValues, nodes: AcceleratorNodes | None
) -> Iterator[Requirement]:
    """What the offer says of nodes, less what the pod's own node selector says already.

    Raises:
        RefusedError: The node selector says the contrary.
    """
    for key, glob in offer.node_labels.items():
        selected = pod.spec.node_selector.get(key)
        if selected is None:
            suiting: _LabelValues | None = seen
            if nodes and glob.startswith("!"):
                suiting = nodes.label_values(offer.resource, {key: glob.removeprefix("!")})
            requirement = _requirement(key, glob, (suiting or {}).get(key, ()))
            if requirement is not None:
                yield requirement
        elif not label_matches(glob, selected):
            raise RefusedError(
                f"annotation {GPU_SLICE}: {word} needs nodes with {key} as {glob!r}, but nodeSelector says "
                f"{selected!r}; remove it from nodeSelector"
            )


def _requirement(key: str, glob: Glob, seen: Sequence[str]) -> Requirement | None:
    """None if it depends on values that no node has shown yet."""
    negated = glob.startswith("!")
    pattern = glob.removeprefix("!")
    if pattern == "*":
        return Requirement(key=key, operator="DoesNotExist" if negated else "Exists")
    values = tuple(seen) if _WILDCARDS.intersection(pattern) else (pattern,)
    return Requirement(key=key, operator="NotIn" if negated else "In", values=values) if values else None


# Words


def _nobody_offers(word: str, scene: Scene, *, elsewhere: bool) -> str:
    if elsewhere:
        return f"no node that nodeSelector admits offers {GPU_SLICE}: {word} now; the pod waits for one"
    nearest_first = sorted(_offered(scene), key=lambda other: (-SequenceMatcher(None, word, other).ratio(), other))
    offered = ", ".join(nearest_first) or "no GPUs at all"
    text = f"no node offers {GPU_SLICE}: {word} now; the pod waits for one. Offered are: {offered}"
    return shorten(text, width=_WARNING_CHARACTERS, placeholder=" ...")


def _unknown(value: str, scene: Scene) -> str:
    meant = _meant(value.lower(), scene)
    hint = f" (did you mean {meant}?)" if meant else ""
    return f"annotation {GPU_SLICE}: {shown(value)} is no kind of slice{hint}; {_forms(scene)}"


def _meant(word: str, scene: Scene) -> str:
    if profile := _PROFILE.search(word):
        return f"mig-{profile[0]}"
    return nearest(word, {*_fixed(scene.policy.gpu_slices), _EXAMPLE, *_offered(scene)})


def _forms(scene: Scene) -> str:
    policy = scene.policy.gpu_slices
    forms = [*_fixed(policy), *([f"mig-<profile> (such as {_EXAMPLE})"] if policy.mig else [])]
    return f"it may be {', '.join(forms)}" if forms else "remove the annotation"


def _fixed(policy: GpuSlices) -> Sequence[str]:
    return [word for word, offers in (("timeshare", policy.timeshare), ("whole", policy.whole)) if offers]


def _offered(scene: Scene) -> Sequence[str]:
    """What nodes offer now."""
    nodes = scene.nodes
    if nodes is None:
        return []
    policy = scene.policy.gpu_slices
    words = [*_fixed(policy), *(f"mig-{profile}" for profile in _profiles(policy, nodes))]
    slices = [_slice(word, policy) for word in words]
    return [each.word for each in slices if each is not None and _made(each.offers, nodes)]


def _profiles(policy: GpuSlices, nodes: AcceleratorNodes) -> Sequence[str]:
    """All that could be MIG profiles in the names of resources and the labels by which MIG is offered, sorted."""
    texts = list(nodes.resources)
    for offer in policy.mig:
        any_profile = _filled(offer, "*")
        found: _LabelValues = nodes.label_values(any_profile.resource, any_profile.node_labels) or {}
        texts += [value for values in found.values() for value in values]
    return sorted({profile for text in texts for profile in _PROFILE.findall(text)})
