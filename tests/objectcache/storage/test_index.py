"""The index, against a dict."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.storage.index import (
    PINNED,
    SUSPECT,
    Columns,
    Entry,
    IndexFormatError,
    IndexFullError,
    IndexReader,
    IndexWriter,
    slots_for,
)
from objectcache.storage.keys import Key

SLOTS: Final = 1024
# Home slots beside one another, round the end too, so that probes meet.
KEYS: Final = st.builds(
    lambda high, home, turn: (high, home + turn * SLOTS),
    st.sampled_from([1, 2**64 - 1]),
    st.sampled_from([0, 1, 2, 511, 1022, 1023]),
    st.integers(0, 2),
)
CHECKSUM: Final = bytes(range(16))


@contextmanager
def an_index(slots: int = SLOTS) -> Iterator[tuple[IndexWriter, IndexReader]]:
    writer = IndexWriter.create(slots)
    reader = IndexReader.open(writer.fd)
    yield writer, reader
    reader.close()
    writer.close()


def put(writer: IndexWriter, key: Key, object_id: int, flags: int = 0, accessed: int = 0) -> Entry | None:
    return writer.put(key, object_id, object_id * 3, object_id.to_bytes(16, "big"), object_id % 7, flags, accessed)


def put_many(writer: IndexWriter, count: int) -> None:
    for number in range(count):
        put(writer, (1, number), number + 1)


def said(entry: Entry | None) -> tuple[int, int, bytes, int, int] | None:
    return None if entry is None else entry[1:]


def expected(object_id: int, flags: int = 0) -> tuple[int, int, bytes, int, int]:
    return object_id, object_id * 3, object_id.to_bytes(16, "big"), object_id % 7, flags


def some_columns(keys: list[Key]) -> Columns:
    ids = np.arange(1, len(keys) + 1)
    return Columns(
        high=np.array([high for high, _ in keys], np.uint64),
        low=np.array([low for _, low in keys], np.uint64),
        ids=ids,
        sizes=ids * 3,
        checksums=np.frombuffer(b"".join(each.to_bytes(16, "big") for each in ids.tolist()), "V16"),
        buckets=(ids % 7).astype(np.uint32),
        flags=np.zeros(len(keys), np.uint32),
        accessed=ids.astype(np.uint32),
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "put", "remove", "flags", "rebuild"]), KEYS, st.integers(1, 2**61)),
        max_size=80,
    )
)
def test_reader_and_writer_agree_with_a_dict(steps: list[tuple[str, Key, int]]) -> None:
    writer, known = IndexWriter.create(SLOTS), dict[Key, tuple[int, int]]()
    reader = IndexReader.open(writer.fd)
    for what, key, number in steps:
        before = expected(*known[key]) if key in known else None
        if what == "put":
            assert said(put(writer, key, number)) == before
            known[key] = number, 0
        elif what == "remove":
            assert said(writer.remove(key)) == before
            known.pop(key, None)
        elif what == "flags":
            assert writer.set_flags(key, PINNED) == (key in known)
            known.update({key: (known[key][0], PINNED)} if key in known else {})
        else:
            reader.close()
            writer, old = writer.rebuilt(), writer
            old.close()
            reader = IndexReader.open(writer.fd)
        assert said(reader.find(key)) == (expected(*known[key]) if key in known else None)
    everything = {key: said(reader.find(key)) for key in {key for _, key, _ in steps}}
    by_writer = {key: said(writer.find(key)) for key in everything}
    length = len(writer)
    reader.close()
    writer.close()

    assert everything == {key: expected(*known[key]) if key in known else None for key in everything}
    assert by_writer == everything
    assert length == len(known)


@settings(max_examples=50, deadline=None)
@given(st.lists(KEYS, unique=True, max_size=36))
def test_filled_at_once_it_is_as_if_put_one_by_one(keys: list[Key]) -> None:
    with an_index() as (writer, reader):
        writer.fill(some_columns(keys))
        found = [said(reader.find(key)) for key in keys]
        removed = [said(writer.remove(key)) for key in keys]
        left = len(writer)

    assert found == [expected(each) for each in range(1, len(keys) + 1)]
    assert removed == found
    assert left == 0


def test_marks_of_removed_objects_go_with_the_last_of_a_run() -> None:
    with an_index() as (writer, _):
        for turn in range(5):
            put(writer, (1, turn * SLOTS), turn + 1)
        for turn in range(4):
            writer.remove((1, turn * SLOTS))
        marks = writer._removed
        writer.remove((1, 4 * SLOTS))
        left = writer._removed

    assert (marks, left) == (4, 0)


def test_a_mark_gives_its_place_to_the_next_object() -> None:
    with an_index() as (writer, reader):
        put(writer, (1, 0), 1)
        put(writer, (1, SLOTS), 2)
        writer.remove((1, 0))
        put(writer, (1, 2 * SLOTS), 3)
        entry = reader.find((1, 2 * SLOTS))

    assert entry is not None
    assert entry.slot == 0


def test_needs_rebuild_also_for_marks_of_removed_objects() -> None:
    with an_index() as (writer, _):
        put_many(writer, 700)
        before = writer.needs_rebuild
        for number in range(600):
            writer.remove((1, number))
        for number in range(700, 720):
            put(writer, (1, number), number + 1)
        after = writer.needs_rebuild
        other = writer.rebuilt()
        rebuilt = other.needs_rebuild, len(other), said(other.find((1, 719)))
        other.close()

    assert (before, after) == (False, True)
    assert rebuilt == (False, 120, expected(720))


def test_rebuilt_keeps_times_of_access_and_the_epoch() -> None:
    writer = IndexWriter.create(0, epoch_seconds=1000)
    put(writer, (1, 5), 9, accessed=77)
    other = writer.rebuilt()
    entry = other.find((1, 5))
    assert entry is not None
    accessed, epoch = other.accessed([entry.slot]).tolist(), other.epoch_seconds
    other.close()
    writer.close()

    assert (accessed, epoch) == ([77], 1000)


def test_what_a_reader_touches_the_writer_sees_until_the_place_is_anothers() -> None:
    with an_index() as (writer, reader):
        put(writer, (1, 5), 9, accessed=1)
        entry = reader.find((1, 5))
        assert entry is not None
        reader.touch(entry.slot, 4_000_000_000)
        touched = writer.accessed([entry.slot]).tolist()
        put(writer, (1, 5), 10, accessed=2)
        renewed = writer.accessed([entry.slot]).tolist()

    assert (touched, renewed) == ([4_000_000_000], [2])


def test_changed_flags_keep_the_time_of_access() -> None:
    with an_index() as (writer, reader):
        put(writer, (1, 5), 9, flags=SUSPECT, accessed=7)
        writer.set_flags((1, 5), 0)
        entry = reader.find((1, 5))
        assert entry is not None
        accessed = writer.accessed([entry.slot]).tolist()

    assert (said(entry), accessed) == (expected(9), [7])


@pytest.mark.parametrize("torn", range(16, 64), ids=lambda place: f"byte {place}")
def test_half_written_objects_are_a_miss(torn: int) -> None:
    with an_index() as (writer, reader):
        put(writer, (1, 5), 9)
        begin = mmap.PAGESIZE + 5 * 64 + torn
        writer._map[begin] ^= 0x40
        half = reader.find((1, 5))
        writer._map[begin] ^= 0x40
        whole = reader.find((1, 5))

    assert half is None
    assert said(whole) == expected(9)


def test_a_full_index_refuses_instead_of_going_round_forever() -> None:
    with an_index() as (writer, reader):
        with pytest.raises(IndexFullError, match="takes no more"):
            put_many(writer, SLOTS)
        miss = reader.find((7, 7))
        last = said(put(writer, (1, 3), 4))

    assert miss is None
    assert last == expected(4)


def test_more_than_it_holds_is_not_filled_in() -> None:
    with an_index() as (writer, _), pytest.raises(IndexFullError, match="1000 objects do not go into"):
        writer.fill(some_columns([(1, number) for number in range(1000)]))


def test_only_an_empty_index_is_filled() -> None:
    with an_index() as (writer, _):
        put(writer, (1, 1), 1)
        with pytest.raises(ValueError, match="only an empty index"):
            writer.fill(some_columns([(1, 2)]))


@pytest.mark.parametrize(
    ("key", "checksum"),
    [
        pytest.param((0, 5), CHECKSUM, id="a key that marks a free slot"),
        pytest.param((1, 5), b"short", id="a short checksum"),
    ],
)
def test_what_no_slot_can_hold_is_refused(key: Key, checksum: bytes) -> None:
    with an_index() as (writer, _), pytest.raises(ValueError, match="not one that an index can hold"):
        writer.put(key, 1, 1, checksum, 1, 0)


def test_a_million_objects_take_less_than_140_megabytes() -> None:
    slots = slots_for(1_000_000)

    assert slots * (64 + 4) < 140e6
    assert slots * 0.7 > 1_000_000


def test_a_descriptor_of_something_else_is_refused() -> None:
    fd = os.memfd_create("other")
    os.write(fd, b"something else, of some length")
    os.ftruncate(fd, 8192)

    with pytest.raises(IndexFormatError, match="same release"):
        IndexReader.open(fd)
    os.close(fd)


def test_a_short_descriptor_is_refused() -> None:
    fd = os.memfd_create("other")

    with pytest.raises(IndexFormatError, match="there are 0"):
        IndexReader.open(fd)
    os.close(fd)


def test_nobody_can_make_the_memory_shorter() -> None:
    with an_index() as (writer, _), pytest.raises(PermissionError):
        os.ftruncate(writer.fd, 4096)


def test_a_reader_cannot_change_what_is_kept() -> None:
    with an_index() as (_, reader), pytest.raises(TypeError):
        reader._table[mmap.PAGESIZE] = 1
