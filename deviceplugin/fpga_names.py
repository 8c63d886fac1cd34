"""What a region is called by Intel's and AMD's device plugins, so that pods written for them find it."""

import re
from base64 import urlsafe_b64encode
from typing import Final

from deviceplugin.config.values import canonical_id
from deviceplugin.fpga import Family, Region
from tasuki.kube.names import AMD_DOMAIN, FPGA_DOMAIN, INTEL_FPGA_DOMAIN

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")
_INTEL: Final = frozenset({Family.DFL, Family.OPAE})

# Kubernetes' qualified names, after the slash.
_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def function_resource(function: str) -> str:
    return f"{FPGA_DOMAIN}/{function}"


def intel_region(region: Region) -> str:
    """Intel's name for a port by its interface, whatever is in it; empty if it has none."""
    interface = canonical_id(region.interface)
    return f"{INTEL_FPGA_DOMAIN}/region-{interface}" if region.family in _INTEL and _is_id(interface) else ""


def intel_af(region: Region) -> str:
    """Intel's name for a port by its interface and the AFU in it; empty if either is missing.

    The two ids together are too long for a resource's name, so that plugin encodes them in base64 and puts three digits
    of each in front (intel-device-plugins-for-kubernetes, pkg/fpga).
    """
    interface, afu = canonical_id(region.interface), canonical_id(region.loaded)
    if region.family not in _INTEL or not _is_id(interface) or not _is_id(afu):
        return ""
    both = urlsafe_b64encode(bytes.fromhex(interface + afu)).rstrip(b"=").decode("ascii")
    return f"{INTEL_FPGA_DOMAIN}/af-{interface[:3]}.{afu[:3]}.{both}"


def amd(region: Region) -> str:
    """AMD's name for a card by its shell; empty if it says none, or one that Kubernetes would not take."""
    name = region.shell
    return f"{AMD_DOMAIN}/{name}" if region.family is Family.XRT and _NAME.fullmatch(name) else ""


def _is_id(text: str) -> bool:
    # A card that does not answer reads as all ones.
    return _HEX_ID.fullmatch(text) is not None and text.strip("f") != ""
