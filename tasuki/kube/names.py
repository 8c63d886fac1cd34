"""Every name that Tasuki owns or that it must spell as others do: labels, annotations, resources, finalizers."""

from typing import Final

DOMAIN: Final = "tasuki.dev"
API_GROUP: Final = DOMAIN
API_VERSION: Final = "v1alpha1"

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
