"""One kind's life: scan, judge, plan, offer; again at each rescan, fault, probe, configuration or change of its own.

Every trigger ends in `_reconcile`, the only place where an offer is made: it computes what is to be offered from the
newest findings, health book and configuration. Triggers that come while it works make it run once more.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from deviceplugin.config.model import Config
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault, HealthBook, Part, XidFilter, probed, record
from deviceplugin.kind import Found, Kind, Offered, nothing_offered
from deviceplugin.metrics import Metrics
from deviceplugin.offers import Offer, offer
from deviceplugin.wire import ListTooLargeError
from tasuki.devices.model import Device, Health
from tasuki.kube.events import Occurrence
from tasuki.process.readiness import Readiness

log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")

# How long the fault thread waits for the driver at a time, and so how long a stop may take.
_FAULT_WAIT_SECONDS: Final = 1.0
_DRIVER_RETRY_SECONDS: Final = 5.0
_CRASH_PAUSE_SECONDS: Final = 5.0
# A scan of sixteen GPUs takes a few seconds with a driver that is not persistent.
_HUNG_SECONDS: Final = 30.0
# After a scan that found something wrong, to see whether it lasts.
_SECOND_LOOK_SECONDS: Final = 2.0
_NOT_ASKED: Final = "not asked yet"


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where a kind's loop tells what it finds.

    Attributes:
        changed: Called after each plan.
        record: Takes an event.
    """

    metrics: Metrics
    readiness: Readiness
    critical: XidFilter
    changed: Callable[[], None]
    record: Callable[[Occurrence], None]


@dataclass(frozen=True, slots=True)
class Spawner:
    """Starts tasks that last as long as the daemon."""

    group: asyncio.TaskGroup

    def __call__(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        return self.group.create_task(work)


@dataclass(slots=True)
class Later:
    """A callback to somebody who is made after whoever calls it."""

    call: Callable[[], object] = lambda: None

    def __call__(self) -> None:
        self.call()


class KindLoop(Generic[Found]):
    """Keeps what one kind offers; touched only from the event loop.

    Attributes:
        offered: None until the first plan.
        offers: One for each of its resources, by name.
        left_out: A sentence for each resource that cannot be offered.
    """

    def __init__(self, kind: Kind[Found], outlets: Outlets) -> None:
        self.kind: Final = kind
        self.offered: Offered | None = None
        self._outlets: Final = outlets
        self.offers: Mapping[str, Offer] = {}
        self.left_out: tuple[str, ...] = ()
        self._driver_condition: Final = f"{kind.name} driver"
        self._faults_condition: Final = f"{kind.name} faults"
        self._scanned: Final = asyncio.Event()
        self._failed_before: frozenset[str] = frozenset()
        self._found: Found | None = None
        self._driver_error = _NOT_ASKED
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

    def rescan(self) -> None:
        """Scan again soon."""
        self._rescan.set()

    def replan(self) -> None:
        """The kind's own state changed: plan again, without a scan."""
        self._stale.set()

    async def misfits(self, config: Config) -> tuple[str, ...]:
        """Where a configuration does not fit what was found last."""
        if self._found is None:
            return ()
        async with self._driver:
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
        try:
            async with self._driver:
                found = await self._answer(asyncio.to_thread(self.kind.scan))
        except DriverUnavailableError as error:
            self._driver_is_away(str(error))
            return
        except Exception as error:
            self._driver_is_away(f"a scan failed with an internal error: {error!r}")
            raise
        devices = self.kind.devices(found)
        if self._driver_error:
            log.info("driver answers kind=%s devices=%d", self.kind.name, len(devices))
        self._driver_error = ""
        self._outlets.metrics.driver_up.labels(self.kind.name).set(1)
        self._outlets.readiness.met(self._driver_condition)
        if self._found is not None:
            self._book = self.kind.settled(self._book, self._found, found)
        self._found = found
        self._scanned.set()
        self._remember_failures(devices)
        # Also when nothing changed: what a plan needs besides, such as a folder to write to, may be there now.
        self._stale.set()

    async def _answer(self, scan: Awaitable[Found]) -> Found:
        """A scan's findings, however long it takes; a driver that hangs is told of meanwhile."""
        scanning = asyncio.ensure_future(scan)
        done, _ = await asyncio.wait({scanning}, timeout=_HUNG_SECONDS)
        if not done:
            self._driver_is_away(f"the driver has not answered for {_HUNG_SECONDS:.0f} s")
        return await scanning

    def _driver_is_away(self, error: str) -> None:
        if error != self._driver_error:
            log.warning("driver unavailable kind=%s error=%r", self.kind.name, error)
            self._outlets.record(Occurrence("Warning", "DriverUnavailable", error))
        self._driver_error = error
        self._outlets.metrics.driver_up.labels(self.kind.name).set(0)
        self._outlets.readiness.unmet(self._driver_condition, error)
        self._stale.set()

    def _remember_failures(self, devices: Sequence[Device]) -> None:
        """What two scans in a row find must not be forgotten as soon as the device answers again.

        One alone may be a moment's: a GPU whose MIG devices are being cut anew, for instance.
        """
        failed = {d.id: d.health.reason for d in devices if d.parent is None and not d.health.healthy}
        for device_id in sorted(failed.keys() & self._failed_before):
            if Part(device_id) not in self._book.ailments:
                self._take_in(Fault(device_id, failed[device_id]))
        if failed.keys() - self._failed_before:
            self._rescan_soon()
        self._failed_before = frozenset(failed)

    def _rescan_soon(self) -> None:
        asyncio.get_running_loop().call_later(_SECOND_LOOK_SECONDS, self._rescan.set)

    async def _follow_faults(self) -> None:
        # Before the first scan, nobody knows what a fault is about.
        await self._scanned.wait()
        while True:
            try:
                faults = await asyncio.to_thread(self.kind.wait_for_faults, _FAULT_WAIT_SECONDS)
            except DriverUnavailableError as error:
                self._faults_are(f"faults cannot be watched: {error}")
                await asyncio.sleep(_DRIVER_RETRY_SECONDS)
                continue
            self._faults_are("")
            for fault in faults:
                self._take_in(fault)

    def _faults_are(self, trouble: str) -> None:
        if trouble and self._outlets.readiness.reasons.get(self._faults_condition) != trouble:
            log.warning("faults cannot be watched kind=%s error=%r", self.kind.name, trouble)
            self._outlets.record(Occurrence("Warning", "FaultsUnwatched", trouble))
        if trouble:
            self._outlets.readiness.unmet(self._faults_condition, trouble)
        else:
            self._outlets.readiness.met(self._faults_condition)

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
            try:
                await self._reconcile()
            except Exception:
                self._stale.set()  # to be done again, after the pause that follows
                raise

    async def _reconcile(self) -> None:
        config, found = self._config, self._found
        if config is None or self._driver_error == _NOT_ASKED:
            return
        if found is None:
            offered = nothing_offered(self._driver_error)
            offers, left_out = dict[str, Offer](), tuple[str, ...]()
        else:
            offered, offers, left_out = await asyncio.to_thread(self._planned, found, config)
        self.offered, self.offers, self.left_out = offered, offers, left_out
        self._tell_health(offered.devices)
        self._outlets.changed()

    def _planned(self, found: Found, config: Config) -> tuple[Offered, dict[str, Offer], tuple[str, ...]]:
        """In a worker thread: a node with 60,000 slices would hold up the kubelet's calls for a tenth of a second."""
        offered = self.kind.plan(found, self._book, config, self._driver_error)
        offers: dict[str, Offer] = {}
        left_out = []
        for resource in offered.resources:
            try:
                offers[resource.name] = offer(resource, offered.policy(resource), offered.grant, offered.start)
            except ListTooLargeError as error:
                left_out.append(str(error))
        return offered, offers, tuple(left_out)

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
