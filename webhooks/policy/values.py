"""What single values of the policy can be: each a pattern, and the words in which another value is refused."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Meta

from tasuki.kube.quantity import QuantityError, parse
from tasuki.process.sentences import alternatives, nearest, shown
from webhooks.pod import Json

# A `$` of Python also stands before a line's end that is the last character; JSON Schema's does not.
_END: Final = r"$(?!\n)"

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_NAME: Final = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_SHORT_NAME: Final = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_QUANTITY: Final = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"
_MORE_THAN_NONE: Final = "(?=[0-9.]*[1-9])"


def _whole(pattern: str) -> str:
    return f"^{pattern}{_END}"


def _or_empty(pattern: str) -> str:
    return _whole(f"({pattern})?")


Glob = Annotated[str, Meta(pattern=_whole(r"\S+"), description="a name without spaces, in which * stands for anything")]
LabelKey = Annotated[
    str,
    Meta(
        pattern=_whole(f"({_SUBDOMAIN}/)?{_SHORT_NAME}"),
        max_length=317,
        description="a label's key, such as tasuki.dev/pool",
    ),
]
LabelValue = Annotated[
    str,
    Meta(
        pattern=_or_empty(_SHORT_NAME),
        description="a label's value: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a "
        "letter or digit",
    ),
]
LabelGlob = Annotated[
    str,
    Meta(
        pattern=_whole(r"[-A-Za-z0-9_.*?!\[\]]*"),
        description="a label's value, in which * stands for anything; empty only for a label without a value",
    ),
]
OfferLabelGlob = Annotated[
    str,
    Meta(
        pattern=_whole(r"([-A-Za-z0-9_.*?!\[\]]|\{profile\})*"),
        description="a label's value, in which * stands for anything and {profile} for the MIG profile",
    ),
]
TaintKey = Annotated[
    str,
    Meta(
        pattern=_or_empty(f"({_SUBDOMAIN}/)?{_SHORT_NAME}"),
        max_length=317,
        description="a taint's key, such as nvidia.com/gpu; empty, with operator Exists, for every taint",
    ),
]
ResourceName = Annotated[
    str,
    Meta(
        pattern=_or_empty(f"{_SUBDOMAIN}/{_NAME}"),
        max_length=317,
        description="a resource's name with its domain, such as vaccel.tasuki.dev/session, or empty for none",
    ),
]
OfferedResource = Annotated[
    str,
    Meta(
        pattern=_whole(rf"{_SUBDOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]|\{{profile\}})*"),
        max_length=317,
        description="a resource's name with its domain, in which {profile} stands for the MIG profile",
    ),
]
Subdomain = Annotated[
    str,
    Meta(
        pattern=_whole(_SUBDOMAIN),
        max_length=253,
        description="the name of an object: lower-case letters, digits, '-' and '.'",
    ),
]
OptionalSubdomain = Annotated[
    str,
    Meta(
        pattern=_or_empty(_SUBDOMAIN),
        max_length=253,
        description="the name of an object: lower-case letters, digits, '-' and '.'; or empty for none",
    ),
]
VolumeName = Annotated[
    str,
    Meta(
        pattern=_whole(_LABEL),
        max_length=63,
        description="a volume's name: at most 63 lower-case letters, digits and '-'",
    ),
]
MountPath = Annotated[
    str,
    Meta(
        pattern=_whole(r"/[^:\x00]+"),
        max_length=4096,
        description="an absolute path, one that begins with '/', without ':' and not the root itself",
    ),
]
SubPath = Annotated[
    str,
    Meta(
        pattern=_whole(r"(?!/)(?!(.*/)?\.\.(/|$))[^\x00]*"),
        max_length=4096,
        description="a path within the volume, one that does not begin with '/', without '..'",
    ),
]
Cpu = Annotated[
    str,
    Meta(
        pattern=_whole(rf"{_MORE_THAN_NONE}({_QUANTITY}|[0-9]+m)"),
        description="an amount of CPU, more than none, such as 500m or 2",
    ),
]
Memory = Annotated[
    str,
    Meta(
        pattern=_whole(rf"{_MORE_THAN_NONE}{_QUANTITY}([KMGTPE]i|[kMGTPE])?"),
        description="an amount of memory, more than none, such as 256Mi or 2Gi",
    ),
]
VariableName = Annotated[
    str, Meta(pattern=_whole("[A-Za-z_][A-Za-z0-9_]*"), description="the name of an environment variable")
]
ImageReference = Annotated[
    str, Meta(pattern=_whole(r"\S+"), description="an image's reference, such as registry.example.org/agent:1")
]
PluginName = Annotated[
    str, Meta(pattern=_whole("[A-Za-z0-9][-A-Za-z0-9_.]*"), description="the name of a vAccel plugin, such as torch")
]
Url = Annotated[
    str,
    Meta(
        pattern=_whole(r"https?://[^\s/?#]+(/[^\s?#]*)?"),
        description="an address that begins with http:// or https://, without query",
    ),
]
Audience = Annotated[str, Meta(pattern=_whole(r"\S+"), description="a name without spaces, such as cache.tasuki.dev")]
GpuCount = Annotated[int, Meta(ge=1, le=64)]
# The API server's limits (ValidateServiceAccountTokenProjection).
TokenSeconds = Annotated[int, Meta(ge=600, le=2**32)]


@dataclass(frozen=True, slots=True)
class _Source:
    """What a kind of volume takes; `required` are strings that are not empty."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


VOLUME_SOURCES: Final[Mapping[str, _Source]] = {
    "persistentVolumeClaim": _Source(required=("claimName",), optional=("readOnly",)),
    "hostPath": _Source(required=("path",), optional=("type",)),
    "image": _Source(required=("reference",), optional=("pullPolicy",)),
    "csi": _Source(
        required=("driver",), optional=("readOnly", "fsType", "volumeAttributes", "nodePublishSecretRef")
    ),
    "nfs": _Source(required=("server", "path"), optional=("readOnly",)),
}  # fmt: skip

# How alike two words are when one may be a slip for the other (difflib's ratio).
_ALIKE: Final = 0.6

_REQUIREMENTS: Final = ("requests", "limits")
QUANTITY: Final = _whole(rf"{_QUANTITY}([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?")


def _object(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


_ANY: Final[Mapping[str, Any]] = {"not": {"type": "null"}}
_TEXT: Final[Mapping[str, Any]] = {"type": "string", "minLength": 1}
_AMOUNTS: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "string", "pattern": QUANTITY}, {"type": "number"}]},
}

VolumeSource = Annotated[
    Json,
    Meta(
        extra_json_schema=_object(
            {
                name: _object(
                    {**dict.fromkeys(source.optional, _ANY), **dict.fromkeys(source.required, _TEXT)},
                    required=list(source.required),
                )
                for name, source in VOLUME_SOURCES.items()
            },
            minProperties=1,
            maxProperties=1,
        ),
    ),
]
ContainerResources = Annotated[
    Json,
    Meta(
        extra_json_schema=_object(dict.fromkeys(_REQUIREMENTS, _AMOUNTS)),
    ),
]


def source_problem(source: Json) -> str:
    """Why a pod's volume cannot have this source; empty if it can."""
    kinds = alternatives(VOLUME_SOURCES)
    if len(source) != 1:
        return f"has {len(source)} keys; it must have exactly one of {kinds}"
    kind, values = next(iter(source.items()))
    if kind not in VOLUME_SOURCES:
        return f"has the key {shown(kind)}; {_meant(kind, VOLUME_SOURCES)}"
    if not isinstance(values, dict):
        return f"has {shown(values)} as {kind}; it must be a mapping"
    known = VOLUME_SOURCES[kind]
    for name, value in values.items():
        if name not in (*known.required, *known.optional):
            return f"has the key {shown(name)} in {kind}; {_meant(name, (*known.required, *known.optional))}"
        if value is None:
            return f"has {name} in {kind} without a value; write one or leave the key out"
    for name in known.required:
        if name not in values:
            return f"lacks {name} in {kind}; add it"
        if not isinstance(values[name], str) or not values[name]:
            return f"has {shown(values[name])} as {name} in {kind}; it must be a string that is not empty"
    return ""


def resources_problem(resources: Json) -> str:
    """Why a container cannot have these resources; empty if it can."""
    for requirement, amounts in resources.items():
        if requirement not in _REQUIREMENTS:
            return f"has the key {shown(requirement)}; {_meant(requirement, _REQUIREMENTS)}"
        if not isinstance(amounts, dict):
            return f"has {shown(amounts)} as {requirement}; it must be a mapping of resources to amounts"
        for name, amount in amounts.items():
            number = isinstance(amount, int | float) and not isinstance(amount, bool)
            if not number and not (isinstance(amount, str) and re.search(QUANTITY, amount)):
                return f"has {shown(amount)} as {name} in {requirement}; it must be an amount such as 500m or 128Mi"
    try:
        return _inconsistency(resources.get("requests", {}), resources.get("limits", {}))
    except QuantityError as error:
        return f"cannot be read: {error}"


def _inconsistency(requests: Json, limits: Json) -> str:
    """Why the API server would refuse every container that has them (ValidateContainerResourceRequirements)."""
    for name, request in requests.items():
        limit = limits.get(name)
        if limit is None:
            if not _can_be_overcommitted(name):
                return f"has {name} in requests only; write {shown(request)} in limits, too"
        elif parse(request) > parse(limit):
            return f"requests {shown(request)} of {name}, but limits it to {shown(limit)}; raise the limit"
        elif not _can_be_overcommitted(name) and parse(request) != parse(limit):
            return f"requests {shown(request)} of {name}, but limits it to {shown(limit)}; the two must be equal"
    return ""


def _can_be_overcommitted(resource: str) -> bool:
    native = "/" not in resource or "kubernetes.io/" in resource
    return native and not resource.startswith("hugepages-")


def _meant(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known, alike=_ALIKE)
    return f"did you mean {near!r}?" if near else f"known here are {alternatives(known)}"
