"""The daemon of one node: one loop for each kind of accelerator, one configuration, one fleet of servers."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from deviceplugin.config.model import Config
from deviceplugin.config_source import ConfigOutcome, ConfigSource
from deviceplugin.fleet import Fleet
from deviceplugin.kind import GPU, Offered
from deviceplugin.kind_loop import KindLoop, forever
from deviceplugin.machine import Machine
from deviceplugin.metrics import Metrics
from deviceplugin.node_status import KindFacts, NodeFacts
from deviceplugin.offers import Offer, offer
from deviceplugin.publisher import Publisher
from deviceplugin.resources import Plan
from deviceplugin.wire import ListTooLargeError
from tasuki.kube.events import Occurrence
from tasuki.process.readiness import Readiness

log: Final = logging.getLogger(__name__)

CONFIGURATION: Final = "configuration"
PLAN: Final = "plan"


@dataclass(slots=True)
class Agent:
    """Everything that the kinds share; touched only from the event loop."""

    loops: Sequence[KindLoop[Any]]
    configs: ConfigSource
    fleet: Fleet
    publisher: Publisher
    metrics: Metrics
    readiness: Readiness

    _config: Config | None = None
    _outcome: ConfigOutcome | None = None
    _told: str = field(default="")

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; then answer what is under way, and leave."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(forever("configuration", self._follow_configuration, self.metrics)),
                group.create_task(forever("publishing", self.publisher.run, self.metrics)),
                *(group.create_task(loop.run()) for loop in self.loops),
            ]
            await stop.wait()
            await self.fleet.stop()
            for task in tasks:
                task.cancel()

    async def _follow_configuration(self) -> None:
        async with aclosing(self.configs.outcomes()) as outcomes:
            async for outcome in outcomes:
                if outcome.error or outcome.config is None:
                    self._refuse(outcome.origin, outcome.error)
                elif self._config is not None and (misfits := await self._misfits(outcome.config)):
                    self._refuse(outcome.origin, "; ".join(misfits))
                else:
                    self._adopt(outcome, outcome.config)

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
        problems: list[str] = []
        offers: dict[str, Offer] = {}
        offered = [(loop.kind.name, loop.offered) for loop in self.loops if loop.offered is not None]
        for name, kind in offered:
            made, left_out = _offers(kind, taken=offers)
            offers |= made
            told = tuple(filter(None, (kind.trouble, *kind.problems, *kind.misfits, *left_out)))
            self.metrics.problems.labels(name).set(len(told))
            problems += told
        self.fleet.serve(offers)
        self.metrics.offering.offers = tuple(offers[name] for name in sorted(offers))
        self._tell_problems("; ".join(problems))
        self.publisher.update(_facts(dict(offered), self._config, self._outcome, problems))

    def _tell_problems(self, text: str) -> None:
        if text and text != self._told:
            log.warning("not all devices are offered problems=%r", text)
            self.publisher.record(Occurrence("Warning", "DevicesLeftOut", text))
        self._told = text
        if text:
            self.readiness.unmet(PLAN, text)
        else:
            self.readiness.met(PLAN)


def _offers(kind: Offered, taken: Collection[str]) -> tuple[dict[str, Offer], list[str]]:
    """The offers of one kind, and a sentence for each resource that cannot be one."""
    offers: dict[str, Offer] = {}
    left_out: list[str] = []
    for resource in kind.resources:
        if resource.name in taken:
            left_out.append(f"{resource.name} is offered by two kinds of devices; rename one of them")
            continue
        try:
            offers[resource.name] = offer(resource, kind.policy(resource), kind.grant, kind.start)
        except ListTooLargeError as error:
            left_out.append(str(error))
    return offers, left_out


def _facts(kinds: Mapping[str, Offered], config: Config, outcome: ConfigOutcome, problems: Sequence[str]) -> NodeFacts:
    gpus = kinds.get(GPU)
    return NodeFacts(
        machine=gpus.machine if gpus else Machine(),
        plan=Plan(gpus.resources if gpus else ()),
        config=config,
        origin=outcome.origin,
        digest=outcome.digest,
        problems=tuple(problems),
        trouble="; ".join(kind.trouble for kind in kinds.values() if kind.trouble),
        trouble_reason="NotPrepared",
        others=tuple(
            KindFacts(kind.devices, kind.resources, kind.loaded, kind.labels)
            for name, kind in kinds.items()
            if name != GPU
        ),
    )
