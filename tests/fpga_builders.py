"""Builders for tests that are about FPGAs: regions, catalogues and images in one line each."""

import json
import struct
from collections.abc import Mapping

from deviceplugin.config.model import (
    FpgaFunction,
    FpgaImplementation,
    FpgaOptions,
    FpgaPrewarm,
    FpgaProgrammer,
    PeerNames,
)
from deviceplugin.fpga import Family, Fpgas, Region
from tasuki.devices.model import HEALTHY, Device, DeviceKind, Health, Place

# The ids of Intel's example AFU, for which its plugin's tests know the resource name.
INTERFACE = "69528db6eb31577a8c3668f9faa081f6"
RESIZE = "d8424dc4a4a3c413f89e433683f9040b"
SHARPEN = "f7df405cbd7acf7222f144b0b93acd18"


def a_region(
    card: int = 0,
    number: int = 0,
    *,
    family: Family = Family.DFL,
    interface: str = INTERFACE,
    loaded: str = "",
    shell: str = "",
    health: Health = HEALTHY,
    root: str | None = None,
    numa_node: int | None = 0,
) -> Region:
    """A region named `fpga<card>-port<number>`, on a card whose PCIe root is its own unless said otherwise."""
    address = f"0000:{card + 1:02x}:00.0"
    path = (root or f"pci0000:{card + 1:02x}", address) if root != "" else ()
    return Region(
        device=Device(
            id=f"fpga{card}-port{number}",
            kind=DeviceKind.FPGA,
            index=f"{card}:{number}",
            model="Intel PAC with Arria 10 GX FPGA",
            memory_bytes=0,
            health=health,
            place=Place(numa_node=numa_node, pci_address=address, pcie_path=path),
            parent=f"fpga{card}",
        ),
        family=family,
        interface=interface,
        loaded=loaded,
        nodes=(f"/dev/dfl-port.{8 * card + number}",),
        control=f"devices/fpga{card}/dfl-fme.{card}/fpga_manager/fpga{card}",
        shell=shell,
    )


def some_fpgas(*regions: Region) -> Fpgas:
    return Fpgas(regions)


def an_implementation(
    id_: str = RESIZE,
    *,
    family: Family = Family.DFL,
    interface: str = INTERFACE,
    channels: int = 1,
    users: int | None = None,
    seconds: float = 8.0,
    bitstream: str = "",
) -> FpgaImplementation:
    return FpgaImplementation(
        family=family,
        interface=interface,
        id=id_,
        bitstream=bitstream or f"{id_[:4]}.gbs",
        programming_seconds=seconds,
        channels=channels,
        users=channels if users is None else users,
    )


def a_catalogue(
    functions: Mapping[str, FpgaImplementation | tuple[FpgaImplementation, ...]] | None = None,
    *,
    peers: PeerNames = PeerNames.NONE,
    prewarm: tuple[FpgaPrewarm, ...] = (),
    programmer: FpgaProgrammer | None = None,
) -> FpgaOptions:
    """A catalogue; of `resize` and `sharpen` for one kind of card unless said otherwise."""
    if functions is None:
        functions = {"resize": an_implementation(RESIZE), "sharpen": an_implementation(SHARPEN)}
    return FpgaOptions(
        functions=tuple(
            FpgaFunction(name=name, implementations=found if isinstance(found, tuple) else (found,))
            for name, found in functions.items()
        ),
        peer_names=peers,
        prewarm=prewarm,
        programmer=programmer or FpgaProgrammer(),
    )


def a_gbs(interface: str = INTERFACE, *afus: str, metadata: bytes | None = None, body: bytes = b"\x55" * 64) -> bytes:
    """An image as OPAE's packager makes it, with these AFUs; one with `resize` if none is given."""
    clusters = [{"accelerator-type-uuid": afu, "name": "afu", "total-contexts": 1} for afu in afus or (RESIZE,)]
    if metadata is None:
        image = {"interface-uuid": interface, "accelerator-clusters": clusters, "magic-no": 488605312}
        metadata = json.dumps({"version": 1, "afu-image": image, "platform-name": ""}).encode()
    return struct.pack("<QQI", 0x414750466E6F6558, 0x31303076534247B7, len(metadata)) + metadata + body


def an_xclbin(uuid: str, interface: str = "", *, body: bytes = b"\x55" * 64, length: int | None = None) -> bytes:
    """An image as XRT's linker makes it, up to where its sections would begin."""
    size = 456 + len(body) if length is None else length
    header = struct.pack("<8si28s256sQ", b"xclbin2\0", -1, b"\xff" * 28, b"\0" * 256, 1)
    header += struct.pack("<QQQHBBHH", size, 0, 0, 0, 2, 1, 0, 0)
    header += bytes.fromhex(interface or "00" * 16) + b"xilinx_u250".ljust(64, b"\0")
    header += bytes.fromhex(uuid) + b"\0" * 16 + struct.pack("<I", 0) + b"\0" * 4
    return header + body
