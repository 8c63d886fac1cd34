"""CDI specifications, by the rules of CDI's own specification (SPEC.md, version 0.5.0)."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.cdi import CdiSpec, HostFiles, Library, specs
from deviceplugin.allocation.gpu import Allocator
from deviceplugin.allocation.nodes import CONTROL_NODES
from deviceplugin.config.model import Config
from deviceplugin.machine import Machine
from deviceplugin.resources import Resource
from tasuki.devices.model import slices_of
from tests.builders import a_gpu, a_machine, a_mig_instance

Configure = Callable[..., Config]

FOLDER = "/usr/lib/x86_64-linux-gnu"
CUDA = Library(f"{FOLDER}/libcuda.so.580.95.05", ("libcuda.so", "libcuda.so.1"))
ML = Library(f"{FOLDER}/libnvidia-ml.so.580.95.05", ("libnvidia-ml.so.1",))
FILES = HostFiles(nodes=frozenset(CONTROL_NODES), libraries=(CUDA, ML), others=("/usr/bin/nvidia-smi",))

ALLOWED = {
    "env": set[str](),
    "deviceNodes": {"path", "hostPath", "type", "major", "minor", "fileMode", "permissions", "uid", "gid"},
    "mounts": {"hostPath", "containerPath", "options", "type"},
    "hooks": {"hookName", "path", "args", "env", "timeout"},
}
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
CLASS = re.compile(r"[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def check_edits(edits: dict[str, Any]) -> None:
    assert edits.keys() <= ALLOWED.keys()
    for kind, entries in edits.items():
        assert entries, "an empty list says nothing"
        for entry in entries:
            if kind == "env":
                assert re.fullmatch(r"[^=]+=.*", entry)
            else:
                assert entry.keys() <= ALLOWED[kind]
    for node in edits.get("deviceNodes", []):
        assert node["path"].startswith("/dev/")
        assert node.get("hostPath", "/").startswith("/")
    for mount in edits.get("mounts", []):
        assert mount["hostPath"].startswith("/")
        assert mount["containerPath"].startswith("/")
        assert "ro" in mount["options"]
    for hook in edits.get("hooks", []):
        assert hook["hookName"] in {"createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
        assert hook["path"].startswith("/")


def check(spec: CdiSpec) -> dict[str, Any]:
    """Hold a specification against CDI's rules, and return it as the runtime reads it."""
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    assert read.keys() <= {"cdiVersion", "kind", "devices", "containerEdits"}
    assert read["cdiVersion"] == "0.5.0"
    vendor, _, device_class = read["kind"].partition("/")
    assert len(vendor) <= 253
    assert all(LABEL.fullmatch(label) for label in vendor.split("."))
    assert CLASS.fullmatch(device_class)
    assert read["devices"], "at least one device"
    names = [device["name"] for device in read["devices"]]
    assert len(set(names)) == len(names)
    for device in read["devices"]:
        assert device.keys() == {"name", "containerEdits"}
        assert NAME.fullmatch(device["name"])
        assert device["containerEdits"], "a device must change something"
        check_edits(device["containerEdits"])
    check_edits(read.get("containerEdits", {}))
    return read


def the_gpus(machine: Machine, config: Config, files: HostFiles = FILES, disabled: tuple[str, ...] = ()) -> Any:
    (spec,) = specs(machine, config, files, disabled)
    return check(spec)


def test_every_gpu_and_mig_device_is_a_device(configure: Configure) -> None:
    machine = a_machine(a_gpu(0), a_gpu(1, mig=(a_mig_instance(1, 0),)))

    read = the_gpus(machine, configure("cdi-cri"))

    assert read["kind"] == "k8s.device-plugin.nvidia.com/gpu"
    nodes = {d["name"]: [n["path"] for n in d["containerEdits"]["deviceNodes"]] for d in read["devices"]}
    assert nodes == {
        "GPU-0": ["/dev/nvidia0"],
        "GPU-1": ["/dev/nvidia1"],
        "MIG-1-0": ["/dev/nvidia1", "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap13"],
    }


def test_devices_are_named_by_index_if_so_configured(configure: Configure) -> None:
    machine = a_machine(a_gpu(0, mig=(a_mig_instance(0, 1),)))

    read = the_gpus(machine, configure("cdi-cri", ids="index"))

    assert [d["name"] for d in read["devices"]] == ["0", "0:1"]


def test_a_mig_device_without_capability_nodes_is_left_out(configure: Configure) -> None:
    instance = replace(a_mig_instance(0, 0), capability_minors=None)

    read = the_gpus(a_machine(a_gpu(0, mig=(instance,))), configure("cdi-cri"))

    assert [d["name"] for d in read["devices"]] == ["GPU-0"]


def test_all_containers_get_control_nodes_and_are_hidden_from_the_runtime(configure: Configure) -> None:
    files = HostFiles(nodes=frozenset({"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"}))

    common = the_gpus(a_machine(count=1), configure("cdi-cri"), files)["containerEdits"]

    assert common == {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia-uvm"}],
    }


def test_the_drivers_files_are_mounted_where_they_are_on_the_host(configure: Configure) -> None:
    config = configure("cdi-cri", driver_root="/run/nvidia/driver", dev_root="/run/nvidia/driver")

    read = the_gpus(a_machine(count=1), config)

    mounts = {m["containerPath"]: m["hostPath"] for m in read["containerEdits"]["mounts"]}
    assert mounts == {
        path: f"/run/nvidia/driver{path}"
        for path in (f"{FOLDER}/libcuda.so.580.95.05", f"{FOLDER}/libnvidia-ml.so.580.95.05", "/usr/bin/nvidia-smi")
    }
    assert read["devices"][0]["containerEdits"]["deviceNodes"] == [
        {"path": "/dev/nvidia0", "hostPath": "/run/nvidia/driver/dev/nvidia0"}
    ]


@pytest.mark.parametrize(
    ("program", "start"),
    [
        pytest.param("/usr/bin/nvidia-ctk", ["nvidia-ctk", "hook"], id="nvidia-ctk"),
        pytest.param("/usr/local/bin/nvidia-cdi-hook", ["nvidia-cdi-hook"], id="nvidia-cdi-hook"),
    ],
)
def test_hooks_link_the_libraries_and_update_the_loaders_cache(
    configure: Configure, program: str, start: list[str]
) -> None:
    hooks = the_gpus(a_machine(count=1), configure("cdi-cri", ctk=program))["containerEdits"]["hooks"]

    assert hooks == [
        {
            "hookName": "createContainer",
            "path": program,
            "args": [
                *start,
                "create-symlinks",
                "--link",
                f"libcuda.so.580.95.05::{FOLDER}/libcuda.so",
                "--link",
                f"libcuda.so.580.95.05::{FOLDER}/libcuda.so.1",
                "--link",
                f"libnvidia-ml.so.580.95.05::{FOLDER}/libnvidia-ml.so.1",
            ],
        },
        {"hookName": "createContainer", "path": program, "args": [*start, "update-ldcache", "--folder", FOLDER]},
    ]


@pytest.mark.parametrize(
    ("disabled", "program", "hooks", "mounted_links"),
    [
        pytest.param((), "/usr/bin/nvidia-ctk", ["create-symlinks", "update-ldcache"], False, id="none disabled"),
        pytest.param(("update-ldcache",), "/usr/bin/nvidia-ctk", ["create-symlinks"], False, id="no cache"),
        pytest.param(("create-symlinks",), "/usr/bin/nvidia-ctk", ["update-ldcache"], True, id="no links"),
        pytest.param(("all",), "/usr/bin/nvidia-ctk", [], True, id="all disabled"),
        pytest.param((), "", [], True, id="no program to call"),
        pytest.param(
            ("enable-cuda-compat",), "/x/nvidia-ctk", ["create-symlinks", "update-ldcache"], False, id="other"
        ),
    ],
)
def test_without_a_hook_for_links_libraries_are_mounted_under_each_name(
    configure: Configure, *, disabled: tuple[str, ...], program: str, hooks: list[str], mounted_links: bool
) -> None:
    common = the_gpus(a_machine(count=1), configure("cdi-cri", ctk=program), FILES, disabled)["containerEdits"]

    assert [hook["args"][2] for hook in common.get("hooks", [])] == hooks
    mounts = {m["containerPath"]: m["hostPath"] for m in common["mounts"]}
    assert (f"{FOLDER}/libcuda.so.1" in mounts) == mounted_links
    assert not mounted_links or mounts[f"{FOLDER}/libcuda.so.1"] == CUDA.path


def test_further_classes_exist_where_their_devices_do(configure: Configure) -> None:
    files = HostFiles(
        nodes=frozenset(
            {
                "/dev/gdrdrv",
                "/dev/nvidia-fs0",
                "/dev/infiniband/uverbs0",
                "/dev/nvidia-caps-imex-channels/channel0",
            }
        ),
        storage=("/etc/cufile.json",),
    )
    config = configure("cdi-cri", switches=True, imex=(0, 1), dev_root="/drv")

    read = {spec.device_class: check(spec) for spec in specs(a_machine(count=1), config, files)}

    assert list(read) == ["gdrcopy", "gds", "gpu", "imex-channel", "mofed"]
    assert [d["name"] for d in read["imex-channel"]["devices"]] == ["0"]
    gdrcopy, gds = (read[c]["devices"][0]["containerEdits"] for c in ("gdrcopy", "gds"))
    assert gdrcopy["deviceNodes"] == [{"path": "/dev/gdrdrv", "hostPath": "/drv/dev/gdrdrv"}]
    assert gds["deviceNodes"] == [{"path": "/dev/nvidia-fs0"}]
    assert [m["containerPath"] for m in gds["mounts"]] == ["/etc/cufile.json"]


def test_a_machine_without_gpus_has_no_specification(configure: Configure) -> None:
    assert specs(Machine(), configure("cdi-cri", switches=True), FILES) == ()


@given(st.lists(st.integers(0, 7), min_size=1, max_size=8), st.sampled_from(["uuid", "index"]))
def test_every_name_that_allocate_gives_is_in_a_specification(instances: list[int], ids: str) -> None:
    machine = a_machine(
        *(a_gpu(n, mig=tuple(a_mig_instance(n, i) for i in range(count))) for n, count in enumerate(instances))
    )
    config = msgspec.convert(
        {"flags": {"plugin": {"device_list_strategy": ["cdi-cri"], "device_id_strategy": ids}}}, Config
    )
    devices = [d for g in machine.gpus for d in (g.device, *(i.device for i in g.mig))]
    allocator = Allocator.of(machine, config, FILES.nodes)

    known = {f"{s.kind}={d.name}" for s in specs(machine, config, FILES) for d in s.devices if check(s)}

    for device in devices:
        slices = slices_of(device, None)
        assert set(allocator.edits(Resource("nvidia.com/gpu", slices), slices).cdi_devices) <= known
