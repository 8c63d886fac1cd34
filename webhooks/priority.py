"""How urgent a pod is, and how another PriorityClass is given to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tasuki.kube.names import GPU_SHARING, GPU_SLICE, VACCEL
from tasuki.process.sentences import shortened
from webhooks.cluster import PriorityClass
from webhooks.patch import Operations, add, remove
from webhooks.pod import Pod, annotation, is_of_daemon_set, places, requested
from webhooks.policy.model import Policy, accelerators_among, any_match, rule_for
from webhooks.scene import Scene

Classes = Mapping[str, PriorityClass]

# Kubernetes' own classes begin here, and those of users end at half of it (pkg/apis/scheduling/types.go).
SYSTEM_PRIORITY: Final = 2_000_000_000
_SYSTEM_CLASSES: Final = {"system-cluster-critical": SYSTEM_PRIORITY, "system-node-critical": SYSTEM_PRIORITY + 1000}

_LONGEST_NAME: Final = 32


@dataclass(frozen=True, slots=True)
class Standing:
    """How urgent a pod is as it stands.

    Attributes:
        name: Of its class; empty if it has none.
        chosen: Whether it names the class itself. A pod that chose the cluster's default reads like one that chose
            none: the API server has filled that one in before a webhook sees the pod.
    """

    name: str
    value: int
    chosen: bool

    @property
    def is_system(self) -> bool:
        return self.value >= SYSTEM_PRIORITY or self.name in _SYSTEM_CLASSES


def standing(pod: Pod, classes: Classes) -> Standing | None:
    """None if the pod's class is not known, nor what the API server computed from it."""
    name = pod.spec.priority_class_name
    if not name:
        default = _cluster_default(classes)
        return Standing(name="", value=default.value if default else 0, chosen=False)
    known = classes.get(name)
    if known is not None:
        return Standing(name=name, value=known.value, chosen=not known.global_default)
    value = _SYSTEM_CLASSES.get(name, pod.spec.priority)
    return None if value is None else Standing(name=name, value=value, chosen=True)


def _cluster_default(classes: Classes) -> PriorityClass | None:
    """The lowest, if there are several, as for the API server (plugin/pkg/admission/priority/admission.go)."""
    defaults = [each for each in classes.values() if each.global_default]
    return min(defaults, key=lambda each: (each.value, each.name), default=None)


@dataclass(frozen=True, slots=True)
class TeamClasses:
    """A team's classes, as far as the cluster has them.

    Attributes:
        missing: Those that the policy names and the cluster lacks.
        of_every_namespace: Whether the team is whoever has no other.
    """

    default: PriorityClass | None
    maximum: PriorityClass | None
    missing: tuple[str, ...]
    of_every_namespace: bool

    def given(self, pod: Standing) -> PriorityClass | None:
        """What a pod gets that chose no class; None if it stays as it is.

        The maximum holds also for what nobody chose, and lowers it: to refuse such a pod would refuse them all.
        """
        value = pod.value if self.default is None else self.default.value
        return self.maximum if self.forbids(value) else self.default

    def forbids(self, value: int) -> bool:
        return self.maximum is not None and value > self.maximum.value

    def spares(self, pod: Standing) -> bool:
        """Whether the maximum is not for such a pod.

        Nobody can name all the namespaces that a cluster is made of, and without its network it would not come up.
        """
        return self.of_every_namespace and pod.is_system


def missing_classes(policy: Policy, classes: Classes) -> tuple[str, ...]:
    """The classes that the policy names and the cluster lacks, sorted."""
    named = {name for team in policy.teams for name in (team.default_priority_class, team.maximum_priority_class)}
    if policy.cpu_only is not None:
        named.add(policy.cpu_only.priority_class)
    return tuple(sorted(name for name in named if name and name not in classes))


def team_classes(scene: Scene, classes: Classes) -> TeamClasses | None:
    """None if the namespace has no team, or one without classes."""
    team = rule_for(scene.policy.teams, scene.namespace, scene.namespace_labels)
    if team is None:
        return None
    names = {name for name in (team.default_priority_class, team.maximum_priority_class) if name}
    if not names:
        return None
    return TeamClasses(
        default=classes.get(team.default_priority_class),
        maximum=classes.get(team.maximum_priority_class),
        missing=tuple(sorted(names - classes.keys())),
        of_every_namespace=team.matches_all,
    )


def is_cpu_only(pod: Pod, scene: Scene) -> bool:
    """Whether the policy lowers pods like this one: without an accelerator, where it could land beside one."""
    rules = scene.policy.cpu_only
    return (
        rules is not None
        and scene.nodes is not None
        and not any_match(rules.exempt_namespaces, scene.namespace)
        and not (rules.exempt_daemon_sets and is_of_daemon_set(pod))
        and not uses_accelerator(pod, scene.policy)
        and scene.nodes.could_land(pod)
    )


def uses_accelerator(pod: Pod, policy: Policy) -> bool:
    # What a claim (DRA) is for, the pod does not say: take it for an accelerator.
    if pod.spec.resource_claims or any(annotation(pod, name) for name in (GPU_SHARING, GPU_SLICE)):
        return True
    # Its virtual machine uses the node's accelerators, for which there is nothing to request.
    if policy.vaccel is not None and policy.vaccel.sandbox is not None and annotation(pod, VACCEL) == "sandbox":
        return True
    # Neither ephemeral containers nor pods as a whole can request extended resources.
    return any(
        accelerators_among(requested(place.container), policy) for place in places(pod, "initContainers", "containers")
    )


def set_priority_class(pod: Pod, name: str) -> Operations:
    """Give the pod a class, and leave the rest to the API server.

    It has already computed `priority` and `preemptionPolicy` from the former class. It will again, and would refuse
    the pod if what it finds there is not what the new class says (plugin/pkg/admission/priority/admission.go).
    """
    spec = pod.spec
    stale = {"/spec/priority": spec.priority is not None, "/spec/preemptionPolicy": bool(spec.preemption_policy)}
    return (add("/spec/priorityClassName", name), *(remove(path) for path, is_there in stale.items() if is_there))


def short(name: str) -> str:
    """A class's name, quoted, in a sentence of which clients see some 200 characters."""
    return repr(shortened(name, _LONGEST_NAME))
