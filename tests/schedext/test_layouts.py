"""What a node publishes becomes a layout, an occupancy's beginnings and who holds what."""

import gc
from typing import Any

import msgspec
import pytest

from schedext.layouts import AcceleratorNodeFound, Layouts, Looks
from schedext.ledger import Entry
from schedext.look import EMPTY_LAYOUT, Occupancy, WayBetween
from tasuki.devices.model import DeviceKind
from tasuki.devices.topology import LinkKind
from tasuki.kube.accelerator_node import AcceleratorNode
from tests.schedext.accelerators import GIB, GPU, gpu, gpu_status, holder, read, resource, status_json


def mig(number: int, parent: str, gib: int = 20, **content: Any) -> dict[str, Any]:
    known = {"id": f"MIG-{number}", "kind": "mig", "index": f"0:{number}", "model": "A100", "healthy": True}
    return known | {"memoryBytes": gib * GIB, "parent": parent, "profile": "2g.20gb"} | content


def region(number: int, **content: Any) -> dict[str, Any]:
    known = {"id": f"region-{number}", "kind": "fpga", "index": f"0:{number}", "model": "U250", "healthy": True}
    return known | {"memoryBytes": 0} | content


def test_a_node_of_shared_gpus() -> None:
    found = read(gpu_status(gpus=2, replicas=4, sick=[1]))

    first, second = found.layout.parts
    assert (first.kind, first.model, first.memory_bytes, first.physical) == (DeviceKind.GPU, "A100", 80 * GIB, 0)
    assert (second.numa_node, second.physical, second.pcie_path[-1]) == (0, 1, "0000:01:00.0")
    assert found.layout.offers[GPU].devices == ((0, 4), (1, 4))
    way = WayBetween(LinkKind.NVLINK, 3e11, 7e-7)
    assert found.layout.ways == {(0, 1): way, (1, 0): way}
    assert found.device_ids == ("n-0", "n-1")
    assert found.condition.healthy == (True, False)
    assert found.trouble == ""


def test_what_the_daemon_writes_can_be_read() -> None:
    whole: dict[str, Any] = {
        "apiVersion": "tasuki.dev/v1alpha1",
        "kind": "AcceleratorNode",
        "metadata": {"name": "n"},
        "status": gpu_status(holder("p", "n-0::0")) | {"summary": "", "gpus": 2, "machine": "", "driverVersion": ""},
    }
    whole["status"] |= {"cudaVersion": "", "configuration": {"origin": "", "digest": ""}}
    for each in whole["status"]["resources"]:
        each |= {"slices": 4, "held": 1, "unhealthy": 0, "free": 3}
    written = msgspec.json.encode(msgspec.convert(whole, AcceleratorNode))

    found = Layouts().accelerators(msgspec.json.decode(written, type=AcceleratorNodeFound))

    assert found is not None
    assert found.layout.offers[GPU].slices == 4
    assert [*found.entries] == [("research", "p")]


def test_a_node_that_has_not_published_yet() -> None:
    assert Layouts().accelerators(AcceleratorNodeFound()) is None


def test_partitions_sit_where_their_parent_does_and_draw_their_share() -> None:
    parts = read(status_json([gpu(0, powerLimitWatts=400.0), mig(1, "n-0"), mig(2, "n-0", gib=40)])).layout.parts

    assert [part.physical for part in parts] == [0, 0, 0]
    assert [part.watts for part in parts] == [400.0, 100.0, 200.0]
    assert parts[1].pcie_path == parts[0].pcie_path
    assert parts[1].numa_node == 0
    assert parts[1].profile == "2g.20gb"


def test_partitions_of_a_parent_that_is_not_listed_belong_together() -> None:
    devices = [mig(1, "GPU-a"), mig(2, "GPU-b"), mig(3, "GPU-a", powerLimitWatts=5.0), gpu(0)]
    parts = read(status_json(devices)).layout.parts

    assert [part.physical for part in parts] == [0, 1, 0, 3]
    assert parts[2].watts == 5.0


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param({"parent": "card"}, {"parent": "card"}, [0, 0], id="of one card"),
        pytest.param({"parent": "card"}, {"parent": "other"}, [0, 1], id="of two cards"),
        pytest.param({"pciAddress": "0000:01:00.0"}, {"pciAddress": "0000:01:00.0"}, [0, 0], id="at one address"),
        pytest.param({"pciAddress": "0000:01:00.0"}, {"pciAddress": "0000:02:00.0"}, [0, 1], id="at two addresses"),
        pytest.param({}, {}, [0, 1], id="of which nothing is known"),
    ],
)
def test_regions_of_one_card(first: dict[str, str], second: dict[str, str], expected: list[int]) -> None:
    parts = read(status_json([region(0, **first), region(1, **second)])).layout.parts

    assert [part.physical for part in parts] == expected


def test_functions_of_a_region() -> None:
    functions = [{"name": "sobel", "programmingSeconds": 4.0}, {"name": "blur", "programmingSeconds": 2.5}]
    found = read(status_json([region(0, function="sobel", functions=functions), region(1)]))

    assert found.layout.parts[0].functions == (("blur", 2.5), ("sobel", 4.0))
    assert found.condition.loaded == ("sobel", "")


def test_what_this_version_does_not_know_is_left_out() -> None:
    devices = [
        gpu(0),
        {"id": "T", "kind": "tpu", "index": "0", "model": "x", "memoryBytes": 1, "healthy": True},
        gpu(1),
    ]
    pair = [{"from": "n-0", "to": "n-1"}, {"from": "n-0", "to": "T"}]
    links = [{"kind": "wormhole", "bytesPerSecond": 7, "latencySeconds": 1.0, "pairs": pair}]
    status = status_json(devices, resource("tpu.dev/x", [devices[1]], 1), resource(GPU, devices, 1), links=links)
    found = read(status | {"novelty": {"a": 1}})

    assert found.device_ids == ("n-0", "n-1")
    assert {name: offer.devices for name, offer in found.layout.offers.items()} == {GPU: ((0, 1), (1, 1))}
    assert found.layout.ways[1, 0] == WayBetween(LinkKind.SOCKETS, 7.0, 1.0)
    assert len(found.layout.ways) == 2


def test_what_regions_do_not_serve_at_the_moment_is_still_offered_but_of_none() -> None:
    functions = [{"name": name, "programmingSeconds": 1.0} for name in ("blur", "sobel")]
    devices = [region(0, functions=functions, function="blur", claimed=True), region(1, functions=functions)]
    listed = [
        resource("fpga.tasuki.dev/blur", devices, 1),
        resource("fpga.intel.com/region-a", [], 1),
        resource("amd.com/gone", [], 1, holder("p", "region-0")),
    ]

    found = read(status_json(devices, *listed)).layout.offers

    assert {name: (offer.devices, offer.cut_down) for name, offer in found.items()} == {
        "fpga.intel.com/region-a": ((), ()),
        "fpga.tasuki.dev/blur": (((0, 1), (1, 1)), (0,)),
        "fpga.tasuki.dev/sobel": ((), ()),
    }


def test_a_resource_without_devices_is_none_where_no_region_could_serve_it() -> None:
    assert read(status_json([gpu(0)], resource("nvidia.com/gpu.shared", [], 1))).layout.offers == {}


def test_a_resource_that_is_offered_no_longer_still_has_holders() -> None:
    old = {"name": "old.dev/gpu", "sharing": "none", "onePerRequest": True, "devices": []}
    found = read(status_json([gpu(0)], old | {"holders": [holder("p", "n-0::1")]}))

    assert found.layout.offers == {}
    assert found.entries["research", "p"][0].parts == ((0, 1),)


def test_holders_by_pod() -> None:
    holders = [
        holder("p", "n-0::0", "n-1::0", "n-1::1"),
        holder("p", "n-0::1", container="side"),
        holder("q", "gone::0"),
        holder("q", "n-0::2", namespace="other", count=3),
    ]
    entries = read(gpu_status(*holders, replicas=4, held=[3, 4])).entries

    main, side = entries["research", "p"]
    assert (main.container, main.resource, main.parts, main.unlisted) == ("main", GPU, ((0, 1), (1, 2)), 0)
    assert (side.container, side.parts) == ("side", ((0, 1),))
    assert entries["research", "q"][0].parts == ()
    assert (entries["other", "q"][0].parts, entries["other", "q"][0].unlisted) == (((0, 1),), 2)


def test_entries_of_other_slices_of_the_same_device_differ() -> None:
    def entry(slice_id: str) -> Entry:
        return read(gpu_status(holder("p", slice_id))).entries["research", "p"][0]

    assert entry("n-0::0") == entry("n-0::0")
    assert entry("n-0::0") != entry("n-0::1")


def test_held_slices_that_a_cut_list_leaves_out() -> None:
    holders = [holder("p", "n-0::0"), holder("ended", "n-0::0"), holder("q", count=3)]

    assert read(gpu_status(*holders, replicas=4, held=[2, 2])).condition.unlisted == {GPU: (1, 2)}
    assert read(gpu_status(*holders[:2])).condition.unlisted == {}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("the driver is  away", "its device plugin says: the driver is away", id="as it says"),
        pytest.param("x" * 500, f"its device plugin says: {'x' * 199}…", id="cut short"),
    ],
)
def test_a_node_that_does_not_offer_its_devices(message: str, expected: str) -> None:
    assert read(gpu_status(trouble=message)).trouble == expected


def test_equal_layouts_are_one_object_while_it_is_held() -> None:
    layouts = Layouts()
    one = read(gpu_status(node="a"), layouts)
    other = read(gpu_status(holder("p", "b-0::0"), node="b", sick=[0]), layouts)
    unlike = read(gpu_status(node="a", replicas=3), layouts)

    assert one.layout is other.layout
    assert one.device_ids != other.device_ids
    assert unlike.layout is not one.layout
    del one, other, unlike
    gc.collect()
    assert len(layouts._layouts) == 0


def test_equal_looks_are_one_object_while_it_is_held() -> None:
    looks = Looks()
    one = looks.look(EMPTY_LAYOUT, Occupancy(users=(1,)))

    assert looks.look(EMPTY_LAYOUT, Occupancy(users=(1,))) is one
    assert looks.look(EMPTY_LAYOUT, Occupancy(users=(2,))) is not one
    assert looks.look(EMPTY_LAYOUT, Occupancy(users=(1,)), "trouble") is not one
    gc.collect()
    assert len(looks._looks) == 1
