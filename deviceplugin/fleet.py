"""One server for each resource that is offered, and none for what is not."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deviceplugin.lifecycle import ResourceServer, Surroundings
from deviceplugin.offers import Offer, nothing

log: Final = logging.getLogger(__name__)

_CRASH_PAUSE_SECONDS: Final = 5.0

# Starts a task that belongs to the process's task group.
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class _Running:
    server: ResourceServer
    task: "asyncio.Task[None]"


class Fleet:
    """Keeps the running servers equal to the offers that are wanted."""

    def __init__(self, surroundings: Surroundings, spawn: Spawn) -> None:
        self._around = surroundings
        self._spawn = spawn
        self._running: dict[str, _Running] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def serve(self, offers: Mapping[str, Offer]) -> None:
        """Serve exactly these from now on: start what is new, publish what changed, withdraw what is gone."""
        if self._stopping:
            return
        one_each = {s.device.id: s for offer in offers.values() for s in reversed(offer.resource.slices)}
        self._around.rivals.devices = dict(sorted(one_each.items()))
        for name in sorted(self._running.keys() - offers.keys()):
            log.info("resource withdrawn resource=%s", name)
            self._retire(name, self._running.pop(name))
        for name, offer in sorted(offers.items()):
            if name in self._running:
                self._running[name].server.service.publish(offer)
                continue
            log.info("resource offered resource=%s slices=%d", name, len(offer.slices))
            server = ResourceServer(offer, self._around)
            self._running[name] = _Running(server, self._spawn(self._run(server, self._retiring.get(name))))

    async def stop(self) -> None:
        """Stop all, after the calls under way have been answered; nothing is served any more."""
        self._stopping = True
        for running in self._running.values():
            running.server.stop()
        tasks = [running.task for running in self._running.values()] + list(self._retiring.values())
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, server: ResourceServer, predecessor: "asyncio.Task[None] | None") -> None:
        # A resource that comes back while it is being withdrawn has the same socket as before.
        if predecessor is not None:
            await asyncio.wait([predecessor])
        while not server.stopping:
            try:
                await server.run()
            except Exception:
                log.exception("internal error, serving again resource=%s", server.name)
                self._around.metrics.crashes.labels("server").inc()
                await self._around.ticker.wait(_CRASH_PAUSE_SECONDS)

    def _retire(self, name: str, running: _Running) -> None:
        async def retire() -> None:
            await running.server.withdraw(nothing(name))
            running.server.stop()
            await asyncio.wait([running.task])
            self._around.withdrawn(name)

        task = self._spawn(retire())
        self._retiring[name] = task

        def forget(done: "asyncio.Task[None]") -> None:
            if self._retiring.get(name) is done:
                del self._retiring[name]

        task.add_done_callback(forget)
