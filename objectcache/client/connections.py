"""Connections of one process to one cache, kept open between requests."""

import collections
import contextlib
import email.message
import http.client
import os
import select
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from objectcache.client.address import BucketAddress
from objectcache.client.errors import UnreachableError

_MOST_IDLE: Final = 64
_DROPPED: Final = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, http.client.RemoteDisconnected)


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        target: As it is sent.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)  # one holds the token
    body: bytes | bytearray | memoryview | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        headers: By their names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """As many as there are requests at once; a fork's child begins without any.

    No lock is held anywhere, which a fork could leave locked for ever: taking from a deque's end is atomic.
    """

    def __init__(self, address: BucketAddress, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._context: ssl.SSLContext | None = None
        self._idle: tuple[int, collections.deque[http.client.HTTPConnection]] = (0, collections.deque())

    def exchange(self, request: Request) -> Answer:
        """Send it, and read the answer whole.

        It is sent once more if an old connection turns out to be closed by the other side, as servers close idle ones;
        every method here may be repeated (RFC 9110, 9.2.2).

        Raises:
            UnreachableError: There is no answer, or it broke off.
        """
        connection = self._taken()
        try:
            if connection is not None:
                with contextlib.suppress(*_DROPPED):
                    return self._exchanged(connection, request)
            return self._exchanged(self._new(), request)
        except (http.client.HTTPException, OSError) as error:
            said = str(error) or type(error).__name__
            raise UnreachableError(f"{request.method} at {self._address.base_url} brought no answer: {said}") from error

    def close(self) -> None:
        idle = self._mine()
        while idle:
            with contextlib.suppress(IndexError):
                idle.pop().close()

    def __del__(self) -> None:
        # A file system lives as long as fsspec remembers it, and nobody closes one.
        self.close()

    def _mine(self) -> collections.deque[http.client.HTTPConnection]:
        pid = os.getpid()
        owner, idle = self._idle
        if owner != pid:
            # Closing them here only closes this process's descriptors; the parent goes on with its own.
            for connection in list(idle):
                connection.close()
            idle = collections.deque(maxlen=_MOST_IDLE)
            self._idle = (pid, idle)
        return idle

    def _taken(self) -> http.client.HTTPConnection | None:
        idle = self._mine()
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return None
            if connection.sock is not None and not _has_something_to_read(connection.sock.fileno()):
                return connection
            connection.close()

    def _new(self) -> http.client.HTTPConnection:
        host, port, timeout = self._address.host, self._address.port, self._timeout_seconds
        if not self._address.is_tls:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        self._context = self._context or ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context)

    def _exchanged(self, connection: http.client.HTTPConnection, request: Request) -> Answer:
        try:
            response = _response(connection, request)
            _check_end(request, response)
            answer = Answer(response.status, _lower(response.headers), response.read())
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:
            idle = self._mine()
            if len(idle) < _MOST_IDLE:
                idle.append(connection)
            else:
                connection.close()
        return answer


def _response(connection: http.client.HTTPConnection, request: Request) -> http.client.HTTPResponse:
    try:
        connection.request(request.method, request.target, request.body, dict(request.headers))
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses closes without reading the body; what it said mostly still arrives.
        response = connection.getresponse()
        if response.status < 400:
            raise
        return response
    return connection.getresponse()


def _check_end(request: Request, response: http.client.HTTPResponse) -> None:
    if response.length is None and not response.chunked and request.method != "HEAD":
        raise http.client.HTTPException("the end of the answer cannot be told from a broken connection")


def _lower(headers: email.message.Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _has_something_to_read(descriptor: int) -> bool:
    """Where nothing is outstanding that is the end of the connection, or nothing to be trusted."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
