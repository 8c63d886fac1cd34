"""What becomes of pods that reach round the device plugins, and of containers that would be shown GPUs unasked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tasuki.kube.names import CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES
from webhooks.mutations.protection_findings import (
    Finding,
    findings,
    gpus_among,
    hides,
    is_shared_node_pod,
)
from webhooks.nodes import AcceleratorNodes
from webhooks.patch import Operation, plain, remove
from webhooks.pod import WINDOWS, Container, EnvVar, Pod, is_of_daemon_set
from webhooks.policy.model import OTHER_MAKERS, Policy, Protection, Verdict, any_match, protection_for
from webhooks.scene import NOTHING, Change, RefusedError, Scene

# "void" and not "none", with which NVIDIA's toolkit before 1.18.2 gives all GPUs; the second is for whoever sees them
# in another way. As they are sent, for they are made for most containers of a cluster.
_VOID: Final = plain(EnvVar(name=NVIDIA_VISIBLE_DEVICES, value="void"))
_NO_CUDA: Final = {"name": CUDA_VISIBLE_DEVICES, "value": ""}
_MOST_TOLD: Final = 5
_ENOUGH: Final = _MOST_TOLD + 1

# Where a container's environment is, the container, and what it requests that may be a GPU.
_Asking = tuple[str, Container, frozenset[str]]

_NOTHING_FOUND: Final[Mapping[Verdict, Sequence[Finding]]] = {}


def protection(pod: Pod, scene: Scene) -> Change:
    rule = protection_for(scene.policy.protection, scene.namespace, scene.namespace_labels)
    if rule is None:
        return NOTHING
    found = _by_verdict(pod, scene, rule)
    _refuse(found.get("deny", ()))
    stripped = found.get("strip", ())
    asking = _asking(pod, scene.policy)
    removals = _last_first((*_show(asking), *(each for finding in stripped for each in finding.removal)))
    hidden = _hide(pod, scene, asking, removals) if _hides(rule, pod) else ()
    if not found:
        return Change((*removals, *hidden)) if removals or hidden else NOTHING
    told = (*_some([f"{each.fact}: removed; {each.remedy}" for each in stripped[:_ENOUGH]]), *_warned(found))
    return Change((*removals, *hidden), told, _notes(found))


def check_protection(pod: Pod, scene: Scene) -> Change:
    """What holds of the pod as all webhooks have left it; nothing can be stripped any more, so that is refused, too."""
    rule = protection_for(scene.policy.protection, scene.namespace, scene.namespace_labels)
    if rule is None:
        return NOTHING
    found = _by_verdict(pod, scene, rule)
    if not found:
        return NOTHING
    _refuse((*found.get("deny", ()), *found.get("strip", ())))
    return Change(warnings=_warned(found))


def _by_verdict(pod: Pod, scene: Scene, rule: Protection) -> Mapping[Verdict, Sequence[Finding]]:
    """Nothing under `allow`."""
    every = findings(pod, scene.policy, scene.nodes, spares_daemon_sets=not rule.hides_daemon_sets)
    if not every:
        return _NOTHING_FOUND
    verdicts: Mapping[str, Verdict] = {
        "visible_devices": rule.visible_devices,
        "privileged": rule.privileged,
        "host_devices": rule.host_devices,
    }
    found: dict[Verdict, list[Finding]] = {}
    for finding in every:
        verdict = verdicts[finding.rule]
        if verdict != "allow":
            found.setdefault(verdict, []).append(finding)
    return found


def _refuse(denied: Sequence[Finding]) -> None:
    if denied:
        raise RefusedError(". ".join(_some(_sentences(denied))))


def _warned(found: Mapping[Verdict, Sequence[Finding]]) -> tuple[str, ...]:
    return _some(_sentences(found.get("warn", ())))


def _sentences(found: Sequence[Finding]) -> list[str]:
    return [f"{each.fact}; {each.remedy}" for each in found[:_ENOUGH]]


def _some(sentences: Sequence[str]) -> tuple[str, ...]:
    """The first few: the API server drops what comes after 4,096 characters of warnings."""
    if len(sentences) <= _MOST_TOLD:
        return tuple(sentences)
    return (*sentences[:_MOST_TOLD], "And there is more like this")


def _notes(found: Mapping[Verdict, Sequence[Finding]]) -> Mapping[str, str]:
    """Which rules led to what: `host-devices strip, privileged warn`."""
    told = {f"{each.rule.replace('_', '-')} {verdict}" for verdict, each_found in found.items() for each in each_found}
    return {"protection": ", ".join(sorted(told))} if told else {}


def _last_first(found: Sequence[Operation]) -> tuple[Operation, ...]:
    """Every removal once, the later of a list's first, so that each path still leads where it did."""
    if not found:
        return ()
    wanted = {operation.path: operation for operation in found}
    in_place = [operation for operation in wanted.values() if operation.op == "replace"]
    removals = [operation for operation in wanted.values() if operation.op == "remove"]
    removals.sort(key=_position, reverse=True)
    return (*in_place, *removals)


def _position(operation: Operation) -> tuple[str, int]:
    """Annotations have none."""
    of, _, last = operation.path.rpartition("/")
    return of, int(last) if last.isdecimal() else 0


def _asking(pod: Pod, policy: Policy) -> Sequence[_Asking]:
    spec = pod.spec
    return [
        (f"/spec/{kind}/{index}/env", container, gpus_among(container, policy))
        for kind, containers in (("initContainers", spec.init_containers), ("containers", spec.containers))
        for index, container in enumerate(containers)
    ]


def _show(asking: Iterable[_Asking]) -> Sequence[Operation]:
    """Take back what hides GPUs from a container that requests one; it would go before what the device plugin says.

    We may have written it ourselves, when the container asked for none yet: other webhooks come in between.
    """
    return [
        remove(f"{path}/{index}")
        for path, container, gpus in asking
        if gpus
        for index, variable in enumerate(container.env)
        if hides(variable)
    ]


def _hides(rule: Protection, pod: Pod) -> bool:
    # NVIDIA's runtime is one of Linux.
    if pod.spec.os.name == WINDOWS:
        return False
    return rule.hides_unrequested and (rule.hides_daemon_sets or not is_of_daemon_set(pod))


def _hide(pod: Pod, scene: Scene, asking: Iterable[_Asking], removals: Iterable[Operation]) -> tuple[Operation, ...]:
    """Where NVIDIA's runtime is a node's default, an image may ask it for all GPUs (ENV NVIDIA_VISIBLE_DEVICES=all)."""
    if is_shared_node_pod(pod, scene.policy):
        return ()
    others: list[tuple[str, Container]] = []
    beside = False
    for path, container, gpus in asking:
        if gpus:
            beside = beside or not all(any_match(OTHER_MAKERS, name) for name in gpus)
        # A claim of dynamic resource allocation may be for a GPU.
        elif not container.resources.claims:
            others.append((path, container))
    if not others or not (beside or _could_land_beside_nvidia(pod, scene.nodes)):
        return ()
    removed = frozenset([operation.path for operation in removals])
    return tuple([operation for path, container in others for operation in _hide_from(path, container, removed)])


def _could_land_beside_nvidia(pod: Pod, nodes: AcceleratorNodes | None) -> bool:
    return nodes is not None and nodes.may_have_nvidia and nodes.could_land(pod)


def _hide_from(path: str, container: Container, removed: frozenset[str]) -> Sequence[Operation]:
    """Nothing where the pod itself tells the runtime; what it tells CUDA, the runtime does not look at."""
    env: Iterable[EnvVar] = container.env
    if removed:
        env = [variable for index, variable in enumerate(env) if f"{path}/{index}" not in removed]
    left = {variable.name for variable in env}
    if NVIDIA_VISIBLE_DEVICES in left:
        return ()
    wanted = [_VOID] if CUDA_VISIBLE_DEVICES in left else [_VOID, _NO_CUDA]
    if not left:
        return (Operation(op="add", path=path, value=wanted),)
    return [Operation(op="add", path=f"{path}/-", value=variable) for variable in wanted]
