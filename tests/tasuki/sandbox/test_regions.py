"""Who stands in the way of a pod that wants an FPGA's function, and images that the plugin takes for real ones."""

from pathlib import Path

import msgspec
import pytest

from deviceplugin.config import precedence
from deviceplugin.config.precedence import Overrides
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from deviceplugin.fpga_plan import implementation_for
from deviceplugin.programming import images
from deviceplugin.resources import Resource
from tasuki.devices.model import Device, DeviceKind, slices_of
from tasuki.sandbox.pods import Container, Pod
from tasuki.sandbox.regions import Holding, Regions, told
from tasuki.sandbox.scheduling import Shortage
from tasuki.sandbox.settings import CONFIGS
from tasuki.sandbox.simulated_images import write_images

A, B = "fpga.tasuki.dev/a", "fpga.tasuki.dev/b"


def device(name: str, kind: DeviceKind = DeviceKind.FPGA) -> Device:
    return Device(id=name, kind=kind, index="0:0", model="", memory_bytes=0)


def regions() -> Regions:
    r0, r1 = device("r0"), device("r1")
    return Regions.of(
        [
            Resource(A, (*slices_of(r0, 2), *slices_of(r1, 2))),
            Resource(B, (*slices_of(r0, 1), *slices_of(r1, 1))),
            Resource("nvidia.com/gpu", slices_of(device("g", DeviceKind.GPU), None)),
        ]
    )


def pod(name: str, *, job: bool = False) -> Pod:
    return Pod(name, (Container("main"),), uid=name, job="job" if job else "")


def missing(resource: str, wanted: int = 1) -> Shortage:
    return Shortage(resource, wanted, 0, 0, 0, (A, B))


def test_regions_under_other_resources_are_in_the_way() -> None:
    holdings = [Holding(pod("p"), A, "r0"), Holding(pod("q"), B, "r1")]

    found = regions().in_the_way([missing(B)], holdings)

    assert told(found) == (f"region r0 is held under {A} by default/p",)


def test_a_gpu_that_is_missing_is_no_regions_fault() -> None:
    assert regions().in_the_way([missing("nvidia.com/gpu")], [Holding(pod("p"), A, "r0")]) == ()


@pytest.mark.parametrize(
    ("wanted", "held", "ended"),
    [
        pytest.param(1, [("pod", "r0"), ("job1", "r1")], ["job1"], id="the only Job"),
        pytest.param(1, [("job1", "r0"), ("job2", "r1")], ["job1"], id="the older Job alone"),
        pytest.param(2, [("job1", "r0"), ("job2", "r1")], ["job1", "job2"], id="both if one region is too little"),
        pytest.param(1, [("job1", "r0"), ("pod", "r0"), ("job2", "r1")], ["job2"], id="not one that shares with a pod"),
        pytest.param(1, [("job1", "r0"), ("job2", "r0")], ["job1", "job2"], id="all that share the region"),
        pytest.param(1, [("pod", "r0")], [], id="none but Jobs"),
        pytest.param(3, [("job1", "r0")], [], id="none where it would not be enough"),
    ],
)
def test_jobs_end_for_regions(wanted: int, held: list[tuple[str, str]], ended: list[str]) -> None:
    pods = {name: pod(name, job=name.startswith("job")) for name, _ in held}
    holdings = [Holding(pods[name], A, region) for name, region in held]

    found = regions().must_end_first([missing(B, wanted)], holdings)

    assert [each.name for each in found] == ended


@pytest.mark.parametrize("machine", ["intel-dfl", "alveo", "soc"])
def test_simulated_images_pass_the_plugins_check(machine: str, tmp_path: Path) -> None:
    options = precedence.load((CONFIGS / "fpga-sandbox.yaml").read_bytes(), Overrides()).tasuki.fpga
    sys = materialise(machine, tmp_path)
    write_images(options.functions, tmp_path / "images")

    for region in FpgaSource(sys, dev_of(sys)).scan().regions:
        for function in options.functions:
            if implementation := implementation_for(region, function):
                assert images.checked(tmp_path / "images", region, implementation).is_file()
                if region.family != "fpga-region":
                    with pytest.raises(images.ImageError):
                        images.checked(
                            tmp_path / "images", region, msgspec.structs.replace(implementation, id="0" * 32)
                        )
