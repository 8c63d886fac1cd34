import shutil
from pathlib import Path

import pytest

from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_sysfs import card_order
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.fpga import Family, Fpgas, Region
from tasuki.devices.model import Device, DeviceKind, Place, unhealthy
from tests.deviceplugin.discovery.fpga.conftest import ALVEO, DFL, SOC, Node, lay_out

INTERFACE = "69528db6eb31577a8c3668f9faa081f6"
NLB0 = "d8424dc4a4a3c413f89e433683f9040b"
NLB3 = "f7df405cbd7acf7222f144b0b93acd18"
GIB = 2**30


def fpga(name: str, card: str, *, index: str, model: str, place: Place, memory_bytes: int = 0) -> Device:
    return Device(name, DeviceKind.FPGA, index, model, memory_bytes, place=place, parent=card)


def on_pci(numa_node: int | None, *path: str) -> Place:
    return Place(numa_node, path[-1], path)


FIRST = on_pci(0, "pci0000:00", "0000:00:03.0", "0000:04:00.0")
SECOND = on_pci(1, "pci0000:80", "0000:80:01.0", "0000:81:00.0")
PAC = "Intel PAC with Arria 10 GX FPGA"

TREES = {
    "intel-dfl": (
        Region(
            device=fpga("0000:04:00.0-port0", "0000:04:00.0", index="0:0", model=PAC, place=FIRST),
            family=Family.DFL,
            interface=INTERFACE,
            loaded=NLB0,
            nodes=("/dev/dfl-port.0",),
            control=f"{DFL}/dfl-fme.0/dfl-fme-mgr.0/fpga_manager/fpga0",
        ),
        Region(
            device=fpga("0000:81:00.0-port0", "0000:81:00.0", index="1:0", model=PAC, place=SECOND),
            family=Family.DFL,
            interface=INTERFACE,
            loaded=NLB3,
            nodes=("/dev/dfl-port.1",),
            control="devices/pci0000:80/0000:80:01.0/0000:81:00.0/fpga_region/region2/dfl-fme.1/dfl-fme-mgr.1"
            "/fpga_manager/fpga1",
        ),
    ),
    "opae": (
        Region(
            device=fpga("0000:04:00.0-port0", "0000:04:00.0", index="0:0", model=PAC, place=FIRST),
            family=Family.OPAE,
            interface="9926ab6d6c925a68aabca7d84c545738",
            loaded=NLB3,
            nodes=("/dev/intel-fpga-port.0",),
            control="devices/pci0000:00/0000:00:03.0/0000:04:00.0/fpga/intel-fpga-dev.0/intel-fpga-fme.0",
        ),
        Region(
            device=fpga("0000:81:00.0-port0", "0000:81:00.0", index="1:0", model=PAC, place=SECOND),
            family=Family.OPAE,
            interface="9926ab6d6c925a68aabca7d84c545738",
            loaded=NLB3,
            nodes=("/dev/intel-fpga-port.1",),
            control="devices/pci0000:80/0000:80:01.0/0000:81:00.0/fpga/intel-fpga-dev.1/intel-fpga-fme.1",
        ),
    ),
    "d5005": (
        Region(
            device=fpga(
                "0000:af:00.0-port0",
                "0000:af:00.0",
                index="0:0",
                model="Intel FPGA PAC D5005",
                place=on_pci(None, "pci0000:ae", "0000:ae:00.0", "0000:af:00.0"),
            ),
            family=Family.DFL,
            interface="bfac4d851ee856fe8c95865ce1bbaa2d",
            loaded=NLB0,
            nodes=("/dev/dfl-port.0",),
            control="devices/pci0000:ae/0000:ae:00.0/0000:af:00.0/fpga_region/region0/dfl-fme.0/dfl-fme-mgr.0"
            "/fpga_manager/fpga0",
        ),
        Region(
            device=fpga(
                "0000:af:00.1-port1",
                "0000:af:00.0",
                index="0:1",
                model="Intel FPGA PAC D5005",
                place=on_pci(None, "pci0000:ae", "0000:ae:00.0", "0000:af:00.1"),
            ),
            family=Family.DFL,
            interface="bfac4d851ee856fe8c95865ce1bbaa2d",
            loaded="",
            nodes=("/dev/dfl-port.1",),
            control="devices/pci0000:ae/0000:ae:00.0/0000:af:00.0/fpga_region/region0/dfl-fme.0/dfl-fme-mgr.0"
            "/fpga_manager/fpga0",
        ),
    ),
    "alveo": (
        Region(
            device=fpga(
                "0000:17:00-user1",
                "0000:17:00",
                index="0:0",
                model="xilinx_u250_gen3x16_xdma_shell_4_1",
                place=on_pci(0, "pci0000:16", "0000:16:00.0", "0000:17:00.1"),
                memory_bytes=64 * GIB,
            ),
            family=Family.XRT,
            interface="f2b82d53372f45a4bbe93d1c980216da",
            loaded="2a6b7d1c-0f3e-4b52-9c1d-7e8f90a1b2c3",
            nodes=("/dev/dri/renderD128",),
            control="devices/pci0000:16/0000:16:00.0/0000:17:00.0",
            shell="xilinx_u250_gen3x16_xdma_shell_4_1-0",
        ),
        Region(
            device=fpga(
                "0000:b3:00-user1",
                "0000:b3:00",
                index="1:0",
                model="xilinx_u280_xdma_201920_3",
                place=on_pci(1, "pci0000:b2", "0000:b2:00.0", "0000:b3:00.1"),
                memory_bytes=32 * GIB,
            ),
            family=Family.XRT,
            interface="xilinx_u280_xdma_201920_3",
            loaded="",
            nodes=("/dev/dri/renderD129", "/dev/xfpga/dma.qdma.u45825.0"),
            control="devices/pci0000:b2/0000:b2:00.0/0000:b3:00.0",
            shell="xilinx_u280_xdma_201920_3-1579649056",
        ),
    ),
    "soc": (
        Region(
            device=fpga(
                "f8007000.devcfg-region0",
                "f8007000.devcfg",
                index="0:0",
                model="Xilinx Zynq FPGA Manager",
                place=Place(),
            ),
            family=Family.FPGA_REGION,
            interface="",
            loaded="resize.bit.bin",
            nodes=("/dev/uio0",),
            control=SOC,
        ),
    ),
}


@pytest.mark.parametrize(("node", "expected"), TREES.items(), indirect=["node"], ids=list(TREES))
def test_a_tree_is_read_whole(node: Node, expected: tuple[Region, ...]) -> None:
    assert node.scan() == Fpgas(regions=expected)


@pytest.mark.parametrize("node", TREES, indirect=True)
def test_scanning_again_finds_the_same(node: Node) -> None:
    assert node.scan() == node.scan()


def test_all_families_stand_side_by_side_in_one_node(tmp_path: Path) -> None:
    lay_out("intel-dfl", tmp_path)
    node = lay_out("alveo", tmp_path)

    assert {name: region.device.index for name, region in node.regions().items()} == {
        "0000:04:00.0-port0": "0:0",
        "0000:17:00-user1": "1:0",
        "0000:81:00.0-port0": "2:0",
        "0000:b3:00-user1": "3:0",
    }


def test_cards_are_numbered_by_their_address_and_those_that_have_none_come_last() -> None:
    cards = ["f8007000.devcfg", "10000:01:00.0", "0000:b3:00", "0000:0a:00.0"]

    assert sorted(cards, key=card_order) == ["0000:0a:00.0", "0000:b3:00", "10000:01:00.0", "f8007000.devcfg"]


def test_a_node_without_fpgas_has_none(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()

    assert FpgaSource(tmp_path).scan() == Fpgas()


def test_what_is_no_sysfs_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(DriverUnavailableError, match="has no folder class; set --sysfs-root"):
        FpgaSource(tmp_path).scan()


class TestACardThatVanishes:
    def test_stays_listed_as_lost_and_keeps_every_index(self, node: Node) -> None:
        before = node.regions()
        node.remove("class/fpga_region/region0")
        node.remove("class/fpga_region/region1")
        after = node.regions()

        assert after["0000:04:00.0-port0"].device.health == unhealthy("lost: the kernel no longer lists it")
        assert after["0000:81:00.0-port0"] == before["0000:81:00.0-port0"]

    def test_is_as_before_when_it_comes_back(self, node: Node) -> None:
        before = node.scan()
        hidden = node.sys / "class/hidden"
        (node.sys / "class/fpga_region").rename(hidden)
        assert len(node.reasons()) == 2
        hidden.rename(node.sys / "class/fpga_region")

        assert node.scan() == before

    def test_is_not_known_to_a_source_that_never_saw_it(self, node: Node) -> None:
        node.remove("class/fpga_region/region0")

        assert list(node.regions()) == ["0000:81:00.0-port0"]

    def test_takes_its_reason_from_what_could_not_be_read(self, node: Node) -> None:
        node.scan()
        node.write(f"{DFL}/dfl-port.0/id", "many")

        assert node.reasons() == {
            "0000:04:00.0-port0": f"lost: /sys/{DFL}/dfl-port.0/id cannot be read: 'many' is not a number of 64 bits"
        }

    @pytest.mark.parametrize("node", ["alveo"], indirect=True)
    def test_may_be_one_whose_driver_was_unloaded(self, node: Node) -> None:
        node.scan()
        shutil.rmtree(node.sys / "bus/pci/drivers")

        assert set(node.reasons()) == {"0000:17:00-user1", "0000:b3:00-user1"}


class TestDfl:
    def test_a_card_with_an_unreadable_port_number_is_left_out_with_a_sentence(self, node: Node) -> None:
        node.remove(f"{DFL}/dfl-port.0/id")
        fpgas = node.scan()

        assert [region.device.id for region in fpgas.regions] == ["0000:81:00.0-port0"]
        assert fpgas.unreadable == (
            f"0000:04:00.0 is left out: /sys/{DFL}/dfl-port.0/id cannot be read: there is no such file",
        )

    @pytest.mark.parametrize("node", ["d5005"], indirect=True)
    def test_a_virtual_function_alone_cannot_be_matched_with_an_image(self, node: Node) -> None:
        node.remove("class/fpga_region/region0")

        assert node.reasons() == {
            "0000:af:00.1-port1": "its card has no management engine here, so that its interface id is unknown"
        }

    def test_another_card_of_the_family_is_named_by_its_ids(self, node: Node) -> None:
        node.write("bus/pci/devices/0000:04:00.0/device", "0xaf00")

        assert node.regions()["0000:04:00.0-port0"].device.model == "FPGA 8086:af00"


class TestXrt:
    @pytest.mark.parametrize("node", ["alveo"], indirect=True)
    def test_a_user_function_without_management_function_is_used_and_not_programmed(self, node: Node) -> None:
        before = node.regions()["0000:17:00-user1"]
        shutil.rmtree(node.sys / "bus/pci/drivers/xclmgmt")
        shutil.rmtree(node.sys / "class/fpga_manager")
        region = node.regions()["0000:17:00-user1"]

        assert region.device == before.device
        assert region.control == ""

    @pytest.mark.parametrize("node", ["alveo"], indirect=True)
    def test_a_management_function_alone_is_told_of(self, node: Node) -> None:
        node.remove("bus/pci/drivers/xocl/0000:17:00.1")

        assert node.scan().unreadable == (
            "0000:17:00 is left out: management function 0000:17:00.0 has no user function that the driver xocl holds",
        )

    @pytest.mark.parametrize("node", ["alveo"], indirect=True)
    def test_reading_leaves_the_error_that_reading_would_clear(self, node: Node) -> None:
        (node.sys / f"{ALVEO}.0/error").unlink()
        (node.sys / f"{ALVEO}.0/error").mkdir()

        assert node.reasons() == {}

    @pytest.mark.parametrize(
        ("uuids", "interface"),
        [
            pytest.param("", "xilinx_u250_gen3x16_xdma_shell_4_1", id="none: the shell's name"),
            pytest.param("A" * 32 + "\n" + "B" * 32, "b" * 32, id="several: the innermost"),
        ],
    )
    @pytest.mark.parametrize("node", ["alveo"], indirect=True)
    def test_what_images_are_made_for(self, node: Node, uuids: str, interface: str) -> None:
        node.write(f"{ALVEO}.1/interface_uuids", uuids)

        assert node.regions()["0000:17:00-user1"].interface == interface

    @pytest.mark.parametrize(
        ("uuids", "loaded"),
        [
            pytest.param("", "", id="nothing loaded"),
            pytest.param("00000000-0000-0000-0000-000000000000", "", id="the uuid of nothing"),
            pytest.param(
                "0F3E2A6B-7D1C-4B52-9C1D-7E8F90A1B2C3\n2a6b7d1c-0f3e-4b52-9c1d-7e8f90a1b2c3",
                "0f3e2a6b-7d1c-4b52-9c1d-7e8f90a1b2c3",
                id="two slots",
            ),
        ],
    )
    @pytest.mark.parametrize("node", ["alveo"], indirect=True)
    def test_what_is_loaded(self, node: Node, uuids: str, loaded: str) -> None:
        node.write(f"{ALVEO}.1/xclbinuuid", uuids)

        assert node.regions()["0000:17:00-user1"].loaded == loaded
        assert node.reasons() == {}


@pytest.mark.parametrize("node", ["soc"], indirect=True)
class TestSoc:
    def test_nothing_is_loaded_without_an_overlay(self, node: Node) -> None:
        node.remove("firmware/devicetree/base/fpga-full/firmware-name")

        assert node.regions()["f8007000.devcfg-region0"].loaded == ""

    @pytest.mark.parametrize("state", ["power up", "reset"])
    def test_nothing_is_loaded_in_an_fpga_that_waits_for_its_first_image(self, node: Node, state: str) -> None:
        node.write(f"{SOC}/state", state)
        region = node.regions()["f8007000.devcfg-region0"]

        assert region.loaded == ""
        assert region.device.health.healthy

    def test_a_manager_without_region_is_one(self, node: Node) -> None:
        node.remove("class/fpga_region")

        assert list(node.regions()) == ["f8007000.devcfg-fpga0"]

    def test_the_device_tree_says_which_manager_programs_a_region(self, node: Node) -> None:
        other = node.sys / "devices/soc0/spi0.0/fpga_manager/fpga1"
        other.mkdir(parents=True)
        (other / "state").write_text("write error\n")
        (node.sys / "class/fpga_manager/fpga1").symlink_to("../../devices/soc0/spi0.0/fpga_manager/fpga1")

        assert set(node.reasons()) == {"spi0.0-fpga1"}

    def test_a_region_whose_manager_cannot_be_told_is_left_out(self, node: Node) -> None:
        (node.sys / "class/fpga_manager/fpga1").symlink_to("../../devices/soc0/spi0.0/fpga_manager/fpga1")
        node.remove("firmware/devicetree/base/fpga-full/fpga-mgr")

        (sentence,) = node.scan().unreadable
        assert sentence.startswith("region0 is left out: ")
        assert sentence.endswith("/region0 does not say which of 2 managers programs it")


class TestProbe:
    def test_finds_nothing_on_a_good_card(self, node: Node) -> None:
        assert node.source.probe("0000:04:00.0") == ""
        assert node.source.probe("0000:04:00.0-port0") == ""

    def test_tells_what_is_wrong(self, node: Node) -> None:
        node.write(f"{DFL}/dfl-port.0/power_state", "0x6")

        assert node.source.probe("0000:04:00.0") == "the port is stopped: its power state is AP6"

    @pytest.mark.parametrize("node", ["d5005"], indirect=True)
    def test_a_card_with_a_good_port_is_good(self, node: Node) -> None:
        node.remove("../dev/dfl-port.1")

        assert node.source.probe("0000:af:00.0") == ""
        assert node.source.probe("0000:af:00.1-port1") == "its device file /dev/dfl-port.1 does not exist"

    def test_tells_of_a_card_that_nobody_knows(self, node: Node) -> None:
        assert node.source.probe("0000:99:00.0") == "the kernel lists no such FPGA"

    def test_tells_that_nothing_can_be_read(self, tmp_path: Path) -> None:
        assert "is no sysfs" in FpgaSource(tmp_path).probe("0000:04:00.0")


def test_waiting_for_faults_ends_with_the_timeout_or_with_the_source(node: Node) -> None:
    assert node.source.wait_for_faults(0.01) == []
    node.source.close()
    assert node.source.wait_for_faults(60) == []
