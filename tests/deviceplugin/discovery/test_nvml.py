"""NvmlSource with the real pynvml over a mock libnvidia-ml."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml
import pytest

from deviceplugin.discovery import nvml
from deviceplugin.discovery.description import load, shipped
from deviceplugin.discovery.nvlink import Lanes
from deviceplugin.discovery.nvml import NvmlSource
from deviceplugin.discovery.nvml_reading import read_lanes
from deviceplugin.discovery.simulated import SimulatedSource
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault
from tests.deviceplugin.discovery.conftest import Node, two_gpus
from tests.nvml_mock.build import ENVIRONMENT, event

if TYPE_CHECKING:
    from tasuki.devices.topology import Topology

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("name", shipped())
def test_the_driver_and_a_simulation_tell_of_the_same_machine(name: str, node: Node, source: NvmlSource) -> None:
    node.becomes(name)

    assert source.scan() == SimulatedSource(name).scan()


@pytest.mark.parametrize(
    ("mig", "profiles"),
    [
        pytest.param("{7g.40gb: 1}", ["7g.40gb"], id="all of the GPU"),
        pytest.param("{1g.5gb+me: 1, 1g.5gb: 6}", ["1g.5gb+me", *["1g.5gb"] * 6], id="media extensions"),
        pytest.param("{1g.10gb: 4}", ["1g.10gb"] * 4, id="double memory"),
        pytest.param("{4g.20gb: 1, 3g.20gb: 1}", ["4g.20gb", "3g.20gb"], id="shared instance ids"),
        pytest.param("{1c.3g.20gb: 3, 3g.20gb: 1}", [*["1c.3g.20gb"] * 3, "3g.20gb"], id="compute instances"),
    ],
)
def test_mig_profiles_are_named_as_nvidia_names_them(
    mig: str, profiles: list[str], node: Node, source: NvmlSource
) -> None:
    machine = two_gpus(mig0=mig)
    node.becomes(machine)

    instances = source.scan().gpus[0].mig
    assert [instance.device.profile for instance in instances] == profiles
    assert len({(instance.gi, instance.ci) for instance in instances}) == len(profiles)


def test_a_fabric_clique_is_read(node: Node, source: NvmlSource, tmp_path: Path) -> None:
    file = tmp_path / "fabric.yaml"
    clique = "01234567-89ab-cdef-0123-456789abcdef.7"
    file.write_text(
        Path(nvml.__file__).parents[1].joinpath("machines/t4.yaml").read_text() + f"    fabricClique: {clique}\n"
    )
    node.becomes(load(str(file)))

    assert source.scan().gpus[0].fabric_clique == clique


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        pytest.param("    powerLimitWatts: 62.5\n", 62.5, id="told"),
        pytest.param("", 0.0, id="a GPU that does not say"),
    ],
)
def test_the_power_limit_is_read(line: str, watts: float, node: Node, source: NvmlSource, tmp_path: Path) -> None:
    file = tmp_path / "limited.yaml"
    shipped_text = Path(nvml.__file__).parents[1].joinpath("machines/t4.yaml").read_text()
    assert "    powerLimitWatts: 70\n" in shipped_text
    file.write_text(shipped_text.replace("    powerLimitWatts: 70\n", line))
    node.becomes(load(str(file)))

    (gpu,) = source.scan().gpus

    assert gpu.device.power_limit_watts == watts


def test_a_partition_has_no_power_limit_of_its_own(node: Node, source: NvmlSource) -> None:
    node.becomes("a100-mig")

    gpus = source.scan().gpus

    assert {gpu.device.power_limit_watts for gpu in gpus} == {400.0}
    assert {instance.device.power_limit_watts for gpu in gpus for instance in gpu.mig} == {0.0}


def test_kernel_files_that_are_absent_leave_places_unknown(node: Node, tmp_path: Path) -> None:
    node.becomes("a100-mig")
    source = NvmlSource(sys=tmp_path / "no", proc=tmp_path / "no", product_file=tmp_path / "no")

    machine = source.scan()
    source.close()
    assert machine.product == ""
    assert {gpu.device.place.numa_node for gpu in machine.gpus} == {None}
    assert {gpu.device.place.pcie_root for gpu in machine.gpus} == {""}
    assert {instance.capability_minors for gpu in machine.gpus for instance in gpu.mig} == {None}


def test_a_lost_gpu_stays_listed_as_it_was_and_the_rest_goes_on(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus(mig0="{3g.20gb: 2}"))
    before = source.scan()
    node.becomes(two_gpus(mig0="{3g.20gb: 2}", fault0="{lost: true}"))

    lost, other = source.scan().gpus
    assert other == before.gpus[1]
    assert lost.device.id == before.gpus[0].device.id
    assert str(lost.device.health) == "unhealthy: GPU is lost"
    assert [str(instance.device.health) for instance in lost.mig] == ["unhealthy: GPU is lost"] * 2


def test_a_gpu_that_answers_again_is_healthy_again(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    before = source.scan()
    node.becomes(two_gpus(fault0="{lost: true}"))
    source.scan()
    node.becomes(two_gpus())

    assert source.scan() == before


def test_a_gpu_that_the_driver_counts_no_more_stays_listed(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    source.scan()
    lines = node.answers.read_text().splitlines()
    node.answers.with_name("fewer").write_text("\n".join(line for line in lines if not line.startswith("gpu 1")) + "\n")
    node.answers.with_name("fewer").replace(node.answers)

    machine = source.scan()
    assert [gpu.device.health.healthy for gpu in machine.gpus] == [True, False]
    assert machine.gpus[1].device.health.reason == "the driver no longer lists it"


def test_a_lost_gpu_that_was_never_seen_is_told_of(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus(fault0="{lost: true}"))

    machine = source.scan()
    assert [gpu.device.index for gpu in machine.gpus] == ["1"]
    assert machine.unreadable == ("GPU 0 cannot be read and is left out: GPU is lost",)


def test_mig_devices_follow_a_new_partition(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus(mig0="{3g.20gb: 2}"))
    before = source.scan().gpus[0]
    node.becomes(two_gpus(mig0="{2g.10gb: 3}"))

    after = source.scan().gpus[0]
    assert [instance.device.profile for instance in before.mig] == ["3g.20gb"] * 2
    assert [instance.device.profile for instance in after.mig] == ["2g.10gb"] * 3
    assert [instance.device.index for instance in after.mig] == ["0:0", "0:1", "0:2"]


def test_nvlink_is_read_again_only_for_other_gpus(
    node: Node, source: NvmlSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []

    def counted(handle: object, by_address: Mapping[str, str]) -> Lanes:
        reads.append(handle)
        return read_lanes(handle, by_address)

    monkeypatch.setattr(nvml, "read_lanes", counted)
    topologies: list[Topology] = []
    for fault in ("{}", "{}", "{lost: true}", "{}"):
        node.becomes(two_gpus(fault1=fault))
        topologies.append(source.scan().topology)

    assert len(reads) == 2 + 0 + 1 + 2
    assert [len(topology.nvlinks) for topology in topologies] == [1, 1, 0, 1]


def test_without_a_driver_the_reason_is_told_and_each_call_tries_again(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus(), loaded=False)

    with pytest.raises(DriverUnavailableError, match="kernel module is not loaded; install or load the driver"):
        source.scan()
    with pytest.raises(DriverUnavailableError, match="kernel module is not loaded"):
        source.wait_for_faults(0.1)
    assert "kernel module is not loaded" in source.probe("GPU-any")
    node.becomes(two_gpus())
    assert len(source.scan().gpus) == 2


def test_a_driver_that_goes_and_comes_back_is_used_again(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    before = source.scan()
    assert source.wait_for_faults(0.0) == []
    node.becomes(two_gpus(), loaded=False)
    with pytest.raises(DriverUnavailableError):
        source.scan()
    node.becomes(two_gpus())

    assert source.scan() == before
    source.wait_for_faults(0.0)
    node.becomes(two_gpus(), events=(event(1, 1, 79),))
    assert source.wait_for_faults(5.0) == [Fault(before.gpus[1].device.id, "XID 79", 79)]


def test_without_the_library_the_remedy_is_told() -> None:
    script = (
        "from deviceplugin.discovery.nvml import NvmlSource\n"
        "from deviceplugin.discovery.source import DriverUnavailableError\n"
        "try: NvmlSource().scan()\n"
        "except DriverUnavailableError as error: print(error)\n"
    )

    told = _python(script, {"LD_LIBRARY_PATH": "/nonexistent"})
    assert told == (
        "libnvidia-ml.so.1 is not found; install NVIDIA's driver on this node, or let its libraries into the container"
    )


def test_the_library_is_found_on_the_loaders_path(mock_nvml: Path, node: Node) -> None:
    node.becomes("t4")
    script = "from deviceplugin.discovery.nvml import NvmlSource\nprint(NvmlSource().scan().gpus[0].device.model)"

    told = _python(script, {"LD_LIBRARY_PATH": str(mock_nvml.parent), ENVIRONMENT: str(node.answers)})
    assert told == "Tesla T4"


@pytest.mark.parametrize(
    ("gi", "ci"),
    [
        pytest.param(None, None, id="of the whole GPU"),
        pytest.param(1, None, id="of a GPU instance"),
        pytest.param(2, 0, id="of a compute instance"),
    ],
)
def test_an_xid_is_reported_with_its_place(gi: int | None, ci: int | None, node: Node, source: NvmlSource) -> None:
    machine = two_gpus(mig0="{3g.20gb: 2}")
    node.becomes(machine)
    gpu = source.scan().gpus[0].device.id
    source.wait_for_faults(0.0)
    node.becomes(machine, events=(event(1, 0, 94, gi=gi, ci=ci),))

    assert source.wait_for_faults(5.0) == [Fault(gpu, "XID 94", 94, gi, ci)]
    assert source.wait_for_faults(0.0) == []


def test_xids_that_come_together_are_reported_together(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    one, other = (gpu.device.id for gpu in source.scan().gpus)
    source.wait_for_faults(0.0)
    node.becomes(two_gpus(), events=(event(1, 0, 13), event(2, 1, 48), event(3, 0, 63)))

    assert source.wait_for_faults(5.0) == [
        Fault(one, "XID 13", 13),
        Fault(other, "XID 48", 48),
        Fault(one, "XID 63", 63),
    ]


def test_a_wait_that_has_begun_reports_an_xid(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    gpu = source.scan().gpus[0].device.id
    source.wait_for_faults(0.0)
    reported: list[Fault] = []
    waiter = threading.Thread(target=lambda: reported.extend(source.wait_for_faults(20.0)))
    waiter.start()
    node.becomes(two_gpus(), events=(event(1, 0, 79),))
    waiter.join(20.0)

    assert reported == [Fault(gpu, "XID 79", 79)]


def test_gpus_found_by_a_later_scan_are_watched_too(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus(fault1="{lost: true}"))
    source.scan()
    source.wait_for_faults(0.0)
    node.becomes(two_gpus())
    gpu = source.scan().gpus[1].device.id
    source.wait_for_faults(0.0)
    node.becomes(two_gpus(), events=(event(1, 1, 79),))

    assert source.wait_for_faults(5.0) == [Fault(gpu, "XID 79", 79)]


def test_gpus_that_report_no_events_are_no_fault(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus(), reports_events=False)
    source.scan()

    assert source.wait_for_faults(0.05) == []


def test_before_the_first_scan_a_wait_ends_with_its_timeout(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())

    assert source.wait_for_faults(0.05) == []


def test_a_gpu_lost_while_waiting_is_a_fault_and_the_others_are_watched_on(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    lost, other = (gpu.device.id for gpu in source.scan().gpus)
    source.wait_for_faults(0.0)
    node.becomes(two_gpus(fault0="{lost: true}"))

    assert source.wait_for_faults(5.0) == [Fault(lost, "it does not answer: GPU is lost")]
    assert source.wait_for_faults(0.1) == []
    node.becomes(two_gpus(fault0="{lost: true}"), events=(event(1, 1, 48),))
    assert source.wait_for_faults(5.0) == [Fault(other, "XID 48", 48)]


def test_a_failure_to_wait_that_no_gpu_explains_is_raised_and_waiting_resumes(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    gpu = source.scan().gpus[0].device.id
    source.wait_for_faults(0.0)
    node.becomes(two_gpus(), wait_result=pynvml.NVML_ERROR_UNKNOWN)

    with pytest.raises(DriverUnavailableError, match="NVML does not answer: Unknown Error"):
        source.wait_for_faults(5.0)
    node.becomes(two_gpus())
    assert source.wait_for_faults(0.2) == []
    node.becomes(two_gpus(), events=(event(1, 0, 48),))
    assert source.wait_for_faults(5.0) == [Fault(gpu, "XID 48", 48)]


def test_closing_ends_a_wait(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    source.scan()
    waiter = threading.Thread(target=source.wait_for_faults, args=(60.0,))
    waiter.start()
    source.close()
    waiter.join(20.0)

    assert not waiter.is_alive()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("{}", "", id="nothing is wrong"),
        pytest.param("{lost: true}", "it does not answer: GPU is lost", id="lost"),
        pytest.param("{recoveryAction: gpu-reset}", "the driver asks for gpu-reset", id="needs a reset"),
        pytest.param("{recoveryAction: node-reboot}", "the driver asks for node-reboot", id="needs a reboot"),
        pytest.param(
            "{recoveryAction: unreported}",
            "the driver does not report a recovery action, so that recovery cannot be confirmed; check the GPU, then "
            "restart this plugin",
            id="an old driver that knows no recovery action",
        ),
        pytest.param(
            "{rowRemapping: pending}",
            "remapping of a memory row is pending: the GPU needs a reset",
            id="row remapping pending",
        ),
        pytest.param(
            "{rowRemapping: failed}",
            "remapping of a memory row failed: the GPU needs replacement",
            id="row remapping failed",
        ),
        pytest.param(
            "{pageRetirementPending: true}",
            "retirement of a memory page is pending: the GPU needs a reset",
            id="page retirement pending",
        ),
        pytest.param("{uncorrectedErrors: 3}", "3 new uncorrected memory errors", id="new memory errors"),
        pytest.param(
            "{recoveryAction: drain-and-reset, uncorrectedErrors: 1}",
            "the driver asks for drain-and-reset; 1 new uncorrected memory errors",
            id="several",
        ),
    ],
)
def test_a_probe_finds_reasons(fault: str, reason: str, node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())
    gpu = source.scan().gpus[0].device.id
    node.becomes(two_gpus(fault0=fault))

    assert source.probe(gpu) == reason


def test_memory_errors_count_as_new_once(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus(fault0="{uncorrectedErrors: 2}"))
    gpu = source.scan().gpus[0].device.id
    probes = []
    for errors in (2, 5, 5, 6):
        node.becomes(two_gpus(fault0=f"{{uncorrectedErrors: {errors}}}"))
        source.scan()
        probes.append(source.probe(gpu))

    assert probes == ["", "3 new uncorrected memory errors", "", "1 new uncorrected memory errors"]


def test_a_probe_of_a_gpu_that_is_not_there_says_so(node: Node, source: NvmlSource) -> None:
    node.becomes(two_gpus())

    assert source.probe("GPU-none") == "it does not answer: Not Found"


def _python(script: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()
