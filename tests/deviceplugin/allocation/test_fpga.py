"""What a container gets for channels of FPGA regions."""

import pytest

from deviceplugin.allocation.errors import UnknownSliceError
from deviceplugin.allocation.fpga import edits
from deviceplugin.container import DeviceNode
from deviceplugin.fpga import Region
from tasuki.devices.model import Slice, slices_of
from tests.fpga_builders import a_region


def slices(region: Region, *channels: int) -> list[Slice]:
    return [slices_of(region.device, 4)[channel] for channel in channels]


def by_id(*regions: Region) -> dict[str, Region]:
    return {region.device.id: region for region in regions}


def test_exactly_the_regions_own_device_files_and_nothing_privileged() -> None:
    region = a_region(1)

    made = edits(slices(region, 0), by_id(a_region(0), region), "resize")

    assert made.nodes == (DeviceNode("/dev/dfl-port.8", "/dev/dfl-port.8", "rw"),)
    assert (made.mounts, made.annotations, made.cdi_devices) == ((), {}, ())


def test_variables_name_region_function_channel_and_memory_node() -> None:
    region = a_region(numa_node=1)

    made = edits(slices(region, 2), by_id(region), "resize-4k")

    assert made.envs == {
        "TASUKI_FPGA_FUNCTION": "resize-4k",
        "TASUKI_FPGA_REGION": "fpga0-port0",
        "TASUKI_FPGA_CHANNEL": "2",
        "TASUKI_FPGA_NUMA_NODE": "1",
        "TASUKI_FPGA_DEVICES": "/dev/dfl-port.0",
        "TASUKI_FPGA_RESIZE_4K_REGION": "fpga0-port0",
        "TASUKI_FPGA_RESIZE_4K_CHANNEL": "2",
        "TASUKI_FPGA_RESIZE_4K_NUMA_NODE": "1",
        "TASUKI_FPGA_RESIZE_4K_DEVICES": "/dev/dfl-port.0",
    }


def test_with_several_channels_the_nth_of_each_list_belong_together() -> None:
    one, other = a_region(0, numa_node=0), a_region(10, numa_node=None)

    made = edits([*slices(other, 1), *slices(one, 3, 0)], by_id(other, one), "resize")

    assert made.envs["TASUKI_FPGA_REGION"] == "fpga0-port0,fpga0-port0,fpga10-port0"
    assert made.envs["TASUKI_FPGA_CHANNEL"] == "0,3,1"
    assert made.envs["TASUKI_FPGA_NUMA_NODE"] == "0,0,-1"
    assert made.envs["TASUKI_FPGA_DEVICES"] == "/dev/dfl-port.0,/dev/dfl-port.80"
    assert [node.host_path for node in made.nodes] == ["/dev/dfl-port.0", "/dev/dfl-port.80"]


def test_the_order_of_slices_makes_no_difference() -> None:
    region = a_region()

    assert edits(slices(region, 0, 1), by_id(region), "a") == edits(slices(region, 1, 0), by_id(region), "a")


def test_under_a_peers_name_there_is_no_function() -> None:
    region = a_region()

    made = edits(slices(region, 0), by_id(region), "")

    assert made.envs["TASUKI_FPGA_FUNCTION"] == ""
    assert len(made.envs) == 5


def test_a_region_that_is_gone_is_refused() -> None:
    with pytest.raises(UnknownSliceError, match="region fpga0-port0 is no longer on this node"):
        edits(slices(a_region(), 0), {}, "resize")
