"""A mock libnvidia-ml.so.1, and the files from which it and the kernel would tell of a described machine.

    from tests.nvml_mock.build import build, describe, write_kernel_files

    library = build(folder)                         # compiles nvml_mock.c
    describe("dgx-a100", folder / "nvml")           # what the library answers, from NVML_MOCK=<that file>
    write_kernel_files("dgx-a100", folder / "root") # <root>/sys and <root>/proc

A process finds the library by LD_LIBRARY_PATH=<folder of the library>, or by `preload(library)` before pynvml looks
for it: the loader takes the one that is already there under the same soname.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from deviceplugin.discovery.described import machine_of
from deviceplugin.discovery.description import FaultDescription, MachineDescription, load
from deviceplugin.discovery.mig_profiles import parse
from deviceplugin.discovery.simulated import condition_of, faults_of
from deviceplugin.machine import Gpu, Machine, MigInstance

ENVIRONMENT: Final = "NVML_MOCK"
SONAME: Final = "libnvidia-ml.so.1"
_SOURCE: Final = Path(__file__).with_name("nvml_mock.c")
_NO_INSTANCE: Final = 0xFFFFFFFF


def build(folder: Path) -> Path:
    """Compile the mock into a folder; returns the library's path."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise RuntimeError("no C compiler found for the mock NVML; install gcc or clang, or set CC")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / SONAME
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    done = subprocess.run(
        [*command, f"-Wl,-soname,{SONAME}", "-o", str(library), str(_SOURCE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the mock NVML does not compile:\n{done.stderr}")
    return library


def preload(library: Path) -> None:
    """Make this process's pynvml use the mock. Without the environment variable it is a node without a driver."""
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def describe(
    machine: str | MachineDescription,
    file: Path,
    *,
    loaded: bool = True,
    reports_events: bool = True,
    wait_result: int = 0,
    events: Sequence[str] = (),
) -> None:
    """Write what the mock answers; replacing the file changes the machine while it runs.

    Args:
        machine: A shipped description's name, a path, or a description.
        file: Replaced atomically.
        loaded: Whether the driver is.
        reports_events: Whether the GPUs support NVML events.
        wait_result: An NVML error with which waiting for events fails.
        events: Lines made by `event`.
    """
    description = load(machine) if isinstance(machine, str) else machine
    described = machine_of(description)
    faults = faults_of(description, described)
    major, minor = described.cuda_version
    lines = [f"driver {int(loaded)} {described.driver_version} {major * 1000 + minor * 10}", f"wait {wait_result}"]
    for gpu in described.gpus:
        lines.append(_gpu_line(gpu, faults[gpu.device.id], reports_events=reports_events))
        lines += [_mig_line(gpu, n, instance) for n, instance in enumerate(gpu.mig)]
    lines += _link_lines(description, described)
    _replace(file, [*lines, *events])


def event(sequence: int, gpu: int, xid: int, *, gi: int | None = None, ci: int | None = None) -> str:
    """An XID that the driver reports once; `sequence` counts up."""
    instances = [_NO_INSTANCE if number is None else number for number in (gi, ci)]
    return f"event {sequence} {gpu} {xid} {instances[0]} {instances[1]}"


def write_kernel_files(machine: str | MachineDescription, root: Path) -> None:
    """Write sysfs below `root`/sys and procfs below `root`/proc, as a machine with these GPUs has them."""
    described = machine_of(load(machine) if isinstance(machine, str) else machine)
    links = root / "sys/bus/pci/devices"
    links.mkdir(parents=True, exist_ok=True)
    for gpu in described.gpus:
        place = gpu.device.place
        device = root / "sys/devices" / Path(*place.pcie_path)
        device.mkdir(parents=True, exist_ok=True)
        (device / "numa_node").write_text(f"{-1 if place.numa_node is None else place.numa_node}\n")
        link = links / place.pci_address
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../../../devices", *place.pcie_path))
    dmi = root / "sys/class/dmi/id"
    dmi.mkdir(parents=True, exist_ok=True)
    (dmi / "product_name").write_text(f"{described.product}\n")
    caps = root / "proc/driver/nvidia-caps"
    caps.mkdir(parents=True, exist_ok=True)
    (caps / "mig-minors").write_text("".join(f"{line}\n" for line in _mig_minors(described)))


def _mig_minors(machine: Machine) -> Iterator[str]:
    yield "config 1"
    yield "monitor 2"
    for gpu in machine.gpus:
        for instance in gpu.mig:
            assert instance.capability_minors is not None
            gi_minor, ci_minor = instance.capability_minors
            yield f"gpu{gpu.minor}/gi{instance.gi}/access {gi_minor}"
            yield f"gpu{gpu.minor}/gi{instance.gi}/ci{instance.ci}/access {ci_minor}"


def _gpu_line(gpu: Gpu, fault: FaultDescription, *, reports_events: bool) -> str:
    condition = condition_of(fault)
    cluster, _, clique = gpu.fabric_clique.partition(".")
    columns = [
        "gpu",
        gpu.device.index,
        gpu.device.id,
        gpu.minor,
        f"0000{gpu.device.place.pci_address.upper()}",
        gpu.device.memory_bytes,
        *gpu.compute_capability,
        int(gpu.mig_enabled) if gpu.mig_capable else -1,
        int(fault.lost),
        -1 if condition.recovery_action is None else condition.recovery_action,
        int(condition.remapping_pending),
        int(condition.remapping_failed),
        int(condition.retirement_pending),
        condition.uncorrected_errors,
        cluster.replace("-", "") or "0" * 32,
        clique or 0,
        int(reports_events),
        round(gpu.device.power_limit_watts * 1000),
        gpu.device.model,
    ]
    return " ".join(str(column) for column in columns)


def _mig_line(gpu: Gpu, n: int, instance: MigInstance) -> str:
    attributes = instance.attributes
    columns = [
        "mig",
        gpu.device.index,
        n,
        instance.device.id,
        instance.gi,
        instance.ci,
        _gi_profile(gpu, instance),
        instance.device.memory_bytes // 2**20,
        attributes.multiprocessors,
        attributes.gpu_instance_slices,
        attributes.compute_instance_slices,
        attributes.copy_engines,
        attributes.decoders,
        attributes.encoders,
        attributes.jpeg_engines,
        attributes.ofa_engines,
    ]
    return " ".join(str(column) for column in columns)


def _gi_profile(gpu: Gpu, instance: MigInstance) -> int:
    """NVML_GPU_INSTANCE_PROFILE_*: one slice comes with media extensions (7) or a double share of memory (9)."""
    profile = parse(instance.device.profile)
    assert profile is not None
    if profile.suffix == "+me":
        return 7
    if profile.slices == 1 and profile.gigabytes * 8 > gpu.device.memory_bytes / 2**30 * 1.5:
        return 9
    return {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[profile.slices]


def _link_lines(description: MachineDescription, machine: Machine) -> Iterator[str]:
    next_link = [0] * len(machine.gpus)
    for gpu in range(len(machine.gpus)):
        for n in range(description.nvswitch.lanes if description.nvswitch else 0):
            yield f"link {gpu} {n} 2 00000000:{0xC4 + n % 6:02X}:00.0"
            next_link[gpu] += 1
    for pair in description.nvlinks:
        for here, there in (pair.gpus, reversed(pair.gpus)):
            for _ in range(pair.lanes):
                yield f"link {here} {next_link[here]} 0 0000{machine.gpus[there].device.place.pci_address.upper()}"
                next_link[here] += 1


def _replace(file: Path, lines: Sequence[str]) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_text("".join(f"{line}\n" for line in lines))
    new.replace(file)
