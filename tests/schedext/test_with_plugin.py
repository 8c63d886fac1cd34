"""The extender, the device plugin and a kubelet, each as it is shipped: what is chosen at bind is what is allocated."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tasuki.devices.model import device_id_of
from tasuki.kube.names import BOUND_SLICES
from tasuki.kube.placement import read_slices
from tasuki.sandbox.admission import Admission
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.pod_resources import PodResourcesServer
from tasuki.sandbox.pods import Container, Pod
from tests.deviceplugin.test_daemon import described, with_fault
from tests.fpga_builders import INTERFACE, RESIZE, SHARPEN, a_gbs
from tests.schedext.api_server import SchedulingApiServer
from tests.schedext.processes import Extender, extender
from tests.tasuki.kube.api_server import ACCELERATOR_NODES, NODES, PODS

Json = dict[str, Any]

SECONDS: Final = 30.0
GPU: Final = "nvidia.com/gpu"
NODE: Final = "n"
# By container, resource and device.
Places = dict[str, dict[str, dict[str, int]]]


@dataclass
class Cluster:
    """One node, all there is to it, and the scheduler's part in the test's own hands."""

    folder: Path
    api: SchedulingApiServer
    kubelet: Kubelet
    plugin_arguments: Sequence[str]
    plugin: asyncio.subprocess.Process
    extender: Extender | None = None
    uids: Counter[str] = field(default_factory=Counter)

    async def create(self, name: str, containers: Sequence[Container], **metadata: Any) -> Json:
        self.uids[name] += 1
        spec = {
            "containers": [_container(each) for each in containers if not each.init],
            "initContainers": [_container(each) for each in containers if each.init],
        }
        created = {"creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
        return await self.api.put_pod("default", name, f"{name}-{self.uids[name]}", spec=spec, metadata=created)

    async def bind(self, name: str, containers: Sequence[Container]) -> Places:
        """Create a pod and let the extender find it a place; what it chose."""
        assert await self.is_bound(name, containers)
        return self.chosen(name)

    async def is_bound(self, name: str, containers: Sequence[Container]) -> bool:
        assert self.extender is not None
        pod = await self.create(name, containers)
        return await self.extender.schedule(pod, [NODE]) == NODE

    async def left(self, resource: str) -> Counter[str]:
        """What the extender believes is free: all that it gives away, which is taken back."""
        found, probes, fits = Counter[str](), 0, True
        while fits:
            probes += 1
            fits = await self.is_bound(f"probe-{probes}", one({resource: 1}))
            found.update(self.chosen(f"probe-{probes}").get("main", {}).get(resource, {}))
        for number in range(1, probes + 1):
            await self.api.remove_pod("default", f"probe-{number}")
        return found

    def free(self, resource: str) -> Counter[str]:
        """What the kubelet has left."""
        held = {
            device
            for pod in self.kubelet.pods()
            for container in pod.containers
            for name, devices in self.kubelet.held(pod.uid, container.name).items()
            if name == resource
            for device in devices.devices
        }
        return Counter(map(device_id_of, self.kubelet.resources()[resource].healthy - held))

    def chosen(self, name: str) -> Places:
        text = self.api.annotations("default", name).get(BOUND_SLICES, "{}")
        return {
            container: {resource: dict(devices) for resource, devices in resources.items()}
            for container, resources in read_slices(text).items()
        }

    async def admit(self, name: str) -> Places:
        """As the kubelet: allocate for a pod, then tell that it has started; what it allocated."""
        admission = await self.allocate(name)
        assert admission.admitted, admission.message
        await self.start(name)
        return places(admission)

    async def allocate(self, name: str) -> Admission:
        spec, metadata = self.api.pod("default", name)["spec"], self.api.pod("default", name)["metadata"]
        containers = [
            *(_sandbox(each, init=True) for each in spec["initContainers"]),
            *(_sandbox(each, init=False) for each in spec["containers"]),
        ]
        return await self.kubelet.admit(Pod(name, tuple(containers), uid=metadata["uid"]))

    async def start(self, name: str) -> None:
        pod = self.api.pod("default", name)
        status = {"phase": "Running", "startTime": "2026-01-01T00:00:01Z"}
        await self.api.put_pod("default", name, pod["metadata"]["uid"], **{**pod, "status": status})

    async def publishes(self) -> None:
        """Wait until the node says what it offers."""
        async with asyncio.timeout(SECONDS):
            while not self.api.objects(ACCELERATOR_NODES).get(NODE, {}).get("status", {}).get("resources"):
                await asyncio.sleep(0.05)

    async def published(self, *names: str) -> None:
        """Wait until the node says of exactly these pods that they hold something."""
        async with asyncio.timeout(SECONDS):
            while self._holders() != {*names}:
                await asyncio.sleep(0.05)
        # The extender is told by then, or is so with its next event.
        await asyncio.sleep(0.2)

    def _holders(self) -> set[str]:
        resources = self.api.objects(ACCELERATOR_NODES)[NODE]["status"]["resources"]
        return {each["pod"] for resource in resources for each in resource["holders"]}

    async def start_plugin(self) -> None:
        self.plugin = await plugin_process(self.folder, self.api, self.kubelet, self.plugin_arguments)

    async def stop_plugin(self) -> None:
        self.plugin.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.plugin.wait(), SECONDS)

    async def offers(self, wanted: Mapping[str, int]) -> None:
        await self.kubelet.wait_for(
            lambda found: all(name in found and found[name].allocatable == count for name, count in wanted.items()),
            SECONDS,
        )

    async def watched(self) -> None:
        """The plugin follows this node's pods."""
        await self.api.until(
            lambda: any(each._req and "nodeName" in each._req.path_qs for each in self.api.watches(PODS))
        )


def one(wants: Mapping[str, int]) -> list[Container]:
    return [Container("main", wants)]


def _container(container: Container) -> Json:
    always = {"restartPolicy": "Always"} if container.sidecar else {}
    return {
        "name": container.name,
        "resources": {"limits": {name: str(count) for name, count in container.wants.items()}},
        **always,
    }


def _sandbox(container: Json, *, init: bool) -> Container:
    wants = {name: int(count) for name, count in container["resources"]["limits"].items()}
    return Container(container["name"], wants, init=init, sidecar="restartPolicy" in container)


def places(admission: Admission) -> Places:
    return {
        each.container.name: {
            resource: dict(Counter(map(device_id_of, devices))) for resource, devices in each.devices.items()
        }
        for each in admission.containers
        if each.devices
    }


async def plugin_process(
    folder: Path, api: SchedulingApiServer, kubelet: Kubelet, arguments: Sequence[str]
) -> asyncio.subprocess.Process:
    with (folder / "plugin.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tasuki.cli", "deviceplugin", "--node-name", NODE, "--kubelet-socket", str(kubelet.socket)),
            *("--pod-resources-socket", str(folder / "pods" / "kubelet.sock"), "--metrics-address", ""),
            *("--config-file", str(folder / "config.yaml"), "--cdi-root", str(folder / "cdi"), *arguments),
            stderr=log,
            env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig")},
        )


@asynccontextmanager
async def a_node(folder: Path, offered: Mapping[str, int], *arguments: str, config: str = "") -> AsyncIterator[Cluster]:
    """A node that offers so much, before there is an extender."""
    (folder / "config.yaml").write_text(config)
    api = SchedulingApiServer()
    allocatable = {name: str(count) for name, count in offered.items()}
    await api.put(NODES, NODE, status={"allocatable": {**allocatable, "cpu": "64"}}, metadata={"labels": {}})
    await api.start()
    api.kubeconfig(folder)
    try:
        async with Kubelet(folder / "dp") as kubelet, PodResourcesServer(folder / "pods", kubelet):
            plugin = await plugin_process(folder, api, kubelet, arguments)
            cluster = Cluster(folder, api, kubelet, arguments, plugin)
            try:
                await cluster.offers(offered)
                await cluster.watched()
                await cluster.publishes()
                yield cluster
            finally:
                if cluster.plugin.returncode is None:
                    await cluster.stop_plugin()
                print((folder / "plugin.log").read_text())
    finally:
        await api.stop()


@asynccontextmanager
async def scheduled(cluster: Cluster) -> AsyncIterator[Extender]:
    """An extender at work."""
    async with extender(str(cluster.folder / "kubeconfig"), cluster.folder) as running:
        await running.ready()
        cluster.extender = running
        yield running


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for a socket's name."""
    return tmp_path_factory.mktemp("w")


def sharing(replicas: int) -> str:
    resources = [{"name": GPU, "replicas": replicas}]
    return yaml.safe_dump({"version": "v1", "sharing": {"timeSlicing": {"resources": resources}}})


async def test_each_pod_of_a_burst_is_allocated_its_own(folder: Path) -> None:
    async with a_node(folder, {GPU: 32}, "--simulate", "dgx-a100", config=sharing(4)) as it, scheduled(it):
        names = [f"p{n}" for n in range(20)]
        chosen = {name: await it.bind(name, one({GPU: 1})) for name in names}

        # None of them is reported as started before all are allocated.
        allocated = {name: places(await it.allocate(name)) for name in names}

        assert allocated == chosen


async def test_containers_of_a_pod_are_allocated_each_its_own(folder: Path) -> None:
    containers = [
        Container("init", {GPU: 2}, init=True),
        Container("beside", {GPU: 1}, init=True, sidecar=True),
        Container("one", {GPU: 1}),
        Container("two", {GPU: 2}),
    ]
    async with a_node(folder, {GPU: 8}, "--simulate", "dgx-a100") as it, scheduled(it):
        several, single = await it.bind("several", containers), await it.bind("single", one({GPU: 1}))

        assert set(several) == {"init", "beside", "one", "two"}
        assert await it.admit("several") == several
        assert await it.admit("single") == single
        await it.published("several", "single")
        assert await it.left(GPU) == it.free(GPU)


async def test_what_was_chosen_outlives_everybody(folder: Path) -> None:
    async with a_node(folder, {GPU: 8}, "--simulate", "dgx-a100") as it:
        async with scheduled(it):
            chosen = {name: await it.bind(name, one({GPU: 1})) for name in "abcd"}
            await it.kubelet.restart()
            await it.offers({GPU: 8})
            assert await it.admit("a") == chosen["a"]

            # It is told of what is allocated, but not of it as started.
            assert places(await it.allocate("b")) == chosen["b"]
            await it.stop_plugin()
            await it.start_plugin()
            await it.offers({GPU: 8})
            await it.watched()
            assert await it.admit("c") == chosen["c"]
            await it.api.remove_pod("default", "d")
        async with scheduled(it):
            chosen["e"] = await it.bind("e", one({GPU: 2}))
            assert await it.admit("e") == chosen["e"]
            await it.published("a", "b", "c", "e")
            assert await it.left(GPU) == it.free(GPU)


async def test_partitions_are_allocated_as_chosen(folder: Path) -> None:
    config = yaml.safe_dump({"flags": {"migStrategy": "mixed"}})
    offered = {GPU: 1, "nvidia.com/mig-1g.5gb": 9, "nvidia.com/mig-2g.10gb": 1, "nvidia.com/mig-3g.20gb": 3}
    async with a_node(folder, offered, "--simulate", "a100-mig", config=config) as it, scheduled(it):
        wants = {"a": "1g.5gb", "b": "3g.20gb", "c": "1g.5gb", "d": "3g.20gb"}
        chosen = {name: await it.bind(name, one({f"nvidia.com/mig-{want}": 1})) for name, want in wants.items()}

        assert {name: await it.admit(name) for name in wants} == chosen


async def test_fpga_regions_are_allocated_as_chosen(folder: Path) -> None:
    (folder / "images").mkdir()
    functions = {}
    for name, afu in (("resize", RESIZE), ("sharpen", SHARPEN)):
        (folder / "images" / f"{name}.gbs").write_bytes(a_gbs(INTERFACE, afu))
        image = {"family": "dfl", "interface": INTERFACE, "id": afu, "bitstream": f"{name}.gbs"}
        functions[name] = {"implementations": [{**image, "channels": 2, "programmingSeconds": 5}]}
    config = yaml.safe_dump({"version": "v1", "tasuki": {"fpga": {"functions": functions}}})
    arguments = ("--kinds", "fpga", "--simulate-fpga", "intel-dfl", "--bitstreams", str(folder / "images"))
    offered = {f"fpga.tasuki.dev/{name}": 4 for name in functions}
    async with a_node(folder, offered, *arguments, config=config) as it, scheduled(it):
        wants = {"a": "sharpen", "b": "resize", "c": "sharpen"}
        chosen = {name: await it.bind(name, one({f"fpga.tasuki.dev/{want}": 1})) for name, want in wants.items()}

        assert {name: await it.admit(name) for name in wants} == chosen
        assert chosen["a"]["main"]["fpga.tasuki.dev/sharpen"] == chosen["c"]["main"]["fpga.tasuki.dev/sharpen"]


async def test_the_kubelets_word_goes_before_a_choice_that_fell_ill(folder: Path) -> None:
    machine = described(folder, "dgx-a100")
    async with a_node(folder, {GPU: 8}, "--simulate", str(machine)) as it, scheduled(it):
        chosen = await it.bind("a", one({GPU: 1}))
        devices = [each["id"] for each in it.api.objects(ACCELERATOR_NODES)[NODE]["status"]["devices"]]
        with_fault(machine, devices.index(next(iter(chosen["main"][GPU]))), {"xid": 79})
        await it.offers({GPU: 7})

        assert await it.admit("a") != chosen
        await it.published("a")
        assert await it.left(GPU) == it.free(GPU)
