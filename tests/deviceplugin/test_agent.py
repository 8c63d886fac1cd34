"""What the daemon of a node makes of its kinds together: when it publishes, and what it tells."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from deviceplugin.agent import PLAN, Agent
from deviceplugin.config.model import Config
from deviceplugin.config_source import ConfigOutcome
from deviceplugin.kind import Offered
from deviceplugin.metrics import Metrics
from deviceplugin.node_status import NodeFacts
from deviceplugin.offers import refuse_all
from tasuki.devices.preference import spread
from tasuki.kube.events import Occurrence
from tasuki.process.readiness import Readiness

SECONDS = 10.0
NEVER = 3600.0


@dataclass
class Loop:
    """A kind's loop of which a test says what it offers."""

    name: str
    offered: Offered | None = None
    offers: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    adopted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def kind(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.name)

    def adopt(self, _config: Config) -> None:
        self.adopted.set()

    async def run(self) -> None:
        await asyncio.Event().wait()


@dataclass
class Publisher:
    """Remembers what it is told."""

    facts: list[NodeFacts] = field(default_factory=list)
    occurrences: list[Occurrence] = field(default_factory=list)
    updated: asyncio.Event = field(default_factory=asyncio.Event)

    def update(self, facts: NodeFacts) -> None:
        self.facts.append(facts)
        self.updated.set()

    def record(self, occurrence: Occurrence) -> None:
        self.occurrences.append(occurrence)

    async def run(self) -> None:
        await asyncio.Event().wait()


class Fleet:
    """Serves nothing."""

    def serve(self, _offers: object) -> None: ...

    async def stop(self) -> None: ...


class Configs:
    """One configuration, for ever."""

    async def outcomes(self) -> AsyncIterator[ConfigOutcome]:
        yield ConfigOutcome(Config(), "", "a file", "")
        await asyncio.Event().wait()


@asynccontextmanager
async def agent(*loops: Loop, publisher: Publisher, settle_seconds: float = NEVER) -> AsyncIterator[Agent]:
    """One that has its configuration."""
    parts: Any = {"loops": loops, "configs": Configs(), "fleet": Fleet(), "publisher": publisher}
    it = Agent(**parts, metrics=Metrics(), readiness=Readiness(PLAN), settle_seconds=settle_seconds)
    stop = asyncio.Event()
    running = asyncio.create_task(it.run(stop))
    try:
        async with asyncio.timeout(SECONDS):
            for loop in loops:
                await loop.adopted.wait()
        yield it
    finally:
        stop.set()
        await running


def offering(waiting: str = "", trouble: str = "") -> Offered:
    return Offered((), (), refuse_all("never"), lambda _: spread, waiting=waiting, trouble=trouble)


async def test_nothing_is_published_before_every_kind_was_looked_at() -> None:
    gpu, vaccel, publisher = Loop("gpu"), Loop("vaccel"), Publisher()
    async with agent(gpu, vaccel, publisher=publisher) as it:
        gpu.offered = offering()
        it.serve()
        assert publisher.facts == []

        vaccel.offered = offering()
        it.serve()

    assert len(publisher.facts) == 1


async def test_what_a_kind_waits_for_is_not_published_as_its_end() -> None:
    gpu, fpga, publisher = Loop("gpu", offering()), Loop("fpga", offering(waiting="who holds what?")), Publisher()
    async with agent(gpu, fpga, publisher=publisher) as it:
        it.serve()
        assert publisher.facts == []
        assert it.readiness.reasons[PLAN] == "who holds what?"

        fpga.offered = offering()
        it.serve()

        assert it.readiness.reasons[PLAN] == ""
        assert [facts.trouble for facts in publisher.facts] == [""]
        # Whoever waits later on was published before.
        fpga.offered = offering(waiting="who holds what?")
        it.serve()

    assert [facts.trouble for facts in publisher.facts] == ["", "who holds what?"]


async def test_a_kind_that_keeps_it_waiting_holds_up_the_others_for_a_while_only() -> None:
    gpu, hung, publisher = Loop("gpu", offering()), Loop("fpga"), Publisher()
    async with agent(gpu, hung, publisher=publisher, settle_seconds=0.01):
        async with asyncio.timeout(SECONDS):
            await publisher.updated.wait()

    assert len(publisher.facts) == 1


async def test_of_nothing_but_silence_nothing_is_published() -> None:
    hung, publisher = Loop("gpu"), Publisher()
    async with agent(hung, publisher=publisher, settle_seconds=0.0) as it:
        for _ in range(10):
            await asyncio.sleep(0)
        assert publisher.facts == []

        hung.offered = offering(trouble="the driver has not answered for 30 s")
        it.serve()

    assert len(publisher.facts) == 1


async def test_a_kind_in_trouble_holds_up_nothing() -> None:
    gpu, publisher = Loop("gpu", offering(trouble="no driver")), Publisher()
    async with agent(gpu, publisher=publisher) as it:
        it.serve()

    assert [facts.trouble for facts in publisher.facts] == ["no driver"]


async def test_what_is_waited_for_at_a_start_is_no_event_and_trouble_is_one() -> None:
    fpga, publisher = Loop("fpga", offering(waiting="who holds what?")), Publisher()
    async with agent(fpga, publisher=publisher) as it:
        it.serve()
        assert publisher.occurrences == []

        fpga.offered = offering(trouble="no sysfs")
        it.serve()

    assert [(o.reason, o.note) for o in publisher.occurrences] == [("DevicesLeftOut", "no sysfs")]
