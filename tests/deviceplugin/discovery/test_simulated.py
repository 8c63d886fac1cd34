from pathlib import Path

import pytest

from deviceplugin.discovery import source_for
from deviceplugin.discovery.description import DescriptionError, shipped
from deviceplugin.discovery.nvml import NvmlSource
from deviceplugin.discovery.simulated import SimulatedSource
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault
from tests.deviceplugin.discovery.conftest import two_gpus_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "two.yaml"
    file.write_text(two_gpus_yaml())
    return file


def test_ids_are_the_same_at_every_start(file: Path) -> None:
    assert SimulatedSource(str(file)).scan() == SimulatedSource(str(file)).scan()


def test_ids_differ_between_nodes(file: Path) -> None:
    one, other = (SimulatedSource(str(file), node=node).scan() for node in ("one", "other"))

    assert not {gpu.device.id for gpu in one.gpus} & {gpu.device.id for gpu in other.gpus}


def test_a_gpu_lost_in_the_file_stays_listed_and_returns(file: Path) -> None:
    source = SimulatedSource(str(file))
    before = source.scan()
    file.write_text(two_gpus_yaml(fault1="{lost: true}"))
    lost = source.scan()
    file.write_text(two_gpus_yaml())

    assert str(lost.gpus[1].device.health) == "unhealthy: GPU is lost"
    assert source.scan() == before


def test_a_gpu_taken_out_of_the_file_stays_listed(file: Path) -> None:
    source = SimulatedSource(str(file))
    source.scan()
    text = two_gpus_yaml().replace("nvlinks: [{gpus: [0, 1], lanes: 4}]\n", "")
    file.write_text(text[: text.index("  - pciePath: pci0000:40")])

    assert str(source.scan().gpus[1].device.health) == "unhealthy: the driver no longer lists it"


def test_a_lost_gpu_that_was_never_seen_is_told_of(file: Path) -> None:
    file.write_text(two_gpus_yaml(fault0="{lost: true}"))

    machine = SimulatedSource(str(file)).scan()
    assert [gpu.device.index for gpu in machine.gpus] == ["1"]
    assert machine.unreadable == ("GPU 0 cannot be read and is left out: GPU is lost",)


def test_a_bad_edit_is_told_of_and_the_next_good_one_is_taken(file: Path) -> None:
    source = SimulatedSource(str(file))
    before = source.scan()
    file.write_text(two_gpus_yaml().replace("lanes: 4", "lanes: four"))

    with pytest.raises(DriverUnavailableError, match=r"nvlinks\[0\]\.lanes is 'four': expected `int`"):
        source.scan()
    with pytest.raises(DriverUnavailableError, match="lanes is 'four'"):
        source.wait_for_faults(0.0)
    assert "lanes is 'four'" in source.probe(before.gpus[0].device.id)
    file.write_text(two_gpus_yaml())
    assert source.scan() == before


def test_each_xid_in_the_file_is_reported_once(file: Path) -> None:
    source = SimulatedSource(str(file))
    gpu = source.scan().gpus[0].device.id
    reported = []
    for fault in ("{}", "{xid: 79}", "{xid: 79}", "{xid: 48, gi: 1, ci: 0}", "{}", "{xid: 79}"):
        file.write_text(two_gpus_yaml(fault0=fault))
        reported.append(source.wait_for_faults(0.0))

    assert reported == [
        [],
        [Fault(gpu, "XID 79", 79)],
        [],
        [Fault(gpu, "XID 48", 48, 1, 0)],
        [],
        [Fault(gpu, "XID 79", 79)],
    ]


def test_a_probe_finds_reasons_and_new_memory_errors_once(file: Path) -> None:
    source = SimulatedSource(str(file))
    gpu = source.scan().gpus[0].device.id
    probes = []
    for fault in (
        "{}",
        "{lost: true}",
        "{recoveryAction: gpu-reset}",
        "{uncorrectedErrors: 2}",
        "{uncorrectedErrors: 2}",
    ):
        file.write_text(two_gpus_yaml(fault0=fault))
        probes.append(source.probe(gpu))

    assert probes == ["", "GPU is lost", "the driver asks for gpu-reset", "2 new uncorrected memory errors", ""]
    assert source.probe("GPU-none") == "the driver no longer lists it"


def test_closing_ends_a_wait_at_once(file: Path) -> None:
    source = SimulatedSource(str(file))
    source.close()

    assert source.wait_for_faults(60.0) == []


def test_without_a_simulation_the_source_is_the_driver() -> None:
    assert isinstance(source_for(None), NvmlSource)
    assert isinstance(source_for(""), NvmlSource)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_machine_can_be_simulated_by_name(name: str) -> None:
    assert source_for(name).scan().gpus


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DescriptionError, match="no machine description 'dgx-a1000'; shipped are a100-mig, dgx-a100"):
        source_for("dgx-a1000")


def test_a_file_that_is_not_there_is_an_unavailable_driver(tmp_path: Path) -> None:
    with pytest.raises(DriverUnavailableError, match=r"cannot be read: .*No such file"):
        source_for(str(tmp_path / "none.yaml")).scan()
