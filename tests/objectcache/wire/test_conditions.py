import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.wire.conditions import (
    CHECKSUM_BYTES,
    Outcome,
    Part,
    PutConditions,
    answer_for,
    checksum,
    etag,
    put_conditions,
    remove_conditions,
)
from objectcache.wire.head import Head, HttpError

SUM = bytes(range(16))
ETAG = b'"000102030405060708090a0b0c0d0e0f"'
OTHER = b'"ff0102030405060708090a0b0c0d0e0f"'
WEAK = b"W/" + ETAG

WHOLE = Outcome.WHOLE
NOT_MODIFIED = Outcome.NOT_MODIFIED
FAILED = Outcome.PRECONDITION_FAILED
UNSATISFIABLE = Outcome.UNSATISFIABLE


def request(method: bytes = b"GET", **fields: bytes) -> Head:
    return Head(method=method, target=b"/", lines=b"", **fields)  # type: ignore[arg-type] # the tests' names are right


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, WHOLE, id="nothing asked"),
        pytest.param({"if_match": ETAG}, WHOLE, id="if this one, and it is"),
        pytest.param({"if_match": b"*"}, WHOLE, id="if any"),
        pytest.param({"if_match": OTHER + b" ,, " + ETAG}, WHOLE, id="if one of two, and it is"),
        pytest.param({"if_match": OTHER}, FAILED, id="if another"),
        pytest.param({"if_match": WEAK}, FAILED, id="if weakly this one: never a strong match"),
        pytest.param({"if_match": ETAG[1:-1]}, FAILED, id="if malformed"),
        pytest.param({"if_match": ETAG + b" " + OTHER}, FAILED, id="if malformed behind the right one"),
        pytest.param({"if_none_match": ETAG}, NOT_MODIFIED, id="unless this one, and it is"),
        pytest.param({"if_none_match": WEAK}, NOT_MODIFIED, id="unless weakly this one"),
        pytest.param({"if_none_match": b"*"}, NOT_MODIFIED, id="unless any"),
        pytest.param({"if_none_match": b'"a,b", ' + WEAK}, NOT_MODIFIED, id="unless one of two"),
        pytest.param({"if_none_match": OTHER}, WHOLE, id="unless another"),
        pytest.param({"if_none_match": b'"'}, WHOLE, id="unless malformed"),
        pytest.param({"if_match": OTHER, "if_none_match": ETAG}, FAILED, id="If-Match goes first"),
        pytest.param({"if_match": ETAG, "if_none_match": ETAG}, NOT_MODIFIED, id="If-None-Match is still looked at"),
        pytest.param({"if_none_match": ETAG, "range": b"bytes=99-"}, NOT_MODIFIED, id="before the range"),
        pytest.param({"if_range": OTHER}, WHOLE, id="If-Range without range"),
    ],
)
def test_conditions_go_in_the_rfcs_order(method: bytes, fields: dict[str, bytes], expected: Outcome) -> None:
    assert answer_for(request(method, **fields), ETAG, 10) is expected


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [
        pytest.param(b"bytes=0-0", 10, Part(0, 0), id="the first byte"),
        pytest.param(b"bytes=2-5", 10, Part(2, 5), id="some"),
        pytest.param(b"Bytes=2-5", 10, Part(2, 5), id="in another spelling"),
        pytest.param(b"bytes=2-", 10, Part(2, 9), id="from there on"),
        pytest.param(b"bytes=2-99", 10, Part(2, 9), id="beyond the end"),
        pytest.param(b"bytes=0-18446744073709551616", 10, Part(0, 9), id="beyond 64 bits"),
        pytest.param(b"bytes=-3", 10, Part(7, 9), id="the last three"),
        pytest.param(b"bytes=-99", 10, Part(0, 9), id="the last of more than all"),
        pytest.param(b"bytes=10-", 10, UNSATISFIABLE, id="behind the end"),
        pytest.param(b"bytes=10-12", 10, UNSATISFIABLE, id="all behind the end"),
        pytest.param(b"bytes=-0", 10, UNSATISFIABLE, id="the last none"),
        pytest.param(b"bytes=0-", 0, UNSATISFIABLE, id="any of an empty object"),
        pytest.param(b"bytes=-0", 0, UNSATISFIABLE, id="the last none of an empty object"),
        pytest.param(b"bytes=-5", 0, WHOLE, id="the last of an empty object, which Content-Range cannot say"),
        pytest.param(b"bytes=5-2", 10, WHOLE, id="backwards"),
        pytest.param(b"bytes=-", 10, WHOLE, id="neither end"),
        pytest.param(b"bytes=", 10, WHOLE, id="nothing"),
        pytest.param(b"bytes", 10, WHOLE, id="a unit alone"),
        pytest.param(b"bytes=1-2,4-5", 10, WHOLE, id="several"),
        pytest.param(b"bytes=1-2,", 10, WHOLE, id="a list of one"),
        pytest.param(b"bytes= 1-2", 10, WHOLE, id="a space"),
        pytest.param(b"bytes=+1-2", 10, WHOLE, id="a sign"),
        pytest.param(b"bytes=--2", 10, WHOLE, id="a negative suffix"),
        pytest.param(b"bytes=1_0-", 20, WHOLE, id="an underscore"),
        pytest.param(b"bytes=\xb2-", 10, WHOLE, id="no ASCII digit"),
        pytest.param(b"lines=1-2", 10, WHOLE, id="another unit"),
        pytest.param(b"bytes=" + b"9" * 9000 + b"-", 10, WHOLE, id="9,000 digits"),
    ],
)
def test_ranges(asked: bytes, size: int, expected: Outcome | Part) -> None:
    assert answer_for(request(range=asked), ETAG, size) == expected


def test_only_get_has_ranges() -> None:
    assert answer_for(request(b"HEAD", range=b"bytes=99-"), ETAG, 10) is WHOLE


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        pytest.param(ETAG, Part(1, 2), id="the same object"),
        pytest.param(OTHER, WHOLE, id="another object"),
        pytest.param(WEAK, WHOLE, id="weakly the same"),
        pytest.param(b"Wed, 21 Oct 2015 07:28:00 GMT", WHOLE, id="a date"),
    ],
)
def test_a_range_holds_for_the_object_that_the_client_knows(if_range: bytes, expected: Outcome | Part) -> None:
    assert answer_for(request(range=b"bytes=1-2", if_range=if_range), ETAG, 10) == expected


@given(st.integers(0, 50), st.integers(0, 60), st.none() | st.integers(0, 60))
def test_a_part_lies_within_the_object(size: int, first: int, last: int | None) -> None:
    content = bytes(range(size))
    asked = b"bytes=%d-%b" % (first, b"" if last is None else b"%d" % last)
    expected = content[first:] if last is None else content[first : last + 1]

    answer = answer_for(request(range=asked), ETAG, size)

    if isinstance(answer, Part):
        assert 0 <= answer.first <= answer.last < size
        assert content[answer.first : answer.last + 1] == expected
    else:
        assert not expected


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_no_condition_is_an_error_for_readers(if_match: bytes, if_none_match: bytes, asked: bytes) -> None:
    head = request(if_match=if_match, if_none_match=if_none_match, range=asked)

    assert isinstance(answer_for(head, ETAG, 10), Outcome | Part)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, PutConditions(), id="whatever there is"),
        pytest.param({"if_none_match": b"*"}, PutConditions(if_absent=True), id="if there is none"),
        pytest.param({"if_match": ETAG}, PutConditions(if_match=(SUM,)), id="if it is this one"),
        pytest.param(
            {"if_match": b'"x", ' + OTHER + b"," + WEAK + b"," + ETAG},
            PutConditions(if_match=(b"\xff" + SUM[1:], SUM)), id="if it is one of those that can be",
        ),
        pytest.param(
            {"if_match": ETAG, "if_none_match": b"*"}, PutConditions(if_absent=True, if_match=(SUM,)), id="both"
        ),
    ],
)  # fmt: skip
def test_conditions_of_put(fields: dict[str, bytes], expected: PutConditions) -> None:
    assert put_conditions(request(b"PUT", **fields)) == expected


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({"if_none_match": ETAG}, 400, id="unless it is this one"),
        pytest.param({"if_match": b"*"}, 400, id="if there is any"),
        pytest.param({"if_match": b"abc"}, 400, id="malformed"),
        pytest.param({"if_match": b'"abc'}, 400, id="half a tag"),
        pytest.param({"if_match": b'"abc" "def"'}, 400, id="no comma"),
        pytest.param({"if_match": b" , "}, 400, id="only commas"),
        pytest.param({"if_match": b'"abc"'}, 412, id="no object's tag must not mean no condition"),
        pytest.param({"if_match": WEAK}, 412, id="a weak tag must not mean no condition"),
        pytest.param({"if_match": ETAG.upper()}, 412, id="tags are compared byte by byte"),
    ],
)
def test_conditions_that_no_put_meets(fields: dict[str, bytes], status: int) -> None:
    with pytest.raises(HttpError) as refused:
        put_conditions(request(b"PUT", **fields))

    assert refused.value.status == status


def test_conditions_of_delete() -> None:
    assert remove_conditions(request(b"DELETE")) == ()
    assert remove_conditions(request(b"DELETE", if_match=ETAG)) == (SUM,)
    with pytest.raises(HttpError, match="If-None-Match"):
        remove_conditions(request(b"DELETE", if_none_match=b"*"))


@given(st.binary(min_size=CHECKSUM_BYTES, max_size=CHECKSUM_BYTES))
def test_an_etag_tells_its_checksum(of: bytes) -> None:
    assert checksum(etag(of)) == of


@given(st.binary(max_size=40))
def test_other_etags_tell_none(tag: bytes) -> None:
    told = checksum(tag)

    assert told is None or etag(told) == tag
