"""Noticing a changed policy or catalogue, over real files laid out as the kubelet lays out a ConfigMap."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from tasuki.process.document import MAX_BYTES
from tasuki.process.file_source import Pace
from webhooks.catalogue import Catalogue
from webhooks.catalogue_source import CatalogueSource
from webhooks.policy.model import Policy
from webhooks.policy_source import PolicySource

# Long enough that only a noticed change ends a wait.
QUICK = Pace(poll_seconds=60.0, settle_seconds=0.01)


def policy(namespace: str) -> str:
    return f"exemptNamespaces: [{namespace}]"


class ConfigMap:
    """A mounted ConfigMap: each version is a folder, to which `..data` points, to which each key's link points."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0
        folder.mkdir()

    def put(self, files: Mapping[str, str]) -> None:
        self._version += 1
        version = self.folder / f"..2026_{self._version}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(version.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for name in files:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")


class Listener:
    """Keeps what a source tells, in order."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()

    def changed(self, value: Policy | Catalogue | None) -> None:
        self.told.put_nowait(("changed", value))

    def report(self, problem: str) -> None:
        self.told.put_nowait(("report", problem))

    async def next(self, kind: str) -> Any:
        """The next of its kind; whatever came before it is passed over."""
        async with asyncio.timeout(10):
            while True:
                found, value = await self.told.get()
                if found == kind:
                    return value

    async def namespaces(self) -> tuple[str, ...]:
        found: Policy = await self.next("changed")
        return found.exempt_namespaces

    def so_far(self, kind: str) -> list[Any]:
        found = []
        while not self.told.empty():
            each, value = self.told.get_nowait()
            if each == kind:
                found.append(value)
        return found


@contextlib.asynccontextmanager
async def running(service: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(service)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def config_map(tmp_path: Path) -> ConfigMap:
    return ConfigMap(tmp_path / "mounted")


async def test_a_swapped_config_map_is_noticed(config_map: ConfigMap) -> None:
    config_map.put({"policy.yaml": policy("first")})
    listener = Listener()
    source = PolicySource(config_map.folder / "policy.yaml", listener.changed, listener.report, QUICK)

    async with running(source.run()):
        seen = [await listener.namespaces()]
        for name in ("second", "third"):
            config_map.put({"policy.yaml": policy(name)})
            seen.append(await listener.namespaces())

    assert seen == [("first",), ("second",), ("third",)]


async def test_a_bad_policy_leaves_the_last_good_one_in_force(
    config_map: ConfigMap, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config_map.put({"policy.yaml": policy("good")})
    listener = Listener()
    source = PolicySource(config_map.folder / "policy.yaml", listener.changed, listener.report, QUICK)

    async with running(source.run()):
        good = await listener.namespaces()
        first_report = await listener.next("report")
        config_map.put({"policy.yaml": "cpuonly: {}"})
        problem = await listener.next("report")
        config_map.put({"policy.yaml": "cpuonly: {} # the same problem"})
        same = await listener.next("report")
        changed_meanwhile = listener.so_far("changed")
        config_map.put({"policy.yaml": policy("better")})
        better = await listener.namespaces()
        recovered = await listener.next("report")

    assert (good, better, changed_meanwhile) == (("good",), ("better",), [])
    assert (first_report, recovered) == ("", "")
    assert problem == same
    assert problem.startswith(f"{config_map.folder}/policy.yaml: line 1: cpuonly is not a known key")
    assert problem.endswith("; what was in force stays in force")
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_another_text_with_the_same_meaning_changes_nothing(config_map: ConfigMap) -> None:
    config_map.put({"policy.yaml": policy("same")})
    listener = Listener()
    source = PolicySource(config_map.folder / "policy.yaml", listener.changed, listener.report, QUICK)

    async with running(source.run()):
        await listener.namespaces()
        await listener.next("report")
        config_map.put({"policy.yaml": policy("same") + " # a comment"})
        await listener.next("report")
        changed_meanwhile = listener.so_far("changed")

    assert changed_meanwhile == []


async def test_an_absent_policy_is_reported_and_taken_once_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "later" / "policy.yaml"
    listener = Listener()
    source = PolicySource(file, listener.changed, listener.report, Pace(poll_seconds=0.05, settle_seconds=0.01))

    async with running(source.run()):
        problem = await listener.next("report")
        file.parent.mkdir()
        file.write_text(policy("late"))
        late = await listener.namespaces()

    assert (
        problem == f"{file}: there is no such file; mount the policy's ConfigMap there (an empty file means defaults)"
    )
    assert late == ("late",)


async def test_a_policy_that_vanishes_stays_in_force(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("")
    listener = Listener()
    source = PolicySource(file, listener.changed, listener.report, QUICK)

    async with running(source.run()):
        first = await listener.next("changed")
        await listener.next("report")
        file.unlink()
        problem = await listener.next("report")
        changed_meanwhile = listener.so_far("changed")

    assert (first, changed_meanwhile) == (Policy(), [])
    assert "there is no such file" in problem


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda file: file.write_bytes(b"#" * (MAX_BYTES + 1)), "is larger than 1048576 bytes", id="large"),
        pytest.param(lambda file: file.mkdir(), "cannot be read", id="a folder"),
        pytest.param(os.mkfifo, "cannot be read: it is not a file", id="a pipe that nobody writes to"),
        pytest.param(lambda file: file.symlink_to(file), "cannot be read", id="a link to itself"),
        pytest.param(lambda file: file.write_bytes(b"\xff"), "is not UTF-8: byte 0 is 0xff", id="no text"),
    ],
)
@pytest.mark.parametrize("kind", [PolicySource, CatalogueSource], ids=["policy", "catalogue"])
async def test_what_cannot_be_read_is_reported(
    tmp_path: Path, kind: type[PolicySource | CatalogueSource], spoil: Any, told: str
) -> None:
    file = tmp_path / "file"
    spoil(file)
    listener = Listener()
    source = kind(file, listener.changed, listener.report, QUICK)

    async with running(source.run()):
        problem = await listener.next("report")

    assert problem.startswith(f"{file}: ")
    assert told in problem


async def test_an_absent_catalogue_is_none_and_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "catalogue"
    listener = Listener()
    source = CatalogueSource(file, listener.changed, listener.report, QUICK)

    async with running(source.run()):
        absent = await listener.next("changed")
        problem = await listener.next("report")
        file.write_text("gcc/12.3\n")
        listed = await listener.next("changed")
        await listener.next("report")
        file.unlink()
        gone = await listener.next("changed")

    assert (absent, problem, gone) == (None, "", None)
    assert listed == Catalogue(versions={"gcc": ("12.3",)})


async def test_a_bad_catalogue_leaves_the_last_good_one_in_force(config_map: ConfigMap) -> None:
    config_map.put({"catalogue": "gcc/12.3\n"})
    listener = Listener()
    source = CatalogueSource(config_map.folder / "catalogue", listener.changed, listener.report, QUICK)

    async with running(source.run()):
        await listener.next("report")
        config_map.put({"catalogue": ""})
        problem = await listener.next("report")
        changed_meanwhile = listener.so_far("changed")

    assert "lists no module" in problem
    assert changed_meanwhile == []
