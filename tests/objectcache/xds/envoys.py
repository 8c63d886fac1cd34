"""A real Envoy, the control plane that tells it, and caches that answer with their own names."""

import asyncio
import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
import yaml

from objectcache.xds.bootstrap import Bootstrap, document
from objectcache.xds.member import Member
from objectcache.xds.metrics import Metrics
from objectcache.xds.server import Discovery, DiscoveryServer
from objectcache.xds.snapshot import Catalogue, Options, Resource, fixed_resources
from tasuki.routing.maglev import Host, Maglev
from tests.ports import free_port as free_port  # noqa: PLC0414 - benchmarks have it from here

SECONDS: Final = 30.0
PREFIX: Final = "/v1/objects/"
HELD: Final = {"Held": "yes"}
Fixed = Mapping[str, Mapping[str, Resource]]


def envoy_binary() -> Path:
    """The one of constraints/peers.txt."""
    found = Path(sys.prefix) / "peers/envoy/envoy/_bin/envoy"
    if not found.is_file():
        pytest.fail(f"no Envoy at {found}: run `make check`, which installs it")
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@dataclass
class Cache:
    """Answers with its name.

    Attributes:
        seen: Method, target and size of the body of each request.
        hold: While it is set, answers wait to requests with the header of HELD.
    """

    node: str
    port: int
    server: ThreadingHTTPServer
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running_caches(nodes: Sequence[str]) -> Iterator[dict[str, Cache]]:
    found: dict[str, Cache] = {}
    try:
        for node in nodes:
            found[node] = _cache(node)
        yield found
    finally:
        for cache in found.values():
            cache.server.shutdown()
            cache.server.server_close()


def _cache(node: str) -> Cache:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            cache.seen.append((self.command, self.path, len(body)))
            while cache.hold.is_set() and all(each in self.headers for each in HELD):
                time.sleep(0.01)
            answer = b"x" * int(self.headers["Answer-Bytes"]) if "Answer-Bytes" in self.headers else node.encode()
            self.send_response(201 if self.command == "PUT" else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_GET  # noqa: N815 - http.server finds the method by this name

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            return

    server = Server(("127.0.0.1", 0), Handler)
    cache = Cache(node, server.server_address[1], server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return cache


class Plane:
    """A control plane in a thread of its own.

    Attributes:
        port: The same after each start.
        notes: What it told of refusals.
    """

    def __init__(self, envoy_port: int) -> None:
        self.options: Final = Options(listen=("127.0.0.1", envoy_port))
        self.port = free_port()
        self.notes: list[str] = []
        self.fixed: Fixed = fixed_resources(self.options)
        self.metrics = Metrics()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._discovery: Discovery | None = None
        self._server: DiscoveryServer | None = None

    def start(self) -> None:
        async def begin() -> None:
            self.metrics = Metrics()
            self._discovery = Discovery(self.metrics, self.notes.append)
            self._server = DiscoveryServer(self._discovery, ("127.0.0.1", self.port), None)
            await self._server.start()

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(SECONDS)

    def stop(self) -> None:
        async def end() -> None:
            if self._server is not None:
                await self._server.stop(1.0)
                self._server = None

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(SECONDS)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def publish(self, members: Iterable[Member], zones: Mapping[str, str], fixed: Fixed | None = None) -> None:
        async def tell() -> None:
            assert self._discovery is not None
            self._discovery.publish(Catalogue(members, zones, self.fixed if fixed is None else fixed))

        asyncio.run_coroutine_threadsafe(tell(), self._loop).result(SECONDS)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def connected(self) -> float:
        return sum(self.count("tasuki_xds_envoys", variant=each) for each in ("delta", "sotw"))


@dataclass
class Envoy:
    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log: Path

    def ask(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, target, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def owners(self, names: Sequence[str]) -> list[str]:
        """Who answers for each name; the status for one that nobody answers for."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        found = []
        try:
            for name in names:
                connection.request("GET", PREFIX + name)
                answer = connection.getresponse()
                body = answer.read()
                found.append(body.decode() if answer.status == 200 else str(answer.status))
        finally:
            connection.close()
        return found


@contextmanager
def running_envoy(
    plane_port: int, port: int, folder: Path, *, variant: str = "delta", node: str = "client", zone: str = ""
) -> Iterator[Envoy]:
    admin_port = free_port()
    made = Bootstrap(
        xds=("127.0.0.1", plane_port), zone=zone, admin=("127.0.0.1", admin_port), operator=None, variant=variant
    )
    config, log = folder / "bootstrap.yaml", folder / "envoy.log"
    config.write_text(yaml.safe_dump(document(made)))
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [
                *(envoy_binary(), "-c", config, "--service-node", node, "--concurrency", "1"),
                *("--disable-hot-restart", "--use-dynamic-base-id", "-l", "warning"),
            ],
            stderr=errors,
            stdout=errors,
        )
    try:
        yield Envoy(process, port, admin_port, log)
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(log.read_text())


def predicted(members: Iterable[Member], zone: str, names: Sequence[str]) -> list[str]:
    """Of the first zone, seen from `zone`, of which a member stays."""
    staying = [each for each in members if not each.leaving]
    zones = sorted({each.zone for each in staying}, key=lambda name: (name != zone, name))
    table = Maglev([Host(each.node, each.weight) for each in staying if each.zone == zones[0]])
    return [table.owner(name.partition("?")[0]) for name in names]
