from pathlib import Path

import pytest

from deviceplugin.discovery.mig_profiles import parse, rounded_gigabytes
from deviceplugin.discovery.nvlink import lane_bytes_per_second
from deviceplugin.discovery.sysfs import mig_capability_minors, mig_minors, pci_address, place
from tasuki.devices.topology import GB


@pytest.mark.parametrize(
    ("nvml", "kernel"),
    [
        pytest.param("00000000:07:00.0", "0000:07:00.0", id="first domain"),
        pytest.param("00000001:B7:00.0", "0001:b7:00.0", id="upper case"),
        pytest.param("00010000:01:00.0", "10000:01:00.0", id="domain of five digits"),
    ],
)
def test_an_address_is_spelled_as_the_kernel_spells_it(nvml: str, kernel: str) -> None:
    assert pci_address(nvml) == kernel


@pytest.mark.parametrize(
    ("text", "node"),
    [
        pytest.param("3\n", 3, id="told"),
        pytest.param("-1\n", None, id="firmware does not say"),
        pytest.param("", None, id="empty file"),
    ],
)
def test_numa_node(text: str, node: int | None, tmp_path: Path) -> None:
    device = tmp_path / "bus/pci/devices/0000:07:00.0"
    device.mkdir(parents=True)
    (device / "numa_node").write_text(text)

    assert place(tmp_path, "0000:07:00.0").numa_node == node


def test_the_path_begins_at_the_root_complex_wherever_that_is(tmp_path: Path) -> None:
    path = "devices/LNXSYSTM:00/device:00/pci0001:00/0001:00:00.0"
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    (tmp_path / "bus/pci/devices/0001:00:00.0").symlink_to(f"../../../{path}")

    assert place(tmp_path, "0001:00:00.0").pcie_path == ("pci0001:00", "0001:00:00.0")


def test_mig_minors_are_read_by_the_gpus_minor(tmp_path: Path) -> None:
    file = tmp_path / "driver/nvidia-caps/mig-minors"
    file.parent.mkdir(parents=True)
    file.write_text("config 1\nmonitor 2\ngpu0/gi0/access 3\ngpu0/gi0/ci0/access 4\ngpu1/gi0/access 138\n")

    minors = mig_minors(tmp_path)
    assert mig_capability_minors(minors, 0, 0, 0) == (3, 4)
    assert mig_capability_minors(minors, 1, 0, 0) is None


@pytest.mark.parametrize(
    ("mig_mib", "gpu_mib", "gigabytes"),
    [
        pytest.param(4864, 40536, 5, id="A100 40 GB, an eighth"),
        pytest.param(9856, 40960, 10, id="A100 40 GB, two eighths"),
        pytest.param(19968, 81920, 20, id="A100 80 GB, two eighths"),
        pytest.param(9984, 81559, 10, id="H100, an eighth"),
        pytest.param(11008, 95830, 12, id="H100 NVL, an eighth"),
        pytest.param(17920, 146831, 18, id="GH200, an eighth"),
        pytest.param(81152, 81559, 80, id="H100, all"),
    ],
)
def test_memory_in_a_profiles_name(mig_mib: int, gpu_mib: int, gigabytes: int) -> None:
    assert rounded_gigabytes(mig_mib, gpu_mib * 2**20) == gigabytes


@pytest.mark.parametrize(
    "text", ["1g.5gb", "1g.5gb+me", "1g.24gb-me", "1c.2g.10gb", "1g.24gb+me.all", "2g.48gb+gfx", "1c.4g.96gb+gfx"]
)
def test_a_profile_is_spelled_as_it_was(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["", "1g", "g.5gb", "1g.5gb+", "1g.5gb me"])
def test_what_is_no_profile_is_refused(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("capability", "gb_per_second"),
    [
        pytest.param((6, 0), 18.0, id="P100"),
        pytest.param((7, 0), 20.0, id="V100"),
        pytest.param((8, 0), 20.0, id="A100"),
        pytest.param((8, 6), 12.0, id="A40"),
        pytest.param((9, 0), 20.6, id="H100"),
        pytest.param((10, 0), 40.1, id="B200"),
        pytest.param((12, 0), 40.1, id="newer"),
    ],
)
def test_a_lane_carries_what_nccl_counts(capability: tuple[int, int], gb_per_second: float) -> None:
    assert lane_bytes_per_second(capability) == gb_per_second * GB
