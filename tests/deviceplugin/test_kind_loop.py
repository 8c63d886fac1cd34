"""What a kind's loop does when its driver, its files or its faults misbehave."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from deviceplugin import kind_loop
from deviceplugin.config.model import Config, HealthOptions, TasukiOptions
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault, HealthBook, XidFilter, judged_device
from deviceplugin.kind import Offered
from deviceplugin.kind_loop import KindLoop, Outlets
from deviceplugin.metrics import Metrics
from deviceplugin.offers import refuse_all
from deviceplugin.resources import Resource
from tasuki.devices.model import Device, slices_of, unhealthy
from tasuki.devices.preference import spread
from tasuki.kube.events import Occurrence
from tasuki.process.readiness import Readiness
from tests.builders import a_device

SECONDS = 10.0
Found = tuple[Device, ...]


@dataclass
class FakeKind:
    """A kind whose every answer a test decides."""

    found: Found = (a_device(0), a_device(1))
    name: str = "fake"
    faults: list[Fault] = field(default_factory=list)
    scan_error: Exception | None = None
    plan_error: Exception | None = None
    faults_error: Exception | None = None
    finding: str = ""
    hang: threading.Event | None = None
    scans: int = 0

    def scan(self) -> Found:
        self.scans += 1
        if self.hang is not None:
            self.hang.wait(SECONDS)
        if self.scan_error is not None:
            raise self.scan_error
        return self.found

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        if self.faults_error is not None:
            raise self.faults_error
        if not self.faults:
            time.sleep(min(timeout_seconds, 0.05))
        faults, self.faults = self.faults, []
        return faults

    def probe(self, device: str) -> str:
        return self.finding

    def close(self) -> None:
        pass

    def devices(self, found: Found) -> Found:
        return found

    def settled(self, book: HealthBook, before: Found, after: Found) -> HealthBook:
        return book

    def check(self, found: Found, config: Config) -> tuple[str, ...]:
        return ()

    def plan(self, found: Found, book: HealthBook, config: Config, trouble: str) -> Offered:
        if self.plan_error is not None:
            raise self.plan_error
        devices = tuple(judged_device(device, book) for device in found)
        if trouble:
            devices = tuple(a_device(d.index, health=unhealthy(trouble)) for d in devices)
        slices = tuple(s for device in devices for s in slices_of(device, None))
        resources = (Resource("example.com/fake", slices),)
        return Offered(devices, resources, refuse_all("never"), lambda _: spread, trouble=trouble)


@dataclass
class Running:
    kind: FakeKind
    loop: KindLoop[Found]
    readiness: Readiness
    metrics: Metrics
    events: list[Occurrence]

    async def until(self, wanted: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not wanted():
                await asyncio.sleep(0.01)

    @property
    def health(self) -> list[bool]:
        return [d.health.healthy for d in self.loop.offered.devices] if self.loop.offered else []


def config(*, rescan_seconds: float = 0.1, recovery_seconds: float = 0.0) -> Config:
    health = HealthOptions(recovery_seconds=recovery_seconds, probe_seconds=0.05)
    return Config(tasuki=TasukiOptions(rescan_seconds=rescan_seconds, health=health))


@asynccontextmanager
async def running(kind: FakeKind, chosen: Config | None = None) -> AsyncIterator[Running]:
    readiness, metrics, events = Readiness("fake driver"), Metrics(), list[Occurrence]()
    loop = KindLoop(kind, Outlets(metrics, readiness, XidFilter(), lambda: None, events.append))
    loop.adopt(chosen or config())
    task = asyncio.create_task(loop.run())
    try:
        yield Running(kind, loop, readiness, metrics, events)
    finally:
        if kind.hang is not None:
            kind.hang.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_DRIVER_RETRY_SECONDS", "_CRASH_PAUSE_SECONDS", "_SECOND_LOOK_SECONDS", "_FAULT_WAIT_SECONDS"):
        monkeypatch.setattr(kind_loop, name, 0.1)
    monkeypatch.setattr(kind_loop, "_HUNG_SECONDS", 0.3)


async def test_devices_are_offered() -> None:
    async with running(FakeKind()) as it:
        await it.until(lambda: it.health == [True, True])

        assert set(it.loop.offers) == {"example.com/fake"}
        assert it.readiness.ready


async def test_an_internal_error_of_a_plan_is_tried_again() -> None:
    async with running(FakeKind(plan_error=RuntimeError("a bug"))) as it:
        await it.until(lambda: it.metrics.registry.get_sample_value("tasuki_internal_errors_total", ERRORS))
        it.kind.plan_error = None

        await it.until(lambda: it.health == [True, True])


ERRORS = {"where": "fake reconcile"}


async def test_a_scan_that_hangs_is_told_of_and_survived() -> None:
    async with running(FakeKind()) as it:
        await it.until(lambda: it.health == [True, True])
        it.kind.hang = threading.Event()

        await it.until(lambda: it.health == [False, False])
        assert "has not answered" in it.readiness.report()
        hang, it.kind.hang = it.kind.hang, None
        hang.set()
        await it.until(lambda: it.health == [True, True] and it.readiness.ready)


async def test_a_scan_that_fails_with_a_bug_is_told_of() -> None:
    async with running(FakeKind(scan_error=ZeroDivisionError("a bug"))) as it:
        await it.until(lambda: "a bug" in it.readiness.report())
        it.kind.scan_error = None

        await it.until(lambda: it.readiness.ready)


async def test_without_a_driver_it_is_published_that_nothing_is_there() -> None:
    async with running(FakeKind(scan_error=DriverUnavailableError("no driver"))) as it:
        await it.until(lambda: it.loop.offered is not None)

        assert it.loop.offered is not None
        assert it.loop.offered.trouble == "no driver"
        assert it.health == []


async def test_faults_that_cannot_be_watched_are_told_of() -> None:
    async with running(FakeKind(faults_error=DriverUnavailableError("no events"))) as it:
        await it.until(lambda: "faults cannot be watched: no events" in it.readiness.report())
        assert [e.reason for e in it.events] == ["FaultsUnwatched"]
        it.kind.faults_error = None

        await it.until(lambda: it.readiness.ready)


async def test_a_fault_from_before_the_first_scan_counts() -> None:
    kind = FakeKind(faults=[Fault("GPU-0", "XID 79", 79)], scan_error=DriverUnavailableError("not yet"))
    async with running(kind) as it:
        await it.until(lambda: kind.scans > 2)
        kind.scan_error = None

        await it.until(lambda: it.health == [False, True])


async def test_what_one_scan_alone_finds_is_forgotten() -> None:
    async with running(FakeKind(), config(rescan_seconds=60)) as it:
        await it.until(lambda: it.health == [True, True])
        it.kind.found = (a_device(0, health=unhealthy("for a moment")), a_device(1))
        it.loop._rescan.set()
        await it.until(lambda: it.health == [False, True])
        it.kind.found = (a_device(0), a_device(1))

        await it.until(lambda: it.health == [True, True])


async def test_what_two_scans_find_stays_until_it_has_proved_itself() -> None:
    async with running(FakeKind(finding="the driver asks for a reset"), config(recovery_seconds=0.3)) as it:
        await it.until(lambda: it.health == [True, True])
        it.kind.found = (a_device(0, health=unhealthy("lost")), a_device(1))
        scans = it.kind.scans
        await it.until(lambda: it.kind.scans > scans + 3)
        it.kind.found = (a_device(0), a_device(1))
        scans = it.kind.scans
        await it.until(lambda: it.kind.scans > scans + 5)
        assert it.health == [False, True]
        it.kind.finding = ""

        await it.until(lambda: it.health == [True, True])
        assert [e.reason for e in it.events] == ["DeviceUnhealthy", "DeviceHealthy"]
