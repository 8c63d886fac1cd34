"""What becomes of pods that reach round the device plugins, and of containers that would be shown GPUs unasked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from webhooks.mutations.protection_findings import (
    CUDA_VISIBLE,
    NVIDIA_VISIBLE,
    Finding,
    findings,
    is_shared_node_pod,
    remaining_env,
    requests_nvidia,
)
from webhooks.patch import Operation, append
from webhooks.pod import EnvVar, Pod, is_of_daemon_set, places
from webhooks.policy.model import Protection, Verdict, rule_for
from webhooks.scene import NOTHING, Change, RefusedError, Scene

# "void" and not "none", with which NVIDIA's toolkit before 1.18.2 gives all GPUs; the second is for whoever sees them
# in another way.
_HIDDEN: Final = (EnvVar(name=NVIDIA_VISIBLE, value="void"), EnvVar(name=CUDA_VISIBLE, value=""))
_MOST_TOLD: Final = 5

_VARIABLES: Final = frozenset(variable.name for variable in _HIDDEN)


def protection(pod: Pod, scene: Scene) -> Change:
    rule = rule_for(scene.policy.protection, scene.namespace, scene.namespace_labels)
    if rule is None:
        return NOTHING
    found = _by_verdict(pod, scene, rule)
    _refuse(found.get("deny", ()))
    stripped = found.get("strip", ())
    removals = _last_first(stripped)
    hidden = _hide(pod, scene, removals) if _hides(rule, pod) else ()
    if not (found or hidden):
        return NOTHING
    warnings = (*(f"{each.fact}: removed; {each.remedy}" for each in stripped), *_warnings(found.get("warn", ())))
    return Change((*removals, *hidden), warnings, _notes(found))


def check_protection(pod: Pod, scene: Scene) -> Change:
    """What holds of the pod as all webhooks have left it; nothing can be stripped any more, so that is refused, too."""
    rule = rule_for(scene.policy.protection, scene.namespace, scene.namespace_labels)
    if rule is None:
        return NOTHING
    found = _by_verdict(pod, scene, rule)
    if not found:
        return NOTHING
    _refuse((*found.get("deny", ()), *found.get("strip", ())))
    return Change(warnings=tuple(_warnings(found.get("warn", ()))))


def _by_verdict(pod: Pod, scene: Scene, rule: Protection) -> Mapping[Verdict, Sequence[Finding]]:
    """Nothing under `allow`."""
    verdicts: Mapping[str, Verdict] = {
        "visible_devices": rule.visible_devices,
        "privileged": rule.privileged,
        "host_devices": rule.host_devices,
    }
    found: dict[Verdict, list[Finding]] = {}
    for finding in findings(pod, scene.policy):
        verdict = verdicts[finding.rule]
        if verdict != "allow":
            found.setdefault(verdict, []).append(finding)
    return found


def _refuse(denied: Sequence[Finding]) -> None:
    if denied:
        told = ". ".join(_warnings(denied[:_MOST_TOLD]))
        more = len(denied) - _MOST_TOLD
        raise RefusedError(f"{told}. And {more} more" if more > 0 else told)


def _warnings(found: Iterable[Finding]) -> Iterator[str]:
    return (f"{each.fact}; {each.remedy}" for each in found)


def _notes(found: Mapping[Verdict, Sequence[Finding]]) -> Mapping[str, str]:
    """Which rules led to what: `host-devices strip, privileged warn`."""
    told = {f"{each.rule.replace('_', '-')} {verdict}" for verdict, each_found in found.items() for each in each_found}
    return {"protection": ", ".join(sorted(told))} if told else {}


def _last_first(found: Iterable[Finding]) -> tuple[Operation, ...]:
    """Every removal once, the later of a list's first, so that each path still leads where it did."""
    wanted = {operation.path: operation for each in found for operation in each.removal}
    in_place = [operation for operation in wanted.values() if operation.op == "replace"]
    removals = [operation for operation in wanted.values() if operation.op == "remove"]
    removals.sort(key=_position, reverse=True)
    return (*in_place, *removals)


def _position(operation: Operation) -> tuple[str, int]:
    of, _, index = operation.path.rpartition("/")
    return of, int(index)


def _hides(rule: Protection, pod: Pod) -> bool:
    return rule.hides_unrequested and (rule.hides_daemon_sets or not is_of_daemon_set(pod))


def _hide(pod: Pod, scene: Scene, removals: Iterable[Operation]) -> tuple[Operation, ...]:
    """Where NVIDIA's runtime is a node's default, an image may ask it for all GPUs (ENV NVIDIA_VISIBLE_DEVICES=all)."""
    if is_shared_node_pod(pod, scene.policy):
        return ()
    removed = frozenset(operation.path for operation in removals)
    regular = list(places(pod, "initContainers", "containers"))
    seeing: list[tuple[str, Sequence[EnvVar]]] = []
    for place in regular:
        # A claim of dynamic resource allocation may be for a GPU.
        if requests_nvidia(place.container) or place.container.resources.claims:
            continue
        left = remaining_env(place, removed)
        if not any(variable.name in _VARIABLES for variable in left):
            seeing.append((f"{place.path}/env", left))
    if not seeing:
        return ()
    beside = any(requests_nvidia(place.container) for place in regular)
    if not beside and (scene.nodes is None or not scene.nodes.could_land(pod)):
        return ()
    return tuple(operation for path, left in seeing for operation in append(path, left, _HIDDEN))
