import json
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from io import BytesIO

import pytest

from objectcache.wire import answers
from objectcache.wire.head import parse_head

ETAG = b'"000102030405060708090a0b0c0d0e0f"'
NOW = 784_111_777
ENDINGS = answers.endings(NOW)
STAYS = ENDINGS.stays


class Sent:
    """Stands for the socket that http.client reads from."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self.answer)


def read(answer: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """As the client that pfio stands on reads it; header names in lower case."""
    response = HTTPResponse(Sent(answer), method=method)  # type: ignore[arg-type] # all of a socket that it uses
    response.begin()
    headers = response.getheaders()
    assert len({name for name, _ in headers}) == len(headers)
    body = b"" if response.length is None and not response.will_close else response.read()
    return response.status, {name.lower(): value for name, value in headers}, body


def test_an_object_is_announced() -> None:
    assert read(answers.ok(5, ETAG, STAYS) + b"hello") == (
        200,
        {
            "content-type": "application/octet-stream",
            "accept-ranges": "bytes",
            "content-length": "5",
            "etag": ETAG.decode(),
            "date": "Sun, 06 Nov 1994 08:49:37 GMT",
        },
        b"hello",
    )


def test_a_part_says_which_bytes_it_is() -> None:
    status, headers, body = read(answers.part(2, 5, 2**40, ETAG, STAYS) + b"2345")

    assert (status, body) == (206, b"2345")
    assert headers["content-range"] == f"bytes 2-5/{2**40}"
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == ETAG.decode()


def test_what_has_no_body_ends_with_its_head() -> None:
    for answer, status in [
        (answers.not_modified(ETAG, STAYS), 304),
        (answers.created(ETAG, STAYS), 201),
        (answers.removed(STAYS), 204),
    ]:
        found, headers, body = read(answer)
        assert (found, body) == (status, b"")
        assert headers.get("etag", ETAG.decode()) == ETAG.decode()
        assert ("content-length" in headers) == (status == 201)
        assert answer.endswith(b"\r\n\r\n")


def test_an_unsatisfiable_range_tells_the_size() -> None:
    status, headers, body = read(answers.unsatisfiable(10, ETAG, STAYS))

    assert (status, headers["content-range"]) == (416, "bytes */10")
    assert b"10 bytes" in body


def test_a_problem_says_what_is_wrong_in_a_line() -> None:
    answer = answers.problem(507, "the disk is full…", STAYS)

    status, headers, body = read(answer)

    assert answer.startswith(b"HTTP/1.1 507 Insufficient Storage\r\n")
    assert (status, body.decode()) == (507, "the disk is full…\n")
    assert headers["content-type"] == "text/plain; charset=utf-8"


def test_head_gets_no_body_but_its_length() -> None:
    answer = answers.problem(404, "no such object", STAYS, to_head=True)

    assert answer.endswith(b"\r\n\r\n")
    assert read(answer, "HEAD")[1]["content-length"] == "15"


def test_who_has_no_token_is_told_which_is_wanted() -> None:
    assert read(answers.problem(401, "no token", STAYS))[1]["www-authenticate"] == 'Bearer realm="tasuki"'


def test_a_wrong_method_is_told_the_right_ones() -> None:
    answer = answers.problem(405, "POST", STAYS, more=answers.allow("GET", "HEAD"))

    assert read(answer)[1]["allow"] == "GET, HEAD"
    with pytest.raises(ValueError, match="allow"):
        answers.problem(405, "POST", STAYS)


def test_who_comes_too_early_is_told_when() -> None:
    answer = answers.problem(503, "busy", STAYS, more=answers.retry_after(3))

    assert read(answer)[1]["retry-after"] == "3"


def test_json_is_announced() -> None:
    status, headers, body = read(answers.json(b'{"a":1}', ETAG, STAYS))

    assert (status, headers["content-type"], headers["etag"]) == (200, "application/json", ETAG.decode())
    assert json.loads(body) == {"a": 1}
    assert "etag" not in read(answers.json(b"{}", b"", STAYS))[1]
    assert answers.json(b"{}", b"", STAYS, to_head=True).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_head", "closing", "connection"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", False, None, id="1.1 stays without a word"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", True, "close", id="1.1 while we end"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", False, "close", id="1.1 that closes"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", False, "close", id="1.0"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, "keep-alive", id="1.0 that stays"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, "close", id="1.0 while we end"),
    ],
)
def test_the_connection_is_told_of(request_head: bytes, closing: bool, connection: str | None) -> None:
    ending = ENDINGS.of(parse_head(request_head), closing=closing)

    assert read(answers.created(ETAG, ending))[1].get("connection") == connection


def test_every_ending_has_the_date() -> None:
    for ending in (ENDINGS.stays, ENDINGS.stays10, ENDINGS.closes):
        assert parsedate_to_datetime(read(answers.created(ETAG, ending))[1]["date"]).timestamp() == NOW
