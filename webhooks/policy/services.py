"""The policy's sections on what pods use besides: modules, vAccel, the object cache and chains."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from webhooks.policy.section import KeyProblemError, Section
from webhooks.policy.values import (
    Audience,
    ContainerResources,
    Cpu,
    ImageReference,
    LabelKey,
    LabelValue,
    Memory,
    MountPath,
    OptionalSubdomain,
    PluginName,
    ResourceName,
    Subdomain,
    SubPath,
    TokenSeconds,
    Url,
    VariableName,
    VolumeName,
    VolumeSource,
    resources_problem,
    source_problem,
)


class ModuleVolume(Section, frozen=True, kw_only=True):
    """Where the modules come from.

    Attributes:
        name: Of the volume in the pod.
        source: A pod volume's source as Kubernetes writes it: `{persistentVolumeClaim: {claimName: modules}}`,
            `{hostPath: {path: /opt/apps}}`, `{image: {reference: modules:1}}`,
            `{csi: {driver: cvmfs.csi.cern.ch, ...}}` or `{nfs: {server: nfs.example.org, path: /apps}}`.
        mount_path: Where containers find it.
        sub_path: Of the volume; empty for all of it.
        mount_propagation: `HostToContainer` for CVMFS.
    """

    name: VolumeName
    source: VolumeSource
    mount_path: MountPath
    sub_path: SubPath = ""
    mount_propagation: Literal["", "HostToContainer"] = ""

    def __post_init__(self) -> None:
        if problem := source_problem(self.source):
            raise KeyProblemError("source", problem)


class Modules(Section, frozen=True, kw_only=True):
    """What `tasuki.dev/modules` means.

    Attributes:
        volumes: Mounted read-only into every container that loads modules.
        lmod: The folder of Lmod in the container, which has init/bash.
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
    lmod: MountPath = "/usr/share/lmod/lmod"
    module_path: Annotated[tuple[MountPath, ...], msgspec.Meta(min_length=1)]
    delivery: Literal["auto", "file", "wrapper", "shell"] = "auto"
    shell: MountPath = "/bin/bash"
    variables: tuple[VariableName, ...] = (
        "PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "PYTHONPATH",
        "EBPYTHONPREFIXES", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH", "CMAKE_LIBRARY_PATH", "ACLOCAL_PATH", "MANPATH",
        "INFOPATH", "XDG_DATA_DIRS", "GI_TYPELIB_PATH", "PERL5LIB", "R_LIBS_SITE", "JAVA_HOME", "CUDA_HOME",
        "CUDA_PATH", "CUDA_ROOT", "CC", "CXX", "FC", "F77", "F90", "CFLAGS", "CXXFLAGS", "LDFLAGS", "LOADEDMODULES",
        "_LMFILES_", "MODULEPATH",
    )  # fmt: skip
    cpu: Cpu = "500m"
    memory: Memory = "256Mi"
    node_selector: Mapping[LabelKey, LabelValue] = {}

    def __post_init__(self) -> None:
        for key, values in {
            "a volume called": [volume.name for volume in self.volumes],
            "a volume mounted at": [volume.mount_path.rstrip("/") for volume in self.volumes],
        }.items():
            if twice := [value for index, value in enumerate(values) if value in values[:index]]:
                raise KeyProblemError("volumes", f"has {key} {twice[0]!r} twice; give each its own")


class VaccelSidecar(Section, frozen=True, kw_only=True):
    """The agent in a pod of its own user.

    Attributes:
        image: With `vaccel-rpc-agent`.
        plugins: The agent's.
        resources: Of the sidecar, as Kubernetes writes them; an accelerator for the agent is requested here.
    """

    image: ImageReference
    plugins: Annotated[tuple[PluginName, ...], msgspec.Meta(min_length=1)] = ("noop",)
    resources: ContainerResources = msgspec.field(
        default_factory=lambda: {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "100m", "memory": "128Mi"},
        }
    )

    def __post_init__(self) -> None:
        if problem := resources_problem(self.resources):
            raise KeyProblemError("resources", problem)


class VaccelSandbox(Section, frozen=True, kw_only=True):
    """Pods in micro-VMs whose runtime offers vAccel.

    Attributes:
        runtime_class: One that exists; its own nodeSelector, overhead and tolerations come with it.
        labels: Put on the pod.
        node_selector: What the RuntimeClass does not select by itself.
    """

    runtime_class: Subdomain = "kata-fc-vaccel"
    labels: Mapping[LabelKey, LabelValue] = msgspec.field(default_factory=lambda: {"vaccel": "true"})
    node_selector: Mapping[LabelKey, LabelValue] = msgspec.field(default_factory=lambda: {"vaccel": "true"})


class Vaccel(Section, frozen=True, kw_only=True):
    """What `tasuki.dev/vaccel` means.

    Attributes:
        session: The resource of sessions; empty if no node offers them.
        sidecar: An agent in the pod; absent if it is not offered.
        sandbox: A micro-VM; absent if it is not offered.
        plugins: VACCEL_PLUGINS of the client.
        client_labels: Put on pods with sessions, where a NetworkPolicy admits clients by label.
    """

    session: ResourceName = "vaccel.tasuki.dev/session"
    sidecar: VaccelSidecar | None = None
    sandbox: VaccelSandbox | None = None
    plugins: Annotated[tuple[PluginName, ...], msgspec.Meta(min_length=1)] = ("rpc",)
    client_labels: Mapping[LabelKey, LabelValue] = msgspec.field(
        default_factory=lambda: {"vaccel.tasuki.dev/client": "true"}
    )


class Cache(Section, frozen=True, kw_only=True):
    """What `tasuki.dev/cache` means.

    Attributes:
        url: Where pods reach the cache, without a bucket.
        audience: Of the token; the cache asks for it in its TokenReview.
        expiration_seconds: Of the token, at least 600; the kubelet renews it in time.
        mount_path: The folder of the token.
    """

    url: Url
    audience: Audience = "cache.tasuki.dev"
    expiration_seconds: TokenSeconds = 3600
    mount_path: MountPath = "/var/run/secrets/tasuki.dev/cache"


class Chains(Section, frozen=True, kw_only=True):
    """What pods of a DataFlow get.

    Attributes:
        scheduler_name: Of a scheduler that has the extender; empty to leave the pod's.
    """

    scheduler_name: OptionalSubdomain = ""
