"""`tasuki webhooks`: reads the settings, puts the parts together and runs them; read `serve` first."""

import asyncio
import gc
import logging
import os
import random
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from tasuki import __version__
from tasuki.kube.client import Kube, connect
from tasuki.kube.errors import KubeConfigError
from tasuki.process import logging as process_logging
from tasuki.process.document import ConfigError
from tasuki.process.http import OperatorServer
from tasuki.process.http_server import HttpServer
from tasuki.process.readiness import Readiness, watched
from tasuki.process.running import Heartbeat, exit_status
from tasuki.process.tls.live import CertificateError, LiveContext, live_context
from tasuki.process.tls.mounted import MountedCertificate
from tasuki.process.tls.outlets import Outlets
from webhooks.application import Application
from webhooks.catalogue import read_catalogue
from webhooks.catalogue_source import CatalogueSource
from webhooks.certificates.bundle import Configuration
from webhooks.certificates.issued import IssuedCertificate, IssuedPace, Order
from webhooks.cluster_watch import ClusterWatch
from webhooks.metrics import Metrics
from webhooks.policy.model import Policy
from webhooks.policy.reading import read_policy
from webhooks.policy_source import PolicySource
from webhooks.settings import DEFAULT_NAMESPACE, Settings, read
from webhooks.trial import TrialError, try_pods
from webhooks.world import World

log: Final = logging.getLogger("webhooks")

# What must be there before reviews can be answered, as /readyz spells it.
POLICY: Final = "policy"
CERTIFICATE: Final = "certificate"
SERVING: Final = "serving"

_MOST_LEVELS: Final = 25_000


class StartError(Exception):
    """The settings do not make a service that could ever be ready."""


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 is bad settings, 1 an error of our own or a pod that would be refused."""
    settings = read(argv, os.environ)
    # Go reads JSON of 10,000 levels (encoding/json, maxNestingDepth), and so must we what the API server lets pass.
    sys.setrecursionlimit(_MOST_LEVELS)
    process_logging.configure(settings.log_level, settings.log_format)
    if settings.trial is not None:
        return _try(settings, settings.trial)
    log.info("starting version=%s policy=%s", __version__, settings.policy)
    bad = (KubeConfigError, StartError, CertificateError)
    return exit_status(log, lambda stop: serve(settings, stop), bad, uvloop.new_event_loop)


def _try(settings: Settings, pods: Path) -> int:
    world = World(settings.namespace or DEFAULT_NAMESPACE)
    try:
        world.use_policy(read_policy(settings.policy.read_bytes()))
        if settings.modules_catalogue.is_file():
            world.use_catalogue(read_catalogue(settings.modules_catalogue.read_text(encoding="utf-8")))
        return 0 if try_pods(pods, world, settings.trial_namespace, sys.stdout, sys.stderr) else 1
    except (OSError, ConfigError, ValueError, RecursionError, TrialError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - what a person asked for
        return 2


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Put all parts together and run them until `stop`, then until every review is answered."""
    metrics = Metrics()
    readiness = Readiness(POLICY, CERTIFICATE, SERVING)
    heartbeat = Heartbeat()
    kube = await connect(settings.kube_api)
    namespace = settings.namespace or (kube.namespace if kube else DEFAULT_NAMESPACE)
    world = World(namespace, lambda problem: readiness.note("priority classes", problem))
    live = live_context(settings.client_ca)
    metrics.certificate_expiry.set_function(lambda: live.expires.timestamp() if live.expires else 0.0)
    try:
        certificate = _certificate(settings, kube, live, namespace, readiness)
        server = HttpServer(Application(world, metrics), settings.listen, live.context, "reviews")
        with ExitStack() as stack:
            if settings.metrics_address is not None:
                stack.enter_context(
                    OperatorServer(settings.metrics_address, metrics.registry, readiness, heartbeat.alive)
                )
            loops = [
                heartbeat.beat,
                world.run,
                certificate.run,
                _policy(settings, world, metrics, readiness).run,
                _catalogue(settings, world, readiness).run,
                *_watches(kube, world, metrics, readiness),
            ]
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(loop()) for loop in loops]
                serving = group.create_task(server.run())
                readiness.met(SERVING)
                # What is here now stays; a collection that walked it all would hold reviews up.
                gc.collect()
                gc.freeze()
                await stop.wait()
                readiness.unmet(SERVING, "stopping")
                # Until every API server has heard that this replica is no longer an endpoint, it is still asked.
                await asyncio.sleep(settings.drain_seconds)
                server.stop()
                await serving
                for task in background:
                    task.cancel()
    finally:
        if kube is not None:
            await kube.close()


def _watches(
    kube: Kube | None, world: World, metrics: Metrics, readiness: Readiness
) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
    """What follows the cluster, if there is one."""
    if kube is None:
        readiness.note("cluster", "no API server is configured: nodes and priority classes are not known")
    else:
        yield ClusterWatch(kube, world.use_cluster, watched(metrics.watch_connected, readiness), _uniform).run


def _certificate(
    settings: Settings, kube: Kube | None, live: LiveContext, namespace: str, readiness: Readiness
) -> MountedCertificate | IssuedCertificate:
    outlets = Outlets(
        report=partial(readiness.unmet, CERTIFICATE),
        note=lambda problem: readiness.note("certificate renewal", problem),
    )
    if settings.tls_dir is not None:
        return MountedCertificate(settings.tls_dir, live, outlets)
    if kube is None:
        raise StartError(
            "no API server is configured, so that a certificate of our own could be neither kept nor made known; "
            "give KUBECONFIG, or mount a certificate and name its folder with --tls-dir"
        )
    name = settings.webhook_configuration
    configurations = (
        Configuration("MutatingWebhookConfiguration", name),
        Configuration("ValidatingWebhookConfiguration", name),
    )
    try:
        order = Order(settings.tls_secret, settings.names(namespace), configurations)
    except ValueError as error:
        raise StartError(str(error)) from error
    return IssuedCertificate(kube, live, order, outlets, IssuedPace(_uniform))


def _policy(settings: Settings, world: World, metrics: Metrics, readiness: Readiness) -> PolicySource:
    def changed(policy: Policy) -> None:
        world.use_policy(policy)
        readiness.met(POLICY)

    def report(problem: str) -> None:
        metrics.policy_good.set(0 if problem else 1)
        if problem and not world.has_policy:
            readiness.unmet(POLICY, problem)
        else:
            readiness.note("policy file", problem)

    return PolicySource(settings.policy, changed, report)


def _catalogue(settings: Settings, world: World, readiness: Readiness) -> CatalogueSource:
    return CatalogueSource(
        settings.modules_catalogue, world.use_catalogue, lambda problem: readiness.note("modules catalogue", problem)
    )


_uniform: Final = random.SystemRandom().uniform


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
