"""An HTTP server that nobody who reaches its port can exhaust."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tasuki.process.asgi import Asgi

log: Final = logging.getLogger(__name__)

# The API server and the scheduler send a request at once, and wait for its answer 30 seconds at most.
_REQUEST_SECONDS: Final = 30.0
_HANDSHAKE_SECONDS: Final = 10.0

# Whoever reaches the port must not be able to take the memory: what is sent of headers or trailers, and how many
# connections there are at once.
_MOST_HEAD_BYTES: Final = 64 * 2**10
_MOST_CONNECTIONS: Final = 1_000

# What is closed has so long, and as much again at most, to take what was sent.
_CLOSE_SECONDS: Final = 5.0

# Longer than the 90 seconds for which Go's HTTP client keeps an idle connection, so that it is never we who close one
# that the API server or the scheduler is about to use (net/http, DefaultTransport.IdleConnTimeout).
_IDLE_SECONDS: Final = 120


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which sets no limit to headers, to connections, or to how long a request takes to arrive."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _went_on = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.close()
            return
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Count what is kept without being asked for: headers, and trailers behind a body in chunks."""
        self._went_on = False
        super().data_received(data)
        if self._went_on:
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
            log.warning("the headers of a request are too large client=%s bytes=%d", self.client, self._head_bytes)
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._set_deadline()

    def on_body(self, body: bytes) -> None:
        self._head_bytes, self._went_on = 0, True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._drop_deadline()
        self._head_bytes, self._went_on = 0, True
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_deadline()
        # uvicorn drops this timer only where there was no error, and so a broken connection would live on in it.
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(_REQUEST_SECONDS, self._give_up)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            log.warning("a request did not arrive whole in time client=%s seconds=%g", self.client, _REQUEST_SECONDS)
            self.transport.close()


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's, not the server's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and with a limit for TLS handshakes, which would otherwise be 60 seconds."""
        config, state = self.config, self.server_state
        self.servers = [
            await asyncio.get_running_loop().create_server(
                lambda: _Protocol(config, state, {}),
                sock=each,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS if config.ssl else None,
            )
            for each in sockets or ()
        ]
        self.started = True


class HttpServer:
    """Serves an application until told to stop, and then until every request in flight is answered.

    Args:
        address: Host and port; port 0 lets the system choose, see `port`.
        context: For TLS; None for HTTP without it.
        serves: What the requests are, for the log.
        finish_seconds: How long those in flight may take after `stop`.

    Raises:
        OSError: Nothing can listen there.
    """

    def __init__(
        self,
        application: Asgi,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
        serves: str,
        finish_seconds: int = 8,
    ) -> None:
        self._serves: Final = serves
        self._socket = _listening(address, serves)
        config = uvicorn.Config(
            application,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=finish_seconds,
        )
        config.load()
        config.ssl = context
        self._tls: Final = context is not None
        self._server = _Uvicorn(config)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> Collection[asyncio.Protocol]:
        return self._server.server_state.connections

    async def run(self) -> None:
        """Serve until `stop`; ends when the last request is answered."""
        log.info("serving %s port=%d tls=%s", self._serves, self.port, self._tls)
        async with asyncio.TaskGroup() as group:
            sweeping = group.create_task(self._sweep())
            await self._server.serve(sockets=[self._socket])
            sweeping.cancel()

    async def _sweep(self) -> None:
        """Let go of clients that read nothing of an answer, whose connections would otherwise stay while they do."""
        closing: set[_Protocol] = set()
        while True:
            await asyncio.sleep(_CLOSE_SECONDS)
            connections = cast("set[_Protocol]", self._server.server_state.connections)
            found = {each for each in connections if each.transport.is_closing()}
            for each in closing & found:
                log.warning("a client did not read its answer client=%s", each.client)
                each.transport.abort()
            closing = found

    def stop(self) -> None:
        """Take no more connections, and let `run` end."""
        self._server.should_exit = True


def _listening(address: tuple[str, int], serves: str) -> socket.socket:
    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # "::" takes IPv4 too, wherever the system can do that.
        both = host == "::" and socket.has_dualstack_ipv6()
        made = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise OSError(f"cannot serve {serves} on {host} port {port}: {error}; choose another address") from error
    # Connections inherit it. asyncio sets it only where a socket was made with the protocol's number (asyncio/
    # base_events.py, _set_nodelay), and without it each answer's body waits for the client to acknowledge its head.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
