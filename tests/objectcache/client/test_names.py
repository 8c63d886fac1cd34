"""Names: one spelling, readable, pfio's where it can be."""

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.client.names import escaped, routing_key
from tasuki.routing.maglev import Maglev


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("s3://bucket/key", "s3://bucket/key", id="stays readable"),
        pytest.param("file://tmp/d/a.bin", "file://tmp/d/a.bin", id="is what pfio sends"),
        pytest.param("a//b/../c/./d", "a//b/../c/./d", id="is not normalised"),
        pytest.param("it's (1)+[2]=@,;~", "it's%20(1)+%5B2%5D=@,;~", id="escapes what a path may not have"),
        pytest.param("100%?#", "100%25%3F%23", id="escapes what has a meaning"),
        pytest.param("ねこ", "%E3%81%AD%E3%81%93", id="is UTF-8"),
        pytest.param("\udcff.bin", "%FF.bin", id="keeps the bytes of a file's name that is no UTF-8"),
        pytest.param(b"a\xff", "a%FF", id="may be bytes"),
    ],
)
def test_a_name(name: str | bytes, expected: str) -> None:
    assert escaped(name) == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_two_names_are_never_spelled_the_same(name: str) -> None:
    assert unquote_to_bytes(escaped(name)) == name.encode()
    assert escaped(name).isascii()
    assert not set(escaped(name)) & set(" ?#\r\n\0")


def test_no_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        escaped("")


def test_envoys_golden_vector_has_the_same_owner() -> None:
    nodes = Maglev(["node-a", "node-b", "node-c"])

    assert nodes.owner(routing_key("bk", escaped("s3://h/bucket/key"))) == "node-b"
