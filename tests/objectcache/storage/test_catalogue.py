"""The catalogue, against a dict, and on disks that fail."""

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.storage.catalogue import (
    Catalogue,
    CatalogueBrokenError,
    CatalogueBusyError,
    CatalogueDiskError,
    CatalogueError,
    CatalogueFullError,
    CatalogueReadOnlyError,
    CatalogueVersionError,
    Row,
)
from objectcache.storage.index import PINNED, SUSPECT
from tests.objectcache.storage.builders import NOW, a_row, row_ids

NAMES = st.lists(st.sampled_from([b"\x00", b"a", b"b", b"/", b"\xfe", b"\xff"]), min_size=1, max_size=3).map(b"".join)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.sqlite"


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    catalogue = Catalogue.open(path)
    yield catalogue
    catalogue.close(clean=False)


def insert_many(catalogue: Catalogue, count: int) -> None:
    """More than a small disk holds, if they are many."""
    for object_id in range(2, count):
        catalogue.insert(a_row(object_id, b"%d" % object_id * 100))


def change_until_full(catalogue: Catalogue) -> None:
    with catalogue.changes():
        insert_many(catalogue, 100_000)


def go_on_after_a_full_disk(catalogue: Catalogue) -> None:
    with catalogue.changes():
        with suppress(CatalogueFullError):
            insert_many(catalogue, 100_000)
        # As SQLite itself may have done by now.
        if catalogue._connection.in_transaction:
            catalogue._connection.execute("ROLLBACK")
        catalogue.delete([1])


def fail_in_the_middle(catalogue: Catalogue) -> None:
    with catalogue.changes():
        catalogue.insert(a_row(2))
        catalogue.take_ids(10)
        catalogue.delete([1])
        raise RuntimeError


def names(page: list[tuple[bytes, int, bytes, int]]) -> list[bytes]:
    return [name for name, _, _, _ in page]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["insert", "insert", "delete", "flags"]), NAMES, st.integers(1, 2)), max_size=25
    ),
    NAMES | st.just(b""),
    NAMES | st.just(b""),
    st.integers(1, 5),
)
def test_it_keeps_what_a_dict_would(
    steps: list[tuple[str, bytes, int]], prefix: bytes, after: bytes, limit: int
) -> None:
    catalogue, known = Catalogue.open(Path(":memory:")), dict[tuple[int, bytes], Row]()
    for object_id, (what, name, bucket) in enumerate(steps, start=1):
        row = a_row(object_id, name, bucket=bucket)
        before = known.get((bucket, name))
        if what == "insert":
            catalogue.insert(row)
            known[bucket, name] = row
        elif before is not None and what == "delete":
            catalogue.delete([before.id, 10**6])
            del known[bucket, name]
        elif before is not None:
            catalogue.set_flags([(PINNED, before.id)])
            known[bucket, name] = Row(
                before.id, bucket, name, before.size, before.checksum, before.created, before.accessed, PINNED
            )
    rows = sorted(known.values(), key=lambda row: row.id)
    of_one = sorted(row.name for row in rows if row.bucket == 1 and row.name.startswith(prefix) and row.name > after)
    kept = [Row(*each) for batch in catalogue.rows() for each in batch]
    page = catalogue.page(1, prefix, after, limit)
    candidates = catalogue.candidates(2, 3, limit)
    single = [catalogue.row(row.id) for row in rows]
    catalogue.close(clean=True)

    assert kept == rows
    assert single == rows
    assert names(page) == of_one[:limit]
    behind = [r for r in rows if r.bucket == 2 and r.id > 3][:limit]
    assert candidates == [(r.id, r.name, r.size, r.flags, r.created) for r in behind]


def test_pages_say_size_checksum_and_when_it_was_put(catalogue: Catalogue) -> None:
    row = a_row(5, b"a/b")
    catalogue.insert(row)

    assert catalogue.page(1, b"a/", b"", 10) == [(b"a/b", 3, row.checksum, NOW)]


def test_what_was_kept_is_there_again(path: Path) -> None:
    first = Catalogue.open(path)
    first.use("boot-1", suspect=False)
    number = first.number_of("research")
    first.insert(a_row(7, bucket=number))
    first.set_accessed([(NOW + 60, 7)])
    first.close(clean=True)

    second = Catalogue.open(path)
    row = second.row(7)
    header, secret = second.header, first.header.secret
    numbers = second.number_of("research"), second.number_of("vision"), second.buckets()
    second.close(clean=False)

    assert row is not None
    assert row.accessed == NOW + 60
    assert (header.boot_id, header.clean, header.secret) == ("boot-1", True, secret)
    assert numbers == (number, number + 1, {"research": number, "vision": number + 1})


def test_who_did_not_close_it_is_known_to_the_next(path: Path) -> None:
    first = Catalogue.open(path)
    first.use("boot-1", suspect=False)
    first.close(clean=False)

    second = Catalogue.open(path)
    header = second.header
    second.close(clean=False)

    assert (header.boot_id, header.clean) == ("boot-1", False)


def test_suspicion_of_all_objects_keeps_their_other_flags(catalogue: Catalogue) -> None:
    catalogue.insert(a_row(1))
    catalogue.insert(a_row(2, flags=PINNED))

    catalogue.use("boot-2", suspect=True)

    assert [row[7] for batch in catalogue.rows() for row in batch] == [SUSPECT, SUSPECT | PINNED]


def test_each_catalogue_has_a_secret_of_its_own_and_shows_it_nowhere(tmp_path: Path) -> None:
    one, other = (Catalogue.open(tmp_path / name) for name in ("one", "other"))
    secret = one.header.secret

    assert secret != other.header.secret
    assert "secret" not in repr(one.header)
    assert repr(secret)[2:10] not in repr(one.header)
    one.close(clean=False)
    other.close(clean=False)


def test_ids_are_never_handed_out_twice(path: Path) -> None:
    first = Catalogue.open(path, first_id=100)
    one, two = first.take_ids(10), first.take_ids(5)
    first.close(clean=False)

    second = Catalogue.open(path, first_id=100)
    three = second.take_ids(1)
    second.raise_last_id(1000)
    second.raise_last_id(7)
    four = second.take_ids(1)
    second.close(clean=False)

    assert [one, two, three, four] == [range(100, 110), range(110, 115), range(115, 116), range(1001, 1002)]


def test_ids_of_changes_that_failed_are_not_handed_out_again(path: Path) -> None:
    first = Catalogue.open(path)
    with pytest.raises(RuntimeError):
        fail_in_the_middle(first)
    after = first.take_ids(1)
    first.close(clean=False)

    second = Catalogue.open(path)
    later = second.take_ids(1)
    second.close(clean=False)

    assert [after, later] == [range(11, 12), range(12, 13)]


def test_changes_are_all_kept_or_none(catalogue: Catalogue) -> None:
    catalogue.insert(a_row(1))
    with pytest.raises(RuntimeError):
        fail_in_the_middle(catalogue)

    assert row_ids(catalogue) == [1]


def test_changes_within_changes_are_refused(catalogue: Catalogue) -> None:
    with catalogue.changes(), pytest.raises(CatalogueError, match="already being made"), catalogue.changes():
        pass


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(Row(0, 1, b"a", 1, bytes(16), NOW, NOW), id="id 0"),
        pytest.param(Row(1, 1, b"a", -1, bytes(16), NOW, NOW), id="a negative size"),
        pytest.param(Row(1, 1, b"a", 1, bytes(15), NOW, NOW), id="a short checksum"),
    ],
)
def test_rows_that_make_no_sense_are_refused(catalogue: Catalogue, row: Row) -> None:
    with pytest.raises(CatalogueError, match="CONSTRAINT"):
        catalogue.insert(row)

    assert row_ids(catalogue) == []


def test_a_full_disk_takes_all_of_the_changes_or_nothing(small_disk: Path) -> None:
    catalogue = Catalogue.open(small_disk / "catalogue.sqlite")
    catalogue.insert(a_row(1))
    with pytest.raises(CatalogueFullError, match=r"catalogue\.sqlite.*full"):
        change_until_full(catalogue)
    kept = row_ids(catalogue)
    catalogue.insert(a_row(2))
    later = row_ids(catalogue)
    catalogue.close(clean=True)

    assert (kept, later) == ([1], [1, 2])


def test_after_a_full_disk_nothing_goes_on_without_what_came_before(small_disk: Path) -> None:
    catalogue = Catalogue.open(small_disk / "catalogue.sqlite")
    catalogue.insert(a_row(1))
    with pytest.raises(CatalogueError, match="not gone on with"):
        go_on_after_a_full_disk(catalogue)
    kept = row_ids(catalogue)
    catalogue.close(clean=True)

    assert kept == [1]


def test_a_disk_that_writes_no_more_is_told_from_a_full_one(path: Path) -> None:
    catalogue = Catalogue.open(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(CatalogueDiskError, match="IOERR"):
            catalogue.insert(a_row(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    catalogue.insert(a_row(2))
    kept = row_ids(catalogue)
    catalogue.close(clean=True)

    assert kept == [2]


def test_a_catalogue_that_takes_no_changes_says_so(catalogue: Catalogue) -> None:
    catalogue._connection.execute("PRAGMA query_only = ON")

    with pytest.raises(CatalogueReadOnlyError, match="readonly"):
        catalogue.insert(a_row(1))


def test_another_process_that_writes_it_is_named_as_the_reason(path: Path, catalogue: Catalogue) -> None:
    catalogue._connection.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(CatalogueBusyError, match="locked"):
        catalogue.insert(a_row(1))
    other.close()


def test_content_that_is_no_catalogue_is_broken(path: Path) -> None:
    path.write_bytes(b"no catalogue at all" * 1000)

    with pytest.raises(CatalogueBrokenError, match="not a database"):
        Catalogue.open(path)


def test_another_database_is_broken(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE things (name)")
    other.close()

    with pytest.raises(CatalogueBrokenError, match="no such table"):
        Catalogue.open(path)


def test_a_later_releases_catalogue_is_refused_with_both_versions(path: Path) -> None:
    Catalogue.open(path).close(clean=True)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE meta SET value = 2 WHERE key = 'version'")
    other.close()

    with pytest.raises(CatalogueVersionError, match="version 2, and this release reads 1"):
        Catalogue.open(path)


def test_a_catalogue_without_a_secret_is_broken(path: Path) -> None:
    Catalogue.open(path).close(clean=True)
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM meta WHERE key = 'secret'")
    other.close()

    with pytest.raises(CatalogueBrokenError, match="lacks"):
        Catalogue.open(path)


def test_damage_in_the_middle_is_found(path: Path) -> None:
    catalogue = Catalogue.open(path)
    with catalogue.changes():
        for object_id in range(1, 3000):
            catalogue.insert(a_row(object_id))
    catalogue.close(clean=True)
    with path.open("r+b") as file:
        for page in range(4, path.stat().st_size // 4096, 3):
            os.pwrite(file.fileno(), b"\x5a" * 2048, page * 4096)

    damaged = Catalogue.open(path)
    with pytest.raises(CatalogueBrokenError):
        damaged.check(thoroughly=False)
    damaged.close(clean=False)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueDiskError, match=r"unable to open.*CANTOPEN"):
        Catalogue.open(tmp_path / "absent" / "catalogue.sqlite")
