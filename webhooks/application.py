"""The application that answers AdmissionReviews, whatever server it runs in."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Final

from tasuki.process.sentences import shown
from webhooks import wire
from webhooks.memo import Decided, Memo
from webhooks.metrics import Metrics
from webhooks.review import CHECKS, MUTATIONS, Stages, review
from webhooks.scene import Scene
from webhooks.world import World

log: Final = logging.getLogger(__name__)

# ASGI, https://asgi.readthedocs.io/en/latest/specs/www.html
AsgiScope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

_LINGER_SECONDS: Final = 2.0

# What is held of bodies for all requests together: whoever reaches the port must not be able to take the memory.
_MOST_HELD_BYTES: Final = 64 * 2**20

_JSON: Final = (b"content-type", b"application/json")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")

PATHS: Final[dict[str, tuple[str, Stages]]] = {
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
        webhook, stages = PATHS.get(scope["path"], ("", ()))
        if not webhook:
            text = f"there is nothing here; try {' or '.join(PATHS)}"
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
    return await _received(receive, held)


async def _received(receive: Receive, held: _Held) -> bytes:
    """All pieces of a body; how long they may take to come is the server's to say."""
    pieces: list[bytes] = []
    size = 0
    try:
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
