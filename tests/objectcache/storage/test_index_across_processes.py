"""One process writes an index as fast as it can while another reads it."""

import mmap
import random
import subprocess
import sys

from objectcache.storage.index import IndexWriter
from tests.objectcache.storage.reading_process import LEAST_SEEN, checksum_of, key_of


class ScatteringMap(mmap.mmap):
    """Writes slots word by word in any order, as other processors would see it."""

    def __setitem__(self, where: object, content: object) -> None:
        if not isinstance(where, slice) or not isinstance(content, bytes) or len(content) != 64:
            raise TypeError(f"only slots are written here, not {where}")
        for word in random.sample(range(0, 64, 8), 8):
            super().__setitem__(slice(where.start + word, where.start + word + 8), content[word : word + 8])


def put(writer: IndexWriter, object_id: int) -> None:
    """Half of the keys always stand for an object; the others come and go."""
    number = object_id % 32
    if number >= 16 and object_id // 32 % 3 == 0:
        writer.remove(key_of(number))
        return
    fields = object_id * 0x10001, checksum_of(object_id), object_id % 2**32, object_id % 5
    writer.put(key_of(number), object_id, *fields)


def read_while_writing(writer: IndexWriter, rounds: int, lasting: int) -> tuple[int, str]:
    """How the reader ended, and what it said."""
    for object_id in range(32, 64):
        put(writer, object_id)
    arguments = (str(each) for each in (writer.fd, rounds, lasting))
    command = [sys.executable, "-m", "tests.objectcache.storage.reading_process", *arguments]
    reading = subprocess.Popen(command, pass_fds=[writer.fd], stdout=subprocess.PIPE, text=True)
    object_id = 64
    while reading.poll() is None:
        for _ in range(1000):
            put(writer, object_id)
            object_id += 1
    said, _ = reading.communicate()
    return reading.returncode, said


def test_a_reader_never_sees_what_never_was_nor_misses_what_always_was() -> None:
    writer = IndexWriter.create(1024)
    status, said = read_while_writing(writer, 15_000, lasting=16)
    writer.close()

    assert status == 0, said
    assert int(said) > LEAST_SEEN


def test_a_reader_never_sees_what_never_was_in_whatever_order_it_is_written() -> None:
    writer = IndexWriter.create(1024)
    scattering = IndexWriter(writer.fd, ScatteringMap(writer.fd, 0), writer.slots, 0)
    status, said = read_while_writing(scattering, 5000, lasting=0)
    scattering.close()

    assert status == 0, said
    assert int(said) > LEAST_SEEN
