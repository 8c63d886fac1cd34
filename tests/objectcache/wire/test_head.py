import re
from contextlib import suppress
from dataclasses import dataclass

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from objectcache.wire.head import Head, HttpError, parse_head, start_of_head

PFIO = (
    b"GET /v1/objects/bk/file://tmp/d/a.bin HTTP/1.1\r\n"
    b"Host: 127.0.0.1:35967\r\n"
    b"Accept-Encoding: identity\r\n"
    b"Authorization: Bearer tokA\r\n"
    b"\r\n"
)


def head(*lines: str, line: str = "PUT /v1/objects/bk/o HTTP/1.1", host: str = "Host: h") -> bytes:
    every = [line, host, *lines] if host else [line, *lines]
    return "".join(f"{each}\r\n" for each in [*every, ""]).encode("latin-1")


def refusal(text: bytes) -> HttpError:
    with pytest.raises(HttpError) as refused:
        parse_head(text)
    return refused.value


def test_a_pfio_client_is_understood() -> None:
    read = parse_head(PFIO)

    assert (read.method, read.target, read.token) == (b"GET", b"/v1/objects/bk/file://tmp/d/a.bin", b"tokA")
    assert (read.content_length, read.chunked, read.keep_alive, read.version10) == (-1, False, True, False)


def test_every_field_is_read_whatever_the_case_of_its_name() -> None:
    fields = {
        "authorization": "bearer tok",
        "content-length": "12",
        "expect": "100-Continue",
        "connection": "keep-alive, Close",
        "range": "bytes=0-1",
        "if-range": '"a"',
        "if-match": '"b"',
        "if-none-match": "*",
        "content-md5": "m",
        "content-digest": "d",
        "content-encoding": "identity",
        "tasuki-pinned": "true",
    }
    text = head(*(f"{name}: {value} " for name, value in fields.items()))
    expected = Head(
        method=b"PUT", target=b"/v1/objects/bk/o", lines=b"", keep_alive=False, token=b"tok", content_length=12,
        expects_continue=True, range=b"bytes=0-1", if_range=b'"a"', if_match=b'"b"', if_none_match=b"*",
        content_md5=b"m", content_digest=b"d", pinned=True,
    )  # fmt: skip

    for spelt in (str, str.title, str.upper):
        lines = [f"{spelt(name)}:\t{value} " for name, value in fields.items()]
        assert without_lines(parse_head(head(*lines))) == expected
    assert without_lines(parse_head(text)) == expected


def without_lines(read: Head) -> Head:
    return Head(**{name: getattr(read, name) for name in Head.__struct_fields__} | {"lines": b""})


@pytest.mark.parametrize(
    ("line", "lines", "keep_alive"),
    [
        pytest.param("GET / HTTP/1.1", [], True, id="1.1 stays"),
        pytest.param("GET / HTTP/1.1", ["Connection: close"], False, id="1.1 that closes"),
        pytest.param("GET / HTTP/1.1", ["Connection: TE", "Connection: Close"], False, id="1.1 that closes, in a list"),
        pytest.param("GET / HTTP/1.1", ["Connection: closed"], True, id="1.1 with an option of another name"),
        pytest.param("GET / HTTP/1.0", [], False, id="1.0 closes"),
        pytest.param("GET / HTTP/1.0", ["Connection: Keep-Alive"], True, id="1.0 that asks to stay"),
        pytest.param("GET / HTTP/1.0", ["Connection: keep-alive, close"], False, id="1.0 that says both"),
    ],
)
def test_a_connection_stays_as_the_client_asks(line: str, lines: list[str], keep_alive: bool) -> None:
    assert parse_head(head(*lines, line=line)).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a//b/../c?d#e", "/a//b/../c?d#e"),
        ("/%2F%00\xff", "/%2F%00\xff"),
        ("http://h:80/a?b", "/a?b"),
        ("HTTPS://h/a", "/a"),
        ("http://h", "/"),
        ("http://h?a=/b", "/?a=/b"),
    ],
)
def test_a_target_stays_as_sent_without_scheme_and_host(target: str, path: str) -> None:
    assert parse_head(head(line=f"GET {target} HTTP/1.1")).target == path.encode("latin-1")


def test_options_may_ask_for_the_server_itself() -> None:
    assert parse_head(head(line="OPTIONS * HTTP/1.1")).target == b"*"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b"\r\n", 400, id="no request line"),
        pytest.param(b"\r\n\r\n", 400, id="an empty request line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\n", 400, id="no empty line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nX: y\r\n\r\n", 400, id="an empty line in the middle"),
        pytest.param(b"GET / HTTP/1.1\nHost: h\n\n", 400, id="lines that end in LF alone"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400, id="a line that ends in LF alone"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 400, id="a lone CR"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\rX: y\nZ: z\r\n\r\n", 400, id="a lone CR, then a lone LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\n\x01X: y\r\n\r\n", 400, id="a lone LF, then a control character"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\nX: y\0\r\n\r\n", 400, id="NUL in a value"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\nX\0: y\r\n\r\n", 400, id="NUL in a name"),
        pytest.param(head(line="GET /\x01 HTTP/1.1"), 400, id="a control character in the target"),
        pytest.param(head(line="GET /\t HTTP/1.1"), 400, id="a tab in the target"),
        pytest.param(head(line="GET /\x7f HTTP/1.1"), 400, id="DEL in the target"),
        pytest.param(head(line="GET\t/\tHTTP/1.1"), 400, id="tabs for spaces"),
        pytest.param(head(line="GET  / HTTP/1.1"), 400, id="two spaces"),
        pytest.param(head(line="GET / HTTP/1.1 "), 400, id="a space at the end"),
        pytest.param(head(line=" / HTTP/1.1"), 400, id="no method"),
        pytest.param(head(line="G(T / HTTP/1.1"), 400, id="a method that is no token"),
        pytest.param(head(line="GET  HTTP/1.1"), 400, id="an empty target"),
        pytest.param(head(line="GET a HTTP/1.1"), 400, id="a target without slash"),
        pytest.param(head(line="GET * HTTP/1.1"), 400, id="GET of the server itself"),
        pytest.param(head(line="CONNECT h:80 HTTP/1.1"), 400, id="a proxy's request"),
        pytest.param(head(line="GET http:///a HTTP/1.1"), 400, id="a URL without host"),
        pytest.param(head(line="GET http://user@h/a HTTP/1.1"), 400, id="a URL with a user"),
        pytest.param(head(line="GET ftp://h/a HTTP/1.1"), 400, id="a URL of another scheme"),
        pytest.param(head(line="GET / http/1.1"), 400, id="a version in lower case"),
        pytest.param(head(line="GET / HTTP/1.10"), 400, id="a version of three digits"),
        pytest.param(head(line="GET /"), 505, id="HTTP/0.9"),
        pytest.param(head(line="GET / HTTP/0.9"), 505, id="HTTP/0.9 by name"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\n", 400, id="HTTP/2's preface"),
        pytest.param(head(line="GET / HTTP/2.0"), 505, id="HTTP/2.0"),
        pytest.param(head(line="GET / HTTP/1.2"), 505, id="HTTP/1.2"),
        pytest.param(head(host=""), 400, id="no Host"),
        pytest.param(head("Host: h"), 400, id="two hosts"),
        pytest.param(head(host="Host: a b"), 400, id="a host with a space"),
        pytest.param(head(host="Host: http://h/"), 400, id="a URL for a host"),
        pytest.param(head("Authorization: Bearer a", "authorization: Bearer b"), 400, id="two tokens"),
        pytest.param(head("Authorization: Bearer \xe9"), 400, id="a token that is not ASCII"),
        pytest.param(head("X: a", " b"), 400, id="a value that goes on in the next line"),
        pytest.param(head("X: a", "\tb: c"), 400, id="a value that goes on, with a colon"),
        pytest.param(head("X : a"), 400, id="a space before the colon"),
        pytest.param(head("Content-Length : 1"), 400, id="a space before the colon of a length"),
        pytest.param(head("Transfer-Encoding\t: chunked"), 400, id="a tab before the colon"),
        pytest.param(head(": a"), 400, id="no name"),
        pytest.param(head("X"), 400, id="no colon"),
        pytest.param(head("Host"), 400, id="a known name without colon"),
        pytest.param(head("X\xe9: a"), 400, id="a name that is not ASCII"),
        pytest.param(head("Content-Length: 1", "Transfer-Encoding: chunked"), 400, id="a length, and chunks"),
        pytest.param(head("Content-Length: 1", "Content-Length: 2"), 400, id="two lengths"),
        pytest.param(head("Content-Length: 1", "content-length: 1"), 400, id="the same length twice"),
        pytest.param(head("Content-Length: 1, 1"), 400, id="a list of lengths"),
        pytest.param(head("Content-Length:"), 400, id="an empty length"),
        pytest.param(head("Content-Length: +1"), 400, id="a length with a sign"),
        pytest.param(head("Content-Length: -1"), 400, id="a negative length"),
        pytest.param(head("Content-Length: 0x1"), 400, id="a length in hex"),
        pytest.param(head("Content-Length: 1_0"), 400, id="a length with an underscore"),
        pytest.param(head("Content-Length: \xb2"), 400, id="a digit that is not ASCII"),
        pytest.param(head("Content-Length: 9223372036854775808"), 413, id="a length of more than 63 bits"),
        pytest.param(head("Content-Length: " + "9" * 9000), 413, id="a length of 9,000 digits"),
        pytest.param(head("Transfer-Encoding: gzip, chunked"), 501, id="compressed chunks"),
        pytest.param(head("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), 501, id="two encodings"),
        pytest.param(head("Transfer-Encoding: \x0bchunked"), 400, id="an encoding behind a control character"),
        pytest.param(head("Transfer-Encoding: xchunked"), 501, id="an unknown encoding"),
        pytest.param(head("Transfer-Encoding:"), 501, id="an empty encoding"),
        pytest.param(head("Transfer-Encoding: chunked", line="PUT / HTTP/1.0"), 400, id="chunks in HTTP/1.0"),
        pytest.param(head("Expect: 200-ok"), 417, id="an unknown expectation"),
        pytest.param(head("Content-Range: bytes 0-1/2"), 400, id="a PUT of a part"),
        pytest.param(head("Content-Encoding: gzip"), 415, id="a PUT in a coding that GET would not name"),
        pytest.param(head("Tasuki-Pinned: yes"), 400, id="pinned in another word"),
        pytest.param(head("If-Match:"), 400, id="an empty condition"),
        pytest.param(head("Content-MD5:"), 400, id="an empty digest"),
        pytest.param(head("Range: bytes=0-1", "Range: bytes=2-3"), 400, id="two ranges"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(text: bytes, status: int) -> None:
    assert refusal(text).status == status


def test_the_longest_length_is_that_of_a_file_offset() -> None:
    assert parse_head(head("Content-Length: 0009223372036854775807")).content_length == 2**63 - 1
    assert parse_head(head("Content-Length: 0")).content_length == 0


def test_chunks_are_seen() -> None:
    read = parse_head(head("Transfer-Encoding: Chunked"))

    assert (read.chunked, read.content_length) == (True, -1)


def test_a_client_of_http_10_is_not_told_to_go_on_and_needs_no_host() -> None:
    assert not parse_head(head("Expect: 100-continue", line="PUT / HTTP/1.0", host="")).expects_continue


def test_lists_in_several_lines_are_one_list() -> None:
    assert parse_head(head('If-Match: "a"', 'if-match: "b"')).if_match == b'"a", "b"'


def test_another_scheme_than_bearer_is_no_token() -> None:
    assert parse_head(head("Authorization: Basic dXNlcg==")).token == b""
    assert parse_head(head("Authorization: Bearer")).token == b""
    assert parse_head(head("Authorization:")).token == b""


@pytest.mark.parametrize("host", ["h:8080", "[::1]:80", "127.0.0.1", "", "a_b.example."])
def test_hosts_may_be_names_and_addresses(host: str) -> None:
    assert parse_head(head(host=f"Host: {host}")).method == b"PUT"


def test_a_token_is_never_shown() -> None:
    read = parse_head(PFIO)

    assert "tokA" not in repr(read) + str(read)
    assert "s3cret" not in str(refusal(head(line="GET http://user:s3cret@h/ HTTP/1.1")))
    for line in ("Authorization: Bearer s3cret\xe9", "Authorization Bearer s3cret", "Authorization : Bearer s3cret"):
        error = refusal(head(line))
        assert "s3cret" not in f"{error} {error!r}"


def test_error_texts_name_the_value_and_stay_short() -> None:
    text = refusal(head("Content-Length: " + "x" * 9000)).text

    assert "Content-Length is 'xxx" in text
    assert len(text) < 200


def test_the_same_lines_are_not_read_twice() -> None:
    before = parse_head(PFIO)
    other = PFIO.replace(b"a.bin", b"b.bin")

    after = parse_head(other, before)

    assert after == parse_head(other)
    assert after.token is before.token


def test_the_same_token_among_other_lines_is_the_same_object() -> None:
    before = parse_head(PFIO)
    other = PFIO.replace(b"\r\n\r\n", b"\r\nRange: bytes=0-9\r\n\r\n")

    assert parse_head(other, before).token is before.token
    assert parse_head(other, before) == parse_head(other)
    assert parse_head(PFIO.replace(b"tokA", b"tokB"), before).token == b"tokB"


def test_lines_of_another_version_are_read_again() -> None:
    before = parse_head(PFIO)
    other = PFIO.replace(b"HTTP/1.1", b"HTTP/1.0")

    assert parse_head(other, before) == parse_head(other)
    assert not parse_head(other, before).keep_alive


@pytest.mark.parametrize(
    ("buffer", "start", "expected"),
    [
        (b"GET", 0, 0),
        (b"\r\nGET", 0, 2),
        (b"bodyGET", 4, 4),
        (b"body\r\n\r\nGET", 4, 8),
        (b"body\r\n", 4, 6),
        (b"body\r", 4, 4),
        (b"body\nGET", 4, 4),
    ],
)
def test_empty_lines_before_a_head_are_passed_over(buffer: bytes, start: int, expected: int) -> None:
    assert start_of_head(buffer, start) == start_of_head(bytearray(buffer), start) == expected


@given(st.binary())
@example(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
def test_arbitrary_bytes_are_a_head_or_an_http_error(text: bytes) -> None:
    with suppress(HttpError):
        parse_head(text)


# Of what readers have disagreed about.
LINES = (
    "Content-Length: 3", "content-length: 03", "Content-Length:0", "Content-Length: +3", "Content-Length: 3, 3",
    "Transfer-Encoding: chunked", "transfer-encoding:\tChunked ", "Transfer-Encoding: identity", "TRANSFER-ENCODING: x",
    "Connection: close", "Connection: keep-alive", "connection: x, Close", "Host: g", "X: y", "X:", "Y: z",
    "Expect: 100-continue",
)  # fmt: skip
FAULTS = (" ", "\t", "\x0b", "\x00", "\r", "\n", "\r\n", "\x7f", "\xa0", ":", ",", "0", "\r\n ")


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Requests of such lines, most with a fault or two."""
    lines = draw(st.lists(st.sampled_from(LINES), max_size=3))
    text = head(*lines, line=f"PUT /o HTTP/1.{draw(st.sampled_from('110'))}").decode("latin-1")
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(text) - 4))
        text = text[:at] + draw(st.sampled_from(FAULTS)) + text[at:]
    return text.encode("latin-1")


@dataclass
class Other:
    """What another parser (llhttp) sees: requests in a stream."""

    targets: list[bytes]
    bodies: list[bytes]

    def on_message_begin(self) -> None:
        self.targets.append(b"")
        self.bodies.append(b"")

    def on_url(self, url: bytes) -> None:
        self.targets[-1] += url

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body


@settings(max_examples=400)
@given(heads())
@example(head("Content-Length: 3"))
@example(head("Transfer-Encoding: chunked"))
@example(head("Transfer-Encoding: chunked", "Connection: close"))
def test_another_parser_sees_the_same_requests_in_what_both_accept(text: bytes) -> None:
    try:
        read = parse_head(text)
    except HttpError:
        return
    body = b"3\r\nabc\r\n0\r\n\r\n" if read.chunked else b"abc"[: max(0, read.content_length)]
    other = Other([], [])
    parser = httptools.HttpRequestParser(other)

    try:
        parser.feed_data(text)
    except httptools.HttpParserError:
        # Stricter still, as about methods that it does not know.
        assert len(other.targets) <= 1
        return
    parser.feed_data(body)
    if read.keep_alive:
        parser.feed_data(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")

    assert other.targets == ([read.target, b"/next"] if read.keep_alive else [read.target])
    assert other.bodies[0] == (b"abc" if read.chunked else body)


@given(
    st.sampled_from([b"GET", b"HEAD", b"PUT", b"DELETE", b"BREW"]),
    st.binary(max_size=40).map(lambda tail: re.sub(rb"[\x00-\x20\x7f]", b"-", tail)),
    st.lists(st.sampled_from(["accept: */*", "X-Thing:", "Cookie: a=b:c", "traceparent: 00"]), max_size=5),
)
def test_what_was_sent_comes_back(method: bytes, tail: bytes, lines: list[str]) -> None:
    line = f"{method.decode()} /{tail.decode('latin-1')} HTTP/1.1"

    read = parse_head(head(*lines, line=line))

    assert (read.method, read.target) == (method, b"/" + tail)
