"""`tasuki deviceplugin`: reads the settings, puts the parts together and runs them; read `serve` first."""

import asyncio
import logging
import os
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from deviceplugin.agent import CONFIGURATION, PLAN, Agent
from deviceplugin.bound_watch import BoundWatch, Follower
from deviceplugin.config.kinds import GPU
from deviceplugin.config_source import ConfigSource, Origin, Pace
from deviceplugin.discovery import source_for
from deviceplugin.discovery.description import DescriptionError
from deviceplugin.fleet import Fleet
from deviceplugin.health import XidFilter, XidListError, xid_filter
from deviceplugin.kind_loop import Outlets, Spawner, forever
from deviceplugin.kinds import build
from deviceplugin.lifecycle import NOT_REGISTERED, Surroundings, Ticker
from deviceplugin.metrics import Metrics
from deviceplugin.pod_resources import PodResources
from deviceplugin.publisher import NodeEdges, Publisher
from deviceplugin.rivals import Rivals
from deviceplugin.settings import Settings, read
from tasuki import __version__
from tasuki.kube.client import Kube, connect
from tasuki.kube.errors import KubeConfigError
from tasuki.kube.events import Occurrence
from tasuki.process import logging as process_logging
from tasuki.process.http import OperatorServer
from tasuki.process.readiness import Readiness
from tasuki.process.running import Heartbeat, run_until_stopped
from tasuki.process.watching import FolderWatch

log: Final = logging.getLogger("deviceplugin")

# Without a kubelet to register with, the sockets still stand where NVIDIA's plugin has them.
_KUBELET_SOCKET: Final = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
# Where a change in the socket folder is missed, it is noticed after so long.
_LOOK_SECONDS: Final = 1.0
# At start a node's label may choose the configuration; an API server that is slower than this is not waited for.
_FIRST_CHOICE_SECONDS: Final = 5.0

# What /readyz calls the watch of pods that the scheduler extender bound.
_PODS: Final = "bound pods"


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 is bad settings, 1 an error of our own."""
    settings = read(argv, os.environ)
    process_logging.configure(settings.log_level, settings.log_format)
    try:
        critical = xid_filter(settings.disabled_xids, settings.enabled_xids)
        if GPU in settings.kinds:
            source_for(settings.simulate, node=settings.node_name)  # a name that does not exist ends the start
    except (XidListError, DescriptionError) as error:
        log.error("bad setting error=%r", str(error))  # noqa: TRY400 - the sentence says it all
        return 2
    for notice in settings.notices:
        log.warning("setting notice=%r", notice)
    simulated = ",".join(filter(None, (settings.simulate, settings.simulate_fpga))) or "no"
    kinds = ",".join(settings.kinds)
    log.info("starting version=%s node=%s kinds=%s simulated=%s", __version__, settings.node_name, kinds, simulated)
    try:
        run_until_stopped(lambda stop: serve(settings, critical, stop))
    except (KubeConfigError, DescriptionError) as error:
        log.error("bad setting error=%r", str(error))  # noqa: TRY400 - the sentence says it all
        return 2
    except asyncio.CancelledError:
        return 1  # told twice to stop
    except OSError as error:
        log.error("cannot start error=%r", str(error))  # noqa: TRY400 - the sentence says it all
        return 1
    log.info("stopped")
    return 0


async def serve(settings: Settings, critical: XidFilter, stop: asyncio.Event) -> None:
    """Put all parts together and run them until `stop`."""
    metrics = Metrics()
    readiness = Readiness(CONFIGURATION, *(f"{kind} driver" for kind in settings.kinds), PLAN)
    heartbeat = Heartbeat()
    ticker = Ticker()
    folder = (settings.kubelet_socket or _KUBELET_SOCKET).parent
    kube = await connect(settings.kube_api)
    configs = ConfigSource(
        Origin(settings.config_file, settings.config_dir, settings.default_config, settings.fallbacks),
        settings.overrides,
        Pace(first_choice_seconds=_FIRST_CHOICE_SECONDS if kube else 0.0),
    )

    async def choose(name: str | None) -> None:
        configs.choose(name)

    edges = NodeEdges(
        kube, settings.node_name, PodResources(settings.pod_resources_socket, own_pod=settings.pod_name), choose
    )
    uniform = random.SystemRandom().uniform
    publisher = Publisher(edges, uniform)
    follower = Follower()
    metrics.published.set_function(lambda: not publisher.state.problem)
    metrics.publish_failures.set_function(lambda: publisher.state.failures)
    surroundings = Surroundings(
        folder=folder,
        kubelet_socket=settings.kubelet_socket,
        ticker=ticker,
        metrics=metrics,
        rivals=Rivals(folder),
        state_changed=_serving_states(readiness, publisher),
        withdrawn=lambda name: readiness.forget(_condition(name)),
        allocated=publisher.allocated,
        follower=follower,
    )
    try:
        with ExitStack() as stack:
            if settings.metrics_address is not None:
                stack.enter_context(
                    OperatorServer(settings.metrics_address, metrics.registry, readiness, heartbeat.alive)
                )
            watch = stack.enter_context(FolderWatch([folder]))
            async with asyncio.TaskGroup() as group:

                def changed() -> None:
                    agent.serve()

                outlets = Outlets(metrics, readiness, critical, changed, publisher.record)
                kinds = build(settings, outlets, stack, Spawner(group))
                for listener in kinds.listeners:
                    publisher.listen(listener)
                agent = Agent(
                    loops=kinds.loops,
                    configs=configs,
                    fleet=Fleet(surroundings, group.create_task),
                    publisher=publisher,
                    metrics=metrics,
                    readiness=readiness,
                    stopping=kinds.stopping,
                )
                background = [
                    group.create_task(heartbeat.beat()),
                    group.create_task(_tick(watch, ticker)),
                    group.create_task(_look_for_rivals(surroundings.rivals, ticker)),
                ]
                if kube is not None and settings.follow_bindings == "auto":
                    publisher.listen(follower)
                    watch_pods = BoundWatch(kube, settings.node_name, follower, partial(readiness.note, _PODS), uniform)
                    background.append(group.create_task(forever("bound pods", watch_pods.run, metrics)))
                await agent.run(stop)
                for task in background:
                    task.cancel()
    finally:
        await _close(kube)


async def _tick(watch: FolderWatch, ticker: Ticker) -> None:
    while True:
        if await watch.wait(_LOOK_SECONDS):
            ticker.tick()


async def _look_for_rivals(rivals: Rivals, ticker: Ticker) -> None:
    while True:
        if await rivals.look():
            ticker.tick()
        await ticker.wait(_LOOK_SECONDS)


async def _close(kube: Kube | None) -> None:
    if kube is not None:
        await kube.close()


def _condition(resource: str) -> str:
    return f"resource {resource}"


def _serving_states(readiness: Readiness, publisher: Publisher) -> Callable[[str, str], None]:
    """What to do when a resource is served, or is not for a reason: say so once at each change."""

    def state_changed(resource: str, reason: str) -> None:
        condition = _condition(resource)
        if readiness.reasons.get(condition) == reason:
            return
        if reason == NOT_REGISTERED:
            readiness.unmet(condition, reason)
        elif reason:
            readiness.unmet(condition, reason)
            log.warning("resource not served resource=%s reason=%r", resource, reason)
            publisher.record(Occurrence("Warning", "ResourceNotServed", reason))
        else:
            readiness.met(condition)

    return state_changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
