"""`tasuki schedext`: reads the settings, puts the parts together and runs them; read `serve` first."""

import asyncio
import gc
import logging
import math
import os
import random
import socket
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import uvloop

from schedext.application import Application, Service
from schedext.binding import Binder, BindTimes, Choosing
from schedext.deciding import Decider
from schedext.explain_page import ExplainPage
from schedext.lease import AlwaysHeld, HeldLease
from schedext.metrics import Metrics
from schedext.pod import Pod
from schedext.settings import Settings, read
from schedext.waking import Waker
from schedext.watches import Watches
from schedext.world import World
from tasuki import __version__
from tasuki.kube.client import Kube, connect
from tasuki.kube.errors import KubeConfigError
from tasuki.kube.names import ACCELERATOR_NODE_PLURAL, CACHE_NODE_PLURAL
from tasuki.process import logging as process_logging
from tasuki.process.http import OperatorServer
from tasuki.process.http_server import HttpServer
from tasuki.process.readiness import Readiness, watched
from tasuki.process.running import Heartbeat, exit_status
from tasuki.process.tls.live import CertificateError, LiveContext, live_context
from tasuki.process.tls.mounted import MountedCertificate
from tasuki.process.tls.outlets import Outlets

log: Final = logging.getLogger("schedext")

# What must be there before the scheduler can be answered, as /readyz spells it.
CLUSTER: Final = "cluster"
CERTIFICATE: Final = "certificate"
SERVING: Final = "serving"

_NOT_LISTED: Final = "nodes, pods and AcceleratorNodes are not all listed yet"
_BEHIND: Final = "what another replica has bound is not all seen yet"
_WATCHED: Final = ("nodes", "pods", ACCELERATOR_NODE_PLURAL, CACHE_NODE_PLURAL)
_LOOK_SECONDS: Final = 0.05

# A bind in flight takes 8 seconds at most, see `BindTimes`.
_FINISH_SECONDS: Final = 10

# Go reads JSON of 10,000 levels (encoding/json, maxNestingDepth); a pod that we could not read would hold devices that
# we took for free.
_MOST_LEVELS: Final = 25_000


class StartError(Exception):
    """The settings do not make a service that could ever be ready."""


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 is bad settings, 1 an error of our own."""
    settings = read(argv, os.environ)
    sys.setrecursionlimit(_MOST_LEVELS)
    process_logging.configure(settings.log_level, settings.log_format)
    log.info("starting version=%s policy=%s", __version__, settings.policy)
    bad = (KubeConfigError, StartError, CertificateError)
    return exit_status(log, lambda stop: serve(settings, stop), bad, uvloop.new_event_loop)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Put all parts together and run them until `stop`, then until every bind has ended."""
    kube = await connect()
    if kube is None:
        raise StartError(
            "no API server is configured, and without one there is nothing to schedule; give KUBECONFIG, or run in a "
            "pod with a service account"
        )
    try:
        await _serve(settings, kube, stop)
    finally:
        await kube.close()


async def _serve(settings: Settings, kube: Kube, stop: asyncio.Event) -> None:
    metrics, heartbeat = Metrics(), Heartbeat()
    readiness = Readiness(CLUSTER, *([CERTIFICATE] if settings.tls_dir else []), SERVING)
    parts = _parts(settings, kube, metrics, readiness)
    live = _live(settings)
    page = ExplainPage(parts.decider, partial(_find, kube), parts.ready, metrics)
    application = Application(Service(parts.decider, parts.binder, parts.waker, parts.ready), page, metrics)
    context = live.context if live is not None else None
    servers = [HttpServer(application, settings.listen, context, "the scheduler", _FINISH_SECONDS)]
    if settings.explain_listen is not None:
        servers.append(HttpServer(page, settings.explain_listen, None, "explanations", 1))
    loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
        heartbeat.beat,
        parts.watches.run,
        partial(parts.waker.run, lambda uid: parts.world.pod(uid) is not None),
        partial(_settle, parts, metrics, readiness),
    ]
    if live is not None and settings.tls_dir is not None:
        loops.append(MountedCertificate(settings.tls_dir, live, _outlets(readiness)).run)
    with ExitStack() as stack:
        if settings.metrics_address is not None:
            stack.enter_context(OperatorServer(settings.metrics_address, metrics.registry, readiness, heartbeat.alive))
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(loop()) for loop in loops]
            group.create_task(parts.binder.run())
            if isinstance(parts.lease, HeldLease):
                leasing = group.create_task(parts.lease.run(parts.watches.renew))
            serving = [group.create_task(server.run()) for server in servers]
            readiness.met(SERVING)
            await stop.wait()
            readiness.unmet(SERVING, "stopping")
            # Until the scheduler's side has heard that this replica is no longer an endpoint, it is still asked.
            await asyncio.sleep(settings.drain_seconds)
            for server in servers:
                server.stop()
            await asyncio.gather(*serving)
            await parts.binder.drain()
            # Only now: another replica may choose as soon as the lease is handed back.
            if isinstance(parts.lease, HeldLease):
                parts.lease.stop()
                await leasing
            for task in background:
                task.cancel()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is made once and lives as long as the process.

    Attributes:
        ready: Why nothing can be decided yet; empty if it can.
    """

    world: World
    watches: Watches
    decider: Decider
    waker: Waker
    lease: HeldLease | AlwaysHeld
    binder: Binder
    ready: Callable[[], str]


def _parts(settings: Settings, kube: Kube, metrics: Metrics, readiness: Readiness) -> _Parts:
    waker = Waker(kube, time.monotonic, _now, metrics.woke)
    world = World(time.monotonic, _now, waker.room_freed)
    watches = Watches(kube, world, watched(metrics.watch_connected, readiness), _uniform)

    def ready() -> str:
        return "" if watches.synced else _NOT_LISTED

    def ready_to_choose() -> str:
        return ready() or ("" if watches.current else _BEHIND)

    decider = Decider(world, settings.costs(), _now)
    lease = HeldLease(kube, _identity(), time.monotonic, _now) if settings.lease == "auto" else AlwaysHeld()
    times = BindTimes(reserve_seconds=settings.reserve_seconds)
    binder = Binder(kube, Choosing(world, ready_to_choose, decider.choose), lease, metrics.bound, times)
    metrics.reservations.set_function(lambda: len(world.reservations))
    metrics.waiting.set_function(lambda: waker.waiting)
    metrics.lease_held.set_function(lambda: lease.is_ours if isinstance(lease, HeldLease) else True)
    for name in _WATCHED:
        metrics.follow(name, partial(_age_seconds, watches, name))
    return _Parts(world, watches, decider, waker, lease, binder, ready)


async def _settle(parts: _Parts, metrics: Metrics, readiness: Readiness) -> None:
    """Wait until the cluster is known."""
    readiness.unmet(CLUSTER, _NOT_LISTED)
    while not parts.watches.synced:  # noqa: ASYNC110 - a start's few seconds, looked at as often as matters
        await asyncio.sleep(_LOOK_SECONDS)
    # What is here now mostly stays; a collection that walked it all would hold the scheduler up.
    gc.collect()
    gc.freeze()
    metrics.synced.set(1)
    readiness.met(CLUSTER)
    log.info("the cluster is known nodes=%d reservations=%d", len(parts.world.nodes), len(parts.world.reservations))


async def _find(kube: Kube, namespace: str, name: str) -> Pod:
    return await kube.call("GET", f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(name)}", Pod)


def _live(settings: Settings) -> LiveContext | None:
    if settings.tls_dir is None:
        return None
    return live_context(settings.client_ca)


def _outlets(readiness: Readiness) -> Outlets:
    return Outlets(
        partial(readiness.unmet, CERTIFICATE), lambda problem: readiness.note("certificate renewal", problem)
    )


def _age_seconds(watches: Watches, name: str) -> float:
    return watches.age_seconds.get(name, math.nan)


def _identity() -> str:
    """Never another process's, not even of one that follows in the same pod."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


def _now() -> datetime:
    return datetime.now(UTC)


_uniform: Final = random.SystemRandom().uniform


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
