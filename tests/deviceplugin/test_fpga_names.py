"""The names under which Intel's and AMD's plugins offer regions."""

import pytest

from deviceplugin.fpga import Family
from deviceplugin.fpga_names import amd, intel_af, intel_region
from tests.fpga_builders import INTERFACE, RESIZE, a_region

ALL_ONES = "f" * 32


def test_intels_example_has_intels_name() -> None:
    region = a_region(loaded=RESIZE)

    assert intel_af(region) == "fpga.intel.com/af-695.d84.aVKNtusxV3qMNmj5-qCB9thCTcSko8QT-J5DNoP5BAs"
    assert intel_region(region) == f"fpga.intel.com/region-{INTERFACE}"


def test_the_spelling_of_an_id_makes_no_difference() -> None:
    spelled = "D8424DC4-A4A3-C413-F89E-433683F9040B"

    assert intel_af(a_region(loaded=spelled)) == intel_af(a_region(loaded=RESIZE))


@pytest.mark.parametrize(
    ("interface", "loaded"),
    [
        pytest.param("", RESIZE, id="no interface"),
        pytest.param(ALL_ONES, RESIZE, id="an interface of ones"),
        pytest.param("69528db6", RESIZE, id="half an interface"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_a_region_without_interface_has_no_name(interface: str, loaded: str) -> None:
    region = a_region(interface=interface, loaded=loaded)

    assert (intel_region(region), intel_af(region)) == ("", "")


@pytest.mark.parametrize("loaded", [pytest.param("", id="nothing"), pytest.param(ALL_ONES, id="ones")])
def test_a_region_without_afu_has_no_af_name(loaded: str) -> None:
    region = a_region(loaded=loaded)

    assert intel_af(region) == ""
    assert intel_region(region)


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        pytest.param(
            "xilinx_u280_xdma_201920_3-1579649056", "amd.com/xilinx_u280_xdma_201920_3-1579649056", id="a shell"
        ),
        pytest.param("", "", id="no shell"),
        pytest.param("xilinx_u280-", "", id="no timestamp"),
        pytest.param("xilinx u280-1", "", id="a space"),
        pytest.param("x" * 64, "", id="longer than Kubernetes takes"),
    ],
)
def test_amds_names(shell: str, expected: str) -> None:
    assert amd(a_region(family=Family.XRT, shell=shell)) == expected


def test_each_peer_names_its_own_cards_only() -> None:
    shell = "xilinx_u280_xdma_201920_3-1579649056"

    assert amd(a_region(family=Family.DFL, shell=shell)) == ""
    assert intel_af(a_region(family=Family.XRT, loaded=RESIZE)) == ""
    assert intel_region(a_region(family=Family.FPGA_REGION)) == ""
