"""Pods without accelerators that could land beside one get a low priority, so that others can preempt them there."""

from webhooks.cluster import PriorityClass
from webhooks.pod import Pod
from webhooks.priority import (
    Standing,
    TeamClasses,
    is_cpu_only,
    set_priority_class,
    short,
    standing,
    team_classes,
    uses_accelerator,
)
from webhooks.scene import NOTHING, Change, Scene


def cpu_only(pod: Pod, scene: Scene) -> Change:
    """Lower the pod's class to the policy's; never raise it."""
    rules, classes = scene.policy.cpu_only, scene.cluster.priority_classes
    if rules is None:
        return NOTHING
    if pod.spec.priority_class_name == rules.priority_class:
        return _warned(pod, scene)
    low = None if classes is None else classes.get(rules.priority_class)
    if classes is None or low is None:
        if not is_cpu_only(pod, scene):
            return NOTHING
        return Change(notes={"cpu-only": f"not lowered: PriorityClass {rules.priority_class} is not known"})
    former = standing(pod, classes)
    team = team_classes(scene, classes)
    if former is None or not _is_lower(low, former, team) or not is_cpu_only(pod, scene):
        return NOTHING
    return Change(
        operations=set_priority_class(pod, low.name),
        warnings=(_warning(former, low),) if _is_users_choice(former, team) else (),
        notes={"cpu-only": f"lowered to {low.name}"},
    )


def _warned(pod: Pod, scene: Scene) -> Change:
    """A pod that came to use an accelerator later, as when another webhook added the request, or a copied manifest."""
    if not uses_accelerator(pod, scene.policy):
        return NOTHING
    name = short(pod.spec.priority_class_name)
    return Change(
        warnings=(f"priority class {name} is for pods without accelerators, and others preempt it; name another",)
    )


def _is_lower(low: PriorityClass, former: Standing, team: TeamClasses | None) -> bool:
    """Whether the class lowers what the pod would have in the end, with what its team gives and forbids."""
    if former.is_system:
        return False
    if team is None:
        return low.value < former.value
    if former.chosen and team.forbids(former.value):
        return False  # whether a pod asks for too much is not to depend on where it could land: its team refuses it
    given = None if former.chosen else team.given(former)
    return low.value < (given or former).value and not team.forbids(low.value)


def _is_users_choice(former: Standing, team: TeamClasses | None) -> bool:
    default = None if team is None else team.default
    return former.chosen and (default is None or default.name != former.name)


def _warning(former: Standing, low: PriorityClass) -> str:
    return (
        f"priority class {short(former.name)} became {short(low.name)}: the pod uses no accelerator and could land "
        "beside one; request one, or select nodes without"
    )
