"""`tasuki registry`: reads the settings, puts the parts together and runs them; read `serve` first."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, NoReturn

import aiohttp
import uvloop

from objectcache.registry.application import Application, Manners, Sources
from objectcache.registry.cache import Bucket, Cache
from objectcache.registry.config import Logins, Upstreams, read_logins, read_upstreams, with_context
from objectcache.registry.fetching import Fetches, Outlets
from objectcache.registry.layers import Layers
from objectcache.registry.metrics import Metrics
from objectcache.registry.resolving import Resolver
from objectcache.registry.sessions import Patience, Sessions, opened_sessions
from objectcache.registry.settings import Settings, read
from objectcache.registry.spool import Spool
from objectcache.registry.tags import TagMemory
from objectcache.registry.upstream import UpstreamClient
from tasuki import __version__
from tasuki.process import logging as process_logging
from tasuki.process.document import ConfigError
from tasuki.process.file_source import FileSource
from tasuki.process.http import OperatorServer
from tasuki.process.http_server import HttpServer
from tasuki.process.readiness import Readiness
from tasuki.process.running import Heartbeat, exit_status

log: Final = logging.getLogger("registry")

# What must be there before an image can be served, as /readyz spells it.
UPSTREAMS: Final = "upstreams"
LOGINS: Final = "logins"
SERVING: Final = "serving"

_CACHE_BUFFER_BYTES: Final = 256 * 2**10
_SECONDS_PER_HOUR: Final = 3600.0


class _StoppedError(Exception):
    """Ends whatever is still under way."""


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM; 2 is bad settings, 1 an error of our own."""
    settings = read(argv, os.environ)
    process_logging.configure(settings.log_level, settings.log_format)
    log.info("starting version=%s cache=%s bucket=%s", __version__, settings.cache_url, settings.bucket)
    return exit_status(log, lambda stop: serve(settings, stop), (ConfigError,), uvloop.new_event_loop)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Put all parts together and run them until `stop`, then until layers are sent or their time is over."""
    metrics, heartbeat = Metrics(), Heartbeat()
    readiness = Readiness(UPSTREAMS, *([LOGINS] if settings.logins else []), SERVING)
    spool = Spool(settings.spool_dir, settings.spool_bytes)
    await asyncio.to_thread(spool.check)
    with ExitStack() as stack:
        if settings.metrics_address is not None:
            stack.enter_context(OperatorServer(settings.metrics_address, metrics.registry, readiness, heartbeat.alive))
        async with opened_sessions(Patience()) as sessions, _cache_session() as cache_session:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(heartbeat.beat())
                    parts = _parts(settings, _Surroundings(group, sessions, cache_session, spool), metrics, readiness)
                    for loop in _watching(settings, parts, readiness):
                        group.create_task(loop())
                    await _serve(settings, parts.application, readiness, stop)
            except* _StoppedError:
                log.debug("what was under way has ended")


async def _serve(settings: Settings, application: Application, readiness: Readiness, stop: asyncio.Event) -> NoReturn:
    """Ends with the error that ends all that serves nobody any more, such as fetches for the cache alone."""
    server = HttpServer(application, settings.listen, None, "container images", settings.drain_seconds)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        readiness.met(SERVING)
        await stop.wait()
        readiness.unmet(SERVING, "stopping")
        server.stop()
    raise _StoppedError


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What parts are made in."""

    group: asyncio.TaskGroup
    sessions: Sessions
    cache_session: aiohttp.ClientSession
    spool: Spool


@dataclass(frozen=True, slots=True)
class _Parts:
    application: Application
    upstream: UpstreamClient


def _parts(settings: Settings, around: _Surroundings, metrics: Metrics, readiness: Readiness) -> _Parts:
    group, spool = around.group, around.spool
    bucket = Bucket(settings.cache_url, settings.bucket, settings.cache_token)
    cache = Cache(around.cache_session, bucket, partial(readiness.note, "cache"), metrics.cache_answered)
    upstream = UpstreamClient(around.sessions, group, monotonic, metrics.upstream_answered)
    tags = TagMemory(settings.tag_seconds, settings.stale_hours * _SECONDS_PER_HOUR)
    resolver = Resolver(group, upstream, cache, tags, monotonic)
    outlets = Outlets(metrics.fetch_ended, metrics.received.inc)
    fetches = Fetches(group, (upstream, cache, spool), settings.most_fetches, outlets)
    metrics.follow(lambda: spool.used_bytes, lambda: len(fetches))
    verifies = settings.verify_hits == "true"
    layers = Layers(cache, upstream, fetches, verifies_hits=verifies, corrupt=metrics.corrupt.inc)
    manners = Manners(most_streams=settings.most_streams)
    return _Parts(Application(Sources(layers, resolver, upstream), metrics, manners), upstream)


def _watching(settings: Settings, parts: _Parts, readiness: Readiness) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """What follows the files that may change."""

    def mirror(upstreams: Upstreams) -> None:
        parts.application.use(upstreams)
        readiness.met(UPSTREAMS)
        log.info("mirroring upstreams=%s", ",".join(sorted(upstreams)))

    def log_in(logins: Logins) -> None:
        parts.upstream.use(logins)
        readiness.met(LOGINS)

    loops = [FileSource(settings.config, _upstreams, mirror, _reporter(readiness, UPSTREAMS)).run]
    if settings.logins is not None:
        loops.append(FileSource(settings.logins, _logins, log_in, _reporter(readiness, LOGINS)).run)
    return loops


def _logins(content: bytes | None) -> Logins:
    if content is None:
        raise ConfigError("there is no such file; give the mirror its credentials, or leave --logins out")
    return MappingProxyType(read_logins(content))


def _upstreams(content: bytes | None) -> Upstreams:
    """Called from a worker thread, for it reads the authorities' files too."""
    if content is None:
        raise ConfigError("there is no such file; name the registries that are mirrored in it")
    upstreams = read_upstreams(content)
    return MappingProxyType({host: replace(each, context=with_context(each)) for host, each in upstreams.items()})


def _reporter(readiness: Readiness, name: str) -> Callable[[str], None]:
    """A problem keeps the mirror from its work only until there was a good file."""

    def report(problem: str) -> None:
        if problem and readiness.reasons[name]:
            readiness.unmet(name, problem)
        else:
            readiness.note(f"{name} file", problem)

    return report


def _cache_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_CACHE_BUFFER_BYTES,
        headers={"User-Agent": "tasuki-registry"},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
