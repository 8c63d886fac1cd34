"""How a pod reaches round the device plugins.

What is not in the pod cannot be found: variables from `envFrom`, what an image sets (which the device plugin's own
values go before), host paths behind persistent volumes, symbolic links on the host.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import normpath
from typing import Final, Literal

from tasuki.kube.names import GPU_SHARING, NVIDIA_DOMAIN
from tasuki.process.sentences import shown
from webhooks.patch import Operation, Operations, remove, replace
from webhooks.pod import Container, EnvVar, Place, Pod, Volume, annotation, places, requested
from webhooks.policy.model import Policy, accelerators_among

Rule = Literal["visible_devices", "privileged", "host_devices"]

NVIDIA_VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"
CUDA_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

# Values that show no device. NVIDIA's toolkit takes an empty list for "void"; with "none" it gave all GPUs before
# 1.18.2, so that one is harmful.
_HARMLESS: Final[Mapping[str, frozenset[str]]] = {
    NVIDIA_VISIBLE: frozenset({"", "void"}),
    CUDA_VISIBLE: frozenset({"", "-1"}),
}

# NVIDIA's toolkit calls a container privileged that has this one (IsPrivileged in internal/config/image/privileged.go),
# and with cgroup v1 it opens every device. MKNOD is not among them: the device cgroup still forbids to open the node.
_PRIVILEGED_CAPABILITIES: Final = frozenset({"SYS_ADMIN", "ALL"})

# With /dev/null mounted there, NVIDIA's toolkit gives the device that the path names.
_FOLDER: Final = "nvidia-container-devices"
_DEVICES_BY_MOUNT: Final = f"/run/{_FOLDER}"

# Device nodes (those in /dev/char are links to all of them), another process's view of the files, the folder where
# GPU operators keep a driver with a /dev of its own, and the sockets by which devices are handed out.
_DEVICES: Final = re.compile(
    r"/dev/(nvidia|dri|kfd|accel|vfio|char|dfl-|intel-fpga-|fpga|xdma|xclmgmt|xfpga|ama_transcoder).*"
    r"|/proc/(driver/nvidia.*|(self|thread-self|[0-9]+)(/.*)?)"
    r"|/run/nvidia.*"
    r"|/var/lib/kubelet/(device-plugins|pod-resources)(/.*)?",
    re.DOTALL,
)
_PARENTS: Final = frozenset({"/", "/dev", "/proc", "/proc/driver", "/run", "/var", "/var/lib", "/var/lib/kubelet"})

_SHARED_NODE: Final = "shared-node"


@dataclass(frozen=True, slots=True)
class Finding:
    """One way round the device plugins.

    Attributes:
        remedy: What to do instead; short, for the API server cuts warnings.
        removal: Paths are those of the pod as it was found.
    """

    rule: Rule
    fact: str
    remedy: str
    removal: Operations


def findings(pod: Pod, policy: Policy) -> Iterator[Finding]:
    shared = is_shared_node_pod(pod, policy)
    every = list(places(pod))
    for place in every:
        if not shared:
            yield from _visible_devices(place)
        yield from _devices_by_mount(place)
    yield from _privileged(every, policy, shared=shared)
    yield from _host_volumes(pod.spec.volumes, every)


def is_shared_node_pod(pod: Pod, policy: Policy) -> bool:
    """Whether the pod's visible devices are set by our own mutation for nodes that pods share."""
    return policy.shared_nodes is not None and annotation(pod, GPU_SHARING) == _SHARED_NODE


def requests_nvidia(container: Container) -> bool:
    """Whether NVIDIA's runtime is to give it a device, whatever the device plugin calls that."""
    return any(name.startswith(f"{NVIDIA_DOMAIN}/") for name in requested(container))


def remaining_env(place: Place, removed: frozenset[str]) -> tuple[EnvVar, ...]:
    """A container's environment once what stands at these paths is removed."""
    env = place.container.env
    if not removed:
        return env
    return tuple(variable for index, variable in enumerate(env) if f"{place.path}/env/{index}" not in removed)


def _visible_devices(place: Place) -> Iterator[Finding]:
    for index, variable in enumerate(place.container.env):
        harmless = _HARMLESS.get(variable.name)
        if harmless is None:
            continue
        granted = requests_nvidia(place.container)
        if variable.value_from is None and variable.value in harmless and not granted:
            continue
        value = "from elsewhere" if variable.value_from is not None else f"to {shown(variable.value)}"
        yield Finding(
            rule="visible_devices",
            fact=f"{_container(place)} sets {variable.name} {value}",
            remedy=_remedy(variable, granted=granted),
            removal=(remove(f"{place.path}/env/{index}"),),
        )


def _remedy(variable: EnvVar, *, granted: bool) -> str:
    if granted:
        return "the device plugin sets it"
    if variable.name == NVIDIA_VISIBLE and variable.value == "none":
        return "write 'void' instead"
    return "request GPUs instead"


def _privileged(every: Sequence[Place], policy: Policy, *, shared: bool) -> Iterator[Finding]:
    mighty = [place for place in every if place.container.security_context.privileged or _capabilities(place)]
    if not mighty or not (shared or _requests_accelerators(every, policy)):
        return
    for place in mighty:
        context = f"{place.path}/securityContext"
        remedy = "requested devices need no privilege"
        if place.container.security_context.privileged:
            removal: Operations = (replace(f"{context}/privileged", value=False),)
            yield Finding("privileged", f"{_container(place)} is privileged beside accelerators", remedy, removal)
        for index, name in _capabilities(place):
            fact = f"{_container(place)} adds the capability {name} beside accelerators"
            yield Finding("privileged", fact, remedy, (remove(f"{context}/capabilities/add/{index}"),))


def _capabilities(place: Place) -> list[tuple[int, str]]:
    capabilities = place.container.security_context.capabilities
    if capabilities is None:
        return []
    return [
        (index, name)
        for index, name in enumerate(capabilities.add)
        if name.upper().removeprefix("CAP_") in _PRIVILEGED_CAPABILITIES
    ]


def _requests_accelerators(every: Iterable[Place], policy: Policy) -> bool:
    return any(accelerators_among(requested(place.container), policy) for place in every)


def _host_volumes(volumes: Iterable[Volume], every: Sequence[Place]) -> Iterator[Finding]:
    """Also those that nothing mounts yet: an ephemeral container may do so later."""
    for index, volume in enumerate(volumes):
        if volume.host_path is not None and reaches_devices(volume.host_path.path):
            yield Finding(
                rule="host_devices",
                fact=f"volume {shown(volume.name)} reaches devices by hostPath {shown(volume.host_path.path)}",
                remedy="request accelerators instead",
                removal=(*_unmount(volume.name, every), remove(f"/spec/volumes/{index}")),
            )


def _unmount(volume: str, every: Iterable[Place]) -> Iterator[Operation]:
    for place in every:
        for index, mount in enumerate(place.container.volume_mounts):
            if mount.name == volume:
                yield remove(f"{place.path}/volumeMounts/{index}")


def _devices_by_mount(place: Place) -> Iterator[Finding]:
    for index, mount in enumerate(place.container.volume_mounts):
        # Of the mounts of all pods, hardly one needs the closer look.
        if _FOLDER in mount.mount_path and _real(mount.mount_path).startswith(_DEVICES_BY_MOUNT):
            yield Finding(
                rule="host_devices",
                fact=f"{_container(place)} asks for a GPU by its mount at {shown(mount.mount_path)}",
                remedy="request GPUs instead",
                removal=(remove(f"{place.path}/volumeMounts/{index}"),),
            )


def reaches_devices(path: str) -> bool:
    """Whether a path of the host is an accelerator's, or a folder with one below it."""
    real = _real(path)
    return real in _PARENTS or _DEVICES.fullmatch(real) is not None


def _real(path: str) -> str:
    """Without `//`, `.` and `..`; /var/run is a link to /run on every current distribution."""
    plain = normpath("/" + path.lstrip("/"))
    return plain.removeprefix("/var") if f"{plain}/".startswith("/var/run/") else plain


def _container(place: Place) -> str:
    return f"container {shown(place.container.name)}"
