"""Pods that request accelerators tolerate the taints of the nodes that have them."""

from collections.abc import Iterator

from tasuki.kube.resources import is_extended
from webhooks.editing import add_tolerations
from webhooks.nodes import PASSING_TAINTS
from webhooks.pod import Pod, Toleration, requested
from webhooks.policy.model import accelerators_among, any_match
from webhooks.scene import NOTHING, Change, Scene


def tolerations(pod: Pod, scene: Scene) -> Change:
    """Ephemeral containers request nothing, and the claims of DRA bring the tolerations of their devices."""
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    # Most pods have none.
    extended = {name for container in containers for name in requested(container) if is_extended(name)}
    if not extended:
        return NOTHING
    accelerators = sorted(accelerators_among(extended, scene.policy))
    operations = add_tolerations(pod, _wanted(accelerators, scene))
    return Change(operations) if operations else NOTHING


def _wanted(accelerators: list[str], scene: Scene) -> Iterator[Toleration]:
    # As the API server's ExtendedResourceToleration, which is off by default:
    # https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#extendedresourcetoleration
    for resource in accelerators:
        yield Toleration(key=resource, operator="Exists", effect="NoSchedule")
    policy = scene.policy.accelerators
    for rule in policy.tolerations:
        if any(any_match(rule.resources, resource) for resource in accelerators):
            yield from rule.tolerations
    if scene.nodes is None:
        return
    # A node's taint tells by its key what it keeps the node for; the values are as many as the operator likes. Passing
    # conditions are for the pod's own tolerations and the API server's DefaultTolerationSeconds.
    learned = {
        (taint.key, taint.effect)
        for resource in accelerators
        for taint in scene.nodes.taints(resource)
        if any_match(policy.learned_taint_keys, taint.key) and not taint.key.startswith(PASSING_TAINTS)
    }
    for key, effect in sorted(learned):
        yield Toleration(key=key, operator="Exists", effect=effect)
