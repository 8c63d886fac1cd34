"""How a pod reaches round the device plugins.

What is not in the pod cannot be found: variables from `envFrom`, what an image sets (which the device plugin's own
values go before), host paths behind persistent volumes, symbolic links on the host.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import normpath
from typing import Final, Literal

from tasuki.kube.names import (
    CUDA_VISIBLE_DEVICES,
    GPU_SHARING,
    NVIDIA_DOMAIN,
    NVIDIA_GPU,
    NVIDIA_MIG_PREFIX,
    NVIDIA_VISIBLE_DEVICES,
    SHARED_NODE,
)
from tasuki.kube.resources import is_extended
from tasuki.process.sentences import shown
from webhooks.nodes import AcceleratorNodes
from webhooks.patch import Operations, pointer, remove, replace
from webhooks.pod import (
    Container,
    EnvVar,
    Place,
    Pod,
    Volume,
    annotation,
    is_of_daemon_set,
    places,
    requested,
)
from webhooks.policy.model import NO_GPUS, Policy, accelerators_among, any_match

Rule = Literal["visible_devices", "privileged", "host_devices"]

# Values that show no device. NVIDIA's toolkit takes an empty list for "void"; with "none" it gave all GPUs before
# 1.18.2, so that one is harmful.
_HARMLESS: Final[Mapping[str, frozenset[str]]] = {
    NVIDIA_VISIBLE_DEVICES: frozenset({"", "void"}),
    CUDA_VISIBLE_DEVICES: frozenset({"", "-1"}),
}
_VARIABLES: Final = frozenset(_HARMLESS)

# Annotations of pods by which runtimes and their plugins inject what nobody has counted: CDI's own, which the toolkit
# and containerd can be told to obey (cncf-tags/container-device-interface, pkg/cdi/annotations.go); NVIDIA's NRI plugin
# (nvidia-container-toolkit, cmd/nvidia-ctk-installer/container/runtime/nri/plugin.go); and NRI's device injector
# (containerd/nri, plugins/device-injector), which GKE has, too. Values are not looked at: a device is what its number
# says, whatever its path is called.
_INJECTORS: Final = frozenset(
    {
        "cdi.k8s.io",
        "nvidia.cdi.k8s.io",
        "cdi.nri.io",
        "cdi-devices.nri.io",
        "cdi-devices.noderesource.dev",
        "devices.nri.io",
        "devices.noderesource.dev",
        "devices.gke.io",
    }
)

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

_NONE: Final[frozenset[str]] = frozenset()

# As NVIDIA's own device plugin calls its devices, unless it is told otherwise.
_GPUS: Final = (NVIDIA_GPU, NVIDIA_MIG_PREFIX)


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


def findings(
    pod: Pod, policy: Policy, nodes: AcceleratorNodes | None = None, *, spares_daemon_sets: bool = True
) -> Sequence[Finding]:
    """What the pod does by itself, and what it could do on these nodes."""
    if not _is_suspect(pod):
        return ()
    shared = is_shared_node_pod(pod, policy)
    every = list(places(pod))
    found = [*_injected(pod.metadata.annotations)]
    for place in every:
        if not shared:
            found += _visible_devices(place, policy)
        found += _devices_by_mount(place)
    if mighty := [place for place in every if place.container.security_context.privileged or _capabilities(place)]:
        if shared or _requests_accelerators(every, policy):
            found += _privileged(mighty, "beside accelerators", "requested devices need no privilege")
        elif nodes is not None and not (spares_daemon_sets and is_of_daemon_set(pod)) and nodes.could_land(pod):
            found += _privileged(mighty, "and could land beside accelerators", "select nodes without any")
    found += _host_volumes(pod.spec.volumes, every)
    return found


def _is_suspect(pod: Pod) -> bool:
    """Whether a closer look could find anything: of hardly any pod, and this is the faster look."""
    spec = pod.spec
    for key in pod.metadata.annotations:
        if _injects(key):
            return True
    for volume in spec.volumes:
        if volume.host_path is not None:
            return True
    for containers in (spec.init_containers, spec.containers, spec.ephemeral_containers):
        for container in containers:
            if _has_suspect_fields(container):
                return True
    return False


def _has_suspect_fields(container: Container) -> bool:
    context = container.security_context
    if context.privileged or context.capabilities is not None:
        return True
    for mount in container.volume_mounts:
        if _FOLDER in mount.mount_path:
            return True
    return not _VARIABLES.isdisjoint([variable.name for variable in container.env])


def is_shared_node_pod(pod: Pod, policy: Policy) -> bool:
    """Whether our own mutation set the pod's visible devices, for nodes that pods share, and it can run on no others.

    The annotation alone is not believed: whoever keeps our mutation from seeing a pod can write it, too.
    """
    pool = policy.shared_nodes
    if pool is None or annotation(pod, GPU_SHARING) != SHARED_NODE:
        return False
    return pool.node_selector.items() <= pod.spec.node_selector.items()


def requests_gpu(container: Container, policy: Policy) -> bool:
    """Whether NVIDIA's runtime is to give it a device, whatever the device plugin calls that."""
    extended = [name for name in requested(container) if is_extended(name)]
    return bool(extended) and any(_is_gpu(name, policy) for name in extended)


def _is_gpu(resource: str, policy: Policy) -> bool:
    if resource.startswith(_GPUS):
        return True
    # Device plugins can be told other names.
    if resource.startswith(f"{NVIDIA_DOMAIN}/") and accelerators_among((resource,), policy):
        return True
    return any(fnmatchcase(resource, each.resource.replace("{profile}", "*")) for each in policy.gpu_slices.offers)


def gpus_among(container: Container, policy: Policy) -> frozenset[str]:
    """What the container requests that may be a GPU of any maker.

    Its device plugin then tells it which it sees: for ROCm, too, CUDA_VISIBLE_DEVICES hides GPUs
    (https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html).
    """
    extended = [name for name in requested(container) if is_extended(name)]
    if not extended:
        return _NONE
    others = (name for name in accelerators_among(extended, policy) if not any_match(NO_GPUS, name))
    return frozenset((*others, *(name for name in extended if _is_gpu(name, policy))))


def _injects(annotation_key: str) -> bool:
    return annotation_key.partition("/")[0] in _INJECTORS


def _injected(annotations: Iterable[str]) -> Iterator[Finding]:
    for key in annotations:
        if _injects(key):
            yield Finding(
                rule="visible_devices",
                fact=f"annotation {shown(key)} injects devices",
                remedy="request GPUs instead",
                removal=(remove(f"/metadata/annotations{pointer(key)}"),),
            )


def _visible_devices(place: Place, policy: Policy) -> Iterator[Finding]:
    for index, variable in enumerate(place.container.env):
        if variable.name not in _HARMLESS or hides(variable):
            continue
        granted = requests_gpu(place.container, policy)
        value = "from elsewhere" if variable.value_from is not None else f"to {shown(variable.value)}"
        yield Finding(
            rule="visible_devices",
            fact=f"{_container(place)} sets {variable.name} {value}",
            remedy=_remedy(variable, granted=granted),
            removal=(remove(f"{place.path}/env/{index}"),),
        )


def hides(variable: EnvVar) -> bool:
    """Whether a variable shows no device, as those that we write."""
    return variable.value_from is None and variable.value in _HARMLESS.get(variable.name, ())


def _remedy(variable: EnvVar, *, granted: bool) -> str:
    if granted:
        return "the device plugin sets it"
    if variable.name == NVIDIA_VISIBLE_DEVICES and variable.value == "none":
        return "write 'void' instead"
    return "request GPUs instead"


def _privileged(mighty: Iterable[Place], where: str, remedy: str) -> Iterator[Finding]:
    for place in mighty:
        context = f"{place.path}/securityContext"
        if place.container.security_context.privileged:
            removal: Operations = (replace(f"{context}/privileged", value=False),)
            yield Finding("privileged", f"{_container(place)} is privileged {where}", remedy, removal)
        for index, name in _capabilities(place):
            fact = f"{_container(place)} adds the capability {name} {where}"
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
    reaching = [
        (index, volume.name, volume.host_path.path)
        for index, volume in enumerate(volumes)
        if volume.host_path is not None and reaches_devices(volume.host_path.path)
    ]
    mounts = _mounts(every) if reaching else {}
    for index, name, path in reaching:
        yield Finding(
            rule="host_devices",
            fact=f"volume {shown(name)} reaches devices by hostPath {shown(path)}",
            remedy="request accelerators instead",
            removal=(*(remove(mount) for mount in mounts.get(name, ())), remove(f"/spec/volumes/{index}")),
        )


def _mounts(every: Iterable[Place]) -> Mapping[str, Sequence[str]]:
    """Where each volume is mounted, as paths within the pod."""
    found: dict[str, list[str]] = {}
    for place in every:
        for index, mount in enumerate(place.container.volume_mounts):
            found.setdefault(mount.name, []).append(f"{place.path}/volumeMounts/{index}")
    return found


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
