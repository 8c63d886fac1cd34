"""`tasuki xds`: reads the settings, puts the parts together and runs them; read `serve` first."""

import asyncio
import logging
import os
import random
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import uvloop

from objectcache.xds import bootstrap
from objectcache.xds.credentials import GrpcCertificate, grpc_certificate
from objectcache.xds.endpoints import read_endpoints
from objectcache.xds.member import Member
from objectcache.xds.metrics import Metrics
from objectcache.xds.server import Discovery, DiscoveryServer
from objectcache.xds.settings import Settings, read
from objectcache.xds.snapshot import Catalogue, fixed_resources
from objectcache.xds.watches import Found, Outlets, Watches, Which
from tasuki import __version__
from tasuki.kube.client import Kube, connect
from tasuki.kube.errors import KubeConfigError
from tasuki.process import logging as process_logging
from tasuki.process.file_source import FileSource
from tasuki.process.http import OperatorServer
from tasuki.process.readiness import Readiness, watched
from tasuki.process.running import Heartbeat, exit_status
from tasuki.process.tls.live import CertificateError
from tasuki.process.tls.mounted import MountedCertificate
from tasuki.process.tls.outlets import Outlets as CertificateOutlets

log: Final = logging.getLogger("objectcache.xds")

# What must be there before Envoys are told anything, as /readyz spells it.
CACHES: Final = "caches"
CERTIFICATE: Final = "certificate"
SERVING: Final = "serving"

_NOT_LISTED: Final = "pods and nodes are not all listed yet"
_STREAMS_END_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.05


class StartError(Exception):
    """The settings do not make a service that could ever be ready."""


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 is bad settings, 1 an error of our own."""
    if argv and argv[0] == "bootstrap":
        return bootstrap.main(argv[1:])
    settings = read(argv, os.environ)
    process_logging.configure(settings.log_level, settings.log_format)
    log.info("starting version=%s", __version__)
    bad = (KubeConfigError, StartError, CertificateError)
    return exit_status(log, lambda stop: serve(settings, stop), bad, uvloop.new_event_loop)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Put all parts together and run them until `stop`, then until every stream has ended."""
    if settings.endpoints is not None:
        await _serve(settings, None, stop)
        return
    kube = await connect()
    if kube is None:
        raise StartError(
            "no API server is configured to find caches; give KUBECONFIG, run in a pod with a service account, or list "
            "the caches in a file with --endpoints"
        )
    try:
        await _serve(settings, kube, stop)
    finally:
        await kube.close()


async def _serve(settings: Settings, kube: Kube | None, stop: asyncio.Event) -> None:
    metrics, heartbeat = Metrics(), Heartbeat()
    readiness = Readiness(CACHES, *([CERTIFICATE] if settings.tls_dir else []), SERVING)
    discovery = Discovery(metrics, partial(readiness.note, "envoys"))
    publish = partial(_publish, discovery, readiness, fixed_resources(settings.options()))
    loops: list[Callable[[], Coroutine[Any, Any, None]]] = [heartbeat.beat]
    if kube is None:
        loops.append(_from_file(settings, publish, readiness).run)
    else:
        loops.append(_from_cluster(settings, kube, publish, watched(metrics.watch_connected, readiness)).run)
        readiness.unmet(CACHES, _NOT_LISTED)
    certificate = grpc_certificate(settings.client_ca) if settings.tls_dir is not None else None
    if certificate is not None and settings.tls_dir is not None:
        loops.append(MountedCertificate(settings.tls_dir, certificate, _outlets(readiness)).run)
    with ExitStack() as stack:
        if settings.metrics_address is not None:
            stack.enter_context(OperatorServer(settings.metrics_address, metrics.registry, readiness, heartbeat.alive))
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(loop()) for loop in loops]
            serving = group.create_task(_listen(settings, discovery, certificate, readiness, stop))
            await serving
            for task in background:
                task.cancel()


async def _listen(
    settings: Settings,
    discovery: Discovery,
    certificate: GrpcCertificate | None,
    readiness: Readiness,
    stop: asyncio.Event,
) -> None:
    if certificate is not None:
        while not certificate.loaded:
            if stop.is_set():
                return
            await asyncio.sleep(_LOOK_SECONDS)
    server = DiscoveryServer(discovery, settings.listen, certificate.credentials() if certificate else None)
    await server.start()
    readiness.met(SERVING)
    await stop.wait()
    readiness.unmet(SERVING, "stopping")
    # Envoys keep what they have, and connect to another replica; there is nothing to wait for.
    await server.stop(_STREAMS_END_SECONDS)


def _publish(
    discovery: Discovery,
    readiness: Readiness,
    fixed: Mapping[str, Any],
    members: tuple[Member, ...],
    zones: Mapping[str, str],
) -> None:
    discovery.publish(Catalogue(members, zones, fixed))
    leaving = sum(member.leaving for member in members)
    log.info("caches members=%d leaving=%d zones=%d", len(members), leaving, len({member.zone for member in members}))
    readiness.met(CACHES)


def _from_cluster(
    settings: Settings,
    kube: Kube,
    publish: Callable[[tuple[Member, ...], Mapping[str, str]], None],
    report: Callable[[str, str], None],
) -> Watches:
    which = Which(
        settings.namespace or kube.namespace, settings.selector, settings.cache_port, settings.weights == "label"
    )

    def changed(found: Found) -> None:
        publish(found.members, found.zones)

    return Watches(kube, which, Outlets(changed, report), _uniform)


def _from_file(
    settings: Settings,
    publish: Callable[[tuple[Member, ...], Mapping[str, str]], None],
    readiness: Readiness,
) -> FileSource[tuple[Member, ...]]:
    known = False

    def changed(found: tuple[Member, ...]) -> None:
        nonlocal known
        known = True
        publish(found, {member.node: member.zone for member in found})

    def report(problem: str) -> None:
        if known:
            readiness.note(CACHES, problem)
        else:
            readiness.unmet(CACHES, problem)

    assert settings.endpoints is not None
    return FileSource(settings.endpoints, read_endpoints, changed, report)


def _outlets(readiness: Readiness) -> CertificateOutlets:
    return CertificateOutlets(
        partial(readiness.unmet, CERTIFICATE), lambda problem: readiness.note("certificate renewal", problem)
    )


_uniform: Final = random.SystemRandom().uniform


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
