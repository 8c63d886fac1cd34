"""What the API server fills in of a pod's resources, and why it would refuse the pod, written after its sources.

Nothing is shared with ours but how a quantity is read.
"""

import copy
from collections.abc import Iterator
from fractions import Fraction

from tasuki.kube.quantity import milli, parse
from tests.webhook_builders import Json

# staging/src/k8s.io/component-helpers/resource/helpers.go
_OF_PODS = ("cpu", "memory")

# validateWindows in pkg/apis/core/validation/validation.go
_NOT_ON_WINDOWS = (
    "allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount", "readOnlyRootFilesystem",
    "runAsGroup", "runAsUser", "seLinuxOptions", "seccompProfile",
)  # fmt: skip


def with_requests(pod: Json) -> Json:
    """SetDefaults_ResourceList, SetDefaults_Pod and defaultPodRequests of pkg/apis/core/v1/defaults.go."""
    whole = copy.deepcopy(pod)
    spec = whole["spec"]
    for resources in _each(spec):
        for amounts in resources.values():
            for name, amount in amounts.items():
                if parse(amount) * 1000 != milli(amount):
                    amounts[name] = f"{milli(amount)}m"
        if limits := resources.get("limits"):
            resources["requests"] = limits | resources.get("requests", {})
    of_pod = spec.get("resources", {})
    if of_pod.get("limits"):
        derived = {name: in_thousandths(aggregate(spec, name)) for name in _OF_PODS if _is_requested(spec, name)}
        of_pod["requests"] = of_pod["limits"] | derived | of_pod.get("requests", {})
    return whole


def complaints(pod: Json) -> list[str]:
    spec = pod["spec"]
    found = [*_bad_resources(spec), *_bad_totals(spec), *_bad_names(spec)]
    if spec.get("os", {}).get("name") == "windows":
        found += _bad_on_windows(spec)
    return found


def aggregate(spec: Json, name: str) -> Fraction:
    """AggregateContainerRequests: what all regular and init containers need at most at once."""
    sidecars = Fraction(0)
    at_start = [Fraction(0)]
    for each in spec.get("initContainers", []):
        amount = parse(each.get("resources", {}).get("requests", {}).get(name, "0"))
        at_start.append(sidecars + amount)
        if each.get("restartPolicy") == "Always":
            sidecars += amount
    running = [parse(each.get("resources", {}).get("requests", {}).get(name, "0")) for each in spec["containers"]]
    return max(*at_start, sidecars + sum(running, Fraction(0)))


def in_thousandths(amount: Fraction) -> str:
    """As a quantity, of what has been rounded to thousandths."""
    return f"{amount * 1000}m"


def _is_requested(spec: Json, name: str) -> bool:
    return any(name in resources.get("requests", {}) for resources in _each(spec))


def _each(spec: Json) -> list[Json]:
    """The resources of every container that has some."""
    containers = (*spec.get("initContainers", []), *spec["containers"])
    return [each["resources"] for each in containers if each.get("resources")]


def _bad_resources(spec: Json) -> Iterator[str]:
    """ValidateResourceRequirements of pkg/apis/core/validation/validation.go."""
    for resources in (spec.get("resources", {}), *_each(spec)):
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        for name, amount in requests.items():
            if name in limits and parse(amount) > parse(limits[name]):
                yield f"{name}: requests {amount} of a limit of {limits[name]}"
        for name in {name for name in (*requests, *limits) if "/" in name}:
            if parse(requests.get(name, "0")) != parse(limits.get(name, "0")):
                yield f"{name}: requests {requests.get(name)}, limit {limits.get(name)}"


def _bad_totals(spec: Json) -> Iterator[str]:
    """As validatePodResourceConsistency in the same file."""
    whole = spec.get("resources", {})
    for name, amount in whole.get("requests", {}).items():
        if aggregate(spec, name) > parse(amount):
            yield f"{name}: the pod requests {amount}, its containers {aggregate(spec, name)}"
    for each in spec["containers"]:
        for name, limit in each.get("resources", {}).get("limits", {}).items():
            if name in whole.get("limits", {}) and parse(limit) > parse(whole["limits"][name]):
                yield f"{name}: limit {limit}, that of the pod {whole['limits'][name]}"


def _bad_names(spec: Json) -> Iterator[str]:
    """Names that are there twice, and mounts of what is not there or at a place that is taken."""
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    for kind, names in (("container", [each["name"] for each in containers]), ("volume", volumes)):
        yield from (f"{kind} {name} twice" for name in set(names) if names.count(name) > 1)
    for each in containers:
        mounts = each.get("volumeMounts", [])
        yield from (f"{each['name']} mounts {mount['name']}" for mount in mounts if mount["name"] not in volumes)
        if len({mount["mountPath"] for mount in mounts}) < len(mounts):
            yield f"{each['name']} has two mounts at the same path"


def _bad_on_windows(spec: Json) -> Iterator[str]:
    if spec.get("resources"):
        yield "resources of a windows pod as a whole"
    for each in (*spec.get("initContainers", []), *spec["containers"]):
        for field in _NOT_ON_WINDOWS:
            if field in each.get("securityContext", {}):
                yield f"{each['name']}: {field} on windows"
