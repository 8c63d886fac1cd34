"""FPGA functions from the scan to the container's start, on a laid-out tree with a simulated kernel behind it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.config.model import Config, FpgaOptions, FpgaPrewarm, PeerNames, TasukiOptions
from deviceplugin.container import ContainerEdits, RefusedError
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from deviceplugin.discovery.simulated_fpga import Failure, SimulatedKernel
from deviceplugin.fpga import Fpgas, Region
from deviceplugin.fpga_kind import FpgaKind, FpgaOutlets
from deviceplugin.health import HealthBook
from deviceplugin.kind import Offered
from deviceplugin.node_status import Holder
from deviceplugin.programming.choosing import OneProgrammer
from deviceplugin.programming.programmer import ProgrammingError
from deviceplugin.programming.readback import Readback
from deviceplugin.programming.simulated import SimulatedProgrammer
from deviceplugin.programming.workbench import Host, Programmed, Workbench
from deviceplugin.resources import Resource
from tasuki.devices.model import Slice
from tasuki.kube.events import Occurrence
from tests.fpga_builders import INTERFACE, RESIZE, SHARPEN, a_catalogue, a_gbs, an_implementation

# The tree of two of Intel's cards: the first holds `resize`, the second `sharpen`.
ONE = "0000:04:00.0-port0"
TWO = "0000:81:00.0-port0"
FPGA_ONE = "devices/pci0000:00/0000:00:03.0/0000:04:00.0/fpga_region/region0"
FLIP = "ab" * 16
RESIZE_NAME = "fpga.tasuki.dev/resize"
SHARPEN_NAME = "fpga.tasuki.dev/sharpen"
FLIP_NAME = "fpga.tasuki.dev/flip"

CATALOGUE = a_catalogue(
    {
        "resize": an_implementation(RESIZE, channels=4, users=2, bitstream="resize.gbs"),
        "sharpen": an_implementation(SHARPEN, bitstream="sharpen.gbs"),
        "flip": an_implementation(FLIP, channels=2, bitstream="flip.gbs"),
    }
)


@dataclass
class GatedProgrammer:
    """The simulated kernel, which waits to be let through, and counts."""

    kernel: SimulatedKernel
    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: dict[str, int] = field(default_factory=dict)

    def program(self, region: Region, image: Path, expected: str) -> None:
        with self._lock:
            self.begun.append(region.device.id)
            self._busy[region.card] = self._busy.get(region.card, 0) + 1
            self.most_at_once[region.card] = max(self.most_at_once.get(region.card, 0), self._busy[region.card])
        try:
            if not self.gate.wait(20):
                raise ProgrammingError("nobody let it through")
            SimulatedProgrammer(self.kernel).program(region, image, expected)
        finally:
            with self._lock:
                self._busy[region.card] -= 1


@dataclass
class Node:
    """A daemon's FPGA kind and what surrounds it."""

    sys: Path
    images: Path
    options: FpgaOptions
    programmer: GatedProgrammer
    spawn: Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]
    now: float = 1000.0
    changes: int = 0
    events: list[Occurrence] = field(default_factory=list)
    programmed: list[Programmed] = field(default_factory=list)
    kind: FpgaKind = field(init=False)
    offered: Offered | None = None

    def start(self) -> None:
        """As when the daemon begins."""
        host = Host(Readback(self.sys), OneProgrammer(self.programmer), self.images)
        outlets = FpgaOutlets(self._changed, self.events.append, self.programmed.append, self.spawn)
        source = FpgaSource(self.sys, dev_of(self.sys))
        bench = Workbench(host, self.spawn)
        self.offered = None
        self.kind = FpgaKind(source, bench, outlets, settle_seconds=0.0, now=lambda: self.now)

    def _changed(self) -> None:
        self.changes += 1

    async def plan(self) -> Offered:
        """One turn of the kind's loop."""
        found = await asyncio.to_thread(self.kind.scan)
        config = Config(tasuki=TasukiOptions(fpga=self.options))
        self.offered = await asyncio.to_thread(self.kind.plan, found, HealthBook(), config, "")
        return self.offered

    async def lists(self) -> dict[str, list[str]]:
        return {resource.name: [s.id for s in resource.slices] for resource in (await self.plan()).resources}

    async def known(self, *holders: Holder) -> None:
        """As when the kubelet has told who holds what."""
        if self.offered is None:
            await self.plan()
        self.kind.holders_seen(holders, self.now)
        await self.plan()

    async def gone(self, *holders: Holder) -> None:
        """As when the kubelet's lists have these holders and no others for a while."""
        for _ in range(2):
            self.now += 10
            self.kind.holders_seen(holders, self.now)
        await self.plan()

    def resource(self, name: str) -> tuple[Offered, Resource, dict[str, Slice]]:
        """What the kubelet's calls for a resource are answered from."""
        assert self.offered is not None
        (found,) = (r for r in self.offered.resources if r.name == name)
        return self.offered, found, {s.id: s for s in found.slices}

    def allocate(self, name: str, *ids: str) -> ContainerEdits:
        offered, found, slices = self.resource(name)
        return offered.grant(found, slices, ids)

    async def prestart(self, name: str, *ids: str) -> None:
        offered, found, slices = self.resource(name)
        assert offered.start is not None
        await offered.start(found, slices, ids)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    def loaded(self, region: str) -> str:
        return {r.device.id: r.loaded for r in FpgaSource(self.sys, dev_of(self.sys)).scan().regions}[region]

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events]


@asynccontextmanager
async def running(tmp_path: Path, options: FpgaOptions = CATALOGUE) -> AsyncIterator[Node]:
    sys_root = materialise("intel-dfl", tmp_path / "tree")
    images = tmp_path / "bitstreams"
    images.mkdir()
    for name, afu in {"resize": RESIZE, "sharpen": SHARPEN, "flip": FLIP}.items():
        (images / f"{name}.gbs").write_bytes(a_gbs(INTERFACE, afu))
    programmer = GatedProgrammer(SimulatedKernel(sys_root, seconds=0))
    programmer.gate.set()
    async with asyncio.TaskGroup() as tasks:
        node = Node(sys_root, images, options, programmer, tasks.create_task)
        node.start()
        yield node
        programmer.gate.set()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """With both regions known to be free."""
    async with running(tmp_path) as made:
        await made.known()
        yield made


def channel(region: str, number: int = 0) -> str:
    return f"{region}::{number}"


def holder(resource: str, *ids: str, pod: str = "pod") -> Holder:
    return Holder("default", pod, "main", resource, ids)


class TestOffering:
    async def test_every_region_is_offered_for_each_function(self, node: Node) -> None:
        found = await node.lists()

        assert found == {
            RESIZE_NAME: [channel(region, n) for region in (ONE, TWO) for n in range(4)],
            SHARPEN_NAME: [channel(ONE), channel(TWO)],
            FLIP_NAME: [channel(region, n) for region in (ONE, TWO) for n in range(2)],
        }

    async def test_a_claim_shortens_the_other_lists_at_once(self, node: Node) -> None:
        before = node.changes

        node.allocate(RESIZE_NAME, channel(ONE))

        assert node.changes == before + 1
        found = await node.lists()
        assert found[SHARPEN_NAME] == [channel(TWO)]
        assert found[FLIP_NAME] == [channel(TWO, 0), channel(TWO, 1)]
        assert len(found[RESIZE_NAME]) == 8

    async def test_a_second_function_is_refused_on_a_claimed_region(self, node: Node) -> None:
        node.allocate(RESIZE_NAME, channel(ONE))

        with pytest.raises(RefusedError, match=f"region {ONE} is held under {RESIZE_NAME} by a container"):
            node.allocate(SHARPEN_NAME, channel(ONE))

    async def test_one_that_comes_after_the_shorter_list_is_told_who_holds_the_region(self, node: Node) -> None:
        node.allocate(RESIZE_NAME, channel(ONE))
        await node.plan()

        with pytest.raises(RefusedError, match=f"region {ONE} is held under {RESIZE_NAME} by a container"):
            node.allocate(SHARPEN_NAME, channel(ONE))

    async def test_a_region_that_appears_is_offered_once_the_kubelet_has_told_who_holds_it(self, node: Node) -> None:
        node.start()
        found = node.kind.scan()
        config = Config(tasuki=TasukiOptions(fpga=CATALOGUE))
        node.kind.plan(Fpgas(found.regions[:1]), HealthBook(), config, "")
        node.kind.holders_seen([holder(RESIZE_NAME, channel(TWO))], node.now)

        appeared = await node.plan()

        assert {s.device.id for resource in appeared.resources for s in resource.slices} == {ONE}
        assert f"region {TWO} is left out until the kubelet has told who holds it (pod-resources)" in appeared.problems
        await node.known(holder(RESIZE_NAME, channel(TWO)))
        assert (await node.lists())[SHARPEN_NAME] == [channel(ONE)]

    async def test_containers_share_a_region_up_to_its_users(self, node: Node) -> None:
        node.allocate(RESIZE_NAME, channel(ONE, 0))
        node.allocate(RESIZE_NAME, channel(ONE, 1))

        with pytest.raises(RefusedError, match="as many as"):
            node.allocate(RESIZE_NAME, channel(ONE, 2))
        assert (await node.lists())[RESIZE_NAME][:3] == [channel(ONE, 0), channel(ONE, 1), channel(TWO, 0)]

    async def test_a_region_is_free_again_once_its_container_is_gone(self, node: Node) -> None:
        node.allocate(FLIP_NAME, channel(ONE))
        await node.gone(holder(FLIP_NAME, channel(ONE)))
        held = await node.lists()
        await node.gone()

        assert held[RESIZE_NAME] == [channel(TWO, n) for n in range(4)]
        assert len((await node.lists())[RESIZE_NAME]) == 8

    async def test_a_container_gets_its_regions_device_files(self, node: Node) -> None:
        made = node.allocate(RESIZE_NAME, channel(TWO, 3))

        assert [n.host_path for n in made.nodes] == ["/dev/dfl-port.1"]
        assert made.envs["TASUKI_FPGA_RESIZE_REGION"] == TWO
        assert made.envs["TASUKI_FPGA_RESIZE_CHANNEL"] == "3"

    async def test_a_loaded_region_is_preferred(self, node: Node) -> None:
        for resource, expected in ((RESIZE_NAME, ONE), (SHARPEN_NAME, TWO)):
            offered, found, _ = node.resource(resource)

            assert [s.device.id for s in offered.policy(found)(found.slices, [], 1)] == [expected]

    async def test_the_node_tells_what_is_loaded_and_claimed(self, node: Node) -> None:
        node.allocate(RESIZE_NAME, channel(ONE))

        loaded = (await node.plan()).loaded

        assert (loaded[ONE].function, loaded[ONE].claimed) == ("resize", True)
        assert (loaded[TWO].function, loaded[TWO].claimed) == ("sharpen", False)
        assert loaded[TWO].seconds == {"resize": 8.0, "sharpen": 8.0, "flip": 8.0}

    async def test_peers_names_are_one_pool_with_ours(self, tmp_path: Path) -> None:
        options = a_catalogue({"resize": CATALOGUE.functions[0].implementations}, peers=PeerNames.INTEL)
        async with running(tmp_path, options) as node:
            await node.known()
            af = next(name for name in await node.lists() if name.startswith("fpga.intel.com/af-695.d84"))

            made = node.allocate(af, channel(ONE))
            await node.prestart(af, channel(ONE))

            assert made.envs["TASUKI_FPGA_FUNCTION"] == ""
            assert (await node.lists())[RESIZE_NAME] == [channel(TWO, n) for n in range(4)]

    async def test_a_lost_driver_makes_all_unhealthy(self, node: Node) -> None:
        found = node.kind.scan()

        offered = node.kind.plan(found, HealthBook(), Config(tasuki=TasukiOptions(fpga=CATALOGUE)), "no sysfs")

        assert {device.health.reason for device in offered.devices} == {"no sysfs"}
        assert offered.trouble == "no sysfs"

    @pytest.mark.parametrize(
        ("folder", "problems"),
        [
            pytest.param("none", (), id="no folder"),
            pytest.param("bitstreams/flip.gbs", ("cannot be listed: Not a directory",), id="a file"),
        ],
    )
    async def test_without_images_regions_are_offered_as_they_are(
        self, folder: str, problems: tuple[str, ...], tmp_path: Path
    ) -> None:
        async with running(tmp_path) as node:
            node.images = tmp_path / folder
            node.start()
            await node.known()

            found = (await node.plan()).problems
            assert len(found) == len(problems)
            assert all(text in problem for text, problem in zip(problems, found, strict=True))
            assert set(await node.lists()) == {RESIZE_NAME, SHARPEN_NAME}

    async def test_without_a_catalogue_nothing_is_offered_and_nothing_is_wrong(self, tmp_path: Path) -> None:
        async with running(tmp_path, FpgaOptions()) as node:
            await node.known()

            offered = await node.plan()
            assert (offered.resources, offered.problems) == ((), ())
            assert len(offered.devices) == 2


class TestStarting:
    async def test_a_loaded_function_is_not_programmed_again(self, node: Node) -> None:
        node.allocate(RESIZE_NAME, channel(ONE))

        await node.prestart(RESIZE_NAME, channel(ONE))

        assert node.programmer.begun == []

    async def test_another_function_is_programmed_and_told_of(self, node: Node) -> None:
        node.allocate(FLIP_NAME, channel(ONE))

        await node.prestart(FLIP_NAME, channel(ONE))

        assert node.loaded(ONE) == FLIP
        assert node.events == [Occurrence("Normal", "Programmed", f"region {ONE} was programmed with flip")]
        assert [(p.region, p.function, p.reason) for p in node.programmed] == [(ONE, "flip", "")]
        assert (await node.plan()).loaded[ONE].function == "flip"

    async def test_what_was_programmed_is_offered_as_loaded_before_the_next_scan(self, node: Node) -> None:
        found = node.kind.scan()
        node.allocate(FLIP_NAME, channel(ONE))
        await node.prestart(FLIP_NAME, channel(ONE))

        offered = node.kind.plan(found, HealthBook(), Config(tasuki=TasukiOptions(fpga=CATALOGUE)), "")

        assert offered.loaded[ONE].function == "flip"

    async def test_a_container_that_starts_again_finds_its_function(self, node: Node) -> None:
        node.allocate(FLIP_NAME, channel(ONE))
        await node.prestart(FLIP_NAME, channel(ONE))
        await node.prestart(FLIP_NAME, channel(ONE))

        assert node.programmer.begun == [ONE]

    async def test_every_region_of_a_container_is_programmed(self, node: Node) -> None:
        node.allocate(FLIP_NAME, channel(ONE), channel(TWO))

        await node.prestart(FLIP_NAME, channel(ONE), channel(TWO))

        assert (node.loaded(ONE), node.loaded(TWO)) == (FLIP, FLIP)

    async def test_two_pods_of_one_region_program_it_once(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.allocate(FLIP_NAME, channel(ONE, 0))
        node.allocate(FLIP_NAME, channel(ONE, 1))
        both = [asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE, n))) for n in range(2)]
        await node.until(lambda: bool(node.programmer.begun))
        node.programmer.gate.set()
        await asyncio.gather(*both)

        assert node.programmer.begun == [ONE]

    async def test_two_cards_are_programmed_at_once(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.allocate(FLIP_NAME, channel(ONE))
        node.allocate(FLIP_NAME, channel(TWO))
        both = [asyncio.create_task(node.prestart(FLIP_NAME, channel(region))) for region in (ONE, TWO)]
        await node.until(lambda: len(node.programmer.begun) == 2)
        node.programmer.gate.set()
        await asyncio.gather(*both)

        assert node.programmer.most_at_once == {ONE.rpartition("-")[0]: 1, TWO.rpartition("-")[0]: 1}

    async def test_a_region_in_the_middle_of_programming_is_not_sick(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.allocate(FLIP_NAME, channel(ONE))
        start = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await node.until(lambda: bool(node.programmer.begun))
        node.programmer.kernel.write(f"{FPGA_ONE}/dfl-fme.0/dfl-fme-mgr.0/fpga_manager/fpga0/state", "write")

        offered = await node.plan()

        assert all(device.health.healthy for device in offered.devices)
        node.programmer.gate.set()
        await start

    async def test_a_failure_gives_the_region_back_and_says_why(self, node: Node) -> None:
        node.programmer.kernel.fail_next(ONE, Failure.INCOMPATIBLE)
        node.allocate(FLIP_NAME, channel(ONE))

        with pytest.raises(RefusedError, match=f"region {ONE} could not be programmed with flip: .*incompatible image"):
            await node.prestart(FLIP_NAME, channel(ONE))

        assert node.reasons == ["ProgrammingFailed"]
        assert "incompatible image" in node.events[0].note
        offered = await node.plan()
        assert not offered.loaded[ONE].claimed
        # The scan finds the manager's error.
        assert {d.id: d.health.healthy for d in offered.devices} == {ONE: False, TWO: True}

    async def test_an_image_that_does_not_take_is_a_failure(self, node: Node) -> None:
        node.programmer.kernel.fail_next(ONE, Failure.ID_UNCHANGED)
        node.allocate(FLIP_NAME, channel(ONE))

        with pytest.raises(RefusedError, match=f"it holds {RESIZE} after flip.gbs was written, not {FLIP}"):
            await node.prestart(FLIP_NAME, channel(ONE))

        assert not (await node.plan()).loaded[ONE].claimed
        node.allocate(SHARPEN_NAME, channel(ONE))

    async def test_a_container_that_failed_may_try_again(self, node: Node) -> None:
        node.programmer.kernel.fail_next(ONE, Failure.ID_UNCHANGED)
        node.allocate(FLIP_NAME, channel(ONE))
        with pytest.raises(RefusedError):
            await node.prestart(FLIP_NAME, channel(ONE))
        await node.gone(holder(FLIP_NAME, channel(ONE)))

        await node.prestart(FLIP_NAME, channel(ONE))

        assert node.loaded(ONE) == FLIP
        assert (await node.plan()).loaded[ONE].claimed

    async def test_an_attempt_that_waited_for_a_failed_one_claims_the_region_again(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.programmer.kernel.fail_next(ONE, Failure.ID_UNCHANGED)
        node.allocate(FLIP_NAME, channel(ONE))
        first = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await node.until(lambda: bool(node.programmer.begun))
        second = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await asyncio.sleep(0.02)
        node.programmer.gate.set()

        with pytest.raises(RefusedError):
            await first
        await second

        assert node.loaded(ONE) == FLIP
        await node.gone(holder(FLIP_NAME, channel(ONE)))
        assert (await node.lists())[SHARPEN_NAME] == [channel(TWO)]
        with pytest.raises(RefusedError, match=f"region {ONE} is held under {FLIP_NAME}"):
            node.allocate(SHARPEN_NAME, channel(ONE))

    async def test_an_attempt_that_waited_finds_the_region_taken_by_another(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.programmer.kernel.fail_next(ONE, Failure.ID_UNCHANGED)
        node.allocate(FLIP_NAME, channel(ONE))
        first = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await node.until(lambda: bool(node.programmer.begun))
        second = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await asyncio.sleep(0.02)
        told = node.events.append

        def taken(event: Occurrence) -> None:
            told(event)
            node.allocate(SHARPEN_NAME, channel(ONE))

        node.kind._outlets = replace(node.kind._outlets, record=taken)  # type: ignore[misc]
        node.programmer.gate.set()

        with pytest.raises(RefusedError, match="could not be programmed"):
            await first
        with pytest.raises(RefusedError, match=f"region {ONE} is held under {SHARPEN_NAME}"):
            await second
        assert node.programmer.begun == [ONE]

    async def test_a_region_that_a_failure_made_sick_may_be_tried_again(self, node: Node) -> None:
        node.programmer.kernel.fail_next(ONE, Failure.WRITE)
        node.allocate(FLIP_NAME, channel(ONE))
        with pytest.raises(RefusedError):
            await node.prestart(FLIP_NAME, channel(ONE))
        assert not (await node.plan()).devices[0].health.healthy

        await node.prestart(FLIP_NAME, channel(ONE))

        assert node.loaded(ONE) == FLIP
        assert (await node.plan()).devices[0].health.healthy

    async def test_an_image_for_another_card_is_never_written(self, node: Node) -> None:
        (node.images / "flip.gbs").write_bytes(a_gbs("cd" * 16, FLIP))
        node.allocate(FLIP_NAME, channel(ONE))

        with pytest.raises(RefusedError, match=r"it is made for interface .*; nothing was written"):
            await node.prestart(FLIP_NAME, channel(ONE))

        assert node.programmer.begun == []
        assert node.loaded(ONE) == RESIZE

    async def test_a_kubelet_that_hangs_up_stops_the_waiting_alone(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.allocate(FLIP_NAME, channel(ONE))
        start = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await node.until(lambda: bool(node.programmer.begun))
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        again = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await asyncio.sleep(0.02)

        assert not again.done()
        node.programmer.gate.set()
        await again
        assert node.programmer.begun == [ONE]
        assert node.loaded(ONE) == FLIP

    async def test_a_failure_after_the_kubelet_hung_up_gives_the_region_back_too(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.programmer.kernel.fail_next(ONE, Failure.ID_UNCHANGED)
        node.allocate(FLIP_NAME, channel(ONE))
        start = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await node.until(lambda: bool(node.programmer.begun))
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        node.programmer.gate.set()
        await node.until(lambda: bool(node.events))

        assert node.reasons == ["ProgrammingFailed"]
        assert not (await node.plan()).loaded[ONE].claimed

    async def test_more_time_than_the_kubelet_gives_is_a_refusal(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("deviceplugin.fpga_kind.PROGRAMMING_BUDGET_SECONDS", 0.05)
        node.programmer.gate.clear()
        node.allocate(FLIP_NAME, channel(ONE))

        with pytest.raises(RefusedError, match=r"not ready for .* within 0\.05 s; programming goes on"):
            await node.prestart(FLIP_NAME, channel(ONE))

        node.programmer.gate.set()
        await node.until(lambda: bool(node.programmed))
        assert node.loaded(ONE) == FLIP
        assert (await node.plan()).loaded[ONE].claimed

    async def test_a_new_image_waits_for_those_who_use_the_old_one(self, node: Node) -> None:
        node.allocate(RESIZE_NAME, channel(ONE, 0))
        await node.prestart(RESIZE_NAME, channel(ONE, 0))
        node.allocate(RESIZE_NAME, channel(ONE, 1))
        node.options = a_catalogue({"resize": an_implementation(FLIP, channels=4, users=2, bitstream="flip.gbs")})
        await node.plan()

        with pytest.raises(RefusedError, match=f"region {ONE} is in use with another image of resize"):
            await node.prestart(RESIZE_NAME, channel(ONE, 1))

        assert node.loaded(ONE) == RESIZE


class TestStopping:
    async def test_a_container_that_starts_just_then_is_refused_and_keeps_its_region(self, node: Node) -> None:
        node.allocate(FLIP_NAME, channel(ONE))
        node.kind.stop()

        with pytest.raises(RefusedError, match="the daemon is stopping"):
            await node.prestart(FLIP_NAME, channel(ONE))

        assert (node.programmer.begun, node.events) == ([], [])
        assert (await node.lists())[SHARPEN_NAME] == [channel(TWO)]

    async def test_prewarming_that_has_not_begun_never_does_and_nothing_is_told(self, tmp_path: Path) -> None:
        async with running(tmp_path, warmed(FpgaPrewarm(function="flip"))) as node:
            await node.plan()
            node.kind.holders_seen([], node.now)
            assert set(node.kind._ledger.reserved) == {ONE, TWO}
            node.kind.stop()
            await node.until(lambda: node.kind._ledger.reserved == {})

            assert (node.programmer.begun, node.events, node.programmed) == ([], [], [])


class TestRepairing:
    async def failed(self, node: Node) -> None:
        node.programmer.kernel.fail_next(ONE, Failure.WRITE)
        node.allocate(FLIP_NAME, channel(ONE))
        with pytest.raises(RefusedError):
            await node.prestart(FLIP_NAME, channel(ONE))
        await node.plan()

    async def test_a_free_region_that_a_failure_made_sick_gets_a_good_image(self, node: Node) -> None:
        await self.failed(node)
        node.kind.holders_seen([], node.now)
        await node.until(lambda: len(node.programmed) == 2)

        assert node.loaded(ONE) == RESIZE  # what failed is tried last
        assert (await node.plan()).devices[0].health.healthy

    async def test_one_that_cannot_be_repaired_is_left_alone_for_a_while(self, node: Node) -> None:
        node.options = a_catalogue({"flip": CATALOGUE.functions[2].implementations})
        await node.plan()
        await self.failed(node)
        node.programmer.kernel.fail_next(ONE, Failure.WRITE)
        node.kind.holders_seen([], node.now)
        await node.until(lambda: len(node.programmed) == 2)
        await node.gone()
        await asyncio.sleep(0.05)
        soon = len(node.programmed)
        node.now += 600
        node.kind.holders_seen([], node.now)
        await node.until(lambda: len(node.programmed) == 3)

        assert soon == 2
        assert node.loaded(ONE) == FLIP

    async def test_one_that_is_ill_otherwise_is_left_alone(self, node: Node) -> None:
        await self.failed(node)
        node.programmer.kernel.write(f"{FPGA_ONE}/dfl-port.0/power_state", "6")
        await node.plan()
        node.kind.holders_seen([], node.now)
        await asyncio.sleep(0.05)

        assert len(node.programmed) == 1


class TestRestarting:
    async def test_nothing_is_offered_until_the_kubelet_has_told_who_holds_what(self, node: Node) -> None:
        node.allocate(RESIZE_NAME, channel(ONE))
        node.start()

        assert await node.lists() == {}
        await node.known(holder(RESIZE_NAME, channel(ONE)))
        assert (await node.lists())[FLIP_NAME] == [channel(TWO, 0), channel(TWO, 1)]

    async def test_a_list_that_comes_before_the_first_scan_counts(self, node: Node) -> None:
        node.start()
        node.kind.holders_seen([holder(RESIZE_NAME, channel(ONE))], node.now)
        await node.plan()
        await node.until(lambda: node.changes > 0)
        await asyncio.sleep(0)

        assert (await node.lists())[SHARPEN_NAME] == [channel(TWO)]

    async def test_a_restart_in_the_middle_of_programming_claims_nothing_twice(self, node: Node) -> None:
        node.programmer.gate.clear()
        node.allocate(FLIP_NAME, channel(ONE))
        start = asyncio.create_task(node.prestart(FLIP_NAME, channel(ONE)))
        await node.until(lambda: bool(node.programmer.begun))
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)

        node.start()
        await node.known(holder(FLIP_NAME, channel(ONE)))
        with pytest.raises(RefusedError):
            node.allocate(RESIZE_NAME, channel(ONE))
        node.programmer.gate.set()
        await node.until(lambda: bool(node.programmed))
        await node.prestart(FLIP_NAME, channel(ONE))

        assert node.loaded(ONE) == FLIP

    async def test_a_half_programmed_region_is_programmed_again_for_its_holder(self, node: Node) -> None:
        node.allocate(FLIP_NAME, channel(ONE, 0))
        node.allocate(FLIP_NAME, channel(ONE, 1))
        node.programmer.kernel.write(f"{FPGA_ONE}/dfl-port.0/afu_id", "")
        node.start()
        await node.known(holder(FLIP_NAME, channel(ONE, 0), pod="one"), holder(FLIP_NAME, channel(ONE, 1), pod="two"))

        await node.prestart(FLIP_NAME, channel(ONE, 0))
        await node.prestart(FLIP_NAME, channel(ONE, 1))

        assert node.programmer.begun == [ONE]
        assert node.loaded(ONE) == FLIP

    async def test_a_kubelet_that_never_tells_leaves_regions_as_they_are(self, node: Node) -> None:
        node.start()
        await node.plan()
        node.kind.holders_unavailable(node.now)
        early = await node.lists()
        node.kind.holders_unavailable(node.now + 60)

        assert early == {}
        assert await node.lists() == {
            RESIZE_NAME: [channel(ONE, n) for n in range(4)],
            SHARPEN_NAME: [channel(TWO)],
            FLIP_NAME: [],
        }

    async def test_without_being_told_a_claim_ends_when_its_slice_is_handed_out_again(self, node: Node) -> None:
        node.start()
        await node.plan()
        node.kind.holders_unavailable(node.now)
        node.kind.holders_unavailable(node.now + 60)
        await node.plan()
        node.allocate(SHARPEN_NAME, channel(TWO))
        node.now += 10_000

        node.allocate(SHARPEN_NAME, channel(TWO))
        await node.prestart(SHARPEN_NAME, channel(TWO))

        assert (await node.lists())[FLIP_NAME] == []

    async def test_holders_of_two_functions_in_one_region_are_told_of(self, node: Node) -> None:
        node.start()
        await node.known(holder(RESIZE_NAME, channel(ONE)), holder(FLIP_NAME, channel(ONE), pod="other"))

        assert node.reasons == ["RegionHeldTwice"]
        assert (await node.lists())[FLIP_NAME] == [channel(TWO, 0), channel(TWO, 1)]


def warmed(*entries: FpgaPrewarm) -> FpgaOptions:
    return FpgaOptions(functions=CATALOGUE.functions, prewarm=entries)


class TestPrewarming:
    async def test_free_regions_are_programmed_beforehand(self, tmp_path: Path) -> None:
        async with running(tmp_path, warmed(FpgaPrewarm(function="flip"))) as node:
            await node.known()
            await node.until(lambda: len(node.programmed) == 2)

            assert (node.loaded(ONE), node.loaded(TWO)) == (FLIP, FLIP)
            await node.until(lambda: node.kind._ledger.reserved == {})
            assert len((await node.lists())[RESIZE_NAME]) == 8

    async def test_a_region_is_in_no_list_while_it_is_programmed(self, tmp_path: Path) -> None:
        async with running(tmp_path, warmed(FpgaPrewarm(function="flip", regions=1))) as node:
            node.programmer.gate.clear()
            await node.plan()
            await node.known()
            await node.until(lambda: bool(node.programmer.begun))
            (busy,) = node.programmer.begun

            assert all(busy not in slice_id for ids in (await node.lists()).values() for slice_id in ids)

    async def test_a_claimed_region_is_left_alone_until_it_is_given_back(self, tmp_path: Path) -> None:
        async with running(tmp_path, warmed(FpgaPrewarm(function="flip"))) as node:
            node.start()
            await node.known(holder(RESIZE_NAME, channel(ONE)))
            await node.until(lambda: len(node.programmed) == 1)
            before = list(node.programmer.begun)
            await node.gone()
            await node.until(lambda: len(node.programmed) == 2)

            assert (before, node.programmer.begun) == ([TWO], [TWO, ONE])

    async def test_a_region_that_is_handed_out_just_then_is_not_programmed(self, tmp_path: Path) -> None:
        async with running(tmp_path) as node:
            await node.known()
            node.options = warmed(FpgaPrewarm(function="flip", regions=1))
            await node.plan()
            node.kind.holders_seen([], node.now)
            node.allocate(RESIZE_NAME, channel(ONE))
            await node.prestart(RESIZE_NAME, channel(ONE))
            await asyncio.sleep(0.05)

            assert node.loaded(ONE) == RESIZE
            assert ONE not in node.programmer.begun

    async def test_what_fails_is_not_tried_again_at_once(self, tmp_path: Path) -> None:
        async with running(tmp_path, warmed(FpgaPrewarm(function="flip"))) as node:
            node.programmer.kernel.fail_next(ONE, Failure.ID_UNCHANGED)
            node.programmer.kernel.fail_next(TWO, Failure.ID_UNCHANGED)
            await node.known()
            await node.until(lambda: len(node.programmed) == 2)
            node.now += 10
            node.kind.holders_seen([], node.now)
            await asyncio.sleep(0.05)
            soon = len(node.programmer.begun)
            node.now += 600
            await node.plan()
            node.kind.holders_seen([], node.now)
            await node.until(lambda: len(node.programmed) == 4)

            assert soon == 2
            assert node.loaded(ONE) == FLIP

    async def test_a_function_that_takes_longer_than_the_kubelet_waits_is_offered_once_it_is_there(
        self, tmp_path: Path
    ) -> None:
        slow = an_implementation(FLIP, seconds=60, bitstream="flip.gbs")
        options = a_catalogue({"flip": slow}, prewarm=(FpgaPrewarm(function="flip", regions=1),))
        async with running(tmp_path, options) as node:
            await node.known()
            await node.until(lambda: len(node.programmed) == 1)

            (where,) = node.programmer.begun
            assert await node.lists() == {FLIP_NAME: [channel(where)]}
