"""Programming survives what goes wrong, and begins nothing after a stop."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deviceplugin.config.model import FpgaProgrammer
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from deviceplugin.fpga import Region
from deviceplugin.programming.choosing import OneProgrammer
from deviceplugin.programming.programmer import ProgrammingError
from deviceplugin.programming.readback import Readback
from deviceplugin.programming.workbench import Host, Job, Programmed, Workbench
from tests.fpga_builders import INTERFACE, SHARPEN, a_gbs, an_implementation


@dataclass(frozen=True)
class Broken:
    """A programmer with a bug."""

    def program(self, region: Region, image: Path, expected: str) -> None:
        raise ZeroDivisionError("a bug")


def a_workbench(folder: Path) -> tuple[Workbench, Job]:
    root = materialise("intel-dfl", folder)
    (folder / "images").mkdir()
    (folder / "images" / "sharpen.gbs").write_bytes(a_gbs(INTERFACE, SHARPEN))
    (region, *_) = FpgaSource(root, dev_of(root)).scan().regions
    workbench = Workbench(Host(Readback(root), OneProgrammer(Broken()), folder / "images"), asyncio.create_task)
    implementation = an_implementation(id_=SHARPEN, bitstream="sharpen.gbs")
    finished: list[Programmed] = []
    job = Job(
        region=region,
        function="sharpen",
        implementation=implementation,
        options=FpgaProgrammer(),
        limit_seconds=5.0,
        finished=finished.append,
    )
    return workbench, job


async def test_a_bug_in_programming_fails_that_programming_alone(tmp_path: Path) -> None:
    workbench, job = a_workbench(tmp_path)

    done = await workbench.ensure(job, lambda: None)

    assert done is not None
    assert "internal error: ZeroDivisionError" in done.reason
    # The card's lock is free again.
    assert (await workbench.ensure(job, lambda: None)) is not None


async def test_an_image_that_is_there_is_written_again_only_to_end_an_error(tmp_path: Path) -> None:
    workbench, job = a_workbench(tmp_path)
    loaded = replace(job, implementation=an_implementation(id_=job.region.loaded, bitstream="sharpen.gbs"))

    assert await workbench.ensure(loaded, lambda: None) is None
    assert await workbench.ensure(replace(loaded, rewrite=True), lambda: None) is not None


async def test_nothing_is_begun_after_a_stop(tmp_path: Path) -> None:
    workbench, job = a_workbench(tmp_path)
    workbench.stop()

    with pytest.raises(ProgrammingError, match="the daemon is stopping"):
        await workbench.ensure(job, lambda: None)
