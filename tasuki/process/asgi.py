"""What our ASGI applications share: reading bodies that are bounded, and answers of one piece."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from tasuki.process.sentences import shown

log: Final = logging.getLogger(__name__)

# ASGI, https://asgi.readthedocs.io/en/latest/specs/www.html
AsgiScope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

JSON: Final = b"application/json"
TEXT: Final = b"text/plain; charset=utf-8"

_LINGER_SECONDS: Final = 2.0


class RequestError(Exception):
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


class Bodies:
    """Reads the bodies of an application's requests, each of them bounded, and all of them together.

    Args:
        content: What is to be sent, for the sentences that refuse something else.
        most_bytes: Of one body.
        most_held_bytes: Of all bodies that wait for their end: whoever reaches the port must not be able to take the
            memory.
        advice: What to do about a body that is too large; empty if there is nothing.
    """

    def __init__(self, content: str, most_bytes: int, most_held_bytes: int, advice: str = "") -> None:
        self._content: Final = content
        self._most_bytes: Final = most_bytes
        self._most_held_bytes: Final = most_held_bytes
        self._advice: Final = f"; {advice}" if advice else ""
        self._held_bytes = 0

    async def read(self, scope: AsgiScope, receive: Receive) -> bytes:
        """The whole body of a POST of JSON.

        Raises:
            RequestError: It is none, or it is too large.
        """
        if scope["method"] != "POST":
            text = f"{scope['method']} is not answered; send {self._content} by POST"
            raise RequestError(405, text, unread=True)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != JSON:
            text = f"the content type is {shown(kind.decode('latin-1'))}; it must be application/json"
            raise RequestError(415, text, unread=True)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._most_bytes:
            raise self._too_large(int(length))
        return await self._received(receive)

    async def _received(self, receive: Receive) -> bytes:
        """All pieces of a body; how long they may take to come is the server's to say."""
        pieces: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "the connection ended within the body")
                piece: bytes = message.get("body", b"")
                size += len(piece)
                self._held_bytes += len(piece)
                if size > self._most_bytes:
                    raise self._too_large(size)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces) if len(pieces) > 1 else piece
                if self._held_bytes > self._most_held_bytes:
                    raise RequestError(503, "too many large requests at once; try again", "too-large", unread=True)
        finally:
            self._held_bytes -= size

    def _too_large(self, size: int) -> RequestError:
        text = f"the body is {size} bytes or more; at most {self._most_bytes} are read{self._advice}"
        return RequestError(413, text, "too-large", unread=True)


async def reply(send: Send, body: bytes, kind: bytes = JSON, status: int = 200) -> None:
    """Answer in one piece; the connection is kept."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def reply_and_close(
    send: Send, body: bytes, kind: bytes = JSON, status: int = 200, unread: Receive | None = None
) -> None:
    """Answer in one piece and keep the connection no longer; `unread` is where the rest of a request comes from."""
    headers = [(b"content-type", kind), (b"connection", b"close"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if unread is not None:
        await _let_finish(unread)
    await send({"type": "http.response.body", "body": b""})


async def refuse(scope: AsgiScope, receive: Receive, send: Send, error: RequestError) -> None:
    log.warning("request refused path=%s status=%d reason=%r", shown(scope["path"]), error.status, str(error))
    unread = receive if error.unread else None
    await reply_and_close(send, f"{error}\n".encode(), TEXT, error.status, unread)


async def _let_finish(receive: Receive) -> None:
    """Pass over what is still being sent: closing before would reset the connection, and the answer with it.

    See RFC 9112, section 9.6.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
