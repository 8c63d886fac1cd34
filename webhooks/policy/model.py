"""The policy's values: every section of the file, each absent section a capability that this cluster does not offer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeVar

from webhooks.policy.accelerators import (
    NO_GPUS,
    OTHER_MAKERS,
    Accelerators,
    CpuOnly,
    GpuSlices,
    Requests,
    ResourceTolerations,
    SharedNodes,
    SliceOffer,
    Toleration,
)
from webhooks.policy.section import KeyProblemError, NamespaceRule, Section, any_match, label_matches
from webhooks.policy.services import Cache, Chains, Modules, ModuleVolume, Vaccel, VaccelSandbox, VaccelSidecar
from webhooks.policy.values import Glob, OptionalSubdomain

__all__ = [
    "NO_GPUS",
    "OTHER_MAKERS",
    "Accelerators",
    "Cache",
    "Chains",
    "CpuOnly",
    "Glob",
    "GpuSlices",
    "KeyProblemError",
    "ModuleVolume",
    "Modules",
    "Policy",
    "Protection",
    "Requests",
    "ResourceTolerations",
    "SharedNodes",
    "SliceOffer",
    "Team",
    "Toleration",
    "Vaccel",
    "VaccelSandbox",
    "VaccelSidecar",
    "Verdict",
    "accelerators_among",
    "any_match",
    "label_matches",
    "protection_for",
    "rule_for",
]

Verdict = Literal["deny", "strip", "warn", "allow"]
_LENIENT_FIRST: Final[Sequence[Verdict]] = ("allow", "warn", "strip", "deny")

_Rule = TypeVar("_Rule", bound=NamespaceRule)


class Team(NamespaceRule, frozen=True, kw_only=True):
    """The first team that matches a namespace counts.

    Attributes:
        default_priority_class: For pods that name none; empty for the cluster's own default.
        maximum_priority_class: No class with a larger value is admitted; empty for no limit.
    """

    default_priority_class: OptionalSubdomain = ""
    maximum_priority_class: OptionalSubdomain = ""


class Protection(NamespaceRule, frozen=True, kw_only=True):
    """What happens to pods that reach round the device plugins; the first rule that matches a namespace counts.

    Attributes:
        visible_devices: NVIDIA_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES set by the pod, or an annotation by which the
            container runtime or one of its plugins injects devices.
        privileged: A privileged container in a pod that shares devices with others, or could land beside some.
        host_devices: Device nodes of accelerators mounted by hostPath.
        hides_unrequested: Whether containers that ask for no GPU, in pods that could land beside one, get the
            settings with which NVIDIA's runtime injects none, also where their image asks for all.
        hides_daemon_sets: Whether that is so for pods of DaemonSets as well, such as the exporters of GPU metrics,
            which rely on their image for the devices that they watch; and whether theirs may be privileged where
            they could land beside accelerators and request none.
    """

    visible_devices: Verdict = "warn"
    privileged: Verdict = "warn"
    host_devices: Verdict = "warn"
    hides_unrequested: bool = True
    hides_daemon_sets: bool = False


class Policy(Section, frozen=True, kw_only=True):
    """The whole file; a section that is absent and has no defaults is a capability that is not offered.

    Attributes:
        api_version: May be left out.
        kind: May be left out.
        exempt_namespaces: Whose pods are left as they are. Globs.
        accelerators: Which resources are accelerators.
        gpu_slices: What `tasuki.dev/gpu-slice` becomes.
        shared_nodes: What `tasuki.dev/gpu-sharing: shared-node` means.
        cpu_only: For pods without accelerators that could land on nodes with accelerators.
        teams: Priority classes by namespace; the first that matches counts.
        modules: What `tasuki.dev/modules` means.
        vaccel: What `tasuki.dev/vaccel` means.
        cache: What `tasuki.dev/cache` means.
        chains: For pods of a DataFlow.
        protection: Against pods that reach round the device plugins; the first that matches counts.
    """

    api_version: Literal["tasuki.dev/v1alpha1"] = "tasuki.dev/v1alpha1"
    kind: Literal["AdmissionPolicy"] = "AdmissionPolicy"
    exempt_namespaces: tuple[Glob, ...] = ()
    accelerators: Accelerators = Accelerators()
    gpu_slices: GpuSlices = GpuSlices()
    shared_nodes: SharedNodes | None = None
    cpu_only: CpuOnly | None = None
    teams: tuple[Team, ...] = ()
    modules: Modules | None = None
    vaccel: Vaccel | None = None
    cache: Cache | None = None
    chains: Chains | None = None
    protection: tuple[Protection, ...] = (Protection(),)

    def __post_init__(self) -> None:
        lists: dict[str, tuple[NamespaceRule, ...]] = {"teams": self.teams, "protection": self.protection}
        for key, rules in lists.items():
            position = next((i for i, rule in enumerate(rules[:-1]) if rule.matches_all), None)
            if position is not None:
                problem = f"has at [{position}] a rule for every namespace, so that those after it never count"
                raise KeyProblemError(key, f"{problem}; move it to the end")


def accelerators_among(resources: Iterable[str], policy: Policy) -> frozenset[str]:
    """Those of the resources that the policy calls accelerators."""
    globs, exceptions = policy.accelerators.resources, policy.accelerators.except_resources
    return frozenset(name for name in resources if any_match(globs, name) and not any_match(exceptions, name))


def rule_for(rules: Iterable[_Rule], namespace: str, labels: Mapping[str, str] | None) -> _Rule | None:
    """The first rule that is for the namespace.

    While its labels are not known (None), none where they would decide: a rule further down may be stricter than the
    namespace's own.
    """
    for rule in rules:
        if rule.matches(namespace, labels):
            return rule
        if labels is None and rule.matches_name(namespace):
            return None
    return None


def protection_for(rules: Iterable[Protection], namespace: str, labels: Mapping[str, str] | None) -> Protection | None:
    """The first rule that is for the namespace.

    While its labels are not known (None), several may be the first: then the strictest verdicts of these hold, so that
    nothing is let through which the labels would forbid.
    """
    possible: list[Protection] = []
    for rule in rules:
        if rule.matches(namespace, labels):
            return _strictest((*possible, rule)) if possible else rule
        if labels is None and rule.matches_name(namespace):
            possible.append(rule)
    return _strictest(possible) if possible else None


def _strictest(rules: Sequence[Protection]) -> Protection:
    return Protection(
        visible_devices=max((rule.visible_devices for rule in rules), key=_LENIENT_FIRST.index),
        privileged=max((rule.privileged for rule in rules), key=_LENIENT_FIRST.index),
        host_devices=max((rule.host_devices for rule in rules), key=_LENIENT_FIRST.index),
        hides_unrequested=any(rule.hides_unrequested for rule in rules),
        hides_daemon_sets=any(rule.hides_daemon_sets for rule in rules),
    )
