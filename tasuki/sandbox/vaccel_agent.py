"""A vAccel agent that answers whoever asks whether it is there, and runs nothing.

Served is one method of the sync build, as ttrpc-rust's sync server does it (containerd/ttrpc-rust, src/sync/server.rs,
and nubificus/vaccel-rust, vaccel-rpc-agent/src/agent_service.rs).
"""

import asyncio
import contextlib
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from deviceplugin.discovery import ttrpc
from deviceplugin.discovery.vaccel import METHOD, SERVICES

_HEADER: Final = struct.Struct(">IIBB")
_REQUEST, _RESPONSE = 1, 2
_LARGEST_REQUEST: Final = 4 * 1024 * 1024

# google.rpc.Code
_INTERNAL: Final = 13


class VaccelAgent:
    """Listens at a unix socket, whose folder is made if it is absent; use it as `async with`."""

    def __init__(self, socket: Path) -> None:
        self.socket: Final = socket
        self._server: asyncio.Server | None = None
        self._connections: Final[set[asyncio.StreamWriter]] = set()

    async def __aenter__(self) -> Self:
        self.socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.socket)
        # As an agent that is started with umask 0: containers' users must be able to write.
        self.socket.chmod(0o777)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.close()
            self.socket.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other, until the client hangs up or says what is no request."""
        self._connections.add(writer)
        try:
            while True:
                length, stream, kind, _flags = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                if kind != _REQUEST or length > _LARGEST_REQUEST:
                    break
                answer = answered(await reader.readexactly(length))
                writer.write(_HEADER.pack(len(answer), stream, _RESPONSE, 0) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, DecodeError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def answered(request: bytes) -> bytes:
    """The body of the answer to a request's.

    Raises:
        DecodeError: It is no protobuf message.
    """
    asked = _fields(request)
    service, method = (_content(asked, number).decode(errors="replace") for number in (1, 2))
    if (service, method) != (SERVICES[0], METHOD):
        return _status(ttrpc.INVALID_ARGUMENT, f"/{service}/{method} does not exist")
    session = _fields(_content(asked, 3)).get(1, 0)
    if not isinstance(session, int) or not 0 < session < 2**63:
        return _status(_INTERNAL, "Invalid ID")
    return b""


def _status(code: int, message: str) -> bytes:
    return ttrpc.field_of(1, ttrpc.field_of(1, code) + ttrpc.field_of(2, message.encode()))


def _content(fields: dict[int, Any], number: int) -> bytes:
    found = fields.get(number)
    return found if isinstance(found, bytes) else b""


def _fields(message: bytes) -> dict[int, Any]:
    """Each field's value by its number; the last one counts."""
    parsed = Empty()
    parsed.ParseFromString(message)
    unknown = UnknownFieldSet(parsed)
    found = (unknown[position] for position in range(len(unknown)))
    return {field.field_number: field.data for field in found}
