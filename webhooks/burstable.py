"""Small requests for CPU and memory in place of a pod's own, with which Kubernetes calls it Burstable."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from tasuki.kube.quantity import Notation, milli, parse, written
from webhooks.patch import Operation, Operations, add, pointer, remove, set_keys
from webhooks.pod import Container, Pod, Resources, places

_NOTATIONS: Final[Mapping[str, Notation]] = {"cpu": "decimal", "memory": "binary"}

# By resource.
_Amounts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a container, or the pod as a whole, is to request.

    Attributes:
        path: Of its resources.
        limits: Of CPU and memory, without those of 0, which limit nothing.
        requests: Of CPU and memory, without those that are to stay absent.
    """

    path: str
    resources: Resources
    limits: _Amounts
    requests: _Amounts


def with_small_requests(pod: Pod, small: _Amounts) -> Operations:
    """Lower the requests to `small`, and further where the pod would have a limit for each of them that equals it.

    A request that is smaller already stays. Limits stay, but for those of 0: to the kubelet there is none, but they
    would hold the request at 0.

    Raises:
        QuantityError: An amount in the pod is not a quantity.
    """
    # A second pass finds the requests as the API server has rounded them.
    small = {name: _rounded(name, amount) for name, amount in small.items()}
    whole = pod.spec.resources
    # The pod as a whole then counts for its QoS class, and must request no less than its containers do together: they
    # need not request anything themselves (pkg/apis/core/v1/helper/qos, validatePodResourceConsistency).
    pooled = tuple(name for name in _NOTATIONS if name in whole.requests or name in whole.limits)
    containers = [
        _wanted(f"{place.path}/resources", place.container.resources, small, pooled)
        for place in places(pod, "initContainers", "containers")
    ]
    together = _wanted("/spec/resources", whole, {name: small[name] for name in pooled}, ())
    together = _enough_for(together, pod, containers)
    if _are_guaranteed([together] if pooled else containers):
        containers = [_with_half_the_cpu(each) for each in containers]
        together = _enough_for(_with_half_the_cpu(together), pod, containers)
    return tuple(operation for each in (*containers, together) for operation in _operations(each))


def _rounded(name: str, amount: str) -> str:
    """Up to thousandths, below which nothing is counted (SetDefaults_ResourceList in pkg/apis/core/v1/defaults.go)."""
    counted = Fraction(milli(amount), 1000)
    return amount if counted == parse(amount) else written(counted, _NOTATIONS[name])


def _wanted(path: str, resources: Resources, small: _Amounts, kept_absent: Sequence[str]) -> _Wanted:
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}
    for name, least in small.items():
        if (limit := _unless_zero(resources.limits.get(name))) is not None:
            limits[name] = limit
        request = resources.requests.get(name)
        if limit is None:
            request = _unless_zero(request)
        if request is not None or name not in kept_absent:
            candidates = (least, limit, None if request is None else str(request))
            requests[name] = min((each for each in candidates if each is not None), key=parse)
    return _Wanted(path=path, resources=resources, limits=limits, requests=requests)


def _unless_zero(amount: str | float | None) -> str | None:
    return None if amount is None or parse(amount) == 0 else str(amount)


def _are_guaranteed(sections: Iterable[_Wanted]) -> bool:
    """Whether each has a limit for CPU and one for memory, and requests just that."""
    return all(
        name in each.limits and parse(each.limits[name]) == parse(each.requests.get(name, "0"))
        for each in sections
        for name in _NOTATIONS
    )


def _with_half_the_cpu(each: _Wanted) -> _Wanted:
    """Of CPU, because less of it only slows a container down; half of 1m, the least that there is, is none."""
    if "cpu" not in each.requests:
        return each
    half = Fraction(milli(each.requests["cpu"]) // 2, 1000)
    return replace(each, requests={**each.requests, "cpu": written(half, "decimal")})


def _enough_for(together: _Wanted, pod: Pod, containers: Sequence[_Wanted]) -> _Wanted:
    """As `together`, but no less than the containers request."""
    requests = dict(together.requests)
    for name, own in together.requests.items():
        least = _aggregate(pod, [parse(each.requests.get(name, "0")) for each in containers])
        if parse(own) < least:
            requests[name] = written(least, _NOTATIONS[name])
    return replace(together, requests=requests)


def _aggregate(pod: Pod, amounts: Sequence[Fraction]) -> Fraction:
    """What init containers and containers, in this order, need at most at once (KEP-753, resources calculation)."""
    sidecars = peak = Fraction(0)
    for container, amount in zip(pod.spec.init_containers, amounts, strict=False):
        if _is_sidecar(container):
            sidecars += amount
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + amount)
    return max(peak, sidecars + sum(amounts[len(pod.spec.init_containers) :]))


def _is_sidecar(container: Container) -> bool:
    return container.restart_policy == "Always"


def _operations(each: _Wanted) -> Iterator[Operation]:
    there = each.resources
    for name in _NOTATIONS:
        if name in there.limits and name in each.requests and name not in each.limits:
            yield remove(f"{each.path}/limits{pointer(name)}")
    changed = {
        name: amount
        for name, amount in each.requests.items()
        if name not in there.requests or parse(there.requests[name]) != parse(amount)
    }
    if changed and there == Resources():
        yield add(each.path, {"requests": changed})
    else:
        yield from set_keys(f"{each.path}/requests", there.requests, changed)
