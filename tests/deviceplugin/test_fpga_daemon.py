"""The daemon with FPGAs and vAccel agents, as it is shipped, and a kubelet that tells who holds what."""

import asyncio
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tasuki.sandbox.admission import Admission
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.pod_resources import PodResourcesServer
from tasuki.sandbox.pods import Container, Pod
from tasuki.sandbox.views import ResourceView
from tests.deviceplugin.discovery.vaccel.agents import FakeAgent
from tests.fpga_builders import INTERFACE, RESIZE, SHARPEN, a_gbs

SECONDS = 30.0
RESIZE_RESOURCE = "fpga.tasuki.dev/resize"
SHARPEN_RESOURCE = "fpga.tasuki.dev/sharpen"
SESSION = "vaccel.tasuki.dev/session"


def catalogue(**vaccel: object) -> str:
    """Two functions for the shipped tree's two cards: one has resize in it, the other sharpen."""

    def function(afu: str, image: str) -> dict[str, object]:
        one = {"family": "dfl", "interface": INTERFACE, "id": afu, "bitstream": image}
        return {"implementations": [{**one, "channels": 2, "programmingSeconds": 5}]}

    functions = {"resize": function(RESIZE, "resize.gbs"), "sharpen": function(SHARPEN, "sharpen.gbs")}
    return yaml.safe_dump({"version": "v1", "tasuki": {"fpga": {"functions": functions}, **vaccel}})


@dataclass
class Node:
    """A kubelet, its pod-resources socket, and the daemon beside them."""

    folder: Path
    kubelet: Kubelet
    process: asyncio.subprocess.Process

    async def run(self, name: str, **wants: int) -> Admission:
        resources = {f"fpga.tasuki.dev/{function}": count for function, count in wants.items()}
        return await self.kubelet.admit(Pod(name, (Container("main", resources),), uid=name))

    async def offers(self, wanted: Mapping[str, int]) -> None:
        """Wait until so many slices of these resources can be had."""
        await self.kubelet.wait_for(allocatable(wanted), SECONDS)

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def restart(self) -> None:
        self.process = await start(self.folder, self.kubelet)


def allocatable(wanted: Mapping[str, int]) -> Callable[[Mapping[str, ResourceView]], bool]:
    return lambda resources: all(
        (resources[name].allocatable if name in resources else 0) == count for name, count in wanted.items()
    )


async def start(folder: Path, kubelet: Kubelet, metrics_address: str = "") -> asyncio.subprocess.Process:
    with (folder / "log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tasuki.cli", "deviceplugin", "--kinds", "fpga,vaccel", "--simulate-fpga", "intel-dfl"),
            *("--kubelet-socket", str(kubelet.socket), "--kube-api", "off", "--metrics-address", metrics_address),
            *("--pod-resources-socket", str(folder / "pods" / "kubelet.sock")),
            *("--config-file", str(folder / "config.yaml"), "--bitstreams", str(folder / "images")),
            stderr=log,
            env=dict(os.environ),
        )


def furnish(folder: Path, config: str) -> None:
    """A configuration, and the images of the two functions."""
    (folder / "config.yaml").write_text(config)
    (folder / "images").mkdir()
    for image, afu in (("resize.gbs", RESIZE), ("sharpen.gbs", SHARPEN)):
        (folder / "images" / image).write_bytes(a_gbs(INTERFACE, afu))


@asynccontextmanager
async def node(folder: Path, config: str = "") -> AsyncIterator[Node]:
    furnish(folder, config or catalogue())
    async with Kubelet(folder / "dp") as kubelet, PodResourcesServer(folder / "pods", kubelet):
        running = Node(folder, kubelet, await start(folder, kubelet))
        try:
            yield running
        finally:
            if running.process.returncode is None:
                running.process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(running.process.wait(), SECONDS)
            print((folder / "log").read_text())


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for a socket's name."""
    return tmp_path_factory.mktemp("f")


BOTH_FREE = {RESIZE_RESOURCE: 4, SHARPEN_RESOURCE: 4}


async def test_a_function_that_is_loaded_is_given_as_it_is(folder: Path) -> None:
    async with node(folder) as it:
        await it.offers(BOTH_FREE)

        admission = await it.run("one", resize=1)

        container = admission.container("main")
        assert not container.not_started
        assert [n.host_path for n in container.edits.nodes] == [container.edits.nodes[0].container_path]
        assert container.edits.envs["TASUKI_FPGA_FUNCTION"] == "resize"
        assert "programmed" not in (folder / "log").read_text()
        # The region is out of the other function's list at once.
        await it.offers({RESIZE_RESOURCE: 4, SHARPEN_RESOURCE: 2})


async def test_a_function_that_is_not_loaded_is_programmed_before_the_container_starts(folder: Path) -> None:
    async with node(folder) as it:
        await it.offers(BOTH_FREE)
        await it.run("one", resize=2)
        await it.offers({RESIZE_RESOURCE: 4, SHARPEN_RESOURCE: 2})

        admission = await it.run("two", resize=2)

        assert not admission.container("main").not_started
        await it.offers({SHARPEN_RESOURCE: 0})
        assert "XRT" not in (folder / "log").read_text()


async def test_a_region_that_is_held_is_nobody_elses_until_its_pod_ends(folder: Path) -> None:
    async with node(folder) as it:
        await it.offers(BOTH_FREE)
        await it.run("one", resize=2)
        await it.offers({SHARPEN_RESOURCE: 2})
        await it.run("two", resize=2)
        await it.offers({SHARPEN_RESOURCE: 0})

        refused = await it.run("three", sharpen=1)
        assert not refused.admitted

        it.kubelet.end("two")
        await it.offers({SHARPEN_RESOURCE: 2})
        assert (await it.run("four", sharpen=1)).admitted


async def test_a_daemon_that_is_killed_while_it_programs_claims_nothing_twice(folder: Path) -> None:
    async with node(folder) as it:
        await it.offers(BOTH_FREE)
        await it.run("one", resize=2)
        await it.offers({SHARPEN_RESOURCE: 2})
        programming = asyncio.create_task(it.run("two", resize=2))
        await asyncio.sleep(0.2)
        await it.kill()
        await programming

        await it.restart()
        await it.offers({RESIZE_RESOURCE: 4})

        # Both regions are held by pods that the kubelet knows, so neither is offered for anything else.
        assert allocatable({SHARPEN_RESOURCE: 0})(it.kubelet.resources())


async def test_a_catalogue_that_is_edited_takes_effect(folder: Path) -> None:
    async with node(folder) as it:
        await it.offers(BOTH_FREE)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        functions = config["tasuki"]["fpga"]["functions"]
        functions["blur"] = functions.pop("sharpen")
        new = folder / "config.new"
        new.write_text(yaml.safe_dump(config))
        new.replace(folder / "config.yaml")

        await it.offers({"fpga.tasuki.dev/blur": 4, SHARPEN_RESOURCE: 0})


async def test_before_the_kubelet_has_said_who_holds_what_it_is_not_ready_and_nobody_is_alarmed(folder: Path) -> None:
    furnish(folder, catalogue())
    log = folder / "log"
    async with Kubelet(folder / "dp") as kubelet:
        process = await start(folder, kubelet, "127.0.0.1:0")
        try:
            async with asyncio.timeout(SECONDS):
                while "port=" not in log.read_text():
                    await asyncio.sleep(0.05)
                page = f"http://127.0.0.1:{log.read_text().split('port=')[1].split()[0]}/readyz"
                while "has not said yet who holds which region" not in await asyncio.to_thread(text_of, page):
                    await asyncio.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), SECONDS)

    assert "not all devices are offered" not in log.read_text()


def text_of(page: str) -> str:
    try:
        with urllib.request.urlopen(page, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


async def test_vaccel_sessions_come_and_go_with_their_agent(folder: Path) -> None:
    (folder / "agent").mkdir()
    socket = folder / "agent" / "vaccel.sock"
    agents = [{"name": "local", "address": f"unix://{socket}", "sessions": 8, "plugins": ["noop"]}]
    async with node(folder, catalogue(vaccel={"agents": agents})) as it:
        await it.offers({SESSION: 0})
        with FakeAgent.unix(socket):
            await it.offers({SESSION: 8})

            admission = await it.kubelet.admit(Pod("infer", (Container("main", {SESSION: 1}),), uid="infer"))
            edits = admission.container("main").edits
            assert edits.envs["VACCEL_RPC_ADDRESS"].startswith("unix://")
            assert [m.host_path for m in edits.mounts] == [str(folder / "agent")]
        await it.offers({SESSION: 0})
