"""Bitstreams of which there is only as much as the device plugin looks at before it programs a region."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from uuid import UUID

from deviceplugin.config.model import FpgaFunction, FpgaImplementation
from deviceplugin.fpga import Family

# A GBS file: two magic numbers and the metadata's length (intel-device-plugins-for-kubernetes, pkg/fpga/bitstream).
_GBS_HEADER: Final = struct.Struct("<QQI")
_GBS_MAGIC: Final = (0x414750466E6F6558, 0x31303076534247B7)

# An xclbin's head up to its uuid (XRT, core/include/xclbin.h, struct axlf).
_XCLBIN_HEAD: Final = struct.Struct("<8s296xQ24x16s64s16s")

_BODY: Final = b"simulated by tasuki sandbox: no bitstream\n"


def write_images(functions: Iterable[FpgaFunction], folder: Path) -> None:
    """One file for each bitstream's name; what is in it is for the first implementation that has the name."""
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    for function in functions:
        for implementation in function.implementations:
            file = folder / implementation.bitstream
            if not file.exists():
                file.write_bytes(image(implementation))


def image(implementation: FpgaImplementation) -> bytes:
    match implementation.family:
        case Family.DFL | Family.OPAE:
            return _gbs(implementation)
        case Family.XRT:
            return _xclbin(implementation)
        case Family.FPGA_REGION:
            return _BODY


def _gbs(implementation: FpgaImplementation) -> bytes:
    metadata = json.dumps(
        {
            "version": 1,
            "afu-image": {
                "interface-uuid": str(UUID(implementation.interface)),
                "accelerator-clusters": [{"accelerator-type-uuid": str(UUID(implementation.id))}],
            },
        }
    ).encode()
    return _GBS_HEADER.pack(*_GBS_MAGIC, len(metadata)) + metadata + _BODY


def _xclbin(implementation: FpgaImplementation) -> bytes:
    # Older shells are known by name, and images for them have no interface uuid.
    try:
        made_for, platform = UUID(implementation.interface).bytes, b""
    except ValueError:
        made_for, platform = bytes(16), implementation.interface.encode()[:63]
    own = UUID(implementation.id).bytes
    return _XCLBIN_HEAD.pack(b"xclbin2\0", _XCLBIN_HEAD.size + len(_BODY), made_for, platform, own) + _BODY
