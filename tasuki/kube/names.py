"""Every name that Tasuki owns or that it must spell as others do: labels, annotations, resources, finalizers."""

from typing import Final

DOMAIN: Final = "tasuki.dev"
API_GROUP: Final = DOMAIN
API_VERSION: Final = "v1alpha1"

# FPGA functions: `fpga.tasuki.dev/<function>`.
FPGA_DOMAIN: Final = "fpga.tasuki.dev"

# vAccel: the resource of sessions, and the labels of nodes with agents.
VACCEL_DOMAIN: Final = "vaccel.tasuki.dev"

# The domains under which Intel's and AMD's device plugins offer FPGAs; on request we do, too.
INTEL_FPGA_DOMAIN: Final = "fpga.intel.com"
AMD_DOMAIN: Final = "amd.com"

# The object that each node's daemon keeps.
ACCELERATOR_NODE_KIND: Final = "AcceleratorNode"
ACCELERATOR_NODE_PLURAL: Final = "acceleratornodes"

# The object that each node's cache keeps.
CACHE_NODE_KIND: Final = "CacheNode"
CACHE_NODE_PLURAL: Final = "cachenodes"

# The object by which a bucket of the object cache is defined.
CACHE_BUCKET_KIND: Final = "CacheBucket"
CACHE_BUCKET_PLURAL: Final = "cachebuckets"
# What a bucket may be called, to be matched as a whole.
CACHE_BUCKET_PATTERN: Final = "[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"

# Who wrote a field or sent an event.
FIELD_MANAGER: Final = "tasuki-deviceplugin"
EVENT_COMPONENT: Final = "tasuki-deviceplugin"

# NVIDIA's names, which we keep so that moving over is a change of image.
NVIDIA_DOMAIN: Final = "nvidia.com"
NVIDIA_GPU: Final = "nvidia.com/gpu"
NVIDIA_CONFIG_LABEL: Final = "nvidia.com/device-plugin.config"

# The variables by which NVIDIA's runtime puts devices into a container, and by which CUDA uses some of those.
NVIDIA_VISIBLE_DEVICES: Final = "NVIDIA_VISIBLE_DEVICES"
CUDA_VISIBLE_DEVICES: Final = "CUDA_VISIBLE_DEVICES"

# The node labels that gpu-feature-discovery writes begin with one of these.
NVIDIA_MIG_PREFIX: Final = "nvidia.com/mig-"

# Node Feature Discovery's object, through which labels reach the node where nobody else may patch it
# (https://kubernetes-sigs.github.io/node-feature-discovery/stable/usage/custom-resources.html#nodefeature).
NFD_API_GROUP: Final = "nfd.k8s-sigs.io"
NFD_API_VERSION: Final = "v1alpha1"
NFD_NODE_NAME_LABEL: Final = "nfd.node.kubernetes.io/node-name"
NODE_FEATURE_PREFIX: Final = "tasuki-features-for-"

# What a user may write on a pod; the webhooks act on it, and name the nearest of these for any other of our domain.
GPU_SLICE: Final = f"{DOMAIN}/gpu-slice"
GPU_SHARING: Final = f"{DOMAIN}/gpu-sharing"
# The only value of GPU_SHARING.
SHARED_NODE: Final = "shared-node"
GPU_DEVICES: Final = f"{DOMAIN}/gpu-devices"
MODULES: Final = f"{DOMAIN}/modules"
MODULES_CONTAINERS: Final = f"{DOMAIN}/modules-containers"
VACCEL: Final = f"{DOMAIN}/vaccel"
CACHE: Final = f"{DOMAIN}/cache"
# The objects that a pod will read, for the scheduler extender: `bucket/object`, as clients send them.
CACHE_OBJECTS: Final = f"{DOMAIN}/cache-objects"
# The scheduler extender reads these; the webhooks only know that they exist.
SPREAD: Final = f"{DOMAIN}/spread"
PACK: Final = f"{DOMAIN}/pack"
GPU_MEMORY: Final = f"{DOMAIN}/gpu-memory"
OBJECTIVE: Final = f"{DOMAIN}/objective"
# Which chain a pod belongs to; labels, so that its pods can be listed.
DATAFLOW: Final = f"{DOMAIN}/dataflow"
FUNCTION: Final = f"{DOMAIN}/function"

# What the functions of a chain that this one is connected with are called, and how much passes:
# `decode=6220800@30, infer=150528@30` is bytes an item and items a second.
EDGES: Final = f"{DOMAIN}/edges"
# Where the chain's planner wants the pod, as `tasuki.kube.placement.Plan` spells it.
PLAN: Final = f"{DOMAIN}/plan"

# What Tasuki writes on a pod: the buckets of `CACHE`, sorted, each once, for the scheduler extender; and what the
# extender chose, which the Binding carries: the devices' ids with commas between, as CUDA_VISIBLE_DEVICES has them, and
# for machines who gets how many slices of which, as `tasuki.kube.placement` spells it.
CACHE_BUCKETS: Final = f"{DOMAIN}/cache-buckets"
BOUND_DEVICES: Final = f"{DOMAIN}/devices"
BOUND_SLICES: Final = f"{DOMAIN}/slices"

# What the extender writes on a node when there is room again that no other event tells of, so that the scheduler looks
# at waiting pods again.
ROOM_FREED: Final = f"{DOMAIN}/room-freed"

POD_ANNOTATIONS: Final = (
    GPU_SLICE, GPU_SHARING, GPU_DEVICES, MODULES, MODULES_CONTAINERS, VACCEL, CACHE, CACHE_OBJECTS, SPREAD, PACK,
    GPU_MEMORY, OBJECTIVE, DATAFLOW, FUNCTION, EDGES, PLAN, CACHE_BUCKETS, BOUND_DEVICES, BOUND_SLICES,
)  # fmt: skip
