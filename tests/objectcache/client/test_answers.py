"""What answers mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.client.answers import Span, content, page, refused, stat
from objectcache.client.errors import CacheError, RefusedError


@given(st.binary(max_size=20), st.integers(0, 25), st.none() | st.integers(0, 25))
def test_a_server_without_ranges_gives_the_same_part(body: bytes, start: int, more: int | None) -> None:
    end = None if more is None else start + more

    assert content(200, {}, body, Span(start, end)) == body[start:end]


@pytest.mark.parametrize(
    ("span", "content_range", "body"),
    [
        pytest.param(Span(2, 4), "bytes 2-3/10", b"ab", id="as asked"),
        pytest.param(Span(8, 40), "bytes 8-9/10", b"ab", id="up to the end"),
        pytest.param(Span(8), "bytes 8-9/10", b"ab", id="without an end"),
        pytest.param(Span(-2), "bytes 8-9/10", b"ab", id="the last bytes"),
        pytest.param(Span(-20), "bytes 0-1/2", b"ab", id="more last bytes than there are"),
        pytest.param(Span(2, 4), "bytes 2-3/*", b"ab", id="of an unknown total"),
    ],
)
def test_a_part_that_was_asked_for(span: Span, content_range: str, body: bytes) -> None:
    assert content(206, {"content-range": content_range}, body, span) == body


@pytest.mark.parametrize(
    "content_range", ["bytes 3-4/10", "bytes 2-4/10", "bytes 2-2/10", "2-3", "", "bytes 2-3/10, 5-6/10"]
)
def test_a_part_that_was_not_asked_for_is_an_error(content_range: str) -> None:
    with pytest.raises(CacheError):
        content(206, {"content-range": content_range}, b"ab", Span(2, 4))


def test_a_longer_part_up_to_the_end_is_an_error() -> None:
    with pytest.raises(CacheError):
        content(206, {"content-range": "bytes 2-9/10"}, b"23456789", Span(2, 4))


def test_behind_the_end_there_is_nothing_and_no_object_is_none() -> None:
    assert content(416, {}, b"", Span(5, 9)) == b""
    assert content(404, {}, b"", Span()) is None
    with pytest.raises(RefusedError):
        content(416, {}, b"", Span())
    with pytest.raises(RefusedError):
        content(206, {"content-range": "bytes 0-1/2"}, b"ab", Span())


def test_a_refusal_says_status_reason_and_remedy() -> None:
    error = refused("PUT", 413, {"retry-after": "7"}, b"larger\x1b[2J than 1Gi\n")

    assert (error.status, error.retry_seconds) == (413, 7.0)
    assert str(error).startswith("the cache answers 413 to PUT: larger[2J than 1Gi; the object is larger than")


@pytest.mark.parametrize("headers", [{}, {"content-length": "x"}])
def test_a_head_without_a_length_is_an_error(headers: dict[str, str]) -> None:
    with pytest.raises(RefusedError):
        stat(200, headers)


def test_a_list_that_is_none_is_an_error() -> None:
    with pytest.raises(CacheError, match="cannot be read"):
        page(200, {}, b"<html>")
    with pytest.raises(RefusedError):
        page(403, {}, b"")


@pytest.mark.parametrize(("start", "end"), [(5, 4), (-3, 4)])
def test_an_impossible_span(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        Span(start, end)
