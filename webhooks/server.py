"""Reviews over HTTPS: the application that answers them, and the server that it runs in."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tasuki.process.sentences import shown
from webhooks import wire
from webhooks.memo import Decided, Memo
from webhooks.metrics import Metrics
from webhooks.review import CHECKS, MUTATIONS, Stages, review
from webhooks.scene import Scene
from webhooks.world import World

log: Final = logging.getLogger(__name__)

AsgiScope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

# The API server sends a request at once and gives a webhook at most 30 seconds.
_REQUEST_SECONDS: Final = 30.0
_HANDSHAKE_SECONDS: Final = 10.0
_LINGER_SECONDS: Final = 2.0

# Whoever reaches the port must not be able to take the memory: what is sent before the headers are complete, what of
# bodies is held for all requests together, and how many connections there are at once.
_MOST_HEAD_BYTES: Final = 64 * 2**10
_MOST_HELD_BYTES: Final = 64 * 2**20
_MOST_CONNECTIONS: Final = 1_000
# Longer than the 90 seconds for which Go's HTTP client keeps an idle connection, so that it is never we who close one
# that the API server is about to use (net/http, DefaultTransport.IdleConnTimeout).
_IDLE_SECONDS: Final = 120

_JSON: Final = (b"content-type", b"application/json")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")

_PATHS: Final[dict[str, tuple[str, Stages]]] = {
    "/mutate": ("mutate", MUTATIONS),
    "/validate": ("validate", CHECKS),
}


class _RequestError(Exception):
    """A request that gets an HTTP error.

    Attributes:
        outcome: What it is counted as.
        unread: Whether the client may still be sending its body.
    """

    def __init__(self, status: int, text: str, outcome: str = "bad-request", *, unread: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.outcome = outcome
        self.unread = unread


class Application:
    """An ASGI application that answers AdmissionReviews.

    Decisions take microseconds and are made between two turns of the loop; no call leaves the process.
    """

    def __init__(self, world: World, metrics: Metrics) -> None:
        self._world: Final = world
        self._metrics: Final = metrics
        self._memo: Final = Memo()
        self._held = _Held()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        webhook, stages = _PATHS.get(scope["path"], ("", ()))
        if not webhook:
            text = f"there is nothing here; try {' or '.join(_PATHS)}"
            await _refuse(scope, receive, send, _RequestError(404, text, unread=True))
            return
        try:
            content = await _body(scope, receive, self._held)
            started = perf_counter()
            answer = self._answer(webhook, stages, content)
            self._metrics.took(webhook, perf_counter() - started)
        except _RequestError as error:
            self._metrics.reviewed(webhook, error.outcome)
            await _refuse(scope, receive, send, error)
            return
        await _reply(send, answer)

    def _answer(self, webhook: str, stages: Stages, content: bytes) -> bytes:
        try:
            asked = wire.request(content)
        except wire.ReviewError as error:
            raise _RequestError(400, str(error)) from error
        if not asked.creates_pod:
            return self._passed(webhook, asked.uid, "passed")
        if not self._world.has_policy:
            raise _RequestError(503, "no policy has been read yet; see /readyz", "error")
        scene = self._world.scene(asked.namespace or "")
        if scene is None or asked.is_from_node:
            return self._passed(webhook, asked.uid, "exempt")
        try:
            key = (webhook, scene.namespace, bytes(asked.object))
            decided = self._memo.decided(self._world.generation, key, lambda: _decide(key[2], scene, stages))
        except Exception as error:
            # Whether the pod gets in untouched or not at all is the failurePolicy's to say.
            log.exception("a review failed webhook=%s namespace=%s name=%s", webhook, asked.namespace, asked.name)
            text = f"Tasuki could not review this pod, which is a defect of Tasuki: {type(error).__name__}"
            raise _RequestError(500, text, "error") from error
        return self._encoded(webhook, asked.uid, decided)

    def _passed(self, webhook: str, uid: str, outcome: str) -> bytes:
        self._metrics.reviewed(webhook, outcome)
        return wire.allowed(uid)

    def _encoded(self, webhook: str, uid: str, decided: Decided) -> bytes:
        metrics, outcome = self._metrics, decided.outcome
        if outcome.refusal:
            metrics.reviewed(webhook, "refused")
            metrics.mutated(outcome.refused_by, "refused")
            return wire.refused(uid, outcome.refusal, outcome.warnings, outcome.notes)
        metrics.reviewed(webhook, "patched" if decided.patch else "untouched")
        for name in outcome.changed:
            metrics.mutated(name, "changed")
        return wire.allowed(uid, decided.patch, outcome.warnings, outcome.notes)


def _decide(pod: bytes, scene: Scene, stages: Stages) -> Decided:
    outcome = review(pod, scene, stages)
    return Decided(replace(outcome, operations=()), wire.patch(outcome.operations))


@dataclass(slots=True)
class _Held:
    """How many bytes of bodies wait for their end."""

    count: int = 0


async def _body(scope: AsgiScope, receive: Receive, held: _Held) -> bytes:
    """The whole body of a POST of JSON."""
    if scope["method"] != "POST":
        text = f"{scope['method']} is not answered; send an AdmissionReview by POST"
        raise _RequestError(405, text, unread=True)
    headers: dict[bytes, bytes] = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        text = f"the content type is {shown(kind.decode('latin-1'))}; it must be application/json"
        raise _RequestError(415, text, unread=True)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > wire.MOST_BYTES:
        raise _too_large(int(length))
    pieces: list[bytes] = []
    size = 0
    try:
        # _Protocol bounds this wait.
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _RequestError(400, "the connection ended within the body")
            piece: bytes = message.get("body", b"")
            size += len(piece)
            held.count += len(piece)
            if size > wire.MOST_BYTES:
                raise _too_large(size)
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces) if len(pieces) > 1 else piece
            if held.count > _MOST_HELD_BYTES:
                raise _RequestError(503, "too many large requests at once; try again", "too-large", unread=True)
    finally:
        held.count -= size


def _too_large(size: int) -> _RequestError:
    text = f"the body is {size} bytes or more; at most {wire.MOST_BYTES} are read"
    return _RequestError(413, text, "too-large", unread=True)


async def _refuse(scope: AsgiScope, receive: Receive, send: Send, error: _RequestError) -> None:
    log.warning("request refused path=%s status=%d reason=%r", shown(scope["path"]), error.status, str(error))
    body = f"{error}\n".encode()
    headers = [_TEXT, (b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if error.unread:
        await _let_finish(receive)
    await send({"type": "http.response.body", "body": b""})


async def _let_finish(receive: Receive) -> None:
    """Pass over what is still being sent: closing before would reset the connection, and the answer with it.

    See RFC 9112, section 9.6.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass


async def _reply(send: Send, body: bytes) -> None:
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which sets no limit to headers, to connections, or to how long a request takes to arrive."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _ended_one = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.close()
            return
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        self._ended_one = False
        super().data_received(data)
        if not self._in_head or self._ended_one:
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
            log.warning("the headers of a request are too large client=%s bytes=%d", self.client, self._head_bytes)
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._set_deadline()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._drop_deadline()
        self._in_head, self._head_bytes, self._ended_one = True, 0, True
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
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
            for each in sockets or ()
        ]
        self.started = True


class ReviewServer:
    """Serves an application over TLS until told to stop, and then until every review in flight is answered.

    Args:
        address: Host and port; port 0 lets the system choose, see `port`.
        finish_seconds: How long reviews in flight may take after `stop`.

    Raises:
        OSError: Nothing can listen there.
    """

    def __init__(
        self, application: Asgi, address: tuple[str, int], context: ssl.SSLContext, finish_seconds: int = 8
    ) -> None:
        self._socket = _listening(address)
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
        self._server = _Uvicorn(config)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def connections(self) -> Collection[asyncio.Protocol]:
        return self._server.server_state.connections

    async def run(self) -> None:
        """Serve until `stop`; ends when the last review is answered."""
        log.info("serving reviews port=%d paths=%s", self.port, ",".join(_PATHS))
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no more connections, and let `run` end."""
        self._server.should_exit = True


def _listening(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # "::" takes IPv4 too, wherever the system can do that.
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise OSError(f"cannot serve reviews on {host} port {port}: {error}; choose another address") from error
