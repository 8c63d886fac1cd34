"""What a container gets for its slices."""

import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.errors import (
    AllocationError,
    MissingNodeError,
    MpsOnMigError,
    RepeatedSliceError,
    TooManySlicesError,
    UnhealthySliceError,
    UnknownSliceError,
)
from deviceplugin.allocation.gpu import Allocator, granted
from deviceplugin.allocation.nodes import CONTROL_NODES
from deviceplugin.config.model import Config, DeviceListStrategy, Flags, PluginFlags, SharingStrategy
from deviceplugin.container import ContainerEdits, DeviceNode, Mount
from deviceplugin.machine import Machine
from deviceplugin.resources import Resource
from tasuki.devices.model import HEALTHY, Device, Health, Slice, slices_of, unhealthy
from tests.builders import a_device, a_gpu, a_machine, a_mig_instance

Configure = Callable[..., Config]

GPU = "nvidia.com/gpu"


def whole(*devices: Device) -> tuple[Slice, ...]:
    return tuple(s for device in devices for s in slices_of(device, None))


def a_resource(*slices: Slice, sharing: str = "none", one_per_request: bool = False) -> Resource:
    return Resource(GPU, slices, SharingStrategy(sharing), one_per_request=one_per_request)


def edits_of(config: Config, *slices: Slice, machine: Machine | None = None, sharing: str = "none") -> ContainerEdits:
    allocator = Allocator.of(machine or a_machine(count=4), config, CONTROL_NODES)
    return allocator.edits(a_resource(*slices, sharing=sharing), slices)


def by_id(*slices: Slice) -> dict[str, Slice]:
    return {s.id: s for s in slices}


# --- which slices may be handed out ---


@pytest.mark.parametrize(
    ("wanted", "health", "error", "text"),
    [
        pytest.param(["GPU-9"], HEALTHY, UnknownSliceError, "unknown device: GPU-9", id="not there"),
        pytest.param(
            ["GPU-0::1"],
            unhealthy("XID 79"),
            UnhealthySliceError,
            "slice 'GPU-0::1' is unhealthy: XID 79",
            id="unhealthy",
        ),
        pytest.param(["GPU-0::1", "GPU-0::1"], HEALTHY, RepeatedSliceError, "a slice is named twice", id="twice"),
        pytest.param(
            ["GPU-0::0", "GPU-0::1"],
            HEALTHY,
            TooManySlicesError,
            "maximum request size for shared resources is 1; found 2",
            id="two shared slices where one is the most",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    wanted: list[str], health: Health, error: type[AllocationError], text: str
) -> None:
    slices = slices_of(a_device(0, health=health), 4)
    resource = a_resource(*slices, sharing="time-slicing", one_per_request=True)

    with pytest.raises(error, match=re.escape(text)):
        granted(resource, wanted, by_id(*slices))


def test_whole_devices_may_be_many_where_shared_ones_may_not() -> None:
    slices = whole(a_device(0), a_device(1))

    found = granted(a_resource(*slices, one_per_request=True), ["GPU-1", "GPU-0"], by_id(*slices))

    assert [s.id for s in found] == ["GPU-0", "GPU-1"]


def test_granted_slices_are_in_the_drivers_order() -> None:
    slices = (*slices_of(a_device(10), 2), *slices_of(a_device(9), 2))

    found = granted(a_resource(*slices), ["GPU-10::1", "GPU-9::1", "GPU-10::0"], by_id(*slices))

    assert [s.id for s in found] == ["GPU-9::1", "GPU-10::0", "GPU-10::1"]


def test_a_grant_is_the_edits_for_the_slices_of_these_names(configure: Configure) -> None:
    slices = slices_of(a_device(1), 3)
    allocator = Allocator.of(a_machine(count=2), configure("envvar"), CONTROL_NODES)

    edits = allocator.grant(a_resource(*slices), by_id(*slices), ["GPU-1::2"])

    assert edits.envs["NVIDIA_VISIBLE_DEVICES"] == "GPU-1"


# --- how they reach the container ---

CDI_NAMES = ("k8s.device-plugin.nvidia.com/gpu=GPU-1", "k8s.device-plugin.nvidia.com/gpu=GPU-2")


@pytest.mark.parametrize(
    ("strategies", "visible", "mounts", "cdi_devices", "annotated"),
    [
        pytest.param(["envvar"], "GPU-1,GPU-2", [], (), False, id="environment variable"),
        pytest.param(
            ["volume-mounts"],
            "/var/run/nvidia-container-devices",
            ["/var/run/nvidia-container-devices/GPU-1", "/var/run/nvidia-container-devices/GPU-2"],
            (),
            False,
            id="volume mounts",
        ),
        pytest.param(
            ["envvar", "volume-mounts"],
            "/var/run/nvidia-container-devices",
            ["/var/run/nvidia-container-devices/GPU-1", "/var/run/nvidia-container-devices/GPU-2"],
            (),
            False,
            id="both of these",
        ),
        pytest.param(["cdi-cri"], None, [], CDI_NAMES, False, id="CDI field"),
        pytest.param(["cdi-annotations"], None, [], (), True, id="CDI annotations"),
        pytest.param(["cdi-annotations", "cdi-cri"], None, [], CDI_NAMES, True, id="both ways of CDI"),
        pytest.param(["envvar", "cdi-cri"], "GPU-1,GPU-2", [], CDI_NAMES, False, id="environment variable and CDI"),
    ],
)
def test_devices_are_listed_as_each_strategy_says(
    configure: Configure,
    *,
    strategies: list[str],
    visible: str | None,
    mounts: list[str],
    cdi_devices: tuple[str, ...],
    annotated: bool,
) -> None:
    edits = edits_of(configure(*strategies), *whole(a_device(1), a_device(2)))

    assert edits.envs.get("NVIDIA_VISIBLE_DEVICES") == visible
    assert edits.envs["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert [m.container_path for m in edits.mounts] == mounts
    assert all(m.host_path == "/dev/null" for m in edits.mounts)
    assert edits.cdi_devices == cdi_devices
    assert list(edits.annotations.values()) == ([",".join(CDI_NAMES)] if annotated else [])
    assert edits.nodes == ()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        pytest.param("envvar", "2,10", id="environment variable"),
        pytest.param("volume-mounts", "/var/run/nvidia-container-devices", id="volume mounts"),
    ],
)
def test_an_index_is_for_the_runtime_only(configure: Configure, strategy: str, expected: str) -> None:
    slices = whole(a_device(10), a_device(2))

    edits = edits_of(configure(strategy, ids="index"), *slices, machine=a_machine(count=11))

    assert edits.envs["NVIDIA_VISIBLE_DEVICES"] == expected
    assert edits.envs["CUDA_VISIBLE_DEVICES"] == "GPU-2,GPU-10"


def test_cdi_names_follow_the_id_strategy(configure: Configure) -> None:
    instance = a_mig_instance(0, 1)
    machine = a_machine(a_gpu(0, mig=(instance,)))

    edits = edits_of(configure("cdi-cri", ids="index"), *whole(instance.device), machine=machine)

    assert edits.cdi_devices == ("k8s.device-plugin.nvidia.com/gpu=0:1",)


def test_several_slices_of_one_device_name_it_once(configure: Configure) -> None:
    edits = edits_of(configure("envvar", "volume-mounts", device_specs=True), *slices_of(a_device(1), 4)[:3])

    assert edits.envs["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert [m.container_path for m in edits.mounts] == ["/var/run/nvidia-container-devices/GPU-1"]
    assert [n.container_path for n in edits.nodes].count("/dev/nvidia1") == 1


def test_device_specs_are_the_existing_control_nodes_and_the_devices(configure: Configure) -> None:
    config = configure("envvar", device_specs=True, dev_root="/run/nvidia/driver")
    allocator = Allocator.of(a_machine(count=2), config, {"/dev/nvidiactl", "/dev/nvidia-uvm"})
    slices = whole(a_device(1))

    edits = allocator.edits(a_resource(*slices), slices)

    assert edits.nodes == (
        DeviceNode("/run/nvidia/driver/dev/nvidiactl", "/dev/nvidiactl", "rw"),
        DeviceNode("/run/nvidia/driver/dev/nvidia-uvm", "/dev/nvidia-uvm", "rw"),
        DeviceNode("/run/nvidia/driver/dev/nvidia1", "/dev/nvidia1", "rw"),
    )


def test_cdi_alone_passes_no_device_specs(configure: Configure) -> None:
    assert edits_of(configure("cdi-cri", device_specs=True), *whole(a_device(0))).nodes == ()


def test_a_mig_device_comes_with_its_capability_nodes(configure: Configure) -> None:
    instance = a_mig_instance(1, 0)
    machine = a_machine(a_gpu(0), a_gpu(1, mig=(instance,)))

    edits = edits_of(configure("envvar", device_specs=True), *whole(instance.device), machine=machine)

    assert edits.envs["NVIDIA_VISIBLE_DEVICES"] == edits.envs["CUDA_VISIBLE_DEVICES"] == "MIG-1-0"
    assert [n.container_path for n in edits.nodes] == [
        *CONTROL_NODES,
        "/dev/nvidia1",
        "/dev/nvidia-caps/nvidia-cap12",
        "/dev/nvidia-caps/nvidia-cap13",
    ]


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        pytest.param({}, False, id="environment variable"),
        pytest.param({"device_specs": True}, True, id="device specs"),
        pytest.param({"device_nodes": True}, True, id="plain runc"),
        pytest.param({"cdi": True}, True, id="CDI"),
    ],
)
def test_missing_capabilities_matter_only_where_nodes_are_needed(
    configure: Configure, options: dict[str, bool], needed: bool
) -> None:
    instance = replace(a_mig_instance(0, 2), capability_minors=None)
    machine = a_machine(a_gpu(0, mig=(instance,)))
    config = configure("cdi-cri") if options.pop("cdi", False) else configure("envvar", **options)

    if needed:
        with pytest.raises(MissingNodeError, match=r"/capabilities/gpu0/mig/gi3/ci0/access"):
            edits_of(config, *whole(instance.device), machine=machine)
    else:
        edits = edits_of(config, *whole(instance.device), machine=machine)
        assert edits.envs["NVIDIA_VISIBLE_DEVICES"] == "MIG-0-2"


def test_plain_runc_gets_nodes_libraries_and_a_path_to_them(configure: Configure) -> None:
    edits = edits_of(configure("envvar", device_nodes=True), *whole(a_device(3)))

    assert [n.container_path for n in edits.nodes] == [*CONTROL_NODES, "/dev/nvidia3"]
    assert edits.mounts == (Mount("/home/kubernetes/bin/nvidia", "/usr/local/nvidia", read_only=True),)
    assert edits.envs["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"


def test_a_device_that_is_gone_has_no_nodes(configure: Configure) -> None:
    with pytest.raises(MissingNodeError, match="device GPU-7 is not on this machine"):
        edits_of(configure("envvar", device_specs=True), *whole(a_device(7)))


# --- further switches ---


def test_further_drivers_are_asked_for_by_variables(configure: Configure) -> None:
    edits = edits_of(configure("envvar", switches=True), *whole(a_device(0)))

    assert {"NVIDIA_GDRCOPY", "NVIDIA_GDS", "NVIDIA_MOFED"} <= edits.envs.keys()
    assert edits.envs["NVIDIA_GDS"] == "enabled"


def test_further_drivers_are_cdi_devices_where_they_exist(configure: Configure) -> None:
    config = configure("cdi-cri", switches=True)
    allocator = Allocator.of(a_machine(count=1), config, {"/dev/gdrdrv", "/dev/infiniband/uverbs0"})
    slices = whole(a_device(0))

    edits = allocator.edits(a_resource(*slices), slices)

    assert edits.cdi_devices[1:] == (
        "k8s.device-plugin.nvidia.com/gdrcopy=all",
        "k8s.device-plugin.nvidia.com/mofed=all",
    )


@pytest.mark.parametrize(
    ("strategy", "where"),
    [
        pytest.param("envvar", "env", id="environment variable"),
        pytest.param("volume-mounts", "mount", id="volume mounts"),
        pytest.param("cdi-cri", "cdi", id="CDI"),
    ],
)
def test_an_imex_channel_goes_the_way_of_the_devices(configure: Configure, strategy: str, where: str) -> None:
    config = configure(strategy, imex=(0,), device_specs=True)
    channel = "/dev/nvidia-caps-imex-channels/channel0"
    allocator = Allocator.of(a_machine(count=1), config, {*CONTROL_NODES, channel})
    slices = whole(a_device(0))

    edits = allocator.edits(a_resource(*slices), slices)

    assert (edits.envs.get("NVIDIA_IMEX_CHANNELS") == "0") == (where == "env")
    mounted = [m.container_path for m in edits.mounts]
    assert ("/var/run/nvidia-container-devices/imex/0" in mounted) == (where == "mount")
    assert ("k8s.device-plugin.nvidia.com/imex-channel=0" in edits.cdi_devices) == (where == "cdi")
    assert (channel in [n.container_path for n in edits.nodes]) == (where != "cdi")


def test_an_absent_imex_channel_is_left_out_unless_required(configure: Configure) -> None:
    slices = whole(a_device(0))

    assert "NVIDIA_IMEX_CHANNELS" not in edits_of(configure("envvar", imex=(0,)), *slices).envs
    with pytest.raises(MissingNodeError, match="required IMEX channels do not exist: /dev/nvidia-caps-imex"):
        edits_of(configure("envvar", imex=(0,), imex_required=True), *slices)


def test_mps_leads_to_the_resources_own_daemon(configure: Configure) -> None:
    slices = slices_of(a_device(0), 4)[:1]

    edits = edits_of(configure("envvar", mps_root="/run/nvidia/mps"), *slices, sharing="mps")

    assert edits.envs["CUDA_MPS_PIPE_DIRECTORY"] == "/mps/nvidia.com/gpu/pipe"
    assert edits.mounts == (
        Mount("/run/nvidia/mps/nvidia.com/gpu/pipe", "/mps/nvidia.com/gpu/pipe", read_only=False),
        Mount("/run/nvidia/mps/shm", "/dev/shm", read_only=False),
    )


def test_a_whole_device_among_shared_ones_has_no_mps(configure: Configure) -> None:
    edits = edits_of(configure("envvar", mps_root="/run/nvidia/mps"), *whole(a_device(0)), sharing="mps")

    assert "CUDA_MPS_PIPE_DIRECTORY" not in edits.envs


def test_mps_on_a_mig_device_is_refused(configure: Configure) -> None:
    instance = a_mig_instance(0, 0)
    machine = a_machine(a_gpu(0, mig=(instance,)))

    with pytest.raises(MpsOnMigError, match=r"use sharing\.timeSlicing"):
        edits_of(configure("envvar"), *slices_of(instance.device, 2)[:1], machine=machine, sharing="mps")


@pytest.mark.parametrize(
    ("memory_caps", "fraction"),
    [pytest.param(True, "0.25", id="on"), pytest.param(False, None, id="off")],
)
def test_memory_caps_follow_the_configuration(configure: Configure, memory_caps: bool, fraction: str | None) -> None:
    edits = edits_of(configure("envvar", memory_caps=memory_caps), slices_of(a_device(0), 4)[2])

    assert edits.envs.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == fraction
    assert ("TASUKI_GPU_MEMORY_BYTES" in edits.envs) == memory_caps


# --- annotations ---


def test_an_annotations_key_is_a_qualified_name(configure: Configure) -> None:
    edits = edits_of(configure("cdi-annotations", annotation_prefix="example.com/"), *whole(a_device(0)))

    (key,) = edits.annotations
    prefix, _, name = key.partition("/")
    assert prefix == "example.com"
    assert re.fullmatch(r"nvidia-device-plugin_[0-9a-f]{32}", name)
    assert len(name) <= 63


def test_different_slices_have_different_keys(configure: Configure) -> None:
    first, second = slices_of(a_device(0), 2)
    config = configure("cdi-annotations")

    assert edits_of(config, first).annotations.keys() != edits_of(config, second).annotations.keys()


# --- for every machine ---


@st.composite
def grants(draw: st.DrawFn) -> tuple[Machine, list[Slice]]:
    """A machine with whole, shared and MIG devices, and some of its slices in any order."""
    gpus = []
    for n in range(draw(st.integers(1, 5))):
        instances = draw(st.integers(0, 4))
        mig = tuple(a_mig_instance(n, i) for i in range(instances)) if instances else None
        gpus.append(a_gpu(n, mig=mig))
    devices = [d for g in gpus for d in ([i.device for i in g.mig] or [g.device])]
    slices = [s for d in devices for s in slices_of(d, draw(st.sampled_from([None, 2, 7, 48])))]
    chosen = draw(st.lists(st.sampled_from(slices), min_size=1, max_size=12, unique_by=lambda s: s.id))
    return a_machine(*gpus), chosen


every_strategy = st.lists(st.sampled_from(DeviceListStrategy), min_size=1, unique=True)


@given(grants(), every_strategy)
def test_exactly_the_granted_devices_are_named(
    grant: tuple[Machine, list[Slice]], strategies: list[DeviceListStrategy]
) -> None:
    machine, slices = grant
    plugin = PluginFlags(device_list_strategy=tuple(strategies), pass_device_specs=True)
    config = Config(flags=Flags(plugin=plugin))
    allocator = Allocator.of(machine, config, CONTROL_NODES)

    edits = allocator.edits(a_resource(*slices), slices)

    expected = sorted({s.device.id for s in slices})
    named: dict[DeviceListStrategy, list[str]] = {
        DeviceListStrategy.ENVVAR: edits.envs.get("NVIDIA_VISIBLE_DEVICES", "").split(","),
        DeviceListStrategy.VOLUME_MOUNTS: [m.container_path.rpartition("/")[2] for m in edits.mounts],
        DeviceListStrategy.CDI_CRI: [name.partition("=")[2] for name in edits.cdi_devices],
        DeviceListStrategy.CDI_ANNOTATIONS: [
            name.partition("=")[2] for value in edits.annotations.values() for name in value.split(",")
        ],
    }
    if DeviceListStrategy.VOLUME_MOUNTS in strategies:
        del named[DeviceListStrategy.ENVVAR]
    assert sorted(edits.envs["CUDA_VISIBLE_DEVICES"].split(",")) == expected
    assert all(sorted(named[s]) == expected for s in strategies if s in named)
    if set(strategies) & {DeviceListStrategy.ENVVAR, DeviceListStrategy.VOLUME_MOUNTS}:
        own = {n.container_path for n in edits.nodes} - set(CONTROL_NODES)
        assert own == {path for device in expected for path in allocator.own.paths[device]}


@given(grants(), every_strategy, st.randoms(use_true_random=False))
def test_the_order_of_slices_changes_nothing(
    grant: tuple[Machine, list[Slice]], strategies: list[DeviceListStrategy], shuffle: Random
) -> None:
    machine, slices = grant
    config = Config(flags=Flags(plugin=PluginFlags(device_list_strategy=tuple(strategies), pass_device_specs=True)))
    allocator = Allocator.of(machine, config, CONTROL_NODES)
    other = list(slices)
    shuffle.shuffle(other)

    one, two = (allocator.edits(a_resource(*slices), order) for order in (slices, other))

    assert one == two
    assert list(one.envs.items()) == list(two.envs.items())
