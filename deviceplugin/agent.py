"""The daemon of one node: scan the devices, judge their health, plan resources, offer them; again at each change.

Every trigger (a rescan, a fault, a probe, a new configuration) ends in `_reconcile`, which computes what is to be
offered from the newest machine, health book and configuration, and hands it to the fleet. Nothing else changes
what is served.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NoReturn

from deviceplugin.config.model import Config
from deviceplugin.config_source import ConfigOutcome, ConfigSource
from deviceplugin.discovery.source import DeviceSource, DriverUnavailableError
from deviceplugin.fleet import Fleet
from deviceplugin.granting import NotPreparedError, refuse_all
from deviceplugin.health import Fault, HealthBook, Part, XidFilter, all_unhealthy, judged, probed, record
from deviceplugin.machine import Machine
from deviceplugin.metrics import Metrics
from deviceplugin.node_status import NodeFacts
from deviceplugin.offers import Grant, Offer, offer
from deviceplugin.publisher import Publisher
from deviceplugin.resources import Plan, plan
from deviceplugin.wire import ListTooLargeError
from tasuki.devices.model import Device, Health
from tasuki.kube.events import Occurrence
from tasuki.process.readiness import Readiness

log: Final = logging.getLogger(__name__)

# How long the fault thread waits for the driver at a time, and so how long a stop may take.
_FAULT_WAIT_SECONDS: Final = 1.0
_DRIVER_RETRY_SECONDS: Final = 5.0
_CRASH_PAUSE_SECONDS: Final = 5.0

CONFIGURATION: Final = "configuration"
DRIVER: Final = "driver"
PLAN: Final = "plan"


# Looks at the machine's files and writes some, so it runs in a worker thread; raises NotPreparedError.
Prepare = Callable[[Machine, Config], Grant]


@dataclass(slots=True)
class Agent:
    """All of it is only touched from the event loop; blocking calls go to worker threads, one at a time."""

    source: DeviceSource
    configs: ConfigSource
    prepare: Prepare
    fleet: Fleet
    publisher: Publisher
    metrics: Metrics
    readiness: Readiness
    critical: XidFilter

    _scanned: Machine | None = None
    _driver_error: str = "not asked yet"
    _config: Config | None = None
    _origin: str = ""
    _digest: str = ""
    _book: HealthBook = field(default_factory=HealthBook)
    _health: dict[str, Health] = field(default_factory=dict)
    _rescan: asyncio.Event = field(default_factory=asyncio.Event)
    _driver: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; then answer what is under way, and leave."""
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(self._forever(name, turn))
                for name, turn in (
                    ("configuration", self._follow_configuration),
                    ("scan", self._scan_regularly),
                    ("faults", self._follow_faults),
                    ("probes", self._probe_regularly),
                    ("publishing", self.publisher.run),
                )
            ]
            await stop.wait()
            for each in loops:
                each.cancel()
            await self.fleet.stop()
        await asyncio.to_thread(self.source.close)

    async def _forever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """The outermost loop of each task: an error of our own is told and survived."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("internal error, going on where=%s", name)
                self.metrics.crashes.labels(name).inc()
            await asyncio.sleep(_CRASH_PAUSE_SECONDS)

    async def _follow_configuration(self) -> None:
        async with aclosing(self.configs.outcomes()) as outcomes:
            async for outcome in outcomes:
                if outcome.error or outcome.config is None:
                    self._refuse(outcome.origin, outcome.error)
                elif self._config is not None and (misfits := self._misfits(outcome.config)):
                    self._refuse(outcome.origin, "; ".join(misfits))
                else:
                    await self._adopt(outcome, outcome.config)

    async def _adopt(self, outcome: ConfigOutcome, config: Config) -> None:
        self._config, self._origin, self._digest = config, outcome.origin, outcome.digest
        self.metrics.reloads.labels("ok").inc()
        self.metrics.config_good.set(1)
        self.readiness.met(CONFIGURATION)
        log.info("configuration in force origin=%r", outcome.origin)
        for notice in outcome.notices:
            log.warning("configuration notice=%r", notice)
        self._rescan.set()
        await self._reconcile()

    def _misfits(self, config: Config) -> tuple[str, ...]:
        """Where a configuration does not fit the machine as it was last seen."""
        if self._scanned is None:
            return ()
        made = plan(self._scanned, config)
        _, too_large = _offers(made, self._scanned, config, _no_grant)
        return made.misfits + too_large

    def _refuse(self, origin: str, error: str) -> None:
        kept = f"; the configuration from {self._origin} stays in force" if self._config is not None else ""
        log.error("configuration refused origin=%r error=%r", origin, error + kept)
        self.metrics.reloads.labels("refused").inc()
        self.metrics.config_good.set(0)
        self.readiness.unmet(CONFIGURATION, f"{origin}: {error}{kept}")
        self.publisher.record(Occurrence("Warning", "ConfigurationRefused", f"{origin}: {error}{kept}"))

    async def _scan_regularly(self) -> None:
        while True:
            self._rescan.clear()
            await self._scan()
            await self._reconcile()
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
                machine = await asyncio.to_thread(self.source.scan)
        except DriverUnavailableError as error:
            if str(error) != self._driver_error:
                log.warning("driver unavailable error=%r", str(error))
                self.publisher.record(Occurrence("Warning", "DriverUnavailable", str(error)))
            self._driver_error = str(error)
            self.metrics.driver_up.set(0)
            self.readiness.unmet(DRIVER, str(error))
            return
        if self._driver_error:
            log.info("driver answers version=%s gpus=%d", machine.driver_version, len(machine.gpus))
        self._driver_error = ""
        self.metrics.machine_scanned(machine)
        self.readiness.met(DRIVER)
        self._scanned = machine
        for gpu in machine.gpus:
            # What a scan finds must not be forgotten as soon as the GPU answers again.
            if not gpu.device.health.healthy and Part(gpu.device.id) not in self._book.ailments:
                fault = Fault(gpu.device.id, gpu.device.health.reason)
                self._book = record(self._book, fault, machine, self.critical)

    async def _follow_faults(self) -> None:
        while True:
            try:
                faults = await asyncio.to_thread(self.source.wait_for_faults, _FAULT_WAIT_SECONDS)
            except DriverUnavailableError:
                await asyncio.sleep(_DRIVER_RETRY_SECONDS)  # the scan tells of it
                continue
            for fault in faults:
                self._take_in(fault)
            if faults:
                await self._reconcile()

    def _take_in(self, fault: Fault) -> None:
        is_critical = fault.xid is None or self.critical.is_critical(fault.xid)
        log.warning("fault device=%s critical=%s reason=%r", fault.gpu, is_critical, fault.reason)
        name = fault.gpu or "unknown"
        self.metrics.faults.labels(name, str(is_critical).lower()).inc()
        if fault.xid is not None:
            self.metrics.last_xid.labels(name).set(fault.xid)
        if self._scanned is not None:
            self._book = record(self._book, fault, self._scanned, self.critical)

    async def _probe_regularly(self) -> None:
        while True:
            options = self._config.tasuki.health if self._config else None
            await asyncio.sleep(options.probe_seconds if options else _DRIVER_RETRY_SECONDS)
            if options is None or not options.recovery_seconds or not self._book.ailments:
                continue
            before = self._book
            for gpu in before.ailing_gpus:
                async with self._driver:
                    finding = await asyncio.to_thread(self.source.probe, gpu)
                log.debug("probed device=%s finding=%r", gpu, finding)
                self._book = probed(self._book, gpu, finding, time.monotonic(), options.recovery_seconds)
            if self._book.ailments.keys() != before.ailments.keys():
                await self._scan()
                await self._reconcile()

    async def _reconcile(self) -> None:
        """Offer what the newest machine, health book and configuration make."""
        config, scanned = self._config, self._scanned
        if config is None or scanned is None:
            return
        machine = judged(scanned, self._book)
        trouble = self._driver_error
        try:
            grant = await asyncio.to_thread(self.prepare, machine, config)
        except NotPreparedError as error:
            trouble = trouble or str(error)
            grant = refuse_all(trouble)
        if (config, scanned) != (self._config, self._scanned):
            return  # a newer one came meanwhile, and has its own turn
        if trouble:
            machine = all_unhealthy(machine, trouble)
        made = plan(machine, config)
        offers, too_large = _offers(made, machine, config, grant)
        self._tell_health(machine)
        self.fleet.serve(offers)
        for each in offers.values():
            self.metrics.list_bytes.labels(each.name).set(len(each.listed))
        self.metrics.resources_offered(each.resource for each in offers.values())
        problems = made.misfits + too_large
        self._tell_problems(tuple(filter(None, (trouble, *made.problems, *problems))))
        self.publisher.update(
            NodeFacts(machine, made, config, self._origin, self._digest, problems, trouble, "NotPrepared")
        )

    def _tell_problems(self, problems: tuple[str, ...]) -> None:
        text = "; ".join(problems)
        if text and self.readiness.reasons.get(PLAN) != text:
            log.warning("not all devices are offered problems=%r", text)
            self.publisher.record(Occurrence("Warning", "DevicesLeftOut", text))
        if text:
            self.readiness.unmet(PLAN, text)
        else:
            self.readiness.met(PLAN)

    def _tell_health(self, machine: Machine) -> None:
        """Log and report each device whose health is another than at the last time."""
        now = {device.id: device for device in _devices(machine)}
        for device in now.values():
            before = self._health.get(device.id)
            if before == device.health or (before is None and device.health.healthy):
                continue
            log.warning("health changed device=%s index=%s health=%r", device.id, device.index, str(device.health))
            self.publisher.record(
                Occurrence(
                    "Normal" if device.health.healthy else "Warning",
                    "DeviceHealthy" if device.health.healthy else "DeviceUnhealthy",
                    f"{device.kind.value} {device.index} ({device.id}) is {device.health}",
                )
            )
        self._health = {device.id: device.health for device in now.values()}


def _devices(machine: Machine) -> list[Device]:
    return [device for gpu in machine.gpus for device in (gpu.device, *(i.device for i in gpu.mig))]


def _offers(made: Plan, machine: Machine, config: Config, grant: Grant) -> tuple[dict[str, Offer], tuple[str, ...]]:
    """The offers of a plan, and a sentence for each resource that is too large to be one."""
    policy = config.flags.plugin.shared_devices_allocation_policy
    offers: dict[str, Offer] = {}
    too_large: list[str] = []
    for resource in made.resources:
        try:
            offers[resource.name] = offer(resource, machine.topology, policy, grant)
        except ListTooLargeError as error:
            too_large.append(str(error))
    return offers, tuple(too_large)


def _no_grant(*_: object) -> NoReturn:
    raise AssertionError("an offer that is only measured is never granted")
