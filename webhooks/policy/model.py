"""The policy's values: every section of the file, each absent section a capability that this cluster does not offer."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, Literal, TypeVar

import msgspec

from tasuki.kube.names import NVIDIA_GPU
from webhooks.pod import Json
from webhooks.pod import Toleration as PodToleration

Glob = str
Verdict = Literal["deny", "strip", "warn", "allow"]


class _Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A mapping of the file; keys that it does not know are errors."""


class Toleration(
    PodToleration, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """As in a pod, without unknown keys."""


class ResourceTolerations(_Section, frozen=True, kw_only=True):
    """Pods that request one of `resources` get `tolerations`."""

    resources: tuple[Glob, ...]
    tolerations: tuple[Toleration, ...]


_PRESENT: Final = (Toleration(key=NVIDIA_GPU, operator="Exists", effect="NoSchedule"),)


class Accelerators(_Section, frozen=True, kw_only=True):
    """Which resources are accelerators, and how the nodes that have them are tainted.

    Attributes:
        resources: Whatever matches is an accelerator.
        node_labels: A node with one of these labels has accelerators even if its capacity does not say so yet. Globs.
        tolerations: Added by resource, besides one for a taint with the resource's own name.
        learned_taint_keys: Taints of nodes that offer a requested resource are tolerated if their key matches.
    """

    resources: tuple[Glob, ...] = (
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-*",
        "amd.com/gpu*",
        "gpu.intel.com/*",
        "google.com/tpu",
        "fpga.tasuki.dev/*",
        "fpga.intel.com/*",
        "amd.com/*",
        "vaccel.tasuki.dev/*",
    )
    node_labels: Mapping[str, Glob] = msgspec.field(
        default_factory=lambda: {"nvidia.com/gpu.present": "true", "cloud.google.com/gke-accelerator": "*"}
    )
    tolerations: tuple[ResourceTolerations, ...] = (
        ResourceTolerations(resources=("nvidia.com/*",), tolerations=_PRESENT),
        ResourceTolerations(
            resources=("fpga.tasuki.dev/*",),
            tolerations=(Toleration(key="fpga.tasuki.dev/function", operator="Exists", effect="NoSchedule"),),
        ),
    )
    learned_taint_keys: tuple[Glob, ...] = (
        "nvidia.com/*",
        "amd.com/*",
        "gpu.intel.com/*",
        "google.com/tpu",
        "*.tasuki.dev/*",
        "cloud.google.com/gke-accelerator*",
        "cloud.google.com/gke-gpu-*",
    )


class SliceOffer(_Section, frozen=True, kw_only=True):
    """One way in which nodes offer a kind of slice.

    Attributes:
        resource: `{profile}` stands for the MIG profile.
        node_labels: Which nodes offer it in this way; globs, in which `{profile}` stands for the MIG profile.
    """

    resource: str
    node_labels: Mapping[str, Glob] = {}


_SHARING: Final = "nvidia.com/gpu.sharing-strategy"
_GKE_SHARING: Final = "cloud.google.com/gke-gpu-sharing-strategy"


class GpuSlices(_Section, frozen=True, kw_only=True):
    """What `tasuki.dev/gpu-slice` becomes: the first offer that a node makes; the first of all if none is known to."""

    timeshare: tuple[SliceOffer, ...] = (
        SliceOffer(resource="nvidia.com/gpu.shared"),
        SliceOffer(resource=NVIDIA_GPU, node_labels={_SHARING: "time-slicing"}),
        SliceOffer(resource=NVIDIA_GPU, node_labels={_GKE_SHARING: "time-sharing"}),
    )
    mig: tuple[SliceOffer, ...] = (
        SliceOffer(resource="nvidia.com/mig-{profile}"),
        SliceOffer(
            resource=NVIDIA_GPU,
            node_labels={"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.product": "*-MIG-{profile}"},
        ),
        SliceOffer(resource=NVIDIA_GPU, node_labels={"cloud.google.com/gke-gpu-partition-size": "{profile}"}),
    )
    whole: tuple[SliceOffer, ...] = (
        SliceOffer(resource=NVIDIA_GPU, node_labels={_SHARING: "none", "nvidia.com/mig.strategy": "none"}),
        SliceOffer(resource=NVIDIA_GPU, node_labels={_SHARING: "none"}),
        SliceOffer(resource=NVIDIA_GPU),
    )


class Requests(_Section, frozen=True, kw_only=True):
    cpu: str = "100m"
    memory: str = "256Mi"


class SharedNodes(_Section, frozen=True, kw_only=True):
    """What `tasuki.dev/gpu-sharing: shared-node` means.

    Attributes:
        node_selector: Of the pool that interactive pods share.
        requests: What such a pod reserves of a node; its limits stay, so that it is Burstable.
        maximum_gpus: How many indices are written into CUDA_VISIBLE_DEVICES for "every GPU".
        devices: `indices` writes indices; `binding` leaves it to the scheduler extender, whose Binding carries the
            devices as an annotation.
    """

    node_selector: Mapping[str, str] = msgspec.field(default_factory=lambda: {"tasuki.dev/pool": "shared"})
    tolerations: tuple[Toleration, ...] = (
        Toleration(key="tasuki.dev/shared", operator="Exists"),
        *_PRESENT,
    )
    requests: Requests = Requests()
    maximum_gpus: int = 8
    devices: Literal["indices", "binding"] = "indices"


class CpuOnly(_Section, frozen=True, kw_only=True):
    """Pods without accelerators that could land on nodes with accelerators.

    Attributes:
        priority_class: What they get.
        exempt_namespaces: Whose pods keep their class.
        exempt_daemon_sets: Whether pods of DaemonSets keep theirs: most are part of the node.
    """

    priority_class: str = "tasuki-cpu-on-accelerator-node"
    exempt_namespaces: tuple[Glob, ...] = ()
    exempt_daemon_sets: bool = True


class NamespaceRule(_Section, frozen=True, kw_only=True):
    """Which namespaces a rule is for: those whose name matches and that have all of the labels (globs).

    An empty list of names matches every name.
    """

    namespaces: tuple[Glob, ...] = ()
    namespace_labels: Mapping[str, Glob] = {}

    def matches(self, namespace: str, labels: Mapping[str, str]) -> bool:
        return (not self.namespaces or any_match(self.namespaces, namespace)) and labels_match(
            self.namespace_labels, labels
        )


_Rule = TypeVar("_Rule", bound=NamespaceRule)


class Team(NamespaceRule, frozen=True, kw_only=True):
    """The first team that matches a namespace counts.

    Attributes:
        default_priority_class: For pods that name none; empty for the cluster's own default.
        maximum_priority_class: No class with a larger value is admitted; empty for no limit.
    """

    default_priority_class: str = ""
    maximum_priority_class: str = ""


class ModuleVolume(_Section, frozen=True, kw_only=True):
    """Where the modules come from.

    Attributes:
        source: A pod volume's source as Kubernetes writes it: `{persistentVolumeClaim: {claimName: modules}}`,
            `{hostPath: {path: /opt/apps}}`, `{image: {reference: modules:1}}` or
            `{csi: {driver: cvmfs.csi.cern.ch, ...}}`.
        mount_propagation: `HostToContainer` for CVMFS.
    """

    name: str
    source: Json
    mount_path: str
    sub_path: str = ""
    mount_propagation: Literal["", "HostToContainer"] = ""


class Modules(_Section, frozen=True, kw_only=True):
    """What `tasuki.dev/modules` means.

    Attributes:
        lmod: The folder of Lmod in the container, which has init/bash and libexec/lmod.
        module_path: MODULEPATH.
        delivery: How the variables reach a container: `file` by fileKeyRef, `wrapper` by a command wrapper, `shell`
            by BASH_ENV; `auto` takes the first that the cluster and the container allow.
        shell: A bash in the users' images, which the init container runs.
        variables: Names that modules may set; for each module EBROOT<NAME> and EBVERSION<NAME> come besides.
        cpu: Requests and limits of the init container, equal so that a Guaranteed pod stays one.
        memory: As `cpu`.
        node_selector: For pods with modules, where not every node has the tree.
    """

    volumes: tuple[ModuleVolume, ...]
    lmod: str = "/usr/share/lmod/lmod"
    module_path: tuple[str, ...]
    delivery: Literal["auto", "file", "wrapper", "shell"] = "auto"
    shell: str = "/bin/bash"
    variables: tuple[str, ...] = (
        "PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "PYTHONPATH",
        "EBPYTHONPREFIXES", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH", "CMAKE_LIBRARY_PATH", "ACLOCAL_PATH", "MANPATH",
        "INFOPATH", "XDG_DATA_DIRS", "GI_TYPELIB_PATH", "PERL5LIB", "R_LIBS_SITE", "JAVA_HOME", "CUDA_HOME",
        "CUDA_PATH", "CUDA_ROOT", "CC", "CXX", "FC", "F77", "F90", "CFLAGS", "CXXFLAGS", "LDFLAGS", "LOADEDMODULES",
        "_LMFILES_", "MODULEPATH",
    )  # fmt: skip
    cpu: str = "500m"
    memory: str = "256Mi"
    node_selector: Mapping[str, str] = {}


class VaccelSidecar(_Section, frozen=True, kw_only=True):
    """The agent in a pod of its own user.

    Attributes:
        image: With `vaccel-rpc-agent`.
        plugins: The agent's.
        resources: Of the sidecar, as Kubernetes writes them; an accelerator for the agent is requested here.
    """

    image: str
    plugins: tuple[str, ...] = ("noop",)
    resources: Json = msgspec.field(
        default_factory=lambda: {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "100m", "memory": "128Mi"},
        }
    )


class VaccelSandbox(_Section, frozen=True, kw_only=True):
    """Pods in micro-VMs whose runtime offers vAccel.

    Attributes:
        runtime_class: One that exists; its own nodeSelector, overhead and tolerations come with it.
        labels: Put on the pod.
        node_selector: What the RuntimeClass does not select by itself.
    """

    runtime_class: str = "kata-fc-vaccel"
    labels: Mapping[str, str] = msgspec.field(default_factory=lambda: {"vaccel": "true"})
    node_selector: Mapping[str, str] = msgspec.field(default_factory=lambda: {"vaccel": "true"})


class Vaccel(_Section, frozen=True, kw_only=True):
    """What `tasuki.dev/vaccel` means.

    Attributes:
        session: The resource of sessions; empty if no node offers them.
        sidecar: None if it is not offered, as is `sandbox`.
        plugins: VACCEL_PLUGINS of the client.
        client_labels: Put on pods with sessions, where a NetworkPolicy admits clients by label.
    """

    session: str = "vaccel.tasuki.dev/session"
    sidecar: VaccelSidecar | None = None
    sandbox: VaccelSandbox | None = None
    plugins: tuple[str, ...] = ("rpc",)
    client_labels: Mapping[str, str] = msgspec.field(default_factory=lambda: {"vaccel.tasuki.dev/client": "true"})


class Cache(_Section, frozen=True, kw_only=True):
    """What `tasuki.dev/cache` means.

    Attributes:
        url: Where pods reach the cache, without a bucket.
        audience: Of the token; the cache asks for it in its TokenReview.
        expiration_seconds: Of the token, at least 600; the kubelet renews it in time.
        mount_path: The folder of the token.
    """

    url: str
    audience: str = "cache.tasuki.dev"
    expiration_seconds: int = 3600
    mount_path: str = "/var/run/secrets/tasuki.dev/cache"


class Chains(_Section, frozen=True, kw_only=True):
    """What pods of a DataFlow get.

    Attributes:
        scheduler_name: Of a scheduler that has the extender; empty to leave the pod's.
    """

    scheduler_name: str = ""


class Protection(NamespaceRule, frozen=True, kw_only=True):
    """What happens to pods that reach round the device plugins; the first rule that matches a namespace counts.

    Attributes:
        visible_devices: NVIDIA_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES set by the pod.
        privileged: A privileged container in a pod that shares devices with others.
        host_devices: Device nodes of accelerators mounted by hostPath.
        hides_unrequested: Whether containers that ask for no GPU, in pods that could land beside one, get the
            settings with which NVIDIA's runtime injects none, also where their image asks for all.
    """

    visible_devices: Verdict = "warn"
    privileged: Verdict = "warn"
    host_devices: Verdict = "warn"
    hides_unrequested: bool = True


class Policy(_Section, frozen=True, kw_only=True):
    """The whole file."""

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


@lru_cache(maxsize=16_384)
def any_match(globs: tuple[Glob, ...], text: str) -> bool:
    """Whether one of the globs (`*`, `?`, `[...]`) is the whole text; upper and lower case differ."""
    return any(fnmatchcase(text, glob) for glob in globs)


def labels_match(wanted: Mapping[str, Glob], labels: Mapping[str, str]) -> bool:
    """Whether every wanted label is there with a value that its glob matches."""
    return all(key in labels and fnmatchcase(labels[key], glob) for key, glob in wanted.items())


def accelerators_among(resources: Iterable[str], policy: Policy) -> frozenset[str]:
    """Those of the resources that the policy calls accelerators."""
    return frozenset(name for name in resources if any_match(policy.accelerators.resources, name))


def rule_for(rules: Iterable[_Rule], namespace: str, labels: Mapping[str, str]) -> _Rule | None:
    """The first rule that is for the namespace."""
    return next((rule for rule in rules if rule.matches(namespace, labels)), None)
