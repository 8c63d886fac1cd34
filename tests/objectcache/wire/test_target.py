from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.wire.head import HttpError, parse_head
from objectcache.wire.target import (
    MOST_NAME_BYTES,
    BucketsTarget,
    BucketTarget,
    ObjectTarget,
    SummaryTarget,
    Target,
    object_of,
    read_target,
)


def refusal(target: bytes) -> HttpError:
    with pytest.raises(HttpError) as refused:
        read_target(target)
    return refused.value


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param(b"/v1/objects/bk/o", ObjectTarget("bk", b"o"), id="an object"),
        pytest.param(
            b"/v1/objects/bk/file://tmp/d/a.bin", ObjectTarget("bk", b"file://tmp/d/a.bin"), id="pfio's of a file"
        ),
        pytest.param(b"/v1/objects/bk//a/../b/.", ObjectTarget("bk", b"/a/../b/."), id="slashes and dots"),
        pytest.param(b"/v1/objects/bk/a%2Fb%zz", ObjectTarget("bk", b"a%2Fb%zz"), id="percent signs"),
        pytest.param(b"/v1/objects/bk/a?b=c#d", ObjectTarget("bk", b"a?b=c#d"), id="a query is the name's"),
        pytest.param(b"/v1/objects/bk/?prefix=a", ObjectTarget("bk", b"?prefix=a"), id="a query alone is a name too"),
        pytest.param(b"/v1/objects/bk/\xff", ObjectTarget("bk", b"\xff"), id="bytes beyond ASCII"),
        pytest.param(b"/v1/objects/a.b-0/o", ObjectTarget("a.b-0", b"o"), id="a bucket with a dot and a dash"),
        pytest.param(b"/v1/objects/bk", BucketTarget("bk"), id="a bucket"),
        pytest.param(b"/v1/objects/bk?", BucketTarget("bk"), id="a bucket with an empty query"),
        pytest.param(
            b"/v1/objects/bk?prefix=s3%3a//h%2Fa+b&after=%00%ff&limit=7",
            BucketTarget("bk", b"s3://h/a b", b"\x00\xff", 7), id="a page",
        ),
        pytest.param(b"/v1/objects/bk?&limit=01000&&", BucketTarget("bk", limit=1000), id="a page with empty pairs"),
        pytest.param(b"/v1/objects/bk?prefix=%252F", BucketTarget("bk", b"%2F"), id="decoded once"),
        pytest.param(b"/v1/objects/bk?prefix=a=b?c", BucketTarget("bk", b"a=b?c"), id="only the first = parts"),
        pytest.param(b"/v1/objects", BucketsTarget(), id="buckets"),
        pytest.param(b"/v1/objects/", BucketsTarget(), id="buckets with a slash"),
        pytest.param(b"/v1/summary", SummaryTarget(), id="the summary"),
    ],
)  # fmt: skip
def test_targets(target: bytes, expected: Target) -> None:
    found = read_target(target)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param(b"/", 404, id="the root"),
        pytest.param(b"*", 404, id="the server itself"),
        pytest.param(b"/v1/objectsx", 404, id="a longer word"),
        pytest.param(b"/v1/objects?prefix=a", 404, id="buckets have no query"),
        pytest.param(b"/v1/summary/", 404, id="the summary has no parts"),
        pytest.param(b"/v1//objects/bk/o", 404, id="nothing is normalised"),
        pytest.param(b"/v1/objects/bk/", 400, id="an empty name"),
        pytest.param(b"/v1/objects//o", 400, id="an empty bucket"),
        pytest.param(b"/v1/objects/?prefix=a", 400, id="an empty bucket with a query"),
        pytest.param(b"/v1/objects/Bk/o", 400, id="a capital"),
        pytest.param(b"/v1/objects/-bk/o", 400, id="a dash in front"),
        pytest.param(b"/v1/objects/bk./o", 400, id="a dot behind"),
        pytest.param(b"/v1/objects/../o", 400, id="no bucket but dots"),
        pytest.param(b"/v1/objects/%62k/o", 400, id="an escaped bucket"),
        pytest.param(b"/v1/objects/bk%2Fo", 400, id="an escaped slash"),
        pytest.param(b"/v1/objects/" + b"b" * 64 + b"/o", 400, id="a long bucket"),
        pytest.param(b"/v1/objects/bk/" + b"o" * (MOST_NAME_BYTES + 1), 414, id="a long name"),
        pytest.param(b"/v1/objects/bk?limit=0", 400, id="a page of none"),
        pytest.param(b"/v1/objects/bk?limit=1001", 400, id="a long page"),
        pytest.param(b"/v1/objects/bk?limit=-1", 400, id="a negative limit"),
        pytest.param(b"/v1/objects/bk?limit=", 400, id="an empty limit"),
        pytest.param(b"/v1/objects/bk?limit=%C2%B2", 400, id="a limit not in ASCII"),
        pytest.param(b"/v1/objects/bk?limit=" + b"9" * 9000, 400, id="a limit of 9,000 digits"),
        pytest.param(b"/v1/objects/bk?limit=1&limit=2", 400, id="two limits"),
        pytest.param(b"/v1/objects/bk?prefix=%zz", 400, id="a bad escape"),
        pytest.param(b"/v1/objects/bk?prefix=%2", 400, id="half an escape"),
        pytest.param(b"/v1/objects/bk?Prefix=a/b", 400, id="an unknown parameter"),
    ],
)
def test_what_is_refused(target: bytes, status: int) -> None:
    assert refusal(target).status == status


def test_the_longest_names_are_taken() -> None:
    target = b"/v1/objects/" + b"b" * 63 + b"/" + b"o" * MOST_NAME_BYTES

    assert read_target(target) == ObjectTarget("b" * 63, b"o" * MOST_NAME_BYTES)


@given(st.binary(min_size=1, max_size=100))
def test_a_name_is_what_was_sent(name: bytes) -> None:
    assert read_target(b"/v1/objects/bk/" + name) == ObjectTarget("bk", name)


@given(st.one_of(st.binary(), st.binary().map(b"/v1/objects/".__add__), st.binary().map(b"/v1/objects/bk?".__add__)))
def test_arbitrary_bytes_are_a_target_or_an_http_error(target: bytes) -> None:
    with suppress(HttpError):
        read_target(target)


def step_by_step(line: bytes) -> Target | None:
    try:
        return read_target(parse_head(line + b"\r\nHost: x\r\n\r\n").target)
    except HttpError:
        return None


@given(
    st.lists(
        st.sampled_from(
            [b"GET", b" ", b"/v1/objects/", b"bk", b"-", b".", b"/", b"o", b"%2F", b"?", b"\xff", b"\x00", b"\t", b"\n",
             b"HTTP/1.1", b"HTTP/1.0", b" HTTP/1.1", b"GET /v1/objects/bk/", b"http://x"]
        ), max_size=8,
    ).map(b"".join)
)  # fmt: skip
def test_a_line_read_at_once_means_what_it_means_step_by_step(line: bytes) -> None:
    found = object_of(line)

    assert found is None or found == step_by_step(line)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param(b"GET /v1/objects/bk/file://a?b#%zz\xff HTTP/1.1", True, id="an object"),
        pytest.param(b"GET /v1/objects/bk/" + b"n" * MOST_NAME_BYTES + b" HTTP/1.1", True, id="the longest name"),
        pytest.param(b"GET /v1/objects/bk/" + b"n" * (MOST_NAME_BYTES + 1) + b" HTTP/1.1", False, id="a longer one"),
        pytest.param(b"GET /v1/objects/bk/ HTTP/1.1", False, id="no name"),
        pytest.param(b"GET /v1/objects/-k/o HTTP/1.1", False, id="no bucket"),
        pytest.param(b"GET /v1/objects/bk/o HTTP/1.0", False, id="another version"),
        pytest.param(b"HEAD /v1/objects/bk/o HTTP/1.1", False, id="another method"),
        pytest.param(b"GET /v1/objects/bk/o\x00 HTTP/1.1", False, id="a control character"),
        pytest.param(b"GET /v1/objects/bk/o\nX HTTP/1.1", False, id="another line"),
        pytest.param(b"GET /v1/objects/bk/o HTTP/1.1\n", False, id="an end of line"),
    ],
)
def test_lines_that_are_read_at_once(line: bytes, found: bool) -> None:
    assert (object_of(line) is not None) is found
