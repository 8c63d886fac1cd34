"""Bitstreams: finding them by name, and making sure that they are for a region before anything is written to it."""

import os
import re
import stat
import struct
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from deviceplugin.config.model import FpgaImplementation
from deviceplugin.config.values import canonical_id
from deviceplugin.fpga import Family, Region
from deviceplugin.programming.programmer import ProgrammingError

# The largest devices' images are about 200 MiB.
MAX_IMAGE_BYTES: Final = 2**30

# OPAE's image: two magic numbers, the length of the JSON that follows, then what the hardware takes
# (intel-device-plugins-for-kubernetes, pkg/fpga/bitstream).
_GBS_HEADER: Final = struct.Struct("<QQI")
_GBS_MAGIC: Final = (0x414750466E6F6558, 0x31303076534247B7)
_GBS_LONGEST_METADATA: Final = 4095

# XRT's image: struct axlf up to the image's own UUID (XRT, core/include/xclbin.h): magic, 296 bytes of signature, then
# the header: file length, 24 bytes, interface UUID, platform name, UUID.
_XCLBIN_HEADER: Final = struct.Struct("<8s296xQ24x16s64s16s")
_XCLBIN_MAGIC: Final = b"xclbin2\0"

_HEAD_BYTES: Final = 8192
_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")


class ImageError(ProgrammingError):
    """A bitstream is missing, or is not for the region; nothing was written."""


class NoFolderError(ImageError):
    """There is no folder of bitstreams: nothing is to be programmed on this node."""


class _Cluster(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="accelerator-type-uuid", default="")


class _AfuImage(msgspec.Struct, frozen=True):
    interface: str = msgspec.field(name="interface-uuid", default="")
    clusters: tuple[_Cluster, ...] = msgspec.field(name="accelerator-clusters", default=())


class _Gbs(msgspec.Struct, frozen=True):
    image: _AfuImage = msgspec.field(name="afu-image")


def names(folder: Path) -> frozenset[str]:
    """What is in the folder of bitstreams; a ConfigMap's own hidden entries are not.

    Raises:
        NoFolderError: There is none.
        ImageError: It cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError:
        raise NoFolderError(f"there is no folder of bitstreams {folder}") from None
    except OSError as error:
        raise ImageError(f"the folder of bitstreams {folder} cannot be listed: {error.strerror}") from error


def checked(folder: Path, region: Region, implementation: FpgaImplementation) -> Path:
    """The image of an implementation, found to be one for this region.

    Raises:
        ImageError: It is not there, not a file of sensible size, or made for something else.
    """
    name = implementation.bitstream
    if name not in names(folder):
        raise ImageError(f"{name} is not in the folder of bitstreams {folder}")
    path = folder / name
    try:
        # A ConfigMap's entries are links. O_NONBLOCK: a pipe in its place must not hold us up.
        with closing(_File(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))) as file:
            status = os.fstat(file.descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path} is not a regular file")
            if not 0 < status.st_size <= MAX_IMAGE_BYTES:
                raise ImageError(f"{path} has {status.st_size} bytes; a bitstream has from 1 to {MAX_IMAGE_BYTES}")
            head = os.read(file.descriptor, _HEAD_BYTES)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        check_header(head, status.st_size, region, implementation)
    except ImageError as error:
        raise ImageError(f"{path}: {error}; nothing was written") from None
    return path


class _File:
    def __init__(self, descriptor: int) -> None:
        self.descriptor: Final = descriptor

    def close(self) -> None:
        os.close(self.descriptor)


def check_header(head: bytes, size: int, region: Region, implementation: FpgaImplementation) -> None:
    """Refuse an image that is not for this region, or is not what the catalogue says. A device tree's has no header.

    Raises:
        ImageError: What is wrong with it.
    """
    if region.family in (Family.DFL, Family.OPAE):
        _check_gbs(head, size, region, implementation)
    elif region.family is Family.XRT:
        _check_xclbin(head, size, region, implementation)


def gbs_body(head: bytes, size: int) -> int:
    """Where in a GBS file begins what the hardware takes.

    Raises:
        ImageError: It is no GBS file.
    """
    if len(head) < _GBS_HEADER.size:
        raise ImageError(f"it has {size} bytes, and a GBS header alone has {_GBS_HEADER.size}")
    *magic, length = _GBS_HEADER.unpack_from(head)
    if tuple(magic) != _GBS_MAGIC:
        raise ImageError(f"it does not begin as a GBS file does, but with {head[:16].hex()}")
    if not 1 <= length <= _GBS_LONGEST_METADATA:
        raise ImageError(f"its GBS metadata has {length} bytes; it must be 1 to {_GBS_LONGEST_METADATA}")
    body = _GBS_HEADER.size + int(length)
    if size <= body:
        raise ImageError(f"it ends after {size} bytes, where its header and metadata alone have {body}")
    return body


def _check_gbs(head: bytes, size: int, region: Region, implementation: FpgaImplementation) -> None:
    body = gbs_body(head, size)
    try:
        metadata = msgspec.json.decode(head[_GBS_HEADER.size : body].rstrip(b"\0 \r\n\t"), type=_Gbs)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"its GBS metadata cannot be read: {error}") from None
    made_for = canonical_id(metadata.image.interface)
    if made_for != canonical_id(region.interface):
        raise ImageError(f"it is made for interface {made_for!r}, and the region's is {region.interface!r}")
    ids = [canonical_id(cluster.id) for cluster in metadata.image.clusters]
    if ids != [implementation.id]:
        raise ImageError(f"it holds the AFU {', '.join(ids) or 'none'}, and the catalogue says {implementation.id}")


def _check_xclbin(head: bytes, size: int, region: Region, implementation: FpgaImplementation) -> None:
    if len(head) < _XCLBIN_HEADER.size:
        raise ImageError(f"it has {size} bytes, and an xclbin's header alone has {_XCLBIN_HEADER.size}")
    magic, length, made_for, _platform, own = _XCLBIN_HEADER.unpack_from(head)
    if magic != _XCLBIN_MAGIC:
        raise ImageError(f"it does not begin as an xclbin does, but with {head[:8].hex()}")
    if length > size:
        raise ImageError(f"it is cut off: {size} bytes, and its header says {length}")
    if own.hex() != implementation.id:
        raise ImageError(f"its uuid is {own.hex()}, and the catalogue says {implementation.id}")
    interface = canonical_id(region.interface)
    # Older shells, and images for them, know no interface uuid.
    if any(made_for) and _HEX_ID.fullmatch(interface) and made_for.hex() != interface:
        raise ImageError(f"it is made for interface {made_for.hex()}, and the card's is {interface}")
