"""How a cache starts on what an earlier one left behind."""

import os
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.storage.checking import verify
from objectcache.storage.files import DataFolder, ForeignFolderError, open_object
from objectcache.storage.index import PINNED, SUSPECT, IndexWriter
from objectcache.storage.keys import object_key
from objectcache.storage.recovery import Recovered, Report, Usage, boot_id, recover
from tests.objectcache.storage.builders import (
    BOOT,
    NOW,
    a_row,
    content_of,
    file_ids,
    open_descriptors,
    put,
    row_ids,
    started,
    stopped,
    write_incoming,
)


def a_cache(path: Path, *, clean: bool, objects: int = 5) -> None:
    """With objects 1 to `objects` of three bytes in bucket `bk`, of which the first is pinned."""
    folder, recovered = started(path)
    catalogue = recovered.catalogue
    catalogue.raise_last_id(objects)
    number = catalogue.number_of("bk")
    with catalogue.changes():
        for object_id in range(1, objects + 1):
            put(folder, catalogue, a_row(object_id, bucket=number, flags=PINNED if object_id == 1 else 0))
    stopped(folder, recovered, clean=clean)


def found(recovered: Recovered, object_id: int) -> int | None:
    """The id under the name of an object of `a_cache`."""
    key = object_key(recovered.catalogue.header.secret, "bk", b"name-%d" % object_id)
    entry = recovered.index.find(key)
    return None if entry is None else entry.object_id


def test_a_new_cache_is_empty(tmp_path: Path) -> None:
    folder, recovered = started(tmp_path)
    header = recovered.catalogue.header
    stopped(folder, recovered, clean=True)

    assert recovered.report == Report("none", 0, 0, 0, 0)
    assert recovered.usage == {}
    assert (header.boot_id, header.clean) == (BOOT, False)


def test_a_closed_cache_goes_on_as_it_was(tmp_path: Path) -> None:
    a_cache(tmp_path, clean=True)

    folder, recovered = started(tmp_path, "another boot")
    ids = [found(recovered, each) for each in range(1, 7)]
    stopped(folder, recovered, clean=True)

    assert recovered.report == Report("closed", 5, 0, 0, 0)
    assert recovered.usage == {1: Usage(bytes=15, objects=5, pinned_bytes=3)}
    assert ids == [1, 2, 3, 4, 5, None]


def test_after_a_kill_files_and_rows_that_lack_the_other_go(tmp_path: Path) -> None:
    a_cache(tmp_path, clean=False)
    (tmp_path / "data/000/0000000000000002").unlink()
    (tmp_path / "data/099").mkdir()
    (tmp_path / "data/099/0000000000009900").write_text("committed nowhere")
    (tmp_path / "incoming/0000000000000100").write_text("half a body")

    folder, recovered = started(tmp_path)
    files, rows = file_ids(folder), row_ids(recovered.catalogue)
    ids = [found(recovered, each) for each in range(1, 6)]
    next_id = recovered.catalogue.take_ids(1)[0]
    stopped(folder, recovered, clean=True)

    assert recovered.report == Report("killed", 4, 0, 1, 1)
    assert recovered.usage == {1: Usage(bytes=12, objects=4, pinned_bytes=3)}
    assert files == rows == [1, 3, 4, 5]
    assert ids == [1, None, 3, 4, 5]
    assert list((tmp_path / "incoming").iterdir()) == []
    assert next_id > 0x9900


def test_when_the_operating_system_ended_too_everything_is_suspect(tmp_path: Path) -> None:
    a_cache(tmp_path, clean=False)

    folder, recovered = started(tmp_path, "another boot")
    entry = recovered.index.find(object_key(recovered.catalogue.header.secret, "bk", b"name-1"))
    stopped(folder, recovered, clean=False)
    again, later = started(tmp_path, "another boot")
    stopped(again, later, clean=True)

    assert recovered.report == Report("rebooted", 5, 5, 0, 0)
    assert entry is not None
    assert entry.flags == SUSPECT | PINNED
    assert later.report == Report("killed", 5, 5, 0, 0)


@pytest.mark.parametrize("clean", [True, False], ids=["after it was closed", "after it was killed"])
def test_a_broken_catalogue_costs_what_was_kept_but_not_the_service(tmp_path: Path, clean: bool) -> None:
    a_cache(tmp_path, clean=clean)
    (tmp_path / "catalogue.sqlite").write_bytes(b"rubbish" * 5000)
    said: list[str] = []

    folder = DataFolder.open(tmp_path)
    recovered = recover(folder, BOOT, NOW, said.append)
    files = file_ids(folder)
    next_id = recovered.catalogue.take_ids(1)[0]
    put(folder, recovered.catalogue, a_row(next_id, bucket=recovered.catalogue.number_of("bk")))
    stopped(folder, recovered, clean=True)
    again, later = started(tmp_path)
    stopped(again, later, clean=True)

    assert recovered.report.objects == 0
    assert "not a database" in recovered.report.lost
    assert any("starting with nothing" in each and "catalogue.broken-1" in each for each in said)
    assert files == []
    assert next_id > 10**15
    assert later.report == Report("closed", 1, 0, 0, 0)
    assert (tmp_path / "catalogue.broken-1").read_bytes().startswith(b"rubbish")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.binary(min_size=1, max_size=200), st.booleans(), st.sampled_from([BOOT, "other"]))
def test_whatever_bytes_are_damaged_it_starts_and_serves_only_what_it_has(
    tmp_path_factory: pytest.TempPathFactory, place: int, rubbish: bytes, clean: bool, boot: str
) -> None:
    path = tmp_path_factory.mktemp("cache")
    a_cache(path, clean=clean, objects=50)
    catalogue = path / "catalogue.sqlite"
    with catalogue.open("r+b") as file:
        os.pwrite(file.fileno(), rubbish, place % catalogue.stat().st_size)

    folder, recovered = started(path, boot)
    kept = recovered.report.objects
    ids = recovered.catalogue.take_ids(1)
    put(folder, recovered.catalogue, a_row(ids[0], b"new", bucket=recovered.catalogue.number_of("new")))
    files = file_ids(folder)
    stopped(folder, recovered, clean=True)

    assert kept in range(51)
    assert len(files) >= kept + 1 if recovered.report.before != "closed" else len(files) >= 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE meta SET value = 2 WHERE key = 'version'", id="of a later release"),
        pytest.param("DROP TABLE objects", id="without objects"),
        pytest.param("DELETE FROM buckets", id="without its buckets"),
        pytest.param("UPDATE objects SET bucket = -1; INSERT INTO buckets VALUES (-1, 'x')", id="with an odd bucket"),
        pytest.param("PRAGMA ignore_check_constraints=1; UPDATE objects SET checksum = x'00'", id="with odd checksums"),
        pytest.param("PRAGMA ignore_check_constraints=1; UPDATE objects SET size = -5", id="with sizes below 0"),
    ],
)
def test_a_catalogue_that_makes_no_sense_is_set_aside(tmp_path: Path, change: str) -> None:
    a_cache(tmp_path, clean=True)
    other = sqlite3.connect(tmp_path / "catalogue.sqlite")
    other.executescript(change)
    other.close()

    folder, recovered = started(tmp_path)
    files = file_ids(folder)
    stopped(folder, recovered, clean=True)

    assert recovered.report.objects == 0
    assert recovered.report.lost
    assert files == []


def test_a_catalogue_that_was_taken_away_leaves_no_files(tmp_path: Path) -> None:
    a_cache(tmp_path, clean=True)
    (tmp_path / "catalogue.sqlite").unlink()

    folder, recovered = started(tmp_path)
    files = file_ids(folder)
    stopped(folder, recovered, clean=True)

    assert recovered.report == Report("none", 0, 0, 5, 0)
    assert files == []


def test_what_is_not_a_caches_is_not_removed(tmp_path: Path) -> None:
    a_cache(tmp_path, clean=False)
    (tmp_path / "data/007").mkdir()
    (tmp_path / "data/007/precious").write_text("precious")

    folder = DataFolder.open(tmp_path)
    with pytest.raises(ForeignFolderError, match="precious"):
        recover(folder, BOOT, NOW, lambda _: None)
    folder.close()
    assert (tmp_path / "data/007/precious").exists()


@pytest.mark.parametrize("clean", [True, False], ids=["after it was closed", "after it was killed"])
def test_a_disk_too_full_to_start_loses_its_oldest_objects(small_disk: Path, clean: bool) -> None:
    a_cache(small_disk, clean=clean, objects=300)
    with (small_disk / "incoming" / "0000000000000999").open("wb") as file:
        with suppress(OSError):
            file.write(bytes(2**23))
        # It is not the cache's any more: nothing of it comes free when the cache starts.
        (small_disk / "incoming" / "0000000000000999").unlink()

        folder, recovered = started(small_disk)
        files, rows = file_ids(folder), row_ids(recovered.catalogue)
        report = recovered.report
        stopped(folder, recovered, clean=True)

    assert files == rows == list(range(301 - report.objects, 301))
    assert 0 < report.removed_rows == 300 - report.objects


def test_times_of_access_come_back(tmp_path: Path) -> None:
    a_cache(tmp_path, clean=True)
    folder = DataFolder.open(tmp_path)
    recovered = recover(folder, BOOT, NOW, lambda _: None, epoch_seconds=NOW - 100)
    entry = recovered.index.find(object_key(recovered.catalogue.header.secret, "bk", b"name-1"))
    assert entry is not None
    accessed = recovered.index.accessed([entry.slot]).tolist()
    stopped(folder, recovered, clean=True)

    assert accessed == [100]
    assert recovered.index.epoch_seconds == NOW - 100


def test_a_failed_start_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_cache(tmp_path, clean=True)
    before = open_descriptors()

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(IndexWriter, "fill", fail)
    folder = DataFolder.open(tmp_path)
    with pytest.raises(MemoryError):
        recover(folder, BOOT, NOW, lambda _: None)
    folder.close()

    assert open_descriptors() == before


@pytest.mark.parametrize("commits", [1, 5, 20])
def test_killed_in_the_middle_of_commits_it_has_what_it_promised(tmp_path: Path, commits: int) -> None:
    command = [sys.executable, "-m", "tests.objectcache.storage.committing_process", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cache:
        assert cache.stdout is not None
        lines = [cache.stdout.readline() for _ in range(commits)]
        cache.kill()
        lines += cache.stdout.readlines()
    words = [word for line in lines if line.endswith("\n") for word in line.split()]
    removed = {int(word[1:]) for word in words if word[0] == "-"}
    promised = {int(word[1:]) for word in words if word[0] == "+"} - removed

    folder, recovered = started(tmp_path)
    files, rows = file_ids(folder), row_ids(recovered.catalogue)
    # What was not promised yet may be there too: its commit had ended, or the removal of another had.
    last = sorted(promised)[:3]
    for object_id in rows:
        row = recovered.catalogue.row(object_id)
        assert row is not None
        fd = open_object(folder.data_fd, object_id)
        verify(fd, row.size, row.checksum)
        os.close(fd)
    indexed = {each for each in rows if found(recovered, each) == each}
    usage = recovered.usage
    next_id = recovered.catalogue.take_ids(1)[0]
    sizes = sum(len(content_of(each, each % 300)) for each in rows)
    stopped(folder, recovered, clean=True)

    assert recovered.report.before == "killed"
    assert files == rows
    assert indexed == set(rows)
    assert promised - set(last) <= set(rows)
    assert not removed & set(rows)
    assert usage == {1: Usage(sizes, len(rows), 0)}
    assert list((tmp_path / "incoming").iterdir()) == []
    assert next_id > max(rows)


def test_a_write_that_no_one_committed_is_gone_at_the_next_start(tmp_path: Path) -> None:
    folder, recovered = started(tmp_path)
    write_incoming(folder, 7, 100)
    stopped(folder, recovered, clean=True)

    again, later = started(tmp_path)
    stopped(again, later, clean=True)

    assert list((tmp_path / "incoming").iterdir()) == []


def test_every_boot_has_an_id() -> None:
    assert len(boot_id()) == 36
