"""The team of a namespace has a priority for pods that ask for none, and one that no pod may exceed."""

from typing import Final, NoReturn

from webhooks.cluster import PriorityClass
from webhooks.pod import Pod
from webhooks.priority import (
    SYSTEM_PRIORITY,
    Classes,
    Standing,
    TeamClasses,
    is_cpu_only,
    set_priority_class,
    short,
    standing,
    team_classes,
)
from webhooks.scene import NOTHING, Change, RefusedError, Scene

_MOST_NAMED: Final = 10


def team_priority(pod: Pod, scene: Scene) -> Change:
    if not scene.policy.teams:
        return NOTHING
    classes = scene.cluster.priority_classes or {}
    team = team_classes(scene, classes)
    if team is None:
        return NOTHING
    notes = _notes(team, scene)
    pod_class = standing(pod, classes)
    if pod_class is None:
        return Change(notes=notes)
    if pod_class.chosen:
        if team.maximum is None or not team.forbids(pod_class.value):
            return Change(notes=notes)
        if team.spares(pod_class):
            return Change(warnings=(_spared(pod_class, team.maximum),), notes=notes)
        _refuse(pod_class, team.maximum, scene, classes)
    given = team.given(pod_class)
    if given is None or given.name == pod_class.name or _was_lowered(pod, pod_class, given, scene):
        return Change(notes=notes)
    return Change(operations=set_priority_class(pod, given.name), notes=notes)


def check_team_priority(pod: Pod, scene: Scene) -> Change:
    """The pod as it will be: its priority, wherever it comes from, must not exceed the team's maximum."""
    if not scene.policy.teams:
        return NOTHING
    classes = scene.cluster.priority_classes or {}
    team = team_classes(scene, classes)
    pod_class = standing(pod, classes)
    if team is None or pod_class is None or team.maximum is None:
        return NOTHING
    if team.forbids(pod_class.value) and not team.spares(pod_class):
        _refuse(pod_class, team.maximum, scene, classes)
    return NOTHING


def _was_lowered(pod: Pod, pod_class: Standing, given: PriorityClass, scene: Scene) -> bool:
    """Whether the pod keeps the class of CPU-only pods, which in this cluster is also the default one."""
    rules = scene.policy.cpu_only
    return (
        rules is not None
        and pod_class.name == rules.priority_class
        and pod_class.value < given.value
        and is_cpu_only(pod, scene)
    )


def _notes(team: TeamClasses, scene: Scene) -> dict[str, str]:
    if scene.cluster.priority_classes is None:
        return {"team-priority": "not applied: no PriorityClass is known yet"}
    if team.missing:
        return {"team-priority": f"not wholly applied: there is no PriorityClass {' or '.join(team.missing)}"}
    return {}


def _spared(pod_class: Standing, maximum: PriorityClass) -> str:
    return (
        f"priority class {short(pod_class.name)} ({pod_class.value}) is above {short(maximum.name)} "
        f"({maximum.value}), the highest that the policy has for every namespace; the system's classes keep theirs"
    )


def _refuse(pod_class: Standing, maximum: PriorityClass, scene: Scene, classes: Classes) -> NoReturn:
    what = f"priority class {short(pod_class.name)}" if pod_class.name else "the priority of pods without a class"
    raise RefusedError(
        f"{what} ({pod_class.value}) is above {short(maximum.name)} ({maximum.value}), the highest that namespace "
        f"{scene.namespace!r} may ask for; {_remedy(maximum, classes)}"
    )


def _remedy(maximum: PriorityClass, classes: Classes) -> str:
    allowed = [each for each in classes.values() if each.value <= maximum.value and each.value < SYSTEM_PRIORITY]
    names = [each.name for each in sorted(allowed, key=lambda each: (-each.value, each.name))]
    if not names:
        return "remove priorityClassName"
    more = f" or one of {len(names) - _MOST_NAMED} below" if len(names) > _MOST_NAMED else ""
    return f"set priorityClassName to {', '.join(names[:_MOST_NAMED])}{more}"
