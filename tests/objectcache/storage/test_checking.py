"""Whether objects are what was put."""

import errno
import os
from pathlib import Path

import pytest

from objectcache.storage.checking import CHUNK_BYTES, Candidate, DamagedError, checksum_of, scrub, verify
from objectcache.storage.files import DataFolder
from tests.objectcache.storage.builders import checksum, content_of, open_descriptors, write_incoming

SIZES = [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1]


def a_file(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


@pytest.mark.parametrize("size", SIZES)
def test_the_checksum_is_that_of_the_whole_content(tmp_path: Path, size: int) -> None:
    content = content_of(7, size)
    fd = a_file(tmp_path / "file", content)

    assert checksum_of(fd, size) == checksum(content)
    os.close(fd)


@pytest.mark.parametrize("length", [9, 11])
def test_a_file_of_another_size_is_damaged(tmp_path: Path, length: int) -> None:
    fd = a_file(tmp_path / "file", bytes(length))

    with pytest.raises(DamagedError, match=f"has {length} bytes instead of 10"):
        checksum_of(fd, 10)
    os.close(fd)


def test_other_content_is_damaged(tmp_path: Path) -> None:
    fd = a_file(tmp_path / "file", bytes(10))

    verify(fd, 10, checksum(bytes(10)))
    with pytest.raises(DamagedError, match="has checksum"):
        verify(fd, 10, checksum(b"something!"))
    os.close(fd)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param(errno.EIO, DamagedError, id="a bad sector says that the file is damaged"),
        pytest.param(errno.ENOMEM, OSError, id="no memory says nothing of the file"),
    ],
)
def test_errors_of_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    fd = a_file(tmp_path / "file", bytes(10))
    monkeypatch.setattr(os, "preadv", fail)

    with pytest.raises(expected, match=os.strerror(code)):
        checksum_of(fd, 10)
    os.close(fd)


def test_scrubbing_tells_what_is_damaged_and_keeps_its_rate(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    sizes = {1: CHUNK_BYTES + 512, 2: 100, 3: 0, 4: 100}
    for object_id, size in sizes.items():
        write_incoming(folder, object_id, size)
        folder.publish(object_id)
    folder.remove([4])
    candidates = [Candidate(each, size, checksum(content_of(each, size))) for each, size in sizes.items()]
    candidates[1] = candidates[1]._replace(checksum=bytes(16))
    steps = list(scrub(folder.data_fd, candidates, CHUNK_BYTES))
    folder.close()

    assert {step.object_id: step.damage[:17] for step in steps if step.done} == {
        1: "",
        2: "its file has chec",
        3: "",
        4: "its file is gone",
    }
    assert [step.wait_seconds for step in steps if step.object_id == 1] == [1.0, 512 / CHUNK_BYTES, 0]


def test_scrubbing_given_up_in_the_middle_leaves_nothing_open(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    write_incoming(folder, 1, 100)
    folder.publish(1)
    before = open_descriptors()
    steps = scrub(folder.data_fd, [Candidate(1, 100, bytes(16))], 1.0)
    next(steps)
    steps.close()

    assert open_descriptors() == before
    folder.close()
