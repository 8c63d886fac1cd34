"""The parts of Kubernetes' manifests that the sandbox reads; everything else in them is left alone."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Final, get_args

import msgspec

from tasuki.process.sentences import shown

# How alike an unknown key and one that is read are when the one is a slip for the other (difflib's ratio).
_ALIKE: Final = 0.75

Count = Annotated[int, msgspec.Meta(ge=0)]


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """A mapping of a manifest.

    Attributes:
        unread: Keys of the API that are spelled much like ours.
        closed: Whether the API has no key but these.
    """

    unread: ClassVar[frozenset[str]] = frozenset()
    closed: ClassVar[bool] = False


class EnvVar(Part, frozen=True):
    """`value_from` is kept as it is: there is no cluster to look it up in."""

    name: str
    value: str = ""
    value_from: dict[str, object] | None = None


class Resources(Part, frozen=True):
    unread: ClassVar[frozenset[str]] = frozenset({"claims"})
    closed: ClassVar[bool] = True

    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}


class Container(Part, frozen=True):
    unread: ClassVar[frozenset[str]] = frozenset({"resizePolicy", "restartPolicyRules"})

    name: str
    env: tuple[EnvVar, ...] = ()
    resources: Resources = Resources()
    restart_policy: str | None = None


class PodSpec(Part, frozen=True):
    unread: ClassVar[frozenset[str]] = frozenset({"ephemeralContainers", "resourceClaims"})

    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    resources: Resources = Resources()


class Metadata(Part, frozen=True):
    name: str = ""
    generate_name: str = ""
    namespace: str = "default"
    uid: str = ""


class PodManifest(Part, frozen=True):
    spec: PodSpec
    metadata: Metadata = Metadata()


class PodTemplate(Part, frozen=True):
    spec: PodSpec


class WorkloadSpec(Part, frozen=True):
    """What the kinds of workloads have in common or alone."""

    unread: ClassVar[frozenset[str]] = frozenset({"completionMode"})

    template: PodTemplate
    replicas: Count = 1
    completions: Count | None = None
    parallelism: Count = 1


class WorkloadManifest(Part, frozen=True):
    spec: WorkloadSpec
    metadata: Metadata


class JobTemplate(Part, frozen=True):
    spec: WorkloadSpec


class CronJobSpec(Part, frozen=True):
    job_template: JobTemplate


class CronJobManifest(Part, frozen=True):
    spec: CronJobSpec
    metadata: Metadata


class ListManifest(Part, frozen=True):
    items: tuple[dict[str, object], ...] = ()


def slips(content: object, kind: type[Part], path: str = "") -> Iterator[str]:
    """One sentence for each key that is none of the API's and is probably meant to be one that is read here."""
    if not isinstance(content, Mapping):
        return
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key in content:
        if key in known or key in kind.unread:
            continue
        spellings = {name.lower(): name for name in known}
        near = get_close_matches(key.lower(), spellings, n=1, cutoff=0.0 if kind.closed else _ALIKE)
        if near:
            here = f"{path}: " if path else ""
            yield f"{here}there is no key {shown(key)}; did you mean {spellings[near[0]]!r}?"
    for name, expected in known.items():
        inner, here = content.get(name), f"{path}.{name}" if path else name
        part = _part_in(expected)
        if part is None:
            continue
        if isinstance(inner, list):
            for number, item in enumerate(inner):
                yield from slips(item, part, f"{here}[{number}]")
        else:
            yield from slips(inner, part, here)


def _part_in(expected: Any) -> type[Part] | None:
    """The part that a field holds, alone or as a list of them."""
    for candidate in (expected, *get_args(expected)):
        if isinstance(candidate, type) and issubclass(candidate, Part):
            return candidate
    return None
