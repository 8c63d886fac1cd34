"""Keys of objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.storage.keys import KeyMaker, object_key

SECRET = bytes(range(32))
BUCKETS = st.text("abz09.-", min_size=1, max_size=6)


@given(st.lists(st.tuples(BUCKETS, st.binary(max_size=8)), unique=True, max_size=20))
def test_different_objects_have_different_keys(objects: list[tuple[str, bytes]]) -> None:
    maker = KeyMaker(SECRET)

    found = {maker.key(bucket, name) for bucket, name in objects}

    assert len(found) == len(objects)
    assert all(high for high, _ in found)


@given(st.lists(st.tuples(BUCKETS, st.binary(max_size=8))))
def test_many_keys_are_those_of_each(objects: list[tuple[str, bytes]]) -> None:
    high, low = KeyMaker(SECRET).keys(objects)

    expected = [object_key(SECRET, bucket, name) for bucket, name in objects]
    assert list(zip(high.tolist(), low.tolist(), strict=True)) == expected


def test_another_secret_makes_other_keys() -> None:
    assert object_key(SECRET, "bk", b"a") != object_key(bytes(32), "bk", b"a")


def test_a_bucket_does_not_flow_into_the_name() -> None:
    assert object_key(SECRET, "a", b"b/c") != object_key(SECRET, "ab", b"/c")


def test_buckets_without_end_do_not_fill_the_memory() -> None:
    maker = KeyMaker(SECRET)
    first = maker.key("bucket-0", b"name")

    for number in range(2**14 + 10):
        maker.key(f"bucket-{number}", b"name")

    assert len(maker._prepared) <= 2**14
    assert maker.key("bucket-0", b"name") == first


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="7 bytes instead of 32"):
        KeyMaker(b"too few")


def test_nothing_shows_the_secret() -> None:
    assert repr(KeyMaker(SECRET)) == "KeyMaker()"
