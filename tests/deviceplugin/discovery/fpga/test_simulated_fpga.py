import threading
from pathlib import Path

import pytest

from deviceplugin.discovery import simulated_fpga
from deviceplugin.discovery.simulated_fpga import Failure, SimulatedKernel, SimulatedWriteError
from deviceplugin.fpga import Region
from tests.deviceplugin.discovery.fpga.conftest import DFL, SOC, Node

AFU = "3e8a1c40c5f84f4bb7bb6a8c4e5c1d2f"
XCLBIN = "7d9e0a11-2233-4455-6677-8899aabbccdd"
FIRST = {
    "intel-dfl": ("0000:04:00.0-port0", AFU),
    "opae": ("0000:04:00.0-port0", AFU),
    "d5005": ("0000:af:00.1-port1", AFU),
    "alveo": ("0000:17:00-user1", XCLBIN),
    "soc": ("f8007000.devcfg-region0", "denoise.bit.bin"),
}
MANAGER = f"{DFL}/dfl-fme.0/dfl-fme-mgr.0/fpga_manager/fpga0"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image"
    file.write_bytes(b"bits")
    return file


def first(node: Node) -> Region:
    return node.scan().regions[0]


@pytest.mark.parametrize(("node", "target"), FIRST.items(), indirect=["node"], ids=list(FIRST))
def test_an_image_that_is_written_is_what_the_next_scan_finds(node: Node, target: tuple[str, str], image: Path) -> None:
    name, loaded = target
    node.kernel.program(node.regions()[name], image, loaded)

    region = node.regions()[name]
    assert region.loaded == loaded
    assert region.device.health.healthy


@pytest.mark.parametrize(
    ("node", "state", "walk"),
    [
        pytest.param("intel-dfl", MANAGER, ["write init", "write", "write complete"], id="partial reconfiguration"),
        pytest.param(
            "soc",
            SOC,
            ["firmware request", "parse header", "write init", "write", "write complete"],
            id="image from a file",
        ),
    ],
    indirect=["node"],
)
def test_the_manager_walks_through_its_states(
    node: Node, state: str, walk: list[str], image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    reasons: list[str] = []

    def look(seconds: float) -> None:
        seen.append((node.sys / state / "state").read_text().strip())
        reasons.extend(node.reasons().values())

    region = first(node)
    monkeypatch.setattr("deviceplugin.discovery.simulated_fpga.time.sleep", look)
    node.kernel.program(region, image, AFU)

    assert seen == walk
    assert reasons == [f"being programmed: fpga_manager's state is '{step}'" for step in walk]
    assert (node.sys / state / "state").read_text() == "operating\n"


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure is not Failure.ID_UNCHANGED])
def test_a_failure_is_raised_and_can_be_seen_afterwards(failure: Failure, node: Node, image: Path) -> None:
    node.kernel.fail_next("0000:04:00.0-port0", failure)
    region = first(node)
    with pytest.raises(SimulatedWriteError, match=f"failed: {failure}"):
        node.kernel.program(region, image, AFU)

    assert f"is '{failure}'" in node.reasons()["0000:04:00.0-port0"]
    assert first(node).loaded == (region.loaded if failure in simulated_fpga._BEFORE_WRITING else "")


@pytest.mark.parametrize("node", ["soc"], indirect=True)
@pytest.mark.parametrize("failure", [Failure.FIRMWARE_REQUEST, Failure.PARSE_HEADER])
def test_a_failure_before_the_image_is_written(failure: Failure, node: Node, image: Path) -> None:
    node.kernel.fail_next("f8007000.devcfg-region0", failure)
    with pytest.raises(SimulatedWriteError):
        node.kernel.program(first(node), image, "denoise.bit.bin")

    assert f"is '{failure}'" in node.reasons()["f8007000.devcfg-region0"]
    assert first(node).loaded == "resize.bit.bin"


def test_a_success_that_changed_nothing(node: Node, image: Path) -> None:
    before = first(node)
    node.kernel.fail_next(before.device.id, Failure.ID_UNCHANGED)
    node.kernel.program(before, image, AFU)

    assert first(node) == before


def test_a_failure_happens_once(node: Node, image: Path) -> None:
    region = first(node)
    node.kernel.fail_next(region.device.id, Failure.CRC)
    with pytest.raises(SimulatedWriteError):
        node.kernel.program(region, image, AFU)
    node.kernel.program(region, image, AFU)

    assert first(node).loaded == AFU
    assert node.reasons() == {}


def test_other_regions_are_not_touched(node: Node, image: Path) -> None:
    before = node.scan().regions[1]
    node.kernel.program(first(node), image, AFU)

    assert node.scan().regions[1] == before


@pytest.mark.parametrize("node", ["soc"], indirect=True)
def test_an_image_that_is_not_there(node: Node, tmp_path: Path) -> None:
    with pytest.raises(SimulatedWriteError, match="failed: firmware request error"):
        node.kernel.program(first(node), tmp_path / "none", "denoise.bit.bin")


def test_a_failure_that_nobody_knows(node: Node, image: Path) -> None:
    region = first(node)
    (node.sys.parent / "failures").mkdir()
    (node.sys.parent / "failures" / region.device.id).write_text("sulks\n")

    with pytest.raises(SimulatedWriteError, match="'sulks' is not a valid Failure; known are firmware request error"):
        node.kernel.program(region, image, AFU)


def test_a_card_that_has_vanished(node: Node, image: Path) -> None:
    region = first(node)
    node.remove(f"{DFL}/dfl-port.0")

    with pytest.raises(SimulatedWriteError, match="has lost files"):
        node.kernel.program(region, image, AFU)


def test_programming_takes_as_long_as_it_is_told(node: Node, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("deviceplugin.discovery.simulated_fpga.time.sleep", slept.append)
    SimulatedKernel(node.sys, seconds=6).program(first(node), image, AFU)

    assert slept == [2, 2, 2]


def test_scans_during_programming_see_whole_values(node: Node, image: Path) -> None:
    region = first(node)
    kernel = SimulatedKernel(node.sys, seconds=0.02)

    def write() -> None:
        for _ in range(5):
            kernel.program(region, image, AFU)

    writer = threading.Thread(target=write)
    writer.start()
    reasons: set[str] = set()
    while writer.is_alive():
        reasons.update(node.reasons().values())
    writer.join()

    assert {reason for reason in reasons if not reason.startswith("being programmed: ")} == set()
