"""ttrpc's frames and envelopes, as far as a call needs them that is answered at once.

A frame is a header (length of the payload, stream, type, flags; big-endian) and a payload, which is a protobuf message
(containerd/ttrpc-rust, src/proto.rs and src/ttrpc.proto):

    Request  { service = 1, method = 2, payload = 3, timeout_nano = 4 }
    Response { status = 1: Status { code = 1, message = 2 }, payload = 2 }
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEADER: Final = struct.Struct(">IIBB")
HEADER_BYTES: Final = _HEADER.size

_REQUEST: Final = 1
_RESPONSE: Final = 2

# An envelope around a short message; ttrpc itself allows 4 MiB.
_LARGEST_RESPONSE: Final = 64 * 1024

# google.rpc.Code
OK: Final = 0
INVALID_ARGUMENT: Final = 3
UNIMPLEMENTED: Final = 12

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10


class TtrpcError(ValueError):
    """What came is no answer in ttrpc."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended; an answer without a status has ended well."""

    code: int = OK
    message: str = ""


def request(stream: int, service: str, method: str, payload: bytes, timeout_seconds: float) -> bytes:
    """The frame that makes a call.

    Streams are odd and ascend on a connection. The server is told of the timeout; keeping it is ours.
    """
    body = b"".join(
        (
            field_of(1, service.encode()),
            field_of(2, method.encode()),
            field_of(3, payload),
            field_of(4, int(timeout_seconds * 1e9)),
        )
    )
    return _HEADER.pack(len(body), stream, _REQUEST, 0) + body


def response_bytes(header: bytes, stream: int) -> int:
    """How many bytes of answer follow a header.

    Raises:
        TtrpcError: It is not the header of an answer to this stream.
    """
    length, answered, kind, _flags = _HEADER.unpack(header)
    if kind != _RESPONSE or answered != stream or length > _LARGEST_RESPONSE:
        raise TtrpcError(f"it answers {header!r}, which is no answer in ttrpc")
    return int(length)


def status(payload: bytes) -> Status:
    """How the call ended that is answered with this.

    Raises:
        TtrpcError: It is no protobuf message of the right form.
    """
    code, message = OK, ""
    for number, value in _fields(payload):
        if number == 1 and isinstance(value, bytes):
            for inner, told in _fields(value):
                if inner == 1 and isinstance(told, int):
                    code = told
                elif inner == 2 and isinstance(told, bytes):
                    message = told.decode(errors="replace")
    return Status(code, message)


def field_of(number: int, value: int | bytes) -> bytes:
    """A protobuf field; a number must not be negative."""
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field's number and value."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        if tag & 7 == _VARINT:
            number, position = _read_varint(message, position)
            yield tag >> 3, number
            continue
        if tag & 7 == _BYTES:
            size, position = _read_varint(message, position)
        elif tag & 7 in (_FIXED32, _FIXED64):
            size = 4 if tag & 7 == _FIXED32 else 8
        else:
            raise TtrpcError(f"its answer has a field of the unknown wire type {tag & 7}")
        if position + size > len(message):
            raise TtrpcError("its answer ends within a field")
        yield tag >> 3, message[position : position + size]
        position += size


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(_LONGEST_VARINT):
        if position >= len(message):
            raise TtrpcError("its answer ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position
    raise TtrpcError("its answer has a number of more than 64 bits")
