"""CDI's files on disk."""

from pathlib import Path

import pytest

from deviceplugin.allocation.cdi import HostFiles, Library, specs
from deviceplugin.cdi_files import (
    CdiFileError,
    DriverFilesMissingError,
    device_nodes,
    encoded,
    file_name,
    host_files,
    write_specs,
)
from deviceplugin.config.model import Config, Flags
from tests.builders import a_machine

VERSION = "580.95.05"
FOLDER = "usr/lib/x86_64-linux-gnu"
SPECS = specs(a_machine(count=2), Config(), HostFiles())


@pytest.fixture
def driver_root(tmp_path: Path) -> Path:
    """A host's root with a driver, as Debian's packages and NVIDIA's installer lay it out."""
    folder = tmp_path / FOLDER
    (folder / "vdpau").mkdir(parents=True)
    for library in ("libcuda", "libnvidia-ml", "libnvidia-tls", "vdpau/libvdpau_nvidia"):
        (folder / f"{library}.so.{VERSION}").write_bytes(b"ELF")
    (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{VERSION}")
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    (folder / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{VERSION}")
    (folder / "libcuda.so.535.1").write_bytes(b"an older driver's")
    (folder / "libc.so.6").write_bytes(b"not the driver's")
    (folder / "loop.so").symlink_to("loop.so")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/nvidia-smi").write_bytes(b"ELF")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/cufile.json").write_text("{}")
    return tmp_path


@pytest.fixture
def dev_root(tmp_path: Path) -> Path:
    """Device files, for which links to one that every machine has stand in."""
    root = tmp_path / "devices"
    (root / "dev/nvidia-caps").mkdir(parents=True)
    (root / "dev/infiniband").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "infiniband/uverbs0"):
        (root / "dev" / name).symlink_to("/dev/null")
    (root / "dev/nvidia-modeset").write_text("not a device")
    (root / "dev/nvidia1").symlink_to("gone")
    return root


def test_device_nodes_are_those_that_are_devices(dev_root: Path) -> None:
    assert device_nodes(dev_root) == {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/infiniband/uverbs0"}


def test_a_machine_without_device_files_has_none(tmp_path: Path) -> None:
    assert device_nodes(tmp_path) == frozenset()


def test_the_drivers_files_are_found_once_with_their_links(driver_root: Path, dev_root: Path) -> None:
    files = host_files(driver_root, dev_root, VERSION)

    assert files.libraries == (
        Library(f"/{FOLDER}/libcuda.so.{VERSION}", ("libcuda.so", "libcuda.so.1")),
        Library(f"/{FOLDER}/libnvidia-ml.so.{VERSION}", ("libnvidia-ml.so.1",)),
        Library(f"/{FOLDER}/libnvidia-tls.so.{VERSION}"),
        Library(f"/{FOLDER}/vdpau/libvdpau_nvidia.so.{VERSION}"),
    )
    assert files.others == ("/usr/bin/nvidia-smi",)
    assert files.storage == ("/etc/cufile.json",)
    assert "/dev/nvidiactl" in files.nodes


def test_a_driver_root_without_the_drivers_libraries_is_an_error(driver_root: Path, dev_root: Path) -> None:
    with pytest.raises(DriverFilesMissingError, match=r"no libcuda\.so\.999\.1 .* --container-driver-root"):
        host_files(driver_root, dev_root, "999.1")


def test_specifications_are_written_whole_and_readable_by_all(tmp_path: Path) -> None:
    folder = tmp_path / "var/run/cdi"

    changed = write_specs(folder, SPECS)

    path = folder / "k8s.device-plugin.nvidia.com-gpu.json"
    assert changed == (path,)
    assert path.read_bytes() == encoded(SPECS[0])
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(folder.iterdir()) == [path]


def test_what_is_right_already_is_left_alone(tmp_path: Path) -> None:
    write_specs(tmp_path, SPECS)
    before = (tmp_path / file_name("gpu")).stat()

    changed = write_specs(tmp_path, SPECS)

    assert changed == ()
    assert (tmp_path / file_name("gpu")).stat().st_ino == before.st_ino


def test_a_change_replaces_the_file(tmp_path: Path) -> None:
    write_specs(tmp_path, SPECS)
    new = specs(a_machine(count=2), Config(flags=Flags(nvidia_dev_root="/run/nvidia/driver")), HostFiles())

    changed = write_specs(tmp_path, new)

    assert changed == (tmp_path / file_name("gpu"),)
    assert (tmp_path / file_name("gpu")).read_bytes() == encoded(new[0])


def test_our_files_without_devices_go_and_others_stay(tmp_path: Path) -> None:
    write_specs(tmp_path, SPECS)
    other = tmp_path / "nvidia.yaml"
    other.write_text("another's")

    changed = write_specs(tmp_path, ())

    assert changed == (tmp_path / file_name("gpu"),)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("blocked", ["a file in the way", "a folder of the file's name"])
def test_a_folder_that_cannot_be_written_is_said_with_the_remedy(tmp_path: Path, blocked: str) -> None:
    folder = tmp_path / "cdi"
    if blocked == "a file in the way":
        folder.write_text("")
    else:
        (folder / file_name("gpu")).mkdir(parents=True)

    with pytest.raises(CdiFileError, match=r"cannot write CDI specifications to .*--cdi-root"):
        write_specs(folder, SPECS)

    assert not list(tmp_path.glob("cdi/.*")), "nothing half-written stays"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a file system where nobody can make folders")
def test_a_file_system_that_takes_no_folders_is_said_with_the_remedy() -> None:
    with pytest.raises(CdiFileError, match="--cdi-root"):
        write_specs(Path("/sys/kernel/cdi"), SPECS)
