"""How near two devices are."""

import pytest

from tasuki.devices.cost import EXCHANGE_BYTES, distance, transfer_seconds
from tasuki.devices.model import Device, DeviceKind, Place
from tasuki.devices.topology import LINKS, LinkKind, NVLink, Topology, best_link, host_path


def at(name: str, path: str, numa: int | None = 0) -> Device:
    return Device(name, DeviceKind.GPU, "0", "A100", 1, place=Place(numa, "", tuple(path.split())))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param("root port up down1 a", "root port up down2 b", LinkKind.PCIE_SWITCH, id="one switch"),
        pytest.param(
            "root port up down1 up1 down3 a",
            "root port up down2 up2 down4 b",
            LinkKind.PCIE_SWITCHES,
            id="two levels of switches",
        ),
        pytest.param("root port1 a", "root port2 b", LinkKind.HOST_BRIDGE, id="two root ports of one complex"),
        pytest.param("root1 port a", "root2 port b", LinkKind.NUMA_NODE, id="two complexes of one memory node"),
        pytest.param("", "", LinkKind.NUMA_NODE, id="no path known, but one memory node"),
    ],
)
def test_host_path(one: str, other: str, expected: LinkKind) -> None:
    assert host_path(at("a", one), at("b", other)) is expected
    assert host_path(at("b", other), at("a", one)) is expected


def test_devices_on_two_sockets_are_farthest() -> None:
    assert host_path(at("a", "root1 x", 0), at("b", "root2 y", 1)) is LinkKind.SOCKETS


def test_nothing_known_is_never_flattered() -> None:
    assert host_path(at("a", "", None), at("b", "", None)) is LinkKind.SOCKETS


def test_partitions_of_one_device_are_the_same_device() -> None:
    parts = [Device(f"MIG-{i}", DeviceKind.MIG, f"0:{i}", "A100", 1, parent="GPU-0") for i in range(2)]

    assert host_path(*parts) is LinkKind.SAME_DEVICE
    assert best_link(Topology(), *parts).kind is LinkKind.SAME_DEVICE


def test_nvlink_is_found_from_both_ends() -> None:
    topology = Topology({("a", "b"): NVLink(12, 20e9)})

    assert best_link(topology, at("b", ""), at("a", "")).bytes_per_second == 240e9
    assert best_link(topology, at("a", ""), at("b", "")).kind is LinkKind.NVLINK


def test_seconds_are_latency_and_bytes_over_bandwidth() -> None:
    link = LINKS[LinkKind.PCIE_SWITCH]

    assert transfer_seconds(link, 12_000_000_000) == pytest.approx(1.000001)
    one, other = at("a", "root port up down1 a"), at("b", "root port up down2 b")
    assert distance(Topology(), one, other)[0] == transfer_seconds(link, EXCHANGE_BYTES)
