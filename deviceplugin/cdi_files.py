"""The files of CDI: what the driver has on this machine, and the specifications in the runtime's folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from deviceplugin.allocation.cdi import CLASSES, VENDOR, CdiSpec, HostFiles, Library
from tasuki.process.files import replace_file

# Where distributions and NVIDIA's driver container put the driver's libraries; the first is searched first.
_LIBRARY_FOLDERS: Final = (
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/lib64",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/opt/lib64",
)
_LIBRARY_SUBFOLDERS: Final = ("", "/vdpau")
_PROGRAM_FOLDERS: Final = ("/usr/bin", "/usr/sbin", "/bin", "/opt/bin")
_PROGRAMS: Final = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
)
_STORAGE: Final = ("/etc/cufile.json", "/run/udev")
_NODE_PATTERNS: Final = (
    "nvidia*",
    "nvidia-caps-imex-channels/channel*",
    "gdrdrv",
    "infiniband/uverbs*",
    "infiniband/rdma_cm",
)
_LINKS_IN_A_ROW: Final = 8


class DriverFilesMissingError(Exception):
    """The driver's libraries cannot be found, so that no container could use a GPU through CDI."""


class CdiFileError(Exception):
    """A specification cannot be written, so that the runtime would not know the devices."""


def device_nodes(dev_root: Path) -> frozenset[str]:
    """The device files that exist below a root, as paths below it: `/dev/nvidiactl`."""
    dev = dev_root / "dev"
    return frozenset(
        f"/{path.relative_to(dev_root)}"
        for pattern in _NODE_PATTERNS
        for path in dev.glob(pattern)
        if path.is_char_device()
    )


def host_files(driver_root: Path, dev_root: Path, driver_version: str) -> HostFiles:
    """What the driver of this version has installed.

    Args:
        driver_root: The host's driver root as this process sees it (`containerDriverRoot`).
        dev_root: The folder whose `dev` holds the host's device files, as this process sees it.
        driver_version: Libraries end in it.

    Raises:
        DriverFilesMissingError: There are none.
    """
    libraries = tuple(sorted(_libraries(driver_root, driver_version)))
    if not any("/libcuda.so." in library.path for library in libraries):
        raise DriverFilesMissingError(
            f"no libcuda.so.{driver_version} in the library folders below {driver_root}; mount the host's driver "
            "root there, or say with --container-driver-root where it is"
        )
    return HostFiles(
        nodes=device_nodes(dev_root),
        libraries=libraries,
        others=tuple(sorted(_programs(driver_root))),
        storage=tuple(path for path in _STORAGE if _below(driver_root, path).exists()),
    )


def encoded(spec: CdiSpec) -> bytes:
    """A specification as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(spec), indent=2) + b"\n"


def file_name(device_class: str) -> str:
    return f"{VENDOR}-{device_class}.json"


def write_specs(folder: Path, specs: Sequence[CdiSpec]) -> tuple[Path, ...]:
    """Make the folder hold these specifications, and none of ours for another class.

    Files that are right already are left alone, so that runtimes that watch the folder do not reload. On a stop
    they stay: containers that the runtime restarts meanwhile still need them.

    Returns:
        What was written or removed.

    Raises:
        CdiFileError: The folder cannot be written.
    """
    contents = {file_name(spec.device_class): encoded(spec) for spec in specs}
    changed = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(contents):
            if not _holds(folder / name, contents[name]):
                replace_file(folder / name, contents[name])
                changed.append(folder / name)
        for name in sorted({file_name(c) for c in CLASSES} - contents.keys()):
            if (folder / name).exists():
                (folder / name).unlink()
                changed.append(folder / name)
    except OSError as error:
        raise CdiFileError(
            f"cannot write CDI specifications to {folder}: {error.strerror or error}; mount the host's folder there "
            "writable, or choose another one that the runtime reads with --cdi-root"
        ) from error
    return tuple(changed)


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _libraries(root: Path, version: str) -> Iterator[Library]:
    """Libraries in the usual folders, each folder once, whichever of its names comes first."""
    seen = set()
    for path in (folder + sub for folder in _LIBRARY_FOLDERS for sub in _LIBRARY_SUBFOLDERS):
        folder = _below(root, path)
        if not folder.is_dir():
            continue
        identity = (folder.stat().st_dev, folder.stat().st_ino)
        if identity in seen:
            continue
        seen.add(identity)
        yield from _libraries_in(folder, path, version)


def _libraries_in(folder: Path, path: str, version: str) -> Iterator[Library]:
    with os.scandir(folder) as entries:
        names = {entry.name: entry.is_symlink() for entry in entries if ".so" in entry.name}
    links: dict[str, list[str]] = {
        name: [] for name, is_link in names.items() if not is_link and name.endswith(f".so.{version}")
    }
    for name in sorted(name for name, is_link in names.items() if is_link):
        target = name
        for _ in range(_LINKS_IN_A_ROW):
            if not names.get(target, False):
                break
            target = str((folder / target).readlink())
        if target in links:
            links[target].append(name)
    for name, found in links.items():
        yield Library(f"{path}/{name}", tuple(found))


def _programs(root: Path) -> Iterator[str]:
    for program in _PROGRAMS:
        for folder in _PROGRAM_FOLDERS:
            if _below(root, f"{folder}/{program}").is_file():
                yield f"{folder}/{program}"
                break
