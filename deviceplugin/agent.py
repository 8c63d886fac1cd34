"""The daemon of one node: one loop for each kind of accelerator, one configuration, one fleet of servers."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from deviceplugin.config.kinds import GPU
from deviceplugin.config.model import Config
from deviceplugin.config_source import ConfigOutcome, ConfigSource
from deviceplugin.fleet import Fleet
from deviceplugin.kind import Offered
from deviceplugin.kind_loop import KindLoop, forever
from deviceplugin.machine import Machine
from deviceplugin.metrics import Metrics
from deviceplugin.node_status import KindFacts, NodeFacts
from deviceplugin.offers import Offer
from deviceplugin.publisher import Publisher
from deviceplugin.resources import Plan
from tasuki.kube.events import Occurrence
from tasuki.process.readiness import Readiness

log: Final = logging.getLogger(__name__)

CONFIGURATION: Final = "configuration"
PLAN: Final = "plan"

# A kind is looked at, and the kubelet asked, within a second; a driver that hangs holds up the others for so long.
_SETTLE_SECONDS: Final = 10.0


@dataclass(slots=True)
class Agent:
    """Everything that the kinds share; touched only from the event loop.

    Attributes:
        stopping: To be called as soon as the daemon is told to stop.
        settle_seconds: How long after a start nothing is published of which a kind is still missing: scheduler and node
            labels would lose, for a moment, what the daemon before us had published.
    """

    loops: Sequence[KindLoop[Any]]
    configs: ConfigSource
    fleet: Fleet
    publisher: Publisher
    metrics: Metrics
    readiness: Readiness
    stopping: Sequence[Callable[[], None]] = ()
    settle_seconds: float = _SETTLE_SECONDS

    _config: Config | None = None
    _outcome: ConfigOutcome | None = None
    _misfit: ConfigOutcome | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _told: str = ""
    _settled: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; then answer what is under way, and leave."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(forever("configuration", self._follow_configuration, self.metrics)),
                group.create_task(forever("refused configuration", self._retry_misfit, self.metrics)),
                group.create_task(forever("publishing", self.publisher.run, self.metrics)),
                group.create_task(self._settle_in_time()),
                *(group.create_task(loop.run()) for loop in self.loops),
            ]
            await stop.wait()
            for tell in self.stopping:
                tell()
            await self.fleet.stop()
            for task in tasks:
                task.cancel()

    async def _settle_in_time(self) -> None:
        await asyncio.sleep(self.settle_seconds)
        if not self._settled:
            self._settled = True
            # Where no kind has said anything yet, there is nothing to make do with.
            if any(loop.offered is not None for loop in self.loops):
                self.serve()

    async def _follow_configuration(self) -> None:
        async with aclosing(self.configs.outcomes()) as outcomes:
            async for outcome in outcomes:
                self._misfit = None
                await self._consider(outcome)

    async def _consider(self, outcome: ConfigOutcome) -> None:
        if outcome.error or outcome.config is None:
            self._refuse(outcome.origin, outcome.error)
        elif self._config is not None and (misfits := await self._misfits(outcome.config)):
            self._misfit = outcome
            self._refuse(outcome.origin, "; ".join(misfits))
        else:
            self._misfit = None
            self._adopt(outcome, outcome.config)

    async def _retry_misfit(self) -> None:
        """A configuration that did not fit the devices may fit them after they changed."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            refused = self._misfit
            if refused is None or refused.config is None or await self._misfits(refused.config):
                continue
            if refused is self._misfit:
                self._misfit = None
                self._adopt(refused, refused.config)

    def _adopt(self, outcome: ConfigOutcome, config: Config) -> None:
        self._config, self._outcome = config, outcome
        self.metrics.reloads.labels("ok").inc()
        self.metrics.config_good.set(1)
        self.readiness.met(CONFIGURATION)
        log.info("configuration in force origin=%r", outcome.origin)
        for notice in outcome.notices:
            log.warning("configuration notice=%r", notice)
        for loop in self.loops:
            loop.adopt(config)

    async def _misfits(self, config: Config) -> list[str]:
        """Where a configuration does not fit the devices as they were seen last."""
        return [misfit for loop in self.loops for misfit in await loop.misfits(config)]

    def _refuse(self, origin: str, error: str) -> None:
        kept = f"; the configuration from {self._outcome.origin} stays in force" if self._outcome else ""
        log.error("configuration refused origin=%r error=%r", origin, error + kept)
        self.metrics.reloads.labels("refused").inc()
        self.metrics.config_good.set(0)
        self.readiness.unmet(CONFIGURATION, f"{origin}: {error}{kept}")
        self.publisher.record(Occurrence("Warning", "ConfigurationRefused", f"{origin}: {error}{kept}"))

    def serve(self) -> None:
        """Serve, count and publish what the kinds offer now."""
        if self._outcome is None or self._config is None:
            return
        offers: dict[str, Offer] = {}
        problems: list[str] = []
        wrong: list[str] = []
        waiting: list[str] = []
        offered = {loop.kind.name: loop for loop in self.loops if loop.offered is not None}
        for name, loop in offered.items():
            kind = loop.offered
            assert kind is not None
            twice = [f"{r} is offered by two kinds of devices; rename one" for r in loop.offers if r in offers]
            offers = {**loop.offers, **offers}
            unserved = [*filter(None, [kind.trouble]), *kind.misfits, *loop.left_out, *twice]
            self.metrics.problems.labels(name).set(len(unserved) + len(kind.problems))
            wrong += unserved
            problems += kind.problems
            waiting += filter(None, [kind.waiting])
        self.fleet.serve(offers)
        self.metrics.offering.offers = tuple(offers[name] for name in sorted(offers))
        self._tell(problems, wrong, waiting)
        self._settled = self._settled or (len(offered) == len(self.loops) and not waiting)
        if self._settled:
            kinds = {name: loop.offered for name, loop in offered.items() if loop.offered is not None}
            self.publisher.update(_facts(kinds, self._config, self._outcome, [*wrong, *problems]))
        self._changed.set()

    def _tell(self, problems: Sequence[str], wrong: Sequence[str], waiting: Sequence[str]) -> None:
        """Say once what is left out. What is wrong or waited for keeps us from being ready; a mere problem does not.

        A GPU that is left out on purpose, for instance, must not hold up the rollout of a daemon. What is waited for at
        every start is no news; a kind that waits in vain makes a problem of it.
        """
        text = "; ".join([*wrong, *problems])
        if text and text != self._told:
            log.warning("not all devices are offered problems=%r", text)
            self.publisher.record(Occurrence("Warning", "DevicesLeftOut", text))
        self._told = text
        self.readiness.note("left out", "; ".join(problems))
        if wrong or waiting:
            self.readiness.unmet(PLAN, "; ".join([*wrong, *waiting]))
        else:
            self.readiness.met(PLAN)


def _facts(kinds: Mapping[str, Offered], config: Config, outcome: ConfigOutcome, problems: Sequence[str]) -> NodeFacts:
    gpus = kinds.get(GPU)
    return NodeFacts(
        machine=gpus.machine if gpus else Machine(),
        plan=Plan(gpus.resources if gpus else ()),
        config=config,
        origin=outcome.origin,
        digest=outcome.digest,
        problems=tuple(problems),
        trouble="; ".join(text for kind in kinds.values() for text in (kind.trouble, kind.waiting) if text),
        trouble_reason="DevicesUnavailable",
        others=tuple(
            KindFacts(kind.devices, kind.resources, kind.loaded, kind.labels)
            for name, kind in kinds.items()
            if name != GPU
        ),
        looks_at_gpus=GPU in kinds,
    )
