"""Pods of a DataFlow: the scheduler that knows chains, and what a function needs to say that it is connected."""

from collections.abc import Mapping
from typing import Final

from tasuki.kube.names import DATAFLOW, FUNCTION
from tasuki.process.sentences import shown
from webhooks.editing import add_missing_env, add_mounts, add_volumes
from webhooks.mutations.injected import users_containers
from webhooks.patch import Operation, add
from webhooks.pod import EnvVar, Pod, Volume, VolumeMount
from webhooks.scene import NOTHING, Change, Scene

_DEFAULT_SCHEDULER: Final = "default-scheduler"

# A function makes this file when its ports are connected, and the container's own readiness probe looks for it, so that
# the pod is Ready when the chain can use it. No probe is added: an image need not have a program that finds a file. As
# the volume outlives a container's restart, a function removes the file when it starts.
_VOLUME: Final = "tasuki-ready"
_FOLDER: Final = "/run/tasuki"
_READY_FILE: Final = f"{_FOLDER}/ready"

_FIELDS: Final = {
    "TASUKI_POD_NAME": "metadata.name",
    "TASUKI_POD_NAMESPACE": "metadata.namespace",
    "TASUKI_POD_UID": "metadata.uid",
    "TASUKI_NODE_NAME": "spec.nodeName",
}
_EVERY_FUNCTIONS: Final = (
    *(
        EnvVar(name=name, value_from={"fieldRef": {"apiVersion": "v1", "fieldPath": path}})
        for name, path in _FIELDS.items()
    ),
    EnvVar(name="TASUKI_READY_FILE", value=_READY_FILE),
)


def chains(pod: Pod, scene: Scene) -> Change:
    labels = pod.metadata.labels
    if DATAFLOW not in labels:
        if FUNCTION not in labels:
            return NOTHING
        return Change(warnings=(f"label {FUNCTION} has no effect without {DATAFLOW}",))
    if scene.policy.chains is None:
        return Change(warnings=(f"label {DATAFLOW} has no effect, because this cluster's policy has no chains",))
    if not labels[DATAFLOW]:
        return Change(warnings=(f"label {DATAFLOW} is empty, so that the pod belongs to no DataFlow",))
    scheduling = _scheduled(pod, scene.policy.chains.scheduler_name)
    # A label's value that is not valid is the API server's to refuse, once admission has changed the pod.
    env = _env(labels)
    volume = Volume(name=_VOLUME, empty_dir={"sizeLimit": "1Mi"})
    mount = VolumeMount(name=_VOLUME, mount_path=_FOLDER)
    operations: list[Operation] = [*scheduling.operations, *add_volumes(pod, [volume])]
    for place in users_containers(pod):
        operations += add_mounts(place, [mount])
        operations += add_missing_env(place, env)
    unnamed = () if labels.get(FUNCTION) else (f"label {DATAFLOW} is without {FUNCTION}; name the pod's function",)
    return Change(operations=tuple(operations), warnings=(*scheduling.warnings, *unnamed))


def _scheduled(pod: Pod, wanted: str) -> Change:
    there = pod.spec.scheduler_name
    if wanted in ("", there):
        return NOTHING
    if there in ("", _DEFAULT_SCHEDULER):
        return Change(operations=(add("/spec/schedulerName", wanted),))
    text = f"the pod keeps its scheduler {shown(there)}, which may not know its DataFlow's plan as {shown(wanted)} does"
    return Change(warnings=(text,))


def _env(labels: Mapping[str, str]) -> tuple[EnvVar, ...]:
    function = labels.get(FUNCTION, "")
    named = (EnvVar(name="TASUKI_FUNCTION", value=function),) if function else ()
    return (EnvVar(name="TASUKI_DATAFLOW", value=labels[DATAFLOW]), *named, *_EVERY_FUNCTIONS)
