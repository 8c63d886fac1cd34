from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.wire.chunked import MOST_LINE_BYTES, MOST_TRAILER_BYTES, ChunkedBody
from objectcache.wire.head import HttpError


def fed(*pieces: bytes) -> tuple[bytes, ChunkedBody]:
    body = ChunkedBody()
    return b"".join(bytes(part) for piece in pieces for part in body.feed(piece)), body


def split(text: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


def sizes(chunk: bytes) -> st.SearchStrategy[bytes]:
    """A chunk with its size as clients write it."""
    return st.tuples(
        st.sampled_from([b"%x", b"%X", b"0%x", b"0000%X"]), st.sampled_from([b"", b";a", b" ;a=b;c=\xff"])
    ).map(lambda form: form[0] % len(chunk) + form[1] + b"\r\n" + chunk + b"\r\n")


chunks = st.lists(st.binary(min_size=1, max_size=50), max_size=6)


@given(
    st.data(),
    chunks,
    st.sampled_from([b"", b"A: b\r\n", b"Digest: x\r\nB:\r\n"]),
    st.binary(max_size=20),
    st.lists(st.integers(0, 2000), max_size=12),
)
def test_however_it_is_cut_the_body_comes_back(
    data: st.DataObject, parts: list[bytes], trailer: bytes, next_request: bytes, cuts: list[int]
) -> None:
    whole = b"".join(data.draw(sizes(part)) for part in parts) + b"0\r\n" + trailer + b"\r\n"
    pieces = split(whole + next_request, cuts)
    body = ChunkedBody()
    received = b""

    while not body.finished:
        received += b"".join(map(bytes, body.feed(pieces.pop(0))))

    assert received == b"".join(parts)
    assert body.leftover + b"".join(pieces) == next_request


def test_every_byte_may_come_alone() -> None:
    text = b"3;x\r\nabc\r\n0B\r\nhello world\r\n0\r\nA: b\r\n\r\n"

    received, body = fed(*(bytes([each]) for each in text))

    assert (received, body.finished, body.leftover) == (b"abchello world", True, b"")


def test_what_follows_is_left_over() -> None:
    received, body = fed(b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n")

    assert (received, body.leftover) == (b"a", b"GET / HTTP/1.1\r\n")


def test_pieces_are_views_of_what_was_received() -> None:
    received = bytearray(b"5\r\nhello\r\n5\r\nwor")
    first, second = ChunkedBody().feed(memoryview(received))

    assert first.obj is received
    assert (bytes(first), bytes(second)) == (b"hello", b"wor")


def test_an_unfinished_body_is_not_finished() -> None:
    whole = b"3\r\nabc\r\n0\r\n\r\n"

    assert [fed(whole[:length])[1].finished for length in range(len(whole) + 1)] == [False] * len(whole) + [True]


def test_a_finished_body_takes_nothing_more() -> None:
    _, body = fed(b"0\r\n\r\n")

    with pytest.raises(ValueError, match="finished"):
        body.feed(b"x")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"\r\n", id="no size"),
        pytest.param(b"g\r\n", id="no hex"),
        pytest.param(b"-1\r\n", id="a negative size"),
        pytest.param(b"+1\r\na\r\n", id="a sign"),
        pytest.param(b"0x1\r\na\r\n", id="a prefix"),
        pytest.param(b"1_0\r\n", id="an underscore"),
        pytest.param(b" 1\r\na\r\n", id="a space before"),
        pytest.param(b"1 \r\na\r\n", id="a space behind"),
        pytest.param(b"1\na\r\n", id="a size that ends in LF alone"),
        pytest.param(b"1\ra\r\n", id="a size that ends in CR alone"),
        pytest.param(b"1\r\r\na\r\n", id="CR twice"),
        pytest.param(b"1;a\nb\r\na\r\n", id="an extension with LF"),
        pytest.param(b"1;a\rb\r\na\r\n", id="an extension with CR"),
        pytest.param(b"1;\0\r\na\r\n", id="an extension with NUL"),
        pytest.param(b"1000000000000000\r\n", id="sixteen digits"),
        pytest.param(b"0000000000000001\r\na\r\n", id="sixteen digits with zeros"),
        pytest.param(b"1\r\nab\r\n", id="a chunk that is too long"),
        pytest.param(b"1\r\na\n0\r\n\r\n", id="a chunk that ends in LF alone"),
        pytest.param(b"1\r\na0\r\n\r\n", id="a chunk that ends in nothing"),
        pytest.param(b"0\r\nA\r\n\r\n", id="a trailer without colon"),
        pytest.param(b"0\r\nA : b\r\n\r\n", id="a trailer with a space before its colon"),
        pytest.param(b"0\r\nA: b\r\n c\r\n\r\n", id="a trailer that goes on in a second line"),
        pytest.param(b"0\r\n\n", id="an end in LF alone"),
        pytest.param(b"1;" + b"a" * MOST_LINE_BYTES, id="an endless extension"),
        pytest.param(b"0\r\nA: " + b"a" * MOST_LINE_BYTES, id="an endless trailer line"),
        pytest.param(b"0\r\n" + b"A: b\r\n" * (MOST_TRAILER_BYTES // 6 + 1), id="an endless trailer"),
    ],
)
def test_what_is_not_in_chunks_is_refused(text: bytes) -> None:
    with pytest.raises(HttpError) as refused:
        fed(text)

    assert refused.value.status == 400
    with pytest.raises(HttpError):
        fed(*(bytes([each]) for each in text))


def test_lines_may_be_as_long_as_said() -> None:
    extension = b"1;" + b"a" * (MOST_LINE_BYTES - 4) + b"\r\n"
    trailer = (b"A: " + b"b" * 1019 + b"\r\n") * (MOST_TRAILER_BYTES // 1024)

    received, body = fed(extension + b"x\r\n0\r\n" + trailer + b"\r\n")

    assert (received, body.finished) == (b"x", True)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_arbitrary_bytes_are_chunks_or_an_http_error(pieces: list[bytes]) -> None:
    body = ChunkedBody()

    with suppress(HttpError):
        for piece in pieces:
            if not body.finished:
                body.feed(piece)
