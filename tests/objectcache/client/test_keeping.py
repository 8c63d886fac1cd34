"""Which objects a file is kept as."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.client.keeping import Keeping, KeepingError, Kept, place_of, span_in, version_of

FILE = {"name": "a", "type": "file", "size": 10, "mtime": 1.5}
BLOCK = 64 * 1024


def test_a_small_file_is_one_object_with_its_version() -> None:
    kept = Keeping().kept("s3://b/k", FILE)

    assert kept == Kept(f"s3://b/k;version={version_of(FILE)}", 10)


def test_a_large_file_is_blocks_that_name_their_size() -> None:
    kept = Keeping(max_object=BLOCK, block_size=BLOCK).kept("s3://b/k", {**FILE, "size": 2 * BLOCK + 1})

    assert kept is not None
    assert [(each.name.rpartition(";")[2], each.first, each.end) for each in kept.pieces()] == [
        ("block=65536,0", 0, BLOCK),
        ("block=65536,1", BLOCK, 2 * BLOCK),
        ("block=65536,2", 2 * BLOCK, 2 * BLOCK + 1),
    ]


def test_without_versions_the_name_is_plain_and_large_files_are_not_kept() -> None:
    keeping = Keeping("none", max_object=10)

    assert keeping.kept("s3://b/k", FILE) == Kept("s3://b/k", 10)
    assert keeping.kept("s3://b/k", {**FILE, "size": 11}) is None


@pytest.mark.parametrize("found", [{"type": "directory", "size": 0}, {"type": "file", "size": None}, {"type": "other"}])
def test_what_is_no_file_with_a_size_is_not_kept(found: dict[str, Any]) -> None:
    assert Keeping().kept("s3://b/k", found) is None


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        pytest.param({"mtime": 1.0}, {"mtime": 2.0}, False, id="another time"),
        pytest.param({"size": 1}, {"size": 2}, False, id="another size"),
        pytest.param({"ETag": '"x"', "LastModified": 1}, {"ETag": "x", "LastModified": 2}, True, id="a tag says it"),
        pytest.param({"ETag": '"x"'}, {"ETag": '"y"'}, False, id="another tag"),
        pytest.param({"etag": 'W/"x"'}, {"ETag": '"x"'}, True, id="spelled by a listing and by info"),
        pytest.param({"mtime": 1.0, "ino": 3}, {"mtime": 1.0, "ino": 4}, True, id="another inode is no other content"),
        pytest.param({"modify": "20260101"}, {"modify": "20260102"}, False, id="a time as FTP says it"),
        pytest.param({"modificationTime": 1}, {"modificationTime": 2}, False, id="a time as WebHDFS says it"),
        pytest.param({"Content-MD5": "x"}, {"Content-MD5": "y"}, False, id="a digest as HTTP says it"),
        pytest.param({"revision": 1}, {"revision": 2}, False, id="by something of its own"),
        pytest.param({"name": "/a"}, {"name": "a"}, True, id="spelled in another way"),
        pytest.param(
            {"created": datetime(2026, 1, 1, tzinfo=UTC)},
            {"created": datetime(2026, 1, 2, tzinfo=UTC)},
            False,
            id="a time of its own kind",
        ),
    ],
)
def test_versions(one: dict[str, Any], other: dict[str, Any], is_same: bool) -> None:
    assert (version_of(one) == version_of(other)) is is_same


def test_a_place_is_what_the_options_name_and_no_secret() -> None:
    assert place_of({"key": "k", "secret": "s", "anon": True}) == ""
    assert place_of({"client_kwargs": {"endpoint_url": "http://a"}}) != place_of({"endpoint_url": "http://b"})
    assert place_of({"fo": "x.zip", "secret": "1"}) == place_of({"fo": "x.zip", "secret": "2"})
    assert place_of({"fo": "x.zip"}) != place_of({"fo": "y.zip"})


def test_a_place_is_also_what_a_file_system_within_names() -> None:
    one, other = (SimpleNamespace(storage_options={"host": host, "password": "p"}) for host in ("a", "b"))

    assert place_of({"path": "/x", "fs": one}) != place_of({"path": "/x", "fs": other})
    assert place_of({"path": "/x", "fs": one}) == place_of({"path": "/x", "fs": one})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:secret@host/a@b", "https://host/a@b"),
        ("http://host/a@b", "http://host/a@b"),
        ("file:///a@b", "file:///a@b"),
        ("s3://a@b/c", "s3://a@b/c"),
    ],
)
def test_a_name_holds_no_password(url: str, expected: str) -> None:
    assert Keeping("none").unversioned(url) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [({"version": "yes"}, "'auto' or 'none'"), ({"max_object": -1}, "bytes"), ({"block_size": 10}, "65536")],
)
def test_impossible_settings_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(KeepingError, match=said):
        Keeping(**options)


@given(st.binary(max_size=50), st.integers(0, 7), st.none() | st.integers(-60, 60), st.none() | st.integers(-60, 60))
def test_parts_put_together_are_the_slice(content: bytes, block: int, start: int | None, end: int | None) -> None:
    kept = Kept("n", len(content), block)
    first, last = span_in(len(content), start, end)
    objects = {each.name: content[each.first : each.end] for each in kept.pieces()}

    found = b"".join(objects[piece.name][a:b] for piece, (a, b) in kept.parts(first, last))

    assert found == content[start:end]
