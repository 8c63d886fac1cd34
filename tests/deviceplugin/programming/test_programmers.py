"""The ways to program a region: the kernel's, and a vendor's tool."""

import ctypes
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deviceplugin.config.model import FpgaProgrammer
from deviceplugin.config.values import canonical_id
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from deviceplugin.discovery.simulated_fpga import Failure, SimulatedKernel
from deviceplugin.fpga import Family, Region
from deviceplugin.programming.choosing import HostProgrammers, OneProgrammer
from deviceplugin.programming.command import CommandProgrammer
from deviceplugin.programming.firmware import FirmwareProgrammer
from deviceplugin.programming.intel import IntelProgrammer
from deviceplugin.programming.programmer import ProgrammingError
from deviceplugin.programming.readback import Readback
from deviceplugin.programming.simulated import SimulatedProgrammer
from tests.fpga_builders import RESIZE, SHARPEN, a_gbs, a_region

SOC_MANAGER = "devices/soc0/axi/f8007000.devcfg/fpga_manager/fpga0"


class Call:
    """Takes an ioctl as the kernel would: reads the argument, and the image where it points."""

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.made: list[tuple[int, tuple[int, ...], bytes]] = []

    def __call__(self, _node: int, request: int, argument: bytes) -> int:
        fields = struct.unpack(self.layout, argument)
        self.made.append((request, fields[:4], ctypes.string_at(fields[4], fields[3])))
        return 0


@pytest.fixture
def sys_root(tmp_path: Path) -> Path:
    return materialise("intel-dfl", tmp_path)


@pytest.fixture
def region(sys_root: Path) -> Region:
    return FpgaSource(sys_root, dev_of(sys_root)).scan().regions[1]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "resize.gbs"
    path.write_bytes(a_gbs(body=b"RAW!"))
    return path


class TestIntel:
    def test_the_ports_image_is_handed_to_the_management_engine(
        self, sys_root: Path, region: Region, image: Path
    ) -> None:
        call = Call("=IIIIQ")

        IntelProgrammer(sys_root, dev_of(sys_root), call).program(region, image, RESIZE)

        # DFL_FPGA_FME_PORT_PR of linux/fpga-dfl.h; argsz, flags, port_id, buffer_size.
        assert call.made == [(0xB680, (24, 0, 0, 4), b"RAW!")]

    def test_the_older_driver_has_another_number_and_a_status_behind(self, tmp_path: Path, image: Path) -> None:
        call = Call("=IIIIQQ")
        sys_root = tmp_path / "old"
        port = sys_root / "class/fpga/intel-fpga-dev.0/intel-fpga-port.3"
        port.mkdir(parents=True)
        (port / "id").write_text("2\n")
        (tmp_path / "intel-fpga-fme.0").touch()
        region = replace(
            a_region(family=Family.OPAE),
            nodes=("/dev/intel-fpga-port.3",),
            control="class/fpga/intel-fpga-dev.0/intel-fpga-fme.0",
        )

        IntelProgrammer(sys_root, tmp_path, call).program(region, image, RESIZE)

        assert call.made == [(0xB580, (32, 0, 2, 4), b"RAW!")]

    def test_what_the_driver_refuses_is_told(self, sys_root: Path, region: Region, image: Path) -> None:
        # The device file is an empty file here, which knows no ioctl.
        with pytest.raises(ProgrammingError, match=r"dfl-fme\.1 refused resize\.gbs for port 0 of 0000:81:00\.0-port0"):
            IntelProgrammer(sys_root, dev_of(sys_root)).program(region, image, RESIZE)

    def test_a_port_without_management_engine_is_refused(self, sys_root: Path, region: Region, image: Path) -> None:
        with pytest.raises(ProgrammingError, match="has no management engine here"):
            IntelProgrammer(sys_root, dev_of(sys_root)).program(replace(region, control=""), image, RESIZE)

    @pytest.mark.parametrize("nodes", [(), ("/dev/dfl-port.9",)], ids=["no port", "a port that is gone"])
    def test_a_port_without_number_is_refused(
        self, nodes: tuple[str, ...], sys_root: Path, region: Region, image: Path
    ) -> None:
        with pytest.raises(ProgrammingError, match="tells which port"):
            IntelProgrammer(sys_root, dev_of(sys_root)).program(replace(region, nodes=nodes), image, RESIZE)

    def test_an_image_that_vanished_is_told(self, sys_root: Path, region: Region, tmp_path: Path) -> None:
        with pytest.raises(ProgrammingError, match="No such file"):
            IntelProgrammer(sys_root, dev_of(sys_root)).program(region, tmp_path / "none", RESIZE)


class TestFirmware:
    @pytest.fixture
    def soc(self, tmp_path: Path) -> Path:
        root = materialise("soc", tmp_path / "soc")
        (root / SOC_MANAGER / "firmware").touch()
        (tmp_path / "firmware").mkdir()
        return root

    @pytest.fixture
    def bit(self, tmp_path: Path) -> Path:
        path = tmp_path / "blur.bit.bin"
        path.write_bytes(b"bits")
        return path

    def region_of(self, root: Path) -> Region:
        return FpgaSource(root, dev_of(root)).scan().regions[0]

    def test_the_manager_is_told_the_images_name(self, soc: Path, bit: Path, tmp_path: Path) -> None:
        FirmwareProgrammer(soc, tmp_path / "firmware").program(self.region_of(soc), bit, "blur.bit.bin")

        assert (soc / SOC_MANAGER / "firmware").read_text() == "tasuki-fpga0-blur.bit.bin\n"
        assert list((tmp_path / "firmware").iterdir()) == []

    def test_a_kernel_without_that_file_is_told_of(self, soc: Path, bit: Path, tmp_path: Path) -> None:
        region = self.region_of(soc)
        (soc / SOC_MANAGER / "firmware").unlink()

        with pytest.raises(ProgrammingError, match=r"takes no images by name; set tasuki\.fpga\.programmer\.command"):
            FirmwareProgrammer(soc, tmp_path / "firmware").program(region, bit, "blur.bit.bin")

    def test_a_state_that_is_not_operating_is_a_failure(self, soc: Path, bit: Path, tmp_path: Path) -> None:
        region = self.region_of(soc)
        (soc / SOC_MANAGER / "state").write_text("write error\n")

        with pytest.raises(ProgrammingError, match=r"state is 'write error' after blur\.bit\.bin was loaded"):
            FirmwareProgrammer(soc, tmp_path / "firmware").program(region, bit, "blur.bit.bin")

    def test_a_folder_that_is_not_there_is_told_of(self, soc: Path, bit: Path, tmp_path: Path) -> None:
        with pytest.raises(ProgrammingError, match="No such file or directory"):
            FirmwareProgrammer(soc, tmp_path / "none").program(self.region_of(soc), bit, "blur.bit.bin")


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "tool"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{text}\n")
    path.chmod(0o755)
    return str(path)


def _is_running(stat: Path) -> bool:
    """Nobody may be there to wait for a child of a process that was killed: it stays a zombie."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestCommand:
    def test_image_and_address_are_filled_in_without_a_shell(self, tmp_path: Path) -> None:
        image = tmp_path / "re size; rm -rf $HOME.gbs"
        out = tmp_path / "out"
        tool = script(tmp_path, f"open({str(out)!r}, 'w').write(repr(sys.argv[1:]))")

        CommandProgrammer((tool, "--to={pci}", "{image}", "{other}"), 30).program(a_region(2), image, RESIZE)

        assert out.read_text() == repr(["--to=0000:03:00.0", str(image), "{other}"])

    def test_a_failure_quotes_status_and_output(self, tmp_path: Path) -> None:
        tool = script(tmp_path, "print('card is'); print('  busy', file=sys.stderr); sys.exit(3)")

        with pytest.raises(ProgrammingError, match=r"ended with status 3; it said: (card is busy|busy card is)"):
            CommandProgrammer((tool, "{image}"), 30).program(a_region(), tmp_path, RESIZE)

    def test_only_the_end_of_much_output_is_quoted(self, tmp_path: Path) -> None:
        tool = script(tmp_path, "print('x' * 3_000_000 + 'the end'); sys.exit(1)")

        with pytest.raises(ProgrammingError) as error:
            CommandProgrammer((tool, "{image}"), 30).program(a_region(), tmp_path, RESIZE)

        assert str(error.value).endswith("xthe end")
        assert len(str(error.value)) < 1500

    def test_a_program_that_hangs_is_killed_with_its_children(self, tmp_path: Path) -> None:
        mark, tool = tmp_path / "children", tmp_path / "tool"
        # A shell is there at once, also where an interpreter takes long to start.
        tool.write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! > '{mark}'\necho on it\nwait\n")
        tool.chmod(0o755)

        with pytest.raises(ProgrammingError, match=r"was stopped after 1\.5 s; it said: on it"):
            CommandProgrammer((str(tool), "{image}"), 1.5).program(a_region(), tmp_path, RESIZE)

        children = [Path(f"/proc/{pid}/stat") for pid in mark.read_text().split()]
        assert len(children) == 2
        # Who is killed is gone a moment later.
        ends = time.monotonic() + 20
        while any(map(_is_running, children)):
            assert time.monotonic() < ends
            time.sleep(0.01)

    def test_what_a_program_leaves_running_is_not_waited_for(self, tmp_path: Path) -> None:
        text = "if os.fork() == 0:\n    time.sleep(3)\n    os._exit(0)\nprint('done')"

        CommandProgrammer((script(tmp_path, text), "{image}"), 30).program(a_region(), tmp_path, RESIZE)

    def test_a_program_that_is_not_there_is_told_of(self, tmp_path: Path) -> None:
        with pytest.raises(
            ProgrammingError, match="could not be run: No such file or directory; is the program in the"
        ):
            CommandProgrammer(("no-such-tool", "{image}"), 30).program(a_region(), tmp_path, RESIZE)

    def test_an_address_that_a_region_has_not_is_told_of(self, tmp_path: Path) -> None:
        region = a_region()
        device = replace(region.device, place=replace(region.device.place, pci_address=""))

        with pytest.raises(ProgrammingError, match="has no PCI address"):
            CommandProgrammer(("true", "{pci}"), 30).program(replace(region, device=device), tmp_path, RESIZE)


class TestChoosing:
    def test_the_kernel_programs_all_but_xrts_cards(self) -> None:
        host = HostProgrammers(Path("/sys"))
        options = FpgaProgrammer()

        assert host.families(options) == {Family.DFL, Family.OPAE, Family.FPGA_REGION}
        assert isinstance(host.choose(options, Family.DFL, 1), IntelProgrammer)
        assert host.choose(options, Family.FPGA_REGION, 1) == FirmwareProgrammer(Path("/sys"), Path("/lib/firmware"))

    def test_a_command_takes_the_families_that_it_is_for(self) -> None:
        host = HostProgrammers(Path("/sys"))
        options = FpgaProgrammer(command=("xbutil", "{image}"), families=(Family.XRT,))

        assert host.families(options) == set(Family)
        assert host.choose(options, Family.XRT, 7) == CommandProgrammer(("xbutil", "{image}"), 7)
        assert isinstance(host.choose(options, Family.OPAE, 7), IntelProgrammer)

    def test_a_command_for_all_takes_all(self) -> None:
        options = FpgaProgrammer(command=("tool", "{image}"))

        chosen = [HostProgrammers(Path("/sys")).choose(options, family, 7) for family in Family]

        assert chosen == [CommandProgrammer(("tool", "{image}"), 7)] * len(Family)

    def test_simulated_cards_know_one_alone(self, sys_root: Path) -> None:
        programmer = SimulatedProgrammer(SimulatedKernel(sys_root, seconds=0))
        one = OneProgrammer(programmer)

        assert one.families(FpgaProgrammer()) == set(Family)
        assert one.choose(FpgaProgrammer(command=("x", "{image}")), Family.XRT, 1) is programmer


class TestReadback:
    @pytest.mark.parametrize("tree", ["intel-dfl", "alveo", "soc"])
    def test_it_reads_what_a_scan_reads(self, tree: str, tmp_path: Path) -> None:
        root = materialise(tree, tmp_path)

        for region in FpgaSource(root, dev_of(root)).scan().regions:
            assert Readback(root).loaded(region, "") == region.loaded

    @pytest.mark.parametrize("tree", ["intel-dfl", "alveo", "soc"])
    def test_it_sees_what_was_programmed(self, tree: str, tmp_path: Path, image: Path) -> None:
        root = materialise(tree, tmp_path / tree)
        programmer = SimulatedProgrammer(SimulatedKernel(root, seconds=0))

        for region in FpgaSource(root, dev_of(root)).scan().regions:
            programmer.program(region, image, SHARPEN)

            assert canonical_id(Readback(root).loaded(region, "")) == SHARPEN

    def test_a_simulated_failure_is_a_failure(self, sys_root: Path, region: Region, image: Path) -> None:
        kernel = SimulatedKernel(sys_root, seconds=0)
        kernel.fail_next(region.device.id, Failure.CRC)

        with pytest.raises(ProgrammingError, match="reconfig CRC error"):
            SimulatedProgrammer(kernel).program(region, image, SHARPEN)

    def test_a_port_that_is_gone_is_told_of(self, sys_root: Path, region: Region) -> None:
        with pytest.raises(ProgrammingError, match="the kernel no longer lists the port"):
            Readback(sys_root).loaded(replace(region, nodes=("/dev/dfl-port.9",)), "")

    def test_a_card_that_is_gone_is_told_of(self, sys_root: Path) -> None:
        with pytest.raises(ProgrammingError, match=r"what region fpga0-port0 holds cannot be read: .*xclbinuuid"):
            Readback(sys_root).loaded(a_region(family=Family.XRT), "")

    def test_what_was_loaded_by_name_is_remembered_as_the_device_tree_does_not_know(self, tmp_path: Path) -> None:
        root = materialise("soc", tmp_path)
        region = FpgaSource(root, dev_of(root)).scan().regions[0]
        (root / SOC_MANAGER / "firmware").touch()

        assert Readback(root).loaded(region, "blur.bit.bin") == "blur.bit.bin"
        assert Readback(root).loaded(region, "") == ""

    def test_nothing_is_in_an_fpga_that_does_not_operate(self, tmp_path: Path) -> None:
        root = materialise("soc", tmp_path)
        region = FpgaSource(root, dev_of(root)).scan().regions[0]
        (root / SOC_MANAGER / "state").write_text("write error\n")

        assert Readback(root).loaded(region, "blur.bit.bin") == ""
