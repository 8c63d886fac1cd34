"""One kind's life: scan, judge, plan, offer; again at each rescan, fault, probe, configuration or change of its own.

Every trigger ends in `_reconcile`, the only place where an offer is made: it computes what is to be offered from the
newest findings, health book and configuration. Triggers that come while it works make it run once more.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic

from deviceplugin.config.model import Config
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault, HealthBook, Part, XidFilter, probed, record
from deviceplugin.kind import Found, Kind, Offered
from deviceplugin.metrics import Metrics
from tasuki.devices.model import Device, Health
from tasuki.kube.events import Occurrence
from tasuki.process.readiness import Readiness

log: Final = logging.getLogger(__name__)

# How long the fault thread waits for the driver at a time, and so how long a stop may take.
_FAULT_WAIT_SECONDS: Final = 1.0
_DRIVER_RETRY_SECONDS: Final = 5.0
_CRASH_PAUSE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where a kind's loop tells what it finds.

    Attributes:
        changed: Called when `KindLoop.offered` is another one.
        record: Takes an event.
    """

    metrics: Metrics
    readiness: Readiness
    critical: XidFilter
    changed: Callable[[], None]
    record: Callable[[Occurrence], None]


class KindLoop(Generic[Found]):
    """Keeps `offered` what one kind offers; touched only from the event loop."""

    def __init__(self, kind: Kind[Found], outlets: Outlets) -> None:
        self.kind: Final = kind
        self.offered: Offered | None = None
        self._outlets: Final = outlets
        self._driver_condition: Final = f"{kind.name} driver"
        self._found: Found | None = None
        self._driver_error = "not asked yet"
        self._config: Config | None = None
        self._book = HealthBook()
        self._health: dict[str, Health] = {}
        self._rescan: Final = asyncio.Event()
        self._stale: Final = asyncio.Event()
        self._driver: Final = asyncio.Lock()

    async def run(self) -> None:
        """Work until cancelled; then let go of the driver."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for where, work in (
                    ("scan", self._scan_regularly),
                    ("faults", self._follow_faults),
                    ("probes", self._probe_regularly),
                    ("reconcile", self._reconcile_whenever_stale),
                ):
                    tasks.create_task(forever(f"{self.kind.name} {where}", work, self._outlets.metrics))
        finally:
            await asyncio.to_thread(self.kind.close)

    def adopt(self, config: Config) -> None:
        """Plan with this configuration from now on."""
        self._config = config
        self._rescan.set()
        self._stale.set()

    def replan(self) -> None:
        """The kind's own state changed: plan again, without a scan."""
        self._stale.set()

    async def misfits(self, config: Config) -> tuple[str, ...]:
        """Where a configuration does not fit what was found last."""
        if self._found is None:
            return ()
        return await asyncio.to_thread(self.kind.check, self._found, config)

    async def _scan_regularly(self) -> None:
        while True:
            self._rescan.clear()
            await self._scan()
            seconds = self._config.tasuki.rescan_seconds if self._config else _DRIVER_RETRY_SECONDS
            if self._driver_error:
                seconds = min(seconds, _DRIVER_RETRY_SECONDS)
            try:
                async with asyncio.timeout(seconds):
                    await self._rescan.wait()
            except TimeoutError:
                continue

    async def _scan(self) -> None:
        readiness, driver_up = self._outlets.readiness, self._outlets.metrics.driver_up.labels(self.kind.name)
        try:
            async with self._driver:
                found = await asyncio.to_thread(self.kind.scan)
        except DriverUnavailableError as error:
            if str(error) != self._driver_error:
                log.warning("driver unavailable kind=%s error=%r", self.kind.name, str(error))
                self._outlets.record(Occurrence("Warning", "DriverUnavailable", str(error)))
                self._stale.set()
            self._driver_error = str(error)
            driver_up.set(0)
            readiness.unmet(self._driver_condition, str(error))
            return
        devices = self.kind.devices(found)
        if self._driver_error:
            log.info("driver answers kind=%s devices=%d", self.kind.name, len(devices))
            self._stale.set()
        self._driver_error = ""
        driver_up.set(1)
        readiness.met(self._driver_condition)
        if found != self._found:
            self._found = found
            self._stale.set()
        for device in devices:
            # What a scan finds must not be forgotten as soon as the device answers again.
            if device.parent is None and not device.health.healthy and Part(device.id) not in self._book.ailments:
                self._take_in(Fault(device.id, device.health.reason))

    async def _follow_faults(self) -> None:
        while True:
            try:
                faults = await asyncio.to_thread(self.kind.wait_for_faults, _FAULT_WAIT_SECONDS)
            except DriverUnavailableError:
                await asyncio.sleep(_DRIVER_RETRY_SECONDS)  # the scan tells of it
                continue
            for fault in faults:
                self._take_in(fault)

    def _take_in(self, fault: Fault) -> None:
        metrics, critical = self._outlets.metrics, self._outlets.critical
        is_critical = fault.xid is None or critical.is_critical(fault.xid)
        log.warning("fault device=%s critical=%s reason=%r", fault.device, is_critical, fault.reason)
        name = fault.device or "unknown"
        metrics.faults.labels(name, str(is_critical).lower()).inc()
        if fault.xid is not None:
            metrics.last_xid.labels(name).set(fault.xid)
        if self._found is not None:
            present = sorted({device.physical for device in self.kind.devices(self._found)})
            self._book = record(self._book, fault, present, critical)
            self._stale.set()

    async def _probe_regularly(self) -> None:
        while True:
            options = self._config.tasuki.health if self._config else None
            await asyncio.sleep(options.probe_seconds if options else _DRIVER_RETRY_SECONDS)
            if options is None or not options.recovery_seconds:
                continue
            for device in self._book.ailing:
                async with self._driver:
                    finding = await asyncio.to_thread(self.kind.probe, device)
                log.debug("probed device=%s finding=%r", device, finding)
                before = self._book
                self._book = probed(before, device, finding, time.monotonic(), options.recovery_seconds)
                if self._book.ailments.keys() != before.ailments.keys():
                    self._rescan.set()
                    self._stale.set()

    async def _reconcile_whenever_stale(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            await self._reconcile()

    async def _reconcile(self) -> None:
        config, found = self._config, self._found
        if config is None or found is None:
            return
        self.offered = await asyncio.to_thread(self.kind.plan, found, self._book, config, self._driver_error)
        self._tell_health(self.offered.devices)
        self._outlets.changed()

    def _tell_health(self, devices: tuple[Device, ...]) -> None:
        """Log and report each device whose health is another than at the last time."""
        for device in devices:
            before = self._health.get(device.id)
            if before == device.health or (before is None and device.health.healthy):
                continue
            log.warning("health changed device=%s index=%s health=%r", device.id, device.index, str(device.health))
            self._outlets.record(
                Occurrence(
                    "Normal" if device.health.healthy else "Warning",
                    "DeviceHealthy" if device.health.healthy else "DeviceUnhealthy",
                    f"{device.kind.value} {device.index} ({device.id}) is {device.health}",
                )
            )
        self._health = {device.id: device.health for device in devices}


async def forever(where: str, work: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
    """The outermost loop of a task: an error of our own is told, counted and survived."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("internal error, going on where=%r", where)
            metrics.crashes.labels(where).inc()
        await asyncio.sleep(_CRASH_PAUSE_SECONDS)
