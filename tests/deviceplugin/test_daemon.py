"""The daemon as it is shipped: a process of its own, with a kubelet on the other side of its sockets."""

import asyncio
import os
import shutil
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

from deviceplugin.discovery.description import MachineDescription, load
from tasuki.kube.names import BOUND_SLICES
from tasuki.kube.placement import slices_text
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.pods import Container, Pod
from tasuki.sandbox.views import ResourceView
from tests.nvml_mock import build as nvml_mock
from tests.tasuki.kube.api_server import PODS, ApiServer

GPU = "nvidia.com/gpu"
SECONDS = 20.0
ROOT = Path(__file__).parents[2]


@dataclass
class Daemon:
    """A running daemon, its kubelet, and the files that it reads."""

    process: asyncio.subprocess.Process
    kubelet: Kubelet
    folder: Path
    port: int = 0

    async def answers(self, path: str, expected: str) -> str:
        """The page, as soon as it holds this text."""
        async with asyncio.timeout(SECONDS):
            while expected not in (page := await asyncio.to_thread(self._page, path)):
                await asyncio.sleep(0.05)
        return page

    def _page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as page:
                return str(page.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), SECONDS)


def sharing(replicas: int, **more: object) -> str:
    resources = [{"name": GPU, "replicas": replicas, **more}]
    return yaml.safe_dump({"version": "v1", "sharing": {"timeSlicing": {"resources": resources}}})


@asynccontextmanager
async def daemon(
    folder: Path, *more: str, config: str = "", env: Mapping[str, str] | None = None
) -> AsyncIterator[Daemon]:
    (folder / "config.yaml").write_text(config)
    log = folder / "log"
    async with Kubelet(folder / "dp") as kubelet:
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tasuki.cli", "deviceplugin", "--kube-api", "off"),
                *("--kubelet-socket", str(kubelet.socket), "--metrics-address", "127.0.0.1:0"),
                *("--config-file", str(folder / "config.yaml"), "--cdi-root", str(folder / "cdi")),
                *more,
                stderr=errors,
                env={**os.environ, **(env or {})},
            )
        running = Daemon(process, kubelet, folder)
        try:
            running.port = await port_in(log, process)
            yield running
        finally:
            if process.returncode is None:
                await running.stop()
            print(log.read_text())


async def port_in(log: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(SECONDS):
        while "port=" not in (text := log.read_text()):
            assert process.returncode is None, text
            await asyncio.sleep(0.02)
    return int(text.split("port=")[1].split()[0])


def healthy(count: int, name: str = GPU) -> Callable[[Mapping[str, ResourceView]], bool]:
    return lambda resources: name in resources and resources[name].connected and resources[name].allocatable == count


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for a socket's name."""
    return tmp_path_factory.mktemp("d")


def described(folder: Path, machine: str) -> Path:
    """A copy of a shipped description that a test may edit."""
    copied = folder / f"{machine}.yaml"
    shutil.copy(ROOT / "deviceplugin" / "machines" / f"{machine}.yaml", copied)
    return copied


def with_fault(path: Path, gpu: int, fault: Mapping[str, object]) -> None:
    description = yaml.safe_load(path.read_text())
    description["gpus"][gpu]["fault"] = dict(fault)
    replace(path, yaml.safe_dump(description))


def replace(path: Path, text: str) -> None:
    """As an editor or a ConfigMap does: the new file is whole at once."""
    whole = path.with_name(path.name + ".new")
    whole.write_text(text)
    whole.replace(path)


async def test_a_pod_gets_a_timeshared_slice(folder: Path) -> None:
    async with daemon(folder, "--simulate", "dgx-a100", config=sharing(4)) as running:
        await running.kubelet.wait_for(healthy(32), SECONDS)
        admission = await running.kubelet.admit(Pod("train", (Container("main", {GPU: 1}),), uid="1"))

        env = admission.container("main").edits.envs
        assert env["NVIDIA_VISIBLE_DEVICES"] == env["CUDA_VISIBLE_DEVICES"]
        assert env["NVIDIA_VISIBLE_DEVICES"].startswith("GPU-")
        assert env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.25"
        await running.answers("/readyz", "\nready\n")
        metrics = await running.answers("/metrics", "tasuki_slices_allocated_total")
        assert f'tasuki_slices_allocated_total{{resource="{GPU}"}} 1.0' in metrics
        assert await running.stop() == 0


async def test_the_device_that_the_scheduler_extender_chose_is_handed_out(folder: Path) -> None:
    api = ApiServer()
    await api.start()
    more = ("--simulate", "dgx-a100", "--kube-api", "auto", "--node-name", "n")
    try:
        async with daemon(folder, *more, env={"KUBECONFIG": api.kubeconfig(folder)}) as running:
            gpus = sorted((await running.kubelet.wait_for(healthy(8), SECONDS))[GPU].healthy)
            chosen = slices_text({"main": {GPU: {gpus[3]: 1, gpus[6]: 1}}})
            container = {"name": "main", "resources": {"limits": {GPU: "2"}}}
            await api.until(lambda: bool(api.watches(PODS)))
            await api.put(
                PODS,
                "train",
                metadata={"namespace": "default", "annotations": {BOUND_SLICES: chosen}},
                spec={"nodeName": "n", "containers": [container]},
                status={"phase": "Pending"},
            )
            pod = Pod("train", (Container("main", {GPU: 2}),), uid="1")
            async with asyncio.timeout(SECONDS):
                # Before any choice was seen, the event is not waited for.
                while (await running.kubelet.admit(pod)).container("main").devices[GPU] != (gpus[3], gpus[6]):
                    running.kubelet.end(pod.uid)

            await running.answers("/metrics", 'tasuki_deviceplugin_preferred_followed_total{outcome="followed"} 1.0')
    finally:
        await api.stop()


async def test_a_changed_configuration_comes_into_force(folder: Path) -> None:
    async with daemon(folder, "--simulate", "dgx-a100", config=sharing(4)) as running:
        await running.kubelet.wait_for(healthy(32), SECONDS)

        replace(folder / "config.yaml", sharing(2, rename="nvidia.com/gpu.shared", devices=["0"]))
        await running.kubelet.wait_for(lambda r: healthy(7)(r) and healthy(2, "nvidia.com/gpu.shared")(r), SECONDS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(sharing(1), "replicas", id="an invalid value"),
        pytest.param("version: v1\nsharng: {}", "sharing", id="an unknown key, with the nearest"),
        pytest.param(sharing(2, devices=["9"]), "no device 9", id="a device that the machine has not"),
        pytest.param(sharing(9000), "slices, but the kubelet takes", id="more than the kubelet takes"),
    ],
)
async def test_a_bad_configuration_leaves_the_last_good_one_in_force(folder: Path, bad: str, message: str) -> None:
    async with daemon(folder, "--simulate", "dgx-a100", config=sharing(4)) as running:
        await running.kubelet.wait_for(healthy(32), SECONDS)

        replace(folder / "config.yaml", bad)
        report = await running.answers("/readyz", message)

        assert "stays in force" in report
        assert healthy(32)(running.kubelet.resources())
        await running.answers("/metrics", "tasuki_config_good 0.0")
        replace(folder / "config.yaml", sharing(3))
        await running.kubelet.wait_for(healthy(24), SECONDS)
        await running.answers("/readyz", "\nready\n")


async def test_a_bad_configuration_at_the_start_is_waited_out(folder: Path) -> None:
    async with daemon(folder, "--simulate", "t4", config="sharing: 7") as running:
        await running.answers("/readyz", "[-]configuration")

        replace(folder / "config.yaml", sharing(2))
        await running.kubelet.wait_for(healthy(2), SECONDS)


async def test_an_xid_takes_every_slice_of_its_gpu_away(folder: Path) -> None:
    machine = described(folder, "dgx-a100")
    async with daemon(folder, "--simulate", str(machine), config=sharing(4)) as running:
        await running.kubelet.wait_for(healthy(32), SECONDS)

        with_fault(machine, 3, {"xid": 79})
        resources = await running.kubelet.wait_for(healthy(28), SECONDS)

        assert len({slice_id.split("::")[0] for slice_id in resources[GPU].unhealthy}) == 1
        assert 'xid{device="GPU-' in await running.answers("/metrics", "79.0")


async def test_a_lost_gpu_leaves_the_rest_going_on(folder: Path) -> None:
    machine = described(folder, "dgx-a100")
    config = yaml.safe_dump({"tasuki": {"rescanSeconds": 1}})
    async with daemon(folder, "--simulate", str(machine), config=config) as running:
        await running.kubelet.wait_for(healthy(8), SECONDS)

        with_fault(machine, 0, {"lost": True})
        await running.kubelet.wait_for(healthy(7), SECONDS)
        admission = await running.kubelet.admit(Pod("train", (Container("main", {GPU: 7}),), uid="1"))

        assert admission.admitted


async def test_a_gpu_recovers_only_once_the_driver_asks_for_nothing_more(folder: Path) -> None:
    machine = described(folder, "t4")
    config = yaml.safe_dump({"tasuki": {"rescanSeconds": 1, "health": {"recoverySeconds": 2, "probeSeconds": 1}}})
    async with daemon(folder, "--simulate", str(machine), config=config) as running:
        await running.kubelet.wait_for(healthy(1), SECONDS)
        with_fault(machine, 0, {"xid": 48, "recoveryAction": "gpu-reset"})
        await running.kubelet.wait_for(healthy(0), SECONDS)
        await asyncio.sleep(4)

        assert healthy(0)(running.kubelet.resources())
        with_fault(machine, 0, {"xid": 48, "recoveryAction": "none"})
        await running.kubelet.wait_for(healthy(1), SECONDS)


async def test_a_configuration_that_did_not_fit_comes_into_force_once_it_does(folder: Path) -> None:
    machine = described(folder, "t4")
    config = {"tasuki": {"rescanSeconds": 1}}
    async with daemon(folder, "--simulate", str(machine), config=yaml.safe_dump(config)) as running:
        await running.kubelet.wait_for(healthy(1), SECONDS)
        replace(folder / "config.yaml", yaml.safe_dump({**config, **yaml.safe_load(sharing(2, devices=["0", "1"]))}))
        await running.answers("/readyz", "no device 1")

        description = yaml.safe_load(machine.read_text())
        (one,) = description["gpus"]
        description["gpus"].append({**one, "pciePath": "pci0000:00/0000:00:1f.0"})
        replace(machine, yaml.safe_dump(description))
        await running.kubelet.wait_for(healthy(4), SECONDS)


async def test_mig_devices_that_are_cut_anew_are_noticed(folder: Path) -> None:
    machine = described(folder, "a100-mig")
    config = yaml.safe_dump({"flags": {"migStrategy": "mixed"}, "tasuki": {"rescanSeconds": 1}})
    async with daemon(folder, "--simulate", str(machine), config=config) as running:
        await running.kubelet.wait_for(lambda r: any("mig-" in name for name in r), SECONDS)
        description = yaml.safe_load(machine.read_text())
        for gpu in description["gpus"]:
            gpu.pop("mig", None)
            gpu["migEnabled"] = True
        description["gpus"][0]["mig"] = {"2g.10gb": 3}
        replace(machine, yaml.safe_dump(description))

        def only_the_new(resources: Mapping[str, ResourceView]) -> bool:
            offered = {name: view.capacity for name, view in resources.items() if view.capacity}
            return offered == {"nvidia.com/mig-2g.10gb": 3}

        await running.kubelet.wait_for(only_the_new, SECONDS)
        await running.answers("/readyz", "has no MIG devices")


async def test_a_node_without_a_driver_stays_up_and_says_so(folder: Path) -> None:
    library = nvml_mock.build(folder / "lib")
    state = folder / "nvml"
    env = {"LD_LIBRARY_PATH": str(library.parent), nvml_mock.ENVIRONMENT: str(state)}
    nvml_mock.describe(machine_of_t4(), state, loaded=False)
    async with daemon(folder, env=env) as running:
        await running.answers("/readyz", "[-]gpu driver")
        await running.answers("/metrics", 'tasuki_driver_up{kind="gpu"} 0.0')
        assert await running.answers("/healthz", "ok")

        nvml_mock.describe(machine_of_t4(), state)
        await running.kubelet.wait_for(healthy(1), SECONDS)
        await running.answers("/metrics", 'tasuki_driver_up{kind="gpu"} 1.0')


def machine_of_t4() -> MachineDescription:
    return load("t4")


async def test_a_driver_that_goes_away_takes_every_device_along(folder: Path) -> None:
    library = nvml_mock.build(folder / "lib")
    state = folder / "nvml"
    env = {"LD_LIBRARY_PATH": str(library.parent), nvml_mock.ENVIRONMENT: str(state)}
    nvml_mock.describe(machine_of_t4(), state)
    async with daemon(folder, config=yaml.safe_dump({"tasuki": {"rescanSeconds": 1}}), env=env) as running:
        await running.kubelet.wait_for(healthy(1), SECONDS)

        nvml_mock.describe(machine_of_t4(), state, loaded=False)
        resources = await running.kubelet.wait_for(healthy(0), SECONDS)

        assert resources[GPU].capacity == 1


async def test_a_kubelet_restart_in_the_middle_of_everything(folder: Path) -> None:
    async with daemon(folder, "--simulate", "dgx-a100", config=sharing(10)) as running:
        await running.kubelet.wait_for(healthy(80), SECONDS)
        await running.kubelet.stop()
        replace(folder / "config.yaml", sharing(5))
        await asyncio.sleep(1)
        await running.kubelet.start()

        await running.kubelet.wait_for(healthy(40), SECONDS)


async def test_a_stop_while_the_kubelet_allocates(folder: Path) -> None:
    async with daemon(folder, "--simulate", "dgx-a100", config=sharing(10)) as running:
        await running.kubelet.wait_for(healthy(80), SECONDS)

        async def pods(first: int) -> list[bool]:
            admissions = [
                await running.kubelet.admit(Pod(f"p{n}", (Container("c", {GPU: 1}),), uid=str(n)))
                for n in range(first, first + 40)
            ]
            return [a.admitted for a in admissions]

        admitting = asyncio.create_task(pods(0))
        await asyncio.sleep(0.03)
        status = await running.stop()
        outcomes = await admitting

        assert status == 0
        # Whatever was answered was answered whole; what came too late was refused.
        assert outcomes == sorted(outcomes, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--simulate", "dgx-a1000"], "dgx-a100", id="an unknown machine, with the known ones"),
        pytest.param(["--mig-strategy", "mixd"], "mixed", id="a bad value"),
        pytest.param(["--mig-stratgy", "mixed"], "--mig-strategy", id="an unknown flag, with the nearest"),
    ],
)
async def test_bad_settings_end_the_start_with_a_sentence(arguments: list[str], message: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tasuki.cli", "deviceplugin", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), SECONDS)

    assert process.returncode == 2
    assert message in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_cdi_specifications_are_written_before_anything_is_offered(folder: Path) -> None:
    config = yaml.safe_dump({"flags": {"plugin": {"deviceListStrategy": ["cdi-cri"]}}})
    async with daemon(folder, "--simulate", "t4", config=config) as running:
        await running.kubelet.wait_for(healthy(1), SECONDS)
        admission = await running.kubelet.admit(Pod("train", (Container("main", {GPU: 1}),), uid="1"))

        (named,) = admission.container("main").edits.cdi_devices
        (spec,) = (folder / "cdi").iterdir()
        assert named.partition("=")[2] in spec.read_text()


async def test_a_cdi_folder_that_cannot_be_written_offers_nothing_and_says_why(folder: Path) -> None:
    (folder / "cdi").write_text("in the way")
    flags = {"plugin": {"deviceListStrategy": ["cdi-cri"]}}
    config = yaml.safe_dump({"flags": flags, "tasuki": {"rescanSeconds": 1}})
    async with daemon(folder, "--simulate", "t4", config=config) as running:
        resources = await running.kubelet.wait_for(lambda r: GPU in r and r[GPU].capacity == 1, SECONDS)

        assert resources[GPU].allocatable == 0
        assert await running.answers("/readyz", "--cdi-root")

        (folder / "cdi").unlink()
        await running.kubelet.wait_for(healthy(1), SECONDS)
        await running.answers("/readyz", "\nready\n")
