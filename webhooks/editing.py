"""What mutations do to pods again and again: environment, mounts, volumes, tolerations, labels, selectors.

Every function answers with the operations that are still needed, so that asking a second time answers with none.
Two calls for the same list of the same object in one mutation would both see the list as it was: ask once, with all
that is wanted.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from webhooks.patch import Operation, Operations, add, append, covers, plain, replace, set_keys
from webhooks.pod import EnvVar, Place, Pod, Requirement, Resources, Toleration, Volume, VolumeMount

_EQUAL: Final = frozenset({"", "Equal"})


class ReservedNameError(Exception):
    """The pod uses a name of ours for something else."""


def set_env(place: Place, wanted: Iterable[EnvVar]) -> Operations:
    """Give environment variables their values; one that is there with another value is replaced where it stands.

    If a name is there several times, the last counts (as for the kubelet) and the others are left.
    """
    there = {variable.name: index for index, variable in enumerate(place.container.env)}
    changed: list[Operation] = []
    new: list[EnvVar] = []
    for variable in wanted:
        index = there.get(variable.name)
        if index is None:
            new.append(variable)
        elif not _same_variable(place.container.env[index], variable):
            changed.append(replace(f"{place.path}/env/{index}", variable))
    return (*changed, *append(f"{place.path}/env", place.container.env, new))


def _same_variable(found: EnvVar, wanted: EnvVar) -> bool:
    return found.value == wanted.value and covers(found.value_from, wanted.value_from)


def add_missing_env(place: Place, wanted: Iterable[EnvVar]) -> Operations:
    """Add only variables that the container does not set itself."""
    there = {variable.name for variable in place.container.env}
    return append(f"{place.path}/env", place.container.env, [each for each in wanted if each.name not in there])


def request_one(place: Place, resource: str) -> Operations:
    """Once as request and once as limit, which must be equal for an extended resource."""
    there = place.container.resources
    one = {resource: "1"}
    path = f"{place.path}/resources"
    if there == Resources():
        return (add(path, {"limits": one, "requests": one}),)
    return (*set_keys(f"{path}/limits", there.limits, one), *set_keys(f"{path}/requests", there.requests, one))


def add_mounts(place: Place, wanted: Iterable[VolumeMount]) -> Operations:
    """Mount volumes; what already stands at a path stays, if it is the same volume.

    Raises:
        ReservedNameError: Another volume is mounted at one of the paths.
    """
    there = {mount.mount_path.rstrip("/"): mount for mount in place.container.volume_mounts}
    new: list[VolumeMount] = []
    for mount in wanted:
        found = there.get(mount.mount_path.rstrip("/"))
        if found is None:
            new.append(mount)
        elif found.name != mount.name:
            text = (
                f"container {place.container.name!r} mounts {found.name!r} at {mount.mount_path}, where Tasuki mounts"
            )
            raise ReservedNameError(f"{text} {mount.name!r}; mount yours at another path")
    return append(f"{place.path}/volumeMounts", place.container.volume_mounts, new)


def add_volumes(pod: Pod, wanted: Iterable[Volume]) -> Operations:
    """Add volumes that the pod lacks.

    Raises:
        ReservedNameError: The pod has another volume of that name.
    """
    there = {volume.name: volume for volume in pod.spec.volumes}
    new: list[Volume] = []
    for volume in wanted:
        found = there.get(volume.name)
        if found is None:
            new.append(volume)
        elif not covers(plain(found), plain(volume)):
            raise ReservedNameError(f"the volume name {volume.name!r} is Tasuki's here; give yours another name")
    return append("/spec/volumes", pod.spec.volumes, new)


def add_tolerations(pod: Pod, wanted: Iterable[Toleration]) -> Operations:
    """Add tolerations that no toleration of the pod includes."""
    there = list(pod.spec.tolerations)
    for toleration in wanted:
        if not any(includes(each, toleration) for each in there):
            there.append(toleration)
    return append("/spec/tolerations", pod.spec.tolerations, there[len(pod.spec.tolerations) :])


def includes(wide: Toleration, narrow: Toleration) -> bool:
    """Whether every taint that `narrow` tolerates is tolerated, for as long, by `wide`."""
    if wide.effect not in ("", narrow.effect) or wide.toleration_seconds not in (None, narrow.toleration_seconds):
        return False
    if wide.operator == "Exists":
        return wide.key in ("", narrow.key)
    # Gt and Lt, which are alpha, compare the taint's value: they include only what is written alike.
    alike = wide.operator == narrow.operator or {wide.operator, narrow.operator} <= _EQUAL
    return alike and (wide.key, wide.value) == (narrow.key, narrow.value)


def set_labels(pod: Pod, wanted: Mapping[str, str]) -> Operations:
    return set_keys("/metadata/labels", pod.metadata.labels, wanted)


def set_annotations(pod: Pod, wanted: Mapping[str, str]) -> Operations:
    return set_keys("/metadata/annotations", pod.metadata.annotations, wanted)


def set_node_selector(pod: Pod, wanted: Mapping[str, str]) -> Operations:
    return set_keys("/spec/nodeSelector", pod.spec.node_selector, wanted)


def contradicted(pod: Pod, wanted: Mapping[str, str]) -> tuple[str, str, str] | None:
    """The first label of a node selector for which the pod's own wants another value: label, wanted, found."""
    for key, value in wanted.items():
        found = pod.spec.node_selector.get(key, value)
        if found != value:
            return key, value, found
    return None


def require(pod: Pod, wanted: Iterable[Requirement]) -> Operations:
    """Let the pod run only on nodes that meet all of these requirements.

    A single value becomes part of the node selector. All else becomes expressions in every term of the required node
    affinity, of which one term must hold.
    """
    single: dict[str, str] = {}
    expressions: list[Requirement] = []
    for requirement in wanted:
        if requirement.operator == "In" and len(requirement.values) == 1:
            single[requirement.key] = requirement.values[0]
        else:
            expressions.append(requirement)
    return (*set_node_selector(pod, single), *_add_expressions(pod, expressions))


def _add_expressions(pod: Pod, expressions: Sequence[Requirement]) -> Operations:
    if not expressions:
        return ()
    path = "/spec/affinity"
    affinity = pod.spec.affinity
    selector = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": selector}
    if affinity is None:
        return (add(path, {"nodeAffinity": required}),)
    if affinity.node_affinity is None:
        return (add(f"{path}/nodeAffinity", required),)
    path = f"{path}/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution"
    found = affinity.node_affinity.required_during_scheduling_ignored_during_execution
    if found is None:
        return (add(path, selector),)
    made: list[Operation] = []
    for index, term in enumerate(found.node_selector_terms):
        # A term that is empty matches no node, and must not begin to.
        if term.match_expressions or term.match_fields:
            there = term.match_expressions
            missing = [each for each in expressions if each not in there]
            made += append(f"{path}/nodeSelectorTerms/{index}/matchExpressions", there, missing)
    return tuple(made)
