import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COPIED = re.compile(r"^COPY ([^-].*) \S+$", re.MULTILINE)


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def containerfile(repository: Path) -> str:
    return (repository / "Containerfile").read_text()


@pytest.fixture(scope="module")
def wheel(repository: Path, containerfile: str, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from what Containerfile copies and from nothing else, by the backend that it uses."""
    # pyproject.toml's `license` is an SPDX expression, which older ones do not read.
    pytest.importorskip("setuptools", minversion="80")
    source = tmp_path_factory.mktemp("source")
    for name in (name.rstrip("/") for copied in COPIED.findall(containerfile) for name in copied.split()):
        if (repository / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(repository / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(repository / name, source / name)
    target = tmp_path_factory.mktemp("wheels")
    build = f"import setuptools.build_meta as backend; backend.build_wheel({str(target)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=100)
    [path] = target.glob("*.whl")
    return zipfile.ZipFile(path)


def pins(repository: Path, name: str) -> dict[str, str]:
    lines = (repository / "constraints" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("name", ["build", "dev", "runtime"])
def test_constraints_are_names_and_versions_only(repository: Path, name: str) -> None:
    for line in (repository / "constraints" / f"{name}.txt").read_text().splitlines():
        is_pin = re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)

        assert is_pin or line.startswith("#") or line == "-c runtime.txt", line


def test_runtime_constraints_name_all_that_the_project_brings(repository: Path, project: dict[str, Any]) -> None:
    """What is declared, and what that declares in turn, each in a version that is allowed."""
    pinned = {canonicalize_name(name): version for name, version in pins(repository, "runtime").items()}
    waiting = [Requirement(text) for text in project["project"]["dependencies"]]
    seen = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        assert name in pinned, f"{name} is missing from constraints/runtime.txt"
        assert wanted.specifier.contains(pinned[name], prereleases=True), wanted
        if name not in seen:
            seen.add(name)
            brought = (Requirement(text) for text in importlib.metadata.requires(name) or ())
            # For the image's Python; extras are marked too, and nobody asks for one.
            image = {"python_version": "3.13", "python_full_version": "3.13.0", "extra": ""}
            waiting += [each for each in brought if each.marker is None or each.marker.evaluate(image)]


def test_the_tools_are_pinned_once(repository: Path, project: dict[str, Any]) -> None:
    names = {name: {canonicalize_name(pin) for pin in pins(repository, name)} for name in ("dev", "runtime")}
    tools = {canonicalize_name(Requirement(text).name) for text in project["dependency-groups"]["dev"]}

    assert tools <= names["dev"]
    assert names["dev"] & names["runtime"] == set()


def test_the_wheel_has_everything_that_is_read_at_run_time(wheel: zipfile.ZipFile, repository: Path) -> None:
    packaged = set(wheel.namelist())
    expected = {
        str((Path(folder) / name).relative_to(repository))
        for package in ("deviceplugin", "protos", "tasuki")
        for folder, _, names in os.walk(repository / package, followlinks=True)
        for name in names
        if name == "py.typed" or Path(name).suffix in {".py", ".pyi", ".yaml", ".proto"}
    }

    assert expected - packaged == set()


def test_the_wheel_has_no_tests_and_no_build_files(wheel: zipfile.ZipFile) -> None:
    folders = {name.split("/")[0] for name in wheel.namelist()}

    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {
        "deviceplugin",
        "objectcache",
        "protos",
        "tasuki",
        "schedext",
        "webhooks",
    }


def test_the_command_of_the_manifests_is_installed(wheel: zipfile.ZipFile) -> None:
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]

    assert "tasuki = tasuki.cli:main" in wheel.read(entry_points).decode()
    assert email.message_from_bytes(wheel.read(metadata))["Name"] == "tasuki"


def test_every_package_is_copied_into_the_image(containerfile: str, project: dict[str, Any]) -> None:
    copied = {name.rstrip("/") for line in COPIED.findall(containerfile) for name in line.split()}
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}

    assert packages <= copied


def test_what_is_copied_is_not_ignored(containerfile: str, repository: Path) -> None:
    copied = {name.rstrip("/") for line in COPIED.findall(containerfile) for name in line.split()}
    lines = (repository / ".containerignore").read_text().splitlines()

    assert copied == {line.removeprefix("!") for line in lines if line.startswith("!")}


def test_the_image_sees_no_gpu_unless_it_is_given_one(containerfile: str) -> None:
    instructions = [line for line in containerfile.splitlines() if not line.startswith("#")]

    assert not any("NVIDIA_" in line for line in instructions)
    assert 'ENTRYPOINT ["tasuki"]' in instructions
    assert "USER 65532:65532" in instructions
