"""A mirror with all its parts over real sockets, and containerd's side of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from objectcache.registry.application import Application, Manners, Sources
from objectcache.registry.cache import Bucket, Cache
from objectcache.registry.config import Credentials, Upstream
from objectcache.registry.fetching import Fetches, Outlets
from objectcache.registry.layers import Layers
from objectcache.registry.metrics import Metrics
from objectcache.registry.origins import Origin, read_origin
from objectcache.registry.resolving import Resolver
from objectcache.registry.sessions import Patience, opened_sessions
from objectcache.registry.spool import Spool
from objectcache.registry.tags import TagMemory
from objectcache.registry.upstream import UpstreamClient
from tasuki.process.http_server import HttpServer

HOST: Final = "registry.example"
NO_CACHE: Final = "http://127.0.0.1:9"


class _EndError(Exception):
    """The test is over."""


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Mirror:
    """A running mirror.

    Attributes:
        notes: What was last said of the cache.
    """

    url: str
    session: aiohttp.ClientSession
    metrics: Metrics
    fetches: Fetches
    spool: Spool
    application: Application
    clock: Clock
    notes: list[str]

    async def get(self, path: str, method: str = "GET", ns: str = HOST, **headers: str) -> Answer:
        """Ask as containerd does."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        query = f"?ns={ns}" if ns else ""
        async with self.session.request(method, f"{self.url}{path}{query}", headers=named) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def blob(self, digest: str, name: str = "library/busybox", **headers: str) -> Answer:
        return await self.get(f"/v2/{name}/blobs/{digest}", **headers)

    async def settled(self) -> None:
        """Until every fetch has ended, its PUT included."""
        await self.until(lambda: len(self.fetches) == 0)

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not happened():
                await asyncio.sleep(0.005)

    async def answered(self, outcome: str, times: int) -> None:
        """Until so many requests for layers have ended so: a client has its answer before the mirror has counted it."""
        await self.until(lambda: self.count("requests", kind="blob", outcome=outcome) == times)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"tasuki_registry_{name}_total", labels) or 0.0


@dataclass
class Given:
    """What a mirror is made of.

    Attributes:
        origins: Redirects may lead there.
    """

    upstream_url: str
    spool_dir: Path
    cache_url: str = NO_CACHE
    token_file: Path | None = None
    origins: tuple[str, ...] = ()
    shares_credentials: bool = False
    logins: Mapping[str, Credentials] = field(default_factory=dict)
    ca: Path | None = None
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    spool_bytes: int = 2**30
    most_fetches: int = 8
    most_documents: int = 8
    verifies_hits: bool = True
    silent_seconds: float = 5.0
    stale_seconds: float = 3600.0


def upstream(given: Given) -> Upstream:
    api: Origin = read_origin(given.upstream_url)
    context = ssl.create_default_context(cafile=str(given.ca)) if given.ca else None
    origins = frozenset(read_origin(each) for each in given.origins)
    return Upstream(HOST, api, given.shares_credentials, given.ca, origins, context)


@asynccontextmanager
async def running_mirror(given: Given) -> AsyncIterator[Mirror]:
    metrics, clock, notes = Metrics(), Clock(), list[str]()
    spool = Spool(given.spool_dir, given.spool_bytes)
    patience = Patience(connect_seconds=2.0, silent_seconds=given.silent_seconds)
    async with (
        opened_sessions(patience) as sessions,
        aiohttp.ClientSession(auto_decompress=False) as cache_session,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), auto_decompress=False) as session,
        _Ending(),
        asyncio.TaskGroup() as group,
    ):
        bucket = Bucket(given.cache_url, "bk", given.token_file)
        cache = Cache(cache_session, bucket, notes.append, metrics.cache_answered)
        client = UpstreamClient(sessions, group, clock, metrics.upstream_answered)
        client.use(given.logins)
        resolver = Resolver(group, client, cache, TagMemory(60, given.stale_seconds), clock)
        outlets = Outlets(metrics.fetch_ended, metrics.received.inc)
        fetches = Fetches(group, (client, cache, spool), given.most_fetches, outlets)
        layers = Layers(cache, client, fetches, verifies_hits=given.verifies_hits, corrupt=metrics.corrupt.inc)
        manners = Manners(stall_seconds=5.0, most_documents=given.most_documents)
        application = Application(Sources(layers, resolver, client), metrics, manners)
        application.use(given.upstreams or {HOST: upstream(given)})
        server = HttpServer(application, ("127.0.0.1", 0), None, "images", 1)
        serving = group.create_task(server.run())
        url = f"http://127.0.0.1:{server.port}"
        try:
            yield Mirror(url, session, metrics, fetches, spool, application, clock, notes)
        finally:
            await session.close()
            server.stop()
            await serving
        raise _EndError


class _Ending:
    """Passes over the error that ends everything, alone in its group."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if isinstance(error, BaseExceptionGroup):
            others = error.split(_EndError)[1]
            if others is not None:
                raise others
            return True
        return False
