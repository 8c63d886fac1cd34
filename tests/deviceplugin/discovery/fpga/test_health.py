import errno
from pathlib import Path

import pytest

from deviceplugin.discovery import fpga_intel, fpga_xrt
from deviceplugin.discovery.fpga_classes import Classes
from deviceplugin.discovery.fpga_health import (
    BEING_PROGRAMMED,
    ends_with_a_good_image,
    health_of,
    intel_id,
    intel_id_reason,
    register_reason,
    state_reason,
    status_reasons,
)
from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs
from tasuki.devices.model import HEALTHY, unhealthy
from tests.deviceplugin.discovery.fpga.conftest import ALVEO, DFL, SOC, Node

FIRST = "0000:04:00.0-port0"
FME = f"{DFL}/dfl-fme.0"
MANAGER = f"{FME}/dfl-fme-mgr.0/fpga_manager/fpga0"
THERMAL = f"{FME}/hwmon/hwmon3"
OPAE = "devices/pci0000:00/0000:00:03.0/0000:04:00.0/fpga/intel-fpga-dev.0"
D5005 = "devices/pci0000:ae/0000:ae:00.0/0000:af:00.0/fpga_region/region0"
BOARD = f"{D5005}/dfl-fme.0/dfl_dev.3/spi_master/spi0/spi0.0/d5005bmc-hwmon.2/hwmon/hwmon7"

# Every state of Linux' fpga_manager.
STATES = {
    "unknown": "",
    "power off": "the FPGA has no power: fpga_manager's state is 'power off'",
    "power up": "",
    "reset": "",
    "firmware request": "being programmed: fpga_manager's state is 'firmware request'",
    "firmware request error": (
        "the image could not be found: fpga_manager's state is 'firmware request error'; write a good image"
    ),
    "parse header": "being programmed: fpga_manager's state is 'parse header'",
    "parse header error": (
        "the image's header is wrong: fpga_manager's state is 'parse header error'; write a good image"
    ),
    "write init": "being programmed: fpga_manager's state is 'write init'",
    "write init error": (
        "the FPGA could not be prepared for an image: fpga_manager's state is 'write init error'; write a good image"
    ),
    "write": "being programmed: fpga_manager's state is 'write'",
    "write error": "writing an image failed: fpga_manager's state is 'write error'; write a good image",
    "write complete": "being programmed: fpga_manager's state is 'write complete'",
    "write complete error": (
        "the FPGA did not start after an image was written: fpga_manager's state is 'write complete error'; "
        "write a good image"
    ),
    "operating": "",
    "": "fpga_manager's state '' is none that is known",
    "melting": "fpga_manager's state 'melting' is none that is known",
}
STATUS = {
    "reconfig operation error": "an operation was out of order",
    "reconfig CRC error": "the image arrived damaged",
    "reconfig incompatible image": "the image is for other hardware",
    "reconfig IP protocol error": "the protocol of the reconfiguration hardware was violated",
    "reconfig fifo overflow error": "the image came faster than the hardware takes it",
    "reconfig moon phase error": "the last programming failed",
}


@pytest.mark.parametrize(("state", "reason"), STATES.items(), ids=[state or "empty" for state in STATES])
def test_each_state_of_a_manager(state: str, reason: str, node: Node) -> None:
    node.write(MANAGER + "/state", state)

    assert state_reason(state) == reason
    assert node.reasons() == ({FIRST: reason} if reason else {})


@pytest.mark.parametrize("state", [state for state in STATES if STATES[state].startswith(BEING_PROGRAMMED)])
@pytest.mark.parametrize("node", ["alveo"], indirect=True)
def test_a_state_of_xrts_manager(state: str, node: Node) -> None:
    node.write(f"{ALVEO}.0/fmgr.m.5888/fpga_manager/fpga2/state", state)

    assert node.reasons() == {"0000:17:00-user1": STATES[state]}


@pytest.mark.parametrize(("line", "meaning"), STATUS.items(), ids=list(STATUS))
def test_each_line_of_status(line: str, meaning: str, node: Node) -> None:
    node.write(MANAGER + "/status", line)

    assert node.reasons() == {FIRST: f"{meaning}: fpga_manager's status is {line!r}"}


@pytest.mark.parametrize(
    ("state", "status", "register", "rewritable"),
    [
        pytest.param("operating", "", "0x0", False, id="well"),
        pytest.param("write error", "", "0x0", True, id="the last image failed"),
        pytest.param("write complete error", "reconfig CRC error", "0x0", True, id="its status says so too"),
        pytest.param("operating", "reconfig CRC error", "0x0", True, id="its status alone says so"),
        pytest.param("write error", "", "0x40", False, id="an error register besides"),
        pytest.param("write", "", "0x0", False, id="being programmed"),
        pytest.param("power off", "", "0x0", False, id="no power"),
    ],
)
def test_a_good_image_ends_what_a_bad_one_began(
    state: str, status: str, register: str, rewritable: bool, node: Node
) -> None:
    node.write(MANAGER + "/state", state)
    node.write(MANAGER + "/status", status)
    node.write(f"{FME}/errors/fme_errors", register)

    found = {region.device.id: region.rewritable for region in node.source.scan().regions}

    assert found[FIRST] is rewritable


def test_nothing_ends_where_nothing_is_wrong() -> None:
    assert not ends_with_a_good_image([""])


def test_several_lines_of_status() -> None:
    assert status_reasons("\nreconfig CRC error\nreconfig fifo overflow error\n") == [
        "the image arrived damaged: fpga_manager's status is 'reconfig CRC error'",
        "the image came faster than the hardware takes it: fpga_manager's status is 'reconfig fifo overflow error'",
    ]


@pytest.mark.parametrize("node", ["soc"], indirect=True)
def test_a_manager_without_state_keeps_its_region_from_use(node: Node) -> None:
    node.remove(f"{SOC}/state")

    assert node.reasons() == {
        "f8007000.devcfg-region0": f"/sys/{SOC}/state cannot be read: No such file or directory",
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(f"{FME}/errors/fme_errors", "0x40", id="management engine"),
        pytest.param(f"{FME}/errors/catfatal_errors", "0x800", id="catastrophic"),
        pytest.param(f"{FME}/errors/pcie0_errors", "0x1", id="PCIe link"),
        pytest.param(f"{FME}/errors/pcie1_errors", "0xffffffffffffffff", id="second PCIe link"),
        pytest.param(f"{DFL}/dfl-port.0/errors/errors", "0x10000", id="port"),
    ],
)
def test_an_error_register_that_is_not_zero(path: str, value: str, node: Node) -> None:
    node.write(path, value)

    assert node.reasons() == {
        FIRST: f"/sys/{path} is {value}; look for the cause, then write that value to the file to clear it",
    }


@pytest.mark.parametrize("name", ["nonfatal_errors", "inject_errors", "first_error", "next_error"])
def test_a_register_that_tells_of_nothing_lasting_is_ignored(name: str, node: Node) -> None:
    node.write(f"{FME}/errors/{name}", "0x3")

    assert node.reasons() == {}


def test_a_register_of_zero_is_no_reason() -> None:
    assert register_reason("errors", 0) == ""


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        pytest.param(
            f"{THERMAL}/temp1_input",
            "93000",
            "temperature (temp1) at 93 °C has reached its critical limit of 93 °C",
            id="at the limit",
        ),
        pytest.param(f"{THERMAL}/temp1_input", "92999", "", id="just below"),
        pytest.param(
            f"{THERMAL}/temp1_crit_alarm",
            "1",
            "temperature (temp1) at 52 °C has reached its critical limit of 93 °C",
            id="alarm",
        ),
        pytest.param(f"{THERMAL}/temp1_max_alarm", "1", "", id="throttled"),
        pytest.param(
            f"{FME}/hwmon/hwmon4/power1_crit_alarm",
            "1",
            "power (power1) at 31 W has reached its critical limit of 66 W",
            id="power",
        ),
        pytest.param(
            f"{THERMAL}/temp1_input",
            "warm",
            f"/sys/{THERMAL}/temp1_input cannot be read: 'warm' is not a number of 64 bits",
            id="garbage",
        ),
    ],
)
def test_sensors_of_the_management_engine(path: str, value: str, reason: str, node: Node) -> None:
    node.write(path, value)

    assert node.reasons() == ({FIRST: reason} if reason else {})


@pytest.mark.parametrize("node", ["d5005"], indirect=True)
def test_sensors_of_the_board_controller_speak_for_all_ports_of_the_card(node: Node) -> None:
    node.write(f"{BOARD}/temp2_input", "101500")

    reason = "temperature (FPGA Core Temperature) at 101.5 °C has reached its critical limit of 100 °C"
    assert node.reasons() == {"0000:af:00.0-port0": reason, "0000:af:00.1-port1": reason}


@pytest.mark.parametrize("node", ["opae"], indirect=True)
@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        pytest.param(
            f"{OPAE}/intel-fpga-fme.0/thermal_mgmt/temperature",
            "94",
            "temperature at 94 °C has reached its critical limit of 93 °C",
            id="temperature",
        ),
        pytest.param(
            f"{OPAE}/intel-fpga-fme.0/thermal_mgmt/threshold2_reached",
            "1",
            "temperature at 51 °C has reached its critical limit of 93 °C",
            id="alarm",
        ),
        pytest.param(
            f"{OPAE}/intel-fpga-fme.0/errors/fme-errors/errors",
            "0x2",
            f"/sys/{OPAE}/intel-fpga-fme.0/errors/fme-errors/errors is 0x2; look for the cause, then write that value "
            "to the file to clear it",
            id="register",
        ),
        pytest.param(
            f"{OPAE}/intel-fpga-fme.0/pr/interface_id",
            "f" * 32,
            "the interface id reads as all ones: the card does not answer",
            id="all ones",
        ),
    ],
)
def test_the_older_driver(path: str, value: str, reason: str, node: Node) -> None:
    node.write(path, value)

    assert node.reasons() == {FIRST: reason}


NO_INTERFACE = (
    "the card has no interface id; are the kernel's modules for partial reconfiguration loaded (dfl-fme-mgr)?"
)
COMPAT_ID = f"{FME}/dfl-fme-region.0/fpga_region/region1/compat_id"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param("f" * 32, "the interface id reads as all ones: the card does not answer", id="all ones"),
        pytest.param("F" * 32, "the interface id reads as all ones: the card does not answer", id="in upper case"),
        pytest.param("", NO_INTERFACE, id="empty"),
        pytest.param("0" * 32, NO_INTERFACE, id="all zeros"),
        pytest.param("69528db6", "the interface id is '69528db6', not 32 hexadecimal digits", id="too short"),
    ],
)
def test_an_interface_id_that_means_nothing(value: str, reason: str, node: Node) -> None:
    node.write(COMPAT_ID, value)

    region = node.regions()[FIRST]
    assert region.interface == ""
    assert region.device.health == unhealthy(reason)


def test_a_card_without_the_drivers_for_partial_reconfiguration(node: Node) -> None:
    node.remove("class/fpga_region/region1")
    node.remove("class/fpga_manager/fpga0")

    region = node.regions()[FIRST]
    assert (region.interface, region.control) == ("", "")
    assert region.device.health == unhealthy(NO_INTERFACE)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param("", "", id="empty"),
        pytest.param("0" * 32, "", id="all zeros"),
        pytest.param("f" * 32, "the AFU's id reads as all ones: the card does not answer", id="all ones"),
        pytest.param("hello", "the AFU's id is 'hello', not 32 hexadecimal digits", id="garbage"),
    ],
)
def test_an_afu_id_that_means_nothing(value: str, reason: str, node: Node) -> None:
    node.write(f"{DFL}/dfl-port.0/afu_id", value)

    region = node.regions()[FIRST]
    assert region.loaded == ""
    assert region.device.health == (unhealthy(reason) if reason else HEALTHY)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        pytest.param(
            f"{ALVEO}.1/ready",
            "0x0",
            f"the management function does not answer the user function: /sys/{ALVEO}.1/ready is 0",
            id="not ready",
        ),
        pytest.param(
            f"{ALVEO}.1/dev_offline",
            "1",
            f"the driver has taken the card offline: /sys/{ALVEO}.1/dev_offline is 1",
            id="offline",
        ),
        pytest.param(
            f"{ALVEO}.1/dev_offline",
            "-19",
            f"the driver has taken the card offline: /sys/{ALVEO}.1/dev_offline is -19",
            id="offline in error",
        ),
        pytest.param(
            f"{ALVEO}.1/device_bad_state",
            "1",
            f"the scheduler on the card is stuck; reset the card: /sys/{ALVEO}.1/device_bad_state is 1",
            id="bad state",
        ),
        pytest.param(
            f"{ALVEO}.0/ready",
            "0",
            f"the management function is not ready: /sys/{ALVEO}.0/ready is 0",
            id="management not ready",
        ),
        pytest.param(
            f"{ALVEO}.0/dev_offline",
            "1",
            f"the management function is offline: /sys/{ALVEO}.0/dev_offline is 1",
            id="management offline",
        ),
        pytest.param(
            f"{ALVEO}.0/mfg",
            "1",
            f"the card runs its factory image; flash a shell: /sys/{ALVEO}.0/mfg is 1",
            id="factory image",
        ),
        pytest.param(
            f"{ALVEO}.0/firewall.m.5888/status",
            "524296",
            f"the AXI firewall has cut the image off, reset the card: /sys/{ALVEO}.0/firewall.m.5888/status is 0x80008",
            id="firewall",
        ),
        pytest.param(
            f"{ALVEO}.1/rom.u.5889/VBNV",
            "xilinx/u250",
            f"/sys/{ALVEO}.1/rom.u.5889/VBNV cannot be read: 'xilinx/u250' is not of the form that is expected",
            id="name that is none",
        ),
        pytest.param(
            f"{ALVEO}.1/xclbinuuid",
            "2a6b7d1c",
            f"/sys/{ALVEO}.1/xclbinuuid cannot be read: '2a6b7d1c' is not of the form that is expected",
            id="half an uuid",
        ),
    ],
)
@pytest.mark.parametrize("node", ["alveo"], indirect=True)
def test_a_card_under_xrt(path: str, value: str, reason: str, node: Node) -> None:
    node.write(path, value)

    assert node.reasons()["0000:17:00-user1"].startswith(reason)
    assert list(node.reasons()) == ["0000:17:00-user1"]


@pytest.mark.parametrize("node", ["alveo"], indirect=True)
def test_a_user_function_that_is_still_starting(node: Node) -> None:
    node.remove(f"{ALVEO}.1/rom.u.5889")
    node.remove(f"{ALVEO}.1/interface_uuids")
    node.remove(f"{ALVEO}.1/drm")

    assert node.reasons() == {
        "0000:17:00-user1": "the shell says neither its interface's uuid nor its name: the card may still be starting; "
        "the driver has made no render node for it"
    }


@pytest.mark.parametrize("name", ["dfl-port.0", "dfl-port.1"])
def test_a_device_file_that_is_not_there(name: str, node: Node) -> None:
    (node.dev / name).unlink()

    assert list(node.reasons().values()) == [f"its device file /dev/{name} does not exist"]


def test_all_that_is_wrong_is_said_once_each(node: Node) -> None:
    node.write(MANAGER + "/state", "write error")
    node.write(MANAGER + "/status", "reconfig CRC error")
    (node.dev / "dfl-port.0").unlink()

    assert node.reasons()[FIRST] == (
        "writing an image failed: fpga_manager's state is 'write error'; write a good image; "
        "the image arrived damaged: fpga_manager's status is 'reconfig CRC error'; "
        "its device file /dev/dfl-port.0 does not exist"
    )


def test_a_reason_that_several_files_give_is_said_once() -> None:
    assert health_of(["", "one", "two", "one"]) == unhealthy("one; two")
    assert health_of([""]) == HEALTHY


@pytest.mark.parametrize("text", ["0" * 32, "f" * 32, "", "12", "g" * 32])
def test_no_id(text: str) -> None:
    assert intel_id(text) == ""


def test_an_id_is_spelled_in_lower_case() -> None:
    assert intel_id("69528DB6EB31577A8C3668F9FAA081F6") == "69528db6eb31577a8c3668f9faa081f6"
    assert intel_id_reason("id", "69528DB6EB31577A8C3668F9FAA081F6") == ""


class Refusing(Sysfs):
    """A sysfs in which some files answer with an error, as a driver's do; no file on a disk can."""

    def __init__(self, root: Path, refused: dict[str, int]) -> None:
        super().__init__(root)
        self.refused = refused

    def text(self, path: str) -> str:
        if number := self.refused.get(path):
            raise AttributeUnreadableError(path, errno.errorcode[number], number)
        return super().text(path)


@pytest.mark.parametrize(
    ("path", "number", "reason"),
    [
        pytest.param(COMPAT_ID, errno.ENOENT, NO_INTERFACE, id="unused compat_id"),
        pytest.param(COMPAT_ID, errno.EIO, f"/sys/{COMPAT_ID} cannot be read: EIO", id="broken compat_id"),
        pytest.param(MANAGER + "/status", errno.ENOENT, "", id="manager without status"),
        pytest.param(
            f"{DFL}/dfl-port.0/afu_id",
            errno.EBUSY,
            "being programmed: the port is held in reset",
            id="port in reset",
        ),
        pytest.param(THERMAL + "/temp1_input", errno.ENODATA, "", id="sensor without value"),
        pytest.param(
            THERMAL + "/temp1_input",
            errno.EIO,
            f"/sys/{THERMAL}/temp1_input cannot be read: EIO",
            id="broken sensor",
        ),
    ],
)
def test_what_intels_drivers_answer(path: str, number: int, reason: str, node: Node) -> None:
    sysfs = Refusing(node.sys, {path: number})

    first, second = fpga_intel.read(sysfs, Classes(sysfs)).regions
    assert first.device.health == (unhealthy(reason) if reason else HEALTHY)
    assert second.device.health == HEALTHY


@pytest.mark.parametrize("node", ["alveo"], indirect=True)
def test_a_shell_of_one_stage_refuses_its_interfaces(node: Node) -> None:
    sysfs = Refusing(node.sys, {f"{ALVEO}.1/interface_uuids": errno.EINVAL})

    region = fpga_xrt.read(sysfs, Classes(sysfs)).regions[0]
    assert region.interface == "xilinx_u250_gen3x16_xdma_shell_4_1"
    assert region.device.health == HEALTHY
