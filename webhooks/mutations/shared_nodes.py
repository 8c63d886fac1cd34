"""`tasuki.dev/gpu-sharing: shared-node` puts a pod among others on a node whose GPUs they all see."""

import re
from collections.abc import Sequence
from typing import Final

from tasuki.kube.names import (
    BOUND_DEVICES,
    CUDA_VISIBLE_DEVICES,
    GPU_DEVICES,
    GPU_SHARING,
    GPU_SLICE,
    NVIDIA_VISIBLE_DEVICES,
    SHARED_NODE,
)
from tasuki.kube.quantity import QuantityError
from tasuki.process.sentences import shown
from webhooks.burstable import with_small_requests
from webhooks.editing import add_tolerations, contradicted, set_env, set_node_selector
from webhooks.mutations.wording import selects_too_late
from webhooks.patch import Operations, pointer, remove
from webhooks.pod import EnvVar, Place, Pod, annotation, places
from webhooks.policy.model import Policy, SharedNodes, accelerators_among
from webhooks.scene import NOTHING, Change, RefusedError, Scene

_EVERY_GPU: Final = "all"

# What the container runtime puts into the container, and what CUDA uses of that.
_VARIABLES: Final = (NVIDIA_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES)

# More than any node has, MIG devices counted; each container gets the list twice.
_MOST_DEVICES: Final = 128
_INDEX: Final = re.compile(r"[0-9]{1,4}")
# The last form is that of drivers before R470 (CUDA programming guide, CUDA_VISIBLE_DEVICES).
_HEX: Final = "[0-9a-fA-F]"
_UUID: Final = re.compile(
    rf"(?:GPU|MIG)-{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"
    rf"|MIG-GPU-{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}/[0-9]{{1,2}}/[0-9]{{1,2}}"
)


def shared_nodes(pod: Pod, scene: Scene) -> Change:
    asked = annotation(pod, GPU_SHARING)
    wanted_devices = annotation(pod, GPU_DEVICES)
    if not asked:
        if not wanted_devices:
            return NOTHING
        return Change(warnings=(f"{GPU_DEVICES} has no effect without {GPU_SHARING}: {SHARED_NODE}",))
    pool = _pool(pod, scene, asked)
    visible = _visible(wanted_devices, pool)
    operations: Operations = ()
    warnings: list[str] = []
    for place in places(pod, "initContainers", "containers"):
        set_visible = set_env(place, visible)
        operations += set_visible
        warnings += _replaced(place, set_visible)
    if pool.devices == "binding" and wanted_devices:
        warnings.append(f"{GPU_DEVICES} has no effect: in this cluster the scheduler chooses the GPUs")
    removed, removal = _without_accelerators(pod, scene.policy)
    if removed:
        warnings.append(f"{shown(', '.join(removed))} is not requested: with {GPU_SHARING} no pod has a GPU to itself")
    try:
        requests = with_small_requests(pod, {"cpu": pool.requests.cpu, "memory": pool.requests.memory})
    except QuantityError as error:
        raise RefusedError(f"the pod's CPU and memory cannot be read: {error}") from None
    tolerations = add_tolerations(pod, pool.tolerations)
    selector = set_node_selector(pod, pool.node_selector)
    return Change(
        operations=(*operations, *removal, *requests, *tolerations, *selector),
        warnings=(*warnings, *selects_too_late(pod, f"{GPU_SHARING}: {SHARED_NODE}", selector)),
    )


def _pool(pod: Pod, scene: Scene, asked: str) -> SharedNodes:
    if asked != SHARED_NODE:
        raise RefusedError(f"{GPU_SHARING} is {shown(asked)}; write {SHARED_NODE}")
    pool = scene.policy.shared_nodes
    if pool is None:
        raise RefusedError(
            f"{GPU_SHARING}: {SHARED_NODE} is not offered, for this cluster has no shared nodes; remove the "
            f"annotation and request a GPU, for example with {GPU_SLICE}: timeshare"
        )
    if annotation(pod, GPU_SLICE):
        raise RefusedError(
            f"{GPU_SHARING} and {GPU_SLICE} contradict each other: the first is for GPUs that all pods of a node see, "
            "the second for a part of one; remove one of them"
        )
    if contradiction := contradicted(pod, pool.node_selector):
        key, value, users = contradiction
        raise RefusedError(
            f"nodeSelector {key} is {shown(users)}, but the shared nodes have {value!r} there; remove it from the "
            f"nodeSelector, or remove the annotation {GPU_SHARING}"
        )
    return pool


def _visible(wanted_devices: str, pool: SharedNodes) -> Sequence[EnvVar]:
    devices = _devices(wanted_devices, pool.maximum_gpus)
    if pool.devices == "binding":
        # What the Binding writes are UUIDs, which mean the same to both.
        source = {"fieldRef": {"fieldPath": f"metadata.annotations['{BOUND_DEVICES}']"}}
        return tuple(EnvVar(name=name, value_from=source) for name in _VARIABLES)
    listed = ",".join(devices)
    if devices and not _INDEX.fullmatch(devices[0]):
        return tuple(EnvVar(name=name, value=listed) for name in _VARIABLES)
    # CUDA numbers what the runtime put into the container, from 0: of GPUs 0 and 2 it sees 0 and 1. It does not know
    # the word `all`, which would hide every GPU; it uses indices up to the first that does not exist, so that the
    # most that a node has is right for nodes with fewer (CUDA programming guide, CUDA_VISIBLE_DEVICES).
    seen = ",".join(str(index) for index in range(len(devices) or pool.maximum_gpus))
    values = (listed or _EVERY_GPU, seen)
    return tuple(EnvVar(name=name, value=value) for name, value in zip(_VARIABLES, values, strict=True))


def _devices(wanted: str, maximum_gpus: int) -> Sequence[str]:
    """Indices or UUIDs, each once; none for every GPU."""
    if wanted in ("", _EVERY_GPU):
        return ()
    words = tuple(dict.fromkeys(word.strip() for word in wanted.split(",")))
    if len(words) > _MOST_DEVICES:
        raise RefusedError(f"{GPU_DEVICES} names {len(words)} GPUs, and at most {_MOST_DEVICES} can be; name fewer")
    indices = [word for word in words if _INDEX.fullmatch(word)]
    for word in words:
        if word not in indices and not _UUID.fullmatch(word):
            raise RefusedError(
                f"{GPU_DEVICES} names {shown(word)}, which is no GPU; write {_EVERY_GPU}, indices such as 0,1 or whole "
                "UUIDs that begin with GPU- or MIG-"
            )
    if not indices:
        return words
    if len(indices) < len(words):
        raise RefusedError(f"{GPU_DEVICES} mixes indices with UUIDs, which CUDA does not; write one or the other")
    # The order of its list means nothing to the runtime.
    numbers = sorted({int(index) for index in indices})
    if numbers[-1] >= maximum_gpus:
        raise RefusedError(f"{GPU_DEVICES} names GPU {numbers[-1]}; shared nodes have GPUs 0 to {maximum_gpus - 1}")
    return tuple(str(number) for number in numbers)


def _replaced(place: Place, set_visible: Operations) -> Sequence[str]:
    if all(operation.op == "add" for operation in set_visible):
        return ()
    what = f"container {place.container.name}: {NVIDIA_VISIBLE_DEVICES} and {CUDA_VISIBLE_DEVICES} are set for it"
    return (f"{what}; choose GPUs with the annotation {GPU_DEVICES}",)


def _without_accelerators(pod: Pod, policy: Policy) -> tuple[Sequence[str], Operations]:
    names: set[str] = set()
    operations: list[Operations] = []
    for place in places(pod, "initContainers", "containers"):
        resources = place.container.resources
        for path, amounts in (("limits", resources.limits), ("requests", resources.requests)):
            accelerators = sorted(accelerators_among(amounts, policy))
            names.update(accelerators)
            operations.append(tuple(remove(f"{place.path}/resources/{path}{pointer(name)}") for name in accelerators))
    return sorted(names), tuple(operation for each in operations for operation in each)
