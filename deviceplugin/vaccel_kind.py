"""vAccel agents as a kind of accelerator, of which sessions are handed out."""

import threading
import time
from collections.abc import Callable
from typing import Final

from deviceplugin.allocation.vaccel import Allocator, one_agent
from deviceplugin.config.kinds import VACCEL
from deviceplugin.config.model import Config, VaccelAgent
from deviceplugin.discovery.vaccel import Prober
from deviceplugin.health import Fault, HealthBook
from deviceplugin.kind import Offered
from deviceplugin.offers import too_large
from deviceplugin.resources import Resource
from deviceplugin.vaccel import SESSION, Agents, FoundAgent, labels, misfits
from tasuki.devices.model import HEALTHY, Device, slices_of, unhealthy

# Between two looks at the agents, of which a change makes a scan.
_LOOK_SECONDS: Final = 5.0


class VaccelKind:
    """The agents of one node; `kind.Kind` says what each method is for.

    What a scan finds is an agent's health, all of it: each scan asks every agent anew. So the health book, which
    remembers what a driver tells only once, has no say here, and an agent that is back is offered at once.
    """

    name: str = VACCEL

    def __init__(self, rescan: Callable[[], None], prober: Prober | None = None) -> None:
        """Begin without agents; the first plan tells which there are.

        Args:
            rescan: Asks for a scan soon; called from worker threads.
            prober: For another timeout.
        """
        self._rescan: Final = rescan
        self._prober: Final = prober or Prober()
        self._wanted: tuple[VaccelAgent, ...] = ()
        self._reasons: dict[str, str] = {}
        self._answered: frozenset[str] = frozenset()
        self._looked_at = 0.0
        self._closed: Final = threading.Event()

    def scan(self) -> Agents:
        wanted = self._wanted
        reasons = self._prober.findings(wanted)
        self._reasons = reasons
        answering = {address for address, reason in reasons.items() if not reason}
        self._answered = (self._answered | answering) & reasons.keys()
        return Agents(
            tuple(
                FoundAgent(
                    agent=agent,
                    position=position,
                    health=unhealthy(reason) if (reason := reasons[agent.address]) else HEALTHY,
                    answered=agent.address in self._answered,
                )
                for position, agent in enumerate(wanted)
            )
        )

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        """Never a fault: what changed is found by the scan that this asks for."""
        self._closed.wait(timeout_seconds)
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS and not self._closed.is_set():
            self._looked_at = now
            before = self._reasons
            if self._prober.findings(self._wanted) != before and not self._closed.is_set():
                self._rescan()
        return []

    def probe(self, device: str) -> str:
        agents = [agent for agent in self._wanted if f"vaccel-{agent.name}" == device]
        return "".join(self._prober.findings(agents).values()) if agents else "it is not configured any more"

    def close(self) -> None:
        self._closed.set()
        self._prober.close()

    def settled(self, book: HealthBook, before: Agents, after: Agents) -> HealthBook:  # noqa: ARG002 - see the class
        failing = {each.device.id for each in after.agents if not each.health.healthy}
        return HealthBook({part: ailment for part, ailment in book.ailments.items() if part.device in failing})

    def devices(self, found: Agents) -> tuple[Device, ...]:
        return tuple(each.device for each in found.agents)

    def check(self, found: Agents, config: Config) -> tuple[str, ...]:  # noqa: ARG002 - agents may be away and come
        agents = config.tasuki.vaccel.agents
        imagined = tuple(FoundAgent(agent, i, HEALTHY, answered=False) for i, agent in enumerate(agents))
        return misfits(agents) + too_large(_resources(imagined))

    def plan(
        self,
        found: Agents,
        book: HealthBook,  # noqa: ARG002 - see the class
        config: Config,
        trouble: str,
    ) -> Offered:
        wanted = config.tasuki.vaccel.agents
        if wanted != self._wanted:
            self._wanted = wanted
            self._rescan()
        agents = _as_configured(found, wanted, trouble)
        allocator = Allocator({each.device.id: each.agent for each in agents})
        policy = one_agent(config.flags.plugin.shared_devices_allocation_policy)
        return Offered(
            devices=tuple(each.device for each in agents),
            resources=_resources(agents),
            grant=allocator.grant,
            policy=lambda _resource: policy,
            misfits=misfits(wanted),
            trouble=trouble,
            waiting="no vAccel agent has been asked yet whether it answers" if wanted and not found.agents else "",
            labels=labels(agents),
        )


def _as_configured(found: Agents, wanted: tuple[VaccelAgent, ...], trouble: str) -> tuple[FoundAgent, ...]:
    """The agents of the configuration, as a scan found their addresses; one that no scan asked yet is left out."""
    refused = {agent.address for agent in wanted if misfits([agent])}
    known = {each.agent.address: each for each in found.agents}
    return tuple(
        FoundAgent(
            agent=agent,
            position=position,
            health=unhealthy(trouble) if trouble else known[agent.address].health,
            answered=known[agent.address].answered,
        )
        for position, agent in enumerate(wanted)
        if agent.address in known and agent.address not in refused
    )


def _resources(agents: tuple[FoundAgent, ...]) -> tuple[Resource, ...]:
    slices = tuple(s for each in agents for s in slices_of(each.device, each.agent.sessions))
    return (Resource(SESSION, slices),) if slices else ()
