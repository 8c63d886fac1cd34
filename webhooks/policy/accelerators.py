"""The policy's sections on accelerators: what they are, how they are offered and shared, who stays off their nodes."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from tasuki.kube.names import NVIDIA_GPU
from webhooks.pod import Toleration as PodToleration
from webhooks.policy.section import KeyProblemError, Section, any_match
from webhooks.policy.values import (
    Cpu,
    Glob,
    GpuCount,
    LabelGlob,
    LabelKey,
    LabelValue,
    Memory,
    OfferedResource,
    OfferLabelGlob,
    Subdomain,
    TaintKey,
)


class Toleration(
    PodToleration, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """As in a pod, without unknown keys.

    Attributes:
        key: Of the taint; empty, with operator Exists, for every taint.
        operator: Empty means Equal.
        value: Of the taint, for Equal.
        effect: Of the taint; empty for every effect.
        toleration_seconds: How long a NoExecute taint is tolerated; absent: for ever.
    """

    key: TaintKey = ""
    operator: Literal["", "Exists", "Equal"] = ""
    value: LabelValue = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""

    def __post_init__(self) -> None:
        """The API server's rules, which would refuse every pod that gets such a toleration."""
        if not self.key and self.operator != "Exists":
            raise KeyProblemError("operator", f"is {self.operator!r} without a key; write Exists, or give the key")
        if self.operator == "Exists" and self.value:
            raise KeyProblemError("value", f"is {self.value!r} with operator Exists; leave one of them out")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            problem = f"is {self.toleration_seconds} with effect {self.effect!r}; it is only for NoExecute"
            raise KeyProblemError("tolerationSeconds", problem)


class ResourceTolerations(Section, frozen=True, kw_only=True):
    """Pods that request one of `resources` get `tolerations`.

    Attributes:
        resources: Requested by the pod. Globs.
        tolerations: As a pod has them.
    """

    resources: tuple[Glob, ...]
    tolerations: tuple[Toleration, ...]


# Accelerators that no maker's setting for visible GPUs is about.
NO_GPUS: Final = ("fpga.tasuki.dev/*", "fpga.intel.com/*", "vaccel.tasuki.dev/*")
# Those which NVIDIA's runtime has no part in. AMD's plugin calls partitions of GPUs amd.com/cpx_nps4 and the like.
OTHER_MAKERS: Final = (*NO_GPUS, "amd.com/*", "gpu.intel.com/*", "google.com/tpu")

_PRESENT: Final = (Toleration(key=NVIDIA_GPU, operator="Exists", effect="NoSchedule"),)


class Accelerators(Section, frozen=True, kw_only=True):
    """Which resources are accelerators, and how the nodes that have them are tainted.

    Attributes:
        resources: Whatever matches is an accelerator. Globs.
        except_resources: What is none all the same, such as NVIDIA's network cards. Globs.
        node_labels: A node with one of these labels has accelerators even if its capacity does not say so yet. Globs.
        tolerations: Added by resource, besides one for a taint with the resource's own name.
        learned_taint_keys: Taints of nodes that offer a requested resource are tolerated if their key matches. Globs.
    """

    resources: tuple[Glob, ...] = (
        "nvidia.com/*",
        "gpu.intel.com/*",
        "google.com/tpu",
        "fpga.tasuki.dev/*",
        "fpga.intel.com/*",
        "amd.com/*",
        "vaccel.tasuki.dev/*",
    )
    # As the examples of NVIDIA's Network Operator call them; device plugins can be told any name for a GPU.
    except_resources: tuple[Glob, ...] = (
        "nvidia.com/hostdev*",
        "nvidia.com/*rdma*",
        "nvidia.com/*sriov*",
        "nvidia.com/mlnx*",
    )
    node_labels: Mapping[LabelKey, LabelGlob] = msgspec.field(
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

    def __post_init__(self) -> None:
        if glob := next((glob for glob in self.resources if any_match((glob,), "cpu")), ""):
            raise KeyProblemError("resources", f"has {glob!r}, which is also cpu; name the accelerators' domains")


class SliceOffer(Section, frozen=True, kw_only=True):
    """One way in which nodes offer a kind of slice.

    Attributes:
        resource: Of which a slice is requested; `{profile}` stands for the MIG profile.
        node_labels: Which nodes offer it in this way; globs, in which `{profile}` stands for the MIG profile. A glob
            after `!` must not match: `!*` is for nodes without the label.
    """

    resource: OfferedResource
    node_labels: Mapping[LabelKey, OfferLabelGlob] = {}


_SHARING: Final = "nvidia.com/gpu.sharing-strategy"
_PRODUCT: Final = "nvidia.com/gpu.product"
_GKE_SHARING: Final = "cloud.google.com/gke-gpu-sharing-strategy"
_GKE_PARTITION: Final = "cloud.google.com/gke-gpu-partition-size"


class GpuSlices(Section, frozen=True, kw_only=True):
    """What `tasuki.dev/gpu-slice` becomes: the first offer that a node makes; the first of all if none is known to.

    Attributes:
        timeshare: What `timeshare` becomes.
        mig: What `mig-<profile>` becomes.
        whole: What `whole` becomes.
    """

    timeshare: tuple[SliceOffer, ...] = (
        SliceOffer(resource="nvidia.com/gpu.shared"),
        SliceOffer(resource=NVIDIA_GPU, node_labels={_SHARING: "time-slicing"}),
        SliceOffer(resource=NVIDIA_GPU, node_labels={_GKE_SHARING: "time-sharing"}),
    )
    mig: tuple[SliceOffer, ...] = (
        SliceOffer(resource="nvidia.com/mig-{profile}"),
        SliceOffer(
            resource=NVIDIA_GPU,
            node_labels={"nvidia.com/mig.strategy": "single", _PRODUCT: "*-MIG-{profile}"},
        ),
        SliceOffer(resource=NVIDIA_GPU, node_labels={_GKE_PARTITION: "{profile}", _GKE_SHARING: "!*"}),
    )
    # Feature discovery says by the product's suffix that nvidia.com/gpu itself is shared (the strategy says it also of
    # one under another name), and gives nvidia.com/gpu a number of GPU instance slices under MIG strategy single only.
    whole: tuple[SliceOffer, ...] = (
        SliceOffer(
            resource=NVIDIA_GPU,
            node_labels={
                _PRODUCT: "!*-SHARED",
                "nvidia.com/gpu.slices.gi": "!*",
                _GKE_SHARING: "!*",
                _GKE_PARTITION: "!*",
            },
        ),
    )

    @property
    def offers(self) -> tuple[SliceOffer, ...]:
        """Of every kind."""
        return (*self.timeshare, *self.mig, *self.whole)


class Requests(Section, frozen=True, kw_only=True):
    """Of each container.

    Attributes:
        cpu: As Kubernetes writes it.
        memory: As Kubernetes writes it.
    """

    cpu: Cpu = "100m"
    memory: Memory = "256Mi"


class SharedNodes(Section, frozen=True, kw_only=True):
    """What `tasuki.dev/gpu-sharing: shared-node` means.

    Attributes:
        node_selector: Of the pool that interactive pods share; at least one label.
        tolerations: For the taints of that pool.
        requests: What such a pod reserves of a node; its limits stay, so that it is Burstable.
        maximum_gpus: How many indices are written into CUDA_VISIBLE_DEVICES for "every GPU"; 1 to 64.
        devices: `indices` writes indices; `binding` leaves it to the scheduler extender, whose Binding carries the
            devices as an annotation.
    """

    node_selector: Annotated[Mapping[LabelKey, LabelValue], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: {"tasuki.dev/pool": "shared"}
    )
    tolerations: tuple[Toleration, ...] = (
        Toleration(key="tasuki.dev/shared", operator="Exists"),
        *_PRESENT,
    )
    requests: Requests = Requests()
    maximum_gpus: GpuCount = 8
    devices: Literal["indices", "binding"] = "indices"

    def __post_init__(self) -> None:
        if not self.node_selector:
            problem = (
                "is empty, and would open the GPUs of every node to everybody; write the labels of the pool's nodes"
            )
            raise KeyProblemError("nodeSelector", problem)


class CpuOnly(Section, frozen=True, kw_only=True):
    """Pods without accelerators that could land on nodes with accelerators.

    Attributes:
        priority_class: What they get.
        exempt_namespaces: Whose pods keep their class. Globs.
        exempt_daemon_sets: Whether pods of DaemonSets keep theirs: most are part of the node.
    """

    priority_class: Subdomain = "tasuki-cpu-on-accelerator-node"
    exempt_namespaces: tuple[Glob, ...] = ()
    exempt_daemon_sets: bool = True
