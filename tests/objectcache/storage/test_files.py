"""The folder, on a real disk."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from objectcache.storage.files import (
    DataFolder,
    Durability,
    FolderError,
    FolderTakenError,
    ForeignFolderError,
    create_incoming,
    open_data,
    open_incoming,
    open_object,
    remove_incoming,
)
from tests.objectcache.storage.builders import content_of, file_ids, write_incoming


@pytest.mark.parametrize("durability", ["never", "data", "full"])
def test_a_published_object_is_read_by_its_id(tmp_path: Path, durability: Durability) -> None:
    folder = DataFolder.open(tmp_path, durability)
    write_incoming(folder, 0x12345, 10)
    folder.publish(0x12345)
    data_fd = open_data(tmp_path)
    fd = open_object(data_fd, 0x12345)
    content = os.read(fd, 100)
    os.close(fd)
    os.close(data_fd)
    folder.close()

    assert content == content_of(0x12345, 10)
    assert (tmp_path / "data/123/0000000000012345").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_removed_object_stays_readable_for_who_has_it_open(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    write_incoming(folder, 9, 10)
    folder.publish(9)
    fd = open_object(folder.data_fd, 9)
    folder.remove([9, 10, 11])
    content = os.read(fd, 100)
    os.close(fd)

    with pytest.raises(FileNotFoundError):
        open_object(folder.data_fd, 9)
    assert content == content_of(9, 10)
    folder.close()


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    (tmp_path / "secret").write_text("not for clients")
    (tmp_path / "data/000").mkdir()
    (tmp_path / "data/000/0000000000000007").symlink_to(tmp_path / "secret")

    with pytest.raises(OSError, match="symbolic"):
        open_object(folder.data_fd, 7)
    folder.close()


def test_no_id_is_written_twice(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    write_incoming(folder, 9, 10)

    with pytest.raises(FileExistsError):
        create_incoming(folder.incoming_fd, 9, 10)
    folder.close()


def test_what_was_never_written_is_not_published(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)

    with pytest.raises(FileNotFoundError):
        folder.publish(9)
    folder.close()


def test_a_large_object_without_room_leaves_nothing(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    incoming = open_incoming(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as raised:
            create_incoming(incoming, 9, 2**22)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    os.close(incoming)
    folder.close()

    assert raised.value.errno == errno.EFBIG
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_large_object_has_its_room_from_the_start(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    fd = create_incoming(folder.incoming_fd, 9, 3 * 2**20)
    found = os.fstat(fd)
    os.close(fd)
    folder.remove_incoming(9)
    remove_incoming(folder.incoming_fd, 9)
    folder.close()

    assert found.st_size == 3 * 2**20
    assert found.st_blocks * 512 >= 3 * 2**20


def test_all_ids_are_listed_and_cleared(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    ids = [1, 2, 0xFFF, 0x1000, 0x1001, 2**61]
    for each in ids:
        write_incoming(folder, each, 1)
        folder.publish(each)
    write_incoming(folder, 77, 1)
    listed = file_ids(folder)
    newest = folder.clear_incoming()
    folder.clear()
    left = file_ids(folder)
    folder.close()

    assert (listed, newest, left) == (ids, 77, [])


def test_two_keepers_never_share_a_folder(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path)
    script = "import sys; from pathlib import Path; from objectcache.storage.files import DataFolder; "
    script += "DataFolder.open(Path(sys.argv[1]))"
    second = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    with pytest.raises(FolderTakenError, match="used by another cache"):
        DataFolder.open(tmp_path)
    first.close()
    DataFolder.open(tmp_path).close()

    assert f"FolderTakenError: folder {tmp_path} is used" in second.stderr


@pytest.mark.parametrize(
    ("foreign", "named"),
    [
        pytest.param("photos/", "photos", id="a folder"),
        pytest.param("notes.txt", "notes.txt", id="a file"),
        pytest.param("data", "data", id="a file of our name"),
        pytest.param("data/0g1/", "0g1", id="a folder among those of objects"),
        pytest.param("data/007", "007", id="a file in the place of a folder"),
        pytest.param("catalogue.sqlite.bak", "catalogue.sqlite.bak", id="almost our name"),
    ],
)
def test_a_folder_with_other_things_is_refused(tmp_path: Path, foreign: str, named: str) -> None:
    place = tmp_path / foreign
    place.parent.mkdir(exist_ok=True)
    if foreign.endswith("/"):
        place.mkdir()
    else:
        place.write_text("precious")

    with pytest.raises(ForeignFolderError, match=f"holds '{named}', which is not a cache's"):
        DataFolder.open(tmp_path)


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param("data/000/precious", id="a name"),
        pytest.param("data/000/0000000000000700", id="an id that belongs elsewhere"),
        pytest.param("data/000/000000000000007", id="a short id"),
        pytest.param("data/000/0000000000000_07", id="an underscore"),
        pytest.param("data/000/000000000000000A", id="a capital"),
        pytest.param("data/fff/ffffffffffffffff", id="a number beyond all ids"),
        pytest.param("data/000/0000000000000000", id="number 0"),
    ],
)
def test_other_things_among_objects_are_never_removed(tmp_path: Path, foreign: str) -> None:
    folder = DataFolder.open(tmp_path)
    (tmp_path / foreign).parent.mkdir()
    (tmp_path / foreign).write_text("precious")

    with pytest.raises(ForeignFolderError, match=Path(foreign).name):
        folder.clear()
    folder.close()
    assert (tmp_path / foreign).read_text() == "precious"


def test_a_new_file_system_is_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()

    DataFolder.open(tmp_path).close()


def test_a_folder_is_made_but_not_what_it_lies_in(tmp_path: Path) -> None:
    DataFolder.open(tmp_path / "cache").close()

    with pytest.raises(FolderError, match="No such file"):
        DataFolder.open(tmp_path / "not-mounted" / "cache")


def test_of_broken_catalogues_the_last_stays(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    said = []
    for content in ("first", "second"):
        folder.catalogue_path.write_text(content)
        (tmp_path / "catalogue.sqlite-wal").write_text(content)
        (tmp_path / "catalogue.sqlite-shm").write_text(content)
        said.append(folder.set_catalogue_aside())
    folder.close()
    DataFolder.open(tmp_path).close()

    assert said == ["catalogue.broken-1", "catalogue.broken-2"]
    files = {each.name: each.read_text() for each in tmp_path.iterdir() if each.is_file()}
    assert files == {"catalogue.broken-2": "second", "catalogue.broken-2-wal": "second"}


def test_it_knows_how_much_room_there_is(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    free, total = folder.free_bytes(), folder.total_bytes()
    folder.sync()
    folder.close()

    assert 0 < free <= total
