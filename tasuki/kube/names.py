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

# Who wrote a field or sent an event.
FIELD_MANAGER: Final = "tasuki-deviceplugin"
EVENT_COMPONENT: Final = "tasuki-deviceplugin"

# NVIDIA's names, which we keep so that moving over is a change of image.
NVIDIA_DOMAIN: Final = "nvidia.com"
NVIDIA_GPU: Final = "nvidia.com/gpu"
NVIDIA_CONFIG_LABEL: Final = "nvidia.com/device-plugin.config"

# The node labels that gpu-feature-discovery writes begin with one of these.
NVIDIA_MIG_PREFIX: Final = "nvidia.com/mig-"

# Node Feature Discovery's object, through which labels reach the node where nobody else may patch it
# (https://kubernetes-sigs.github.io/node-feature-discovery/stable/usage/custom-resources.html#nodefeature).
NFD_API_GROUP: Final = "nfd.k8s-sigs.io"
NFD_API_VERSION: Final = "v1alpha1"
NFD_NODE_NAME_LABEL: Final = "nfd.node.kubernetes.io/node-name"
NODE_FEATURE_PREFIX: Final = "tasuki-features-for-"
