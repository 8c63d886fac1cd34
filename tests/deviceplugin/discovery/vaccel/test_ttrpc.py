import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.discovery import ttrpc
from tests.deviceplugin.discovery.vaccel.agents import MESSAGES, frame, response


def test_a_request_is_what_protobuf_reads() -> None:
    sent = ttrpc.request(3, "a.Service", "Method", ttrpc.field_of(1, 2**63 - 1), 2.0)

    length, stream, kind, flags = struct.unpack(">IIBB", sent[:10])
    request = MESSAGES["Request"].FromString(sent[10:])
    assert (length, stream, kind, flags) == (len(sent) - 10, 3, 1, 0)
    assert (request.service, request.method, request.timeout_nano) == ("a.Service", "Method", 2_000_000_000)
    assert MESSAGES["GetProfiler"].FromString(request.payload).session_id == 2**63 - 1


@given(
    code=st.integers(0, 2**31 - 1),
    message=st.text(max_size=300),
    payload=st.binary(max_size=300),
)
def test_a_status_is_what_protobuf_wrote(code: int, message: str, payload: bytes) -> None:
    written = frame(1, response(code, message, payload))

    assert ttrpc.response_bytes(written[:10], 1) == len(written) - 10
    assert ttrpc.status(written[10:]) == ttrpc.Status(code, message)


@given(st.binary(max_size=200))
def test_anything_else_is_an_error_and_nothing_worse(received: bytes) -> None:
    try:
        found = ttrpc.status(received)
    except ttrpc.TtrpcError:
        return

    assert isinstance(found, ttrpc.Status)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"HTTP/1.1 4", id="HTTP"),
        pytest.param(struct.pack(">IIBB", 4, 1, 1, 0), id="a request"),
        pytest.param(struct.pack(">IIBB", 4, 3, 2, 0), id="an answer to another stream"),
        pytest.param(struct.pack(">IIBB", 2**30, 1, 2, 0), id="an answer far too large"),
    ],
)
def test_a_header_must_be_of_the_answer(header: bytes) -> None:
    with pytest.raises(ttrpc.TtrpcError, match="no answer in ttrpc"):
        ttrpc.response_bytes(header, 1)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        pytest.param(b"\x0a\x05ab", "ends within a field", id="a field that is cut off"),
        pytest.param(b"\x80", "ends within a number", id="a number that is cut off"),
        pytest.param(b"\xff" * 11, "more than 64 bits", id="an endless number"),
        pytest.param(b"\x0b", "wire type 3", id="a group"),
    ],
)
def test_a_broken_answer_is_told_as_such(payload: bytes, problem: str) -> None:
    with pytest.raises(ttrpc.TtrpcError, match=problem):
        ttrpc.status(payload)


def test_unknown_fields_are_passed_over() -> None:
    unknown = b"\x1d\x01\x02\x03\x04" + b"\x21" + bytes(8) + b"\x28\x07"

    assert ttrpc.status(unknown + response(5, "no").SerializeToString()) == ttrpc.Status(5, "no")
