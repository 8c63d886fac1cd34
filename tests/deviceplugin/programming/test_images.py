"""Images are found by name and checked before anything is written."""

import os
import struct
from pathlib import Path

import pytest

from deviceplugin.fpga import Family
from deviceplugin.programming.images import ImageError, NoFolderError, check_header, checked, gbs_body, names
from tests.fpga_builders import INTERFACE, RESIZE, SHARPEN, a_gbs, a_region, an_implementation, an_xclbin

UUID = "2a6b7d1c0f3e4b529c1d7e8f90a1b2c3"
SHELL = "f2b82d53372f45a4bbe93d1c980216da"


def test_a_good_image_is_found_through_a_configmaps_links(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026/resize.gbs").write_bytes(a_gbs())
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "resize.gbs").symlink_to("..data/resize.gbs")

    path = checked(tmp_path, a_region(), an_implementation(bitstream="resize.gbs"))

    assert path.read_bytes() == a_gbs()
    assert names(tmp_path) == {"resize.gbs"}


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"resize\.gbs is not in the folder of bitstreams"):
        checked(tmp_path, a_region(), an_implementation(bitstream="resize.gbs"))


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NoFolderError, match="there is no folder of bitstreams"):
        checked(tmp_path / "none", a_region(), an_implementation())


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "resize.gbs"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to("nothing")

    with pytest.raises(ImageError, match=r"is not a regular file|cannot be read"):
        checked(tmp_path, a_region(), an_implementation(bitstream="resize.gbs"))


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "resize.gbs").touch()

    with pytest.raises(ImageError, match="has 0 bytes"):
        checked(tmp_path, a_region(), an_implementation(bitstream="resize.gbs"))


def test_a_refusal_names_the_file_and_says_that_nothing_happened(tmp_path: Path) -> None:
    (tmp_path / "resize.gbs").write_bytes(b"not an image at all, but long enough")

    with pytest.raises(ImageError, match=r"resize\.gbs: it does not begin as a GBS file does.*; nothing was written"):
        checked(tmp_path, a_region(), an_implementation(bitstream="resize.gbs"))


HEADER = struct.pack("<QQ", 0x414750466E6F6558, 0x31303076534247B7)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(
            a_gbs("ab" * 16),
            f"it is made for interface '{'ab' * 16}', and the region's is '{INTERFACE}'",
            id="another interface",
        ),
        pytest.param(
            a_gbs(INTERFACE, SHARPEN), f"it holds the AFU {SHARPEN}, and the catalogue says {RESIZE}", id="another AFU"
        ),
        pytest.param(a_gbs(INTERFACE, RESIZE, SHARPEN), f"it holds the AFU {RESIZE}, {SHARPEN}", id="two AFUs"),
        pytest.param(a_gbs(metadata=b'{"afu-image": {}}'), "it is made for interface ''", id="empty metadata"),
        pytest.param(a_gbs(metadata=b'{"version": 1}'), "its GBS metadata cannot be read", id="no AFU in it"),
        pytest.param(a_gbs(metadata=b'{"afu-image": 5}'), "its GBS metadata cannot be read", id="a number for an AFU"),
        pytest.param(
            a_gbs(metadata=b'{"afu-image": {"interface-uuid": "\xff"}}'),
            "its GBS metadata cannot be read",
            id="no UTF-8",
        ),
        pytest.param(a_gbs(metadata=b"[" * 3000), "its GBS metadata cannot be read", id="nested without end"),
        pytest.param(a_gbs(metadata=b"{"), "its GBS metadata cannot be read", id="half the metadata"),
        pytest.param(a_gbs(metadata=b"\xff\xfe{}"), "its GBS metadata cannot be read", id="no text"),
        pytest.param(a_gbs(body=b""), "where its header and metadata alone have", id="no body"),
        pytest.param(a_gbs()[:40], "it ends after 40 bytes", id="cut off"),
        pytest.param(HEADER, "it has 16 bytes, and a GBS header alone has 20", id="half a header"),
        pytest.param(HEADER + struct.pack("<I", 0) + b"x", "its GBS metadata has 0 bytes", id="no metadata"),
        pytest.param(
            HEADER + struct.pack("<I", 2**31) + b"x", "its GBS metadata has 2147483648 bytes", id="too much of it"
        ),
        pytest.param(an_xclbin(UUID), "it does not begin as a GBS file does", id="an xclbin"),
    ],
)
@pytest.mark.parametrize("family", [Family.DFL, Family.OPAE])
def test_a_gbs_file_must_be_for_the_region(content: bytes, problem: str, family: Family) -> None:
    with pytest.raises(ImageError) as error:
        check_header(content, len(content), a_region(family=family), an_implementation(family=family))

    assert problem in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(a_gbs(), id="plain"),
        pytest.param(
            a_gbs("69528DB6-EB31-577A-8C36-68F9FAA081F6", "D8424DC4-A4A3-C413-F89E-433683F9040B"), id="dashes"
        ),
    ],
)
def test_a_good_gbs_file_in_any_spelling(content: bytes) -> None:
    check_header(content, len(content), a_region(), an_implementation())


def test_what_the_hardware_takes_begins_behind_the_metadata() -> None:
    content = a_gbs(body=b"RAW")

    assert content[gbs_body(content, len(content)) :] == b"RAW"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(an_xclbin("ab" * 16, SHELL), f"its uuid is {'ab' * 16}, and the catalogue says {UUID}", id="uuid"),
        pytest.param(
            an_xclbin(UUID, "ab" * 16),
            f"it is made for interface {'ab' * 16}, and the card's is {SHELL}",
            id="another interface",
        ),
        pytest.param(
            an_xclbin(UUID, SHELL, length=10**6), "it is cut off: 520 bytes, and its header says 1000000", id="cut off"
        ),
        pytest.param(
            an_xclbin(UUID, SHELL)[:400], "it has 400 bytes, and an xclbin's header alone has 432", id="short"
        ),
        pytest.param(a_gbs(body=b"\0" * 512), "it does not begin as an xclbin does", id="a GBS file"),
    ],
)
def test_an_xclbin_must_be_for_the_card(content: bytes, problem: str) -> None:
    region = a_region(family=Family.XRT, interface=SHELL)

    with pytest.raises(ImageError) as error:
        check_header(content, len(content), region, an_implementation(UUID, family=Family.XRT, interface=SHELL))

    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("made_for", "interface"),
    [
        pytest.param(SHELL, SHELL, id="the same interface"),
        pytest.param("", SHELL, id="an image that says none"),
        pytest.param(SHELL, "xilinx_u280_xdma_201920_3", id="an older shell"),
    ],
)
def test_a_good_xclbin(made_for: str, interface: str) -> None:
    content = an_xclbin(UUID, made_for)
    region = a_region(family=Family.XRT, interface=interface)

    check_header(content, len(content), region, an_implementation(UUID, family=Family.XRT, interface=interface))


def test_an_image_for_a_device_tree_has_no_header() -> None:
    check_header(b"anything", 8, a_region(family=Family.FPGA_REGION), an_implementation(family=Family.FPGA_REGION))
