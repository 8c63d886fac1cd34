"""The scheduler extender API v1 (staging/src/k8s.io/kube-scheduler/extender/v1/types.go): bytes to values and back.

Its Go structs have no JSON tags, so that names are Go's own; Go's decoder takes them in any case, and so do we.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import field

from schedext.pod import Pod
from tasuki.kube.objects import UNREADABLE

# A pod of 3 MiB, of which Go writes some characters with six bytes, and the most names, of 150 bytes each.
MOST_BYTES: Final = 32 * 2**20
# More nodes than any cluster has (https://kubernetes.io/docs/setup/best-practices/cluster-large/ counts to 5,000).
MOST_NAMES: Final = 100_000

REMEDY: Final = "write nodeCacheCapable: true for this extender in the KubeSchedulerConfiguration"

_NULL: Final = b"null"
T = TypeVar("T")


class WireError(ValueError):
    """The request cannot be answered as it was asked; the text says what is wrong with it."""


class ExtenderArgs(msgspec.Struct, frozen=True):
    """What filter and prioritize are asked."""

    pod: Pod
    names: list[str]


class Victims(msgspec.Struct, frozen=True):
    """Who would be preempted on a node.

    Attributes:
        pods: Their UIDs.
        pdb_violations: How many of them a PodDisruptionBudget protects.
    """

    pods: tuple[str, ...] = ()
    pdb_violations: int = 0


class PreemptionArgs(msgspec.Struct, frozen=True):
    """What preempt is asked; `victims` is by node."""

    pod: Pod
    victims: dict[str, Victims]


class BindingArgs(msgspec.Struct, frozen=True):
    namespace: str = field(name="PodNamespace")
    name: str = field(name="PodName")
    uid: str = field(name="PodUID")
    node: str = field(name="Node")


class FilterResult(msgspec.Struct):
    """What becomes of each node, as it is made and as it is sent.

    Attributes:
        failed: Why not now, by node.
        unresolvable: Why not either if pods were preempted there, by node.
        error: Why nothing could be decided; the scheduler then tries the pod again.
    """

    # Whole nodes are never answered.
    nodes: None = field(default=None, name="Nodes")
    names: list[str] = field(default_factory=list, name="NodeNames")
    failed: dict[str, str] = field(default_factory=dict, name="FailedNodes")
    unresolvable: dict[str, str] = field(default_factory=dict, name="FailedAndUnresolvableNodes")
    error: str = field(default="", name="Error")


class _Args(msgspec.Struct, frozen=True):
    pod: Pod | None = field(default=None, name="Pod")
    nodes: msgspec.Raw = field(default=msgspec.Raw(_NULL), name="Nodes")
    names: list[str] | None = field(default=None, name="NodeNames")


class _Names(msgspec.Struct, frozen=True):
    names: list[str] | None = field(default=None, name="NodeNames")


class _MetaPod(msgspec.Struct, frozen=True):
    uid: str = field(default="", name="UID")


class _MetaVictims(msgspec.Struct, frozen=True):
    pods: list[_MetaPod] | None = field(default=None, name="Pods")
    pdb_violations: int = field(default=0, name="NumPDBViolations")


class _PreemptionArgs(msgspec.Struct, frozen=True):
    pod: Pod | None = field(default=None, name="Pod")
    with_pods: msgspec.Raw = field(default=msgspec.Raw(_NULL), name="NodeNameToVictims")
    victims: dict[str, _MetaVictims | None] | None = field(default=None, name="NodeNameToMetaVictims")


class _PreemptionResult(msgspec.Struct, frozen=True):
    victims: dict[str, _MetaVictims] = field(name="NodeNameToMetaVictims")


class _BindingResult(msgspec.Struct, frozen=True):
    error: str = field(name="Error")


class _HostPriority(msgspec.Struct, frozen=True):
    host: str = field(name="Host")
    score: int = field(name="Score")


_args: Final = msgspec.json.Decoder(_Args)
_preemption: Final = msgspec.json.Decoder(_PreemptionArgs)
_binding: Final = msgspec.json.Decoder(BindingArgs)
_names: Final = msgspec.json.Decoder(_Names)
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw] | None)
_encoder: Final = msgspec.json.Encoder()


def extender_args(content: bytes) -> ExtenderArgs:
    """What filter or prioritize asks.

    Raises:
        WireError: It is no such question, or it names its nodes in a way that is not answered.
    """
    found = _decoded(_args, content)
    if found.pod is None or (found.names is None and _is_null(found.nodes)):
        found = _decoded(_args, _with_exact_names(content, _Args))
    if found.pod is None:
        raise WireError("the ExtenderArgs have no Pod")
    if found.names is None and not _is_null(found.nodes):
        raise WireError(f"the ExtenderArgs have Nodes in place of NodeNames; {REMEDY}")
    names = found.names or []
    if len(names) > MOST_NAMES:
        raise WireError(f"the ExtenderArgs have {len(names)} NodeNames; at most {MOST_NAMES} are answered")
    return ExtenderArgs(found.pod, names)


def preemption_args(content: bytes) -> PreemptionArgs:
    """What preempt asks.

    Raises:
        WireError: It is no such question, or it brings whole pods.
    """
    found = _decoded(_preemption, content)
    if found.pod is None or (found.victims is None and _is_null(found.with_pods)):
        found = _decoded(_preemption, _with_exact_names(content, _PreemptionArgs))
    if found.pod is None:
        raise WireError("the ExtenderPreemptionArgs have no Pod")
    if found.victims is None and not _is_null(found.with_pods):
        raise WireError(
            f"the ExtenderPreemptionArgs have NodeNameToVictims in place of NodeNameToMetaVictims; {REMEDY}"
        )
    if any(
        not victims or not victims.pods or not all(pod.uid for pod in victims.pods)
        for victims in (found.victims or {}).values()
    ):
        found = _decoded(_preemption, _with_exact_victims(content))
    return PreemptionArgs(found.pod or Pod(), {node: _victims(each) for node, each in (found.victims or {}).items()})


def binding_args(content: bytes) -> BindingArgs:
    """What bind is to do.

    Raises:
        WireError: It does not say for which pod or node.
    """
    try:
        found = _binding.decode(content)
    except UNREADABLE:
        found = _decoded(_binding, _with_exact_names(content, BindingArgs))
    for key, value in zip(BindingArgs.__struct_encode_fields__, msgspec.structs.astuple(found), strict=True):
        if not value:
            raise WireError(f"the ExtenderBindingArgs have an empty {key}")
    return found


def names_in(content: bytes) -> list[str]:
    """The NodeNames of a question that cannot be answered for another reason; empty if they cannot be read either."""
    try:
        found = _names.decode(content)
        if found.names is None:
            found = _names.decode(_with_exact_names(content, _Names))
    except (*UNREADABLE, WireError):
        return []
    return found.names or []


def filter_result(result: FilterResult) -> bytes:
    return _encoder.encode(result)


def priorities(fragments: Iterable[bytes]) -> bytes:
    """A HostPriorityList of elements that are encoded already."""
    return b"[" + b",".join(fragments) + b"]"


def equal_priorities(names: Sequence[str]) -> bytes:
    """By which prioritize changes nothing."""
    return _encoder.encode([_HostPriority(name, 0) for name in names])


def preemption_result(victims: Mapping[str, Victims]) -> bytes:
    """Nodes without victims are left out: the scheduler takes one for an error (preemption.go, callExtenders)."""
    return _encoder.encode(
        _PreemptionResult(
            {
                node: _MetaVictims([_MetaPod(uid) for uid in each.pods], each.pdb_violations)
                for node, each in victims.items()
                if each.pods
            }
        )
    )


def binding_result(error: str = "") -> bytes:
    return _encoder.encode(_BindingResult(error))


def _victims(found: _MetaVictims | None) -> Victims:
    if found is None:
        return Victims()
    return Victims(tuple(pod.uid for pod in found.pods or ()), found.pdb_violations)


def _decoded(decoder: msgspec.json.Decoder[T], content: bytes) -> T:
    try:
        return decoder.decode(content)
    except UNREADABLE as error:
        raise WireError(f"the body is not what the scheduler extender API v1 sends: {error}") from error


def _is_null(raw: msgspec.Raw) -> bool:
    return bytes(raw) == _NULL


def _with_exact_names(content: bytes, wire: type[msgspec.Struct]) -> bytes:
    """The same object with its keys spelled as the type spells them, whatever their case."""
    exact = {name.lower(): name for name in wire.__struct_encode_fields__}
    found = _decoded(_object, content)
    return _encoder.encode({exact.get(key.lower(), key): value for key, value in found.items()})


def _with_exact_victims(content: bytes) -> bytes:
    """As `_with_exact_names`, and within the victims too."""
    top = _decoded(_object, _with_exact_names(content, _PreemptionArgs))
    by_node = _decoded(_object, bytes(top["NodeNameToMetaVictims"]))
    spelled: dict[str, Any] = {}
    for node, victims in by_node.items():
        if _is_null(victims):
            spelled[node] = victims
            continue
        found = _decoded(_object, _with_exact_names(bytes(victims), _MetaVictims))
        pods = _decoded(_raws, bytes(found.get("Pods", _NULL)))
        found_pods = [msgspec.Raw(_with_exact_names(bytes(pod), _MetaPod)) for pod in pods or ()]
        spelled[node] = {**found, "Pods": found_pods}
    return _encoder.encode({**top, "NodeNameToMetaVictims": spelled})
