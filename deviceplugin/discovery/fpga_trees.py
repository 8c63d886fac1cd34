"""The YAML file that describes a machine's FPGAs as a tree of the kernel's files, and laying it out."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from deviceplugin.discovery.description import DescriptionError
from deviceplugin.discovery.fpga_sysfs import is_pci_address

_SHIPPED: Final = Path(__file__).parent.parent / "machines/fpga"
# A device of one of these classes is `<device>/<class>/<name>`, and `class/<class>/<name>` links to it.
_CLASSES: Final = frozenset({"drm", "fpga", "fpga_bridge", "fpga_manager", "fpga_region", "hwmon", "uio"})
_PATH: Final = re.compile(r"[^/\0]+(/[^/\0]+)*")


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file.

    Attributes:
        sys: The tree below /sys: a mapping is a folder, a text a file with a line feed at its end, bytes a file as they
            are, null nothing at all (for leaving out what a YAML merge brings in). A name may be a path.
        links: By their own path below /sys, what they point to, below /sys as well. The links of classes and of
            bus/pci/devices need not be said: they follow from the folders.
        dev: Names of device files below /dev; empty files stand in for them.
    """

    sys: dict[str, Any]
    links: dict[str, str] = {}
    dev: tuple[str, ...] = ()


def shipped() -> list[str]:
    """Names of the trees that come with the program."""
    return sorted(file.stem for file in _SHIPPED.glob("*.yaml"))


def load(name_or_path: str) -> Tree:
    """Read a tree by its shipped name or from a file.

    Raises:
        DescriptionError: There is no such tree, or it is wrong.
    """
    if name_or_path in shipped():
        path = _SHIPPED / f"{name_or_path}.yaml"
    elif "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
    else:
        raise DescriptionError(
            f"there is no FPGA tree {name_or_path!r}; shipped are {', '.join(shipped())}, "
            "and a path to a YAML file is taken as well"
        )
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise DescriptionError(f"FPGA tree {path}: {' '.join(str(error).split())}") from error


def materialise(name_or_path: str, folder: Path) -> Path:
    """Lay a tree out as `sys` and `dev` in a folder; returns the path of `sys`.

    What stands there already is overwritten where it is described, and left alone elsewhere.

    Raises:
        DescriptionError: There is no such tree, it is wrong, or cannot be written.
    """
    tree = load(name_or_path)
    sys, dev = folder / "sys", folder / "dev"
    files = dict(_files(tree.sys))
    links = {**_implied_links(files), **tree.links}
    for path in (*files, *links, *links.values(), *tree.dev):
        if not _PATH.fullmatch(path) or ".." in path.split("/"):
            raise DescriptionError(f"FPGA tree {name_or_path}: {path!r} is not a path below the tree's root")
    try:
        for path, content in files.items():
            _write(sys / path, content)
        for path, target in links.items():
            _link(sys / path, sys / target)
        for name in tree.dev:
            _write(dev / name, b"")
    except OSError as error:
        raise DescriptionError(f"FPGA tree {name_or_path} cannot be laid out in {folder}: {error}") from error
    return sys


def dev_of(sys: Path) -> Path:
    """The folder of device files that belongs to a laid-out tree."""
    return sys.parent / "dev"


def _files(folder: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, bytes | None]]:
    """Every file with its content, every folder without one."""
    for name, content in folder.items():
        if not isinstance(name, str):
            raise DescriptionError(f"FPGA tree: the name {name!r} in {prefix or 'sys'} is no text; write it in quotes")
        path = f"{prefix}{name}"
        if isinstance(content, Mapping):
            yield path, None
            yield from _files(content, f"{path}/")
        elif isinstance(content, bytes):
            yield path, content
        elif isinstance(content, str):
            yield path, f"{content}\n".encode() if content else b""
        elif content is not None:
            raise DescriptionError(f"FPGA tree: {path} is {content!r}; write a text in quotes, or a mapping")


def _implied_links(paths: Mapping[str, object]) -> dict[str, str]:
    """The links that the kernel makes of every device: its class's, its bus's."""
    links = {}
    for path in paths:
        parts = path.split("/")
        for position, part in enumerate(parts):
            device = "/".join(parts[: position + 1])
            if is_pci_address(part):
                links[f"bus/pci/devices/{part}"] = device
            elif position > 0 and parts[position - 1] in _CLASSES and parts[0] == "devices":
                links[f"class/{parts[position - 1]}/{part}"] = device
    return links


def _write(path: Path, content: bytes | None) -> None:
    if content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))
