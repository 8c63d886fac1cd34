"""Folders, rows and contents of caches, as tests need them."""

import os
from pathlib import Path
from typing import Final

import xxhash

from objectcache.storage.catalogue import Catalogue, Row
from objectcache.storage.files import DataFolder, create_incoming
from objectcache.storage.recovery import Recovered, recover

NOW: Final = 1_790_000_000
BOOT: Final = "boot-1"


def a_row(object_id: int, name: bytes = b"", *, bucket: int = 1, size: int = 3, flags: int = 0) -> Row:
    content = content_of(object_id, size)
    return Row(object_id, bucket, name or b"name-%d" % object_id, size, checksum(content), NOW, NOW, flags)


def content_of(object_id: int, size: int) -> bytes:
    return (b"%d/" % object_id * size)[:size]


def checksum(content: bytes) -> bytes:
    return xxhash.xxh3_128(content).digest()


def write_incoming(folder: DataFolder, object_id: int, size: int) -> None:
    fd = create_incoming(folder.incoming_fd, object_id, size)
    try:
        os.write(fd, content_of(object_id, size))
    finally:
        os.close(fd)


def put(folder: DataFolder, catalogue: Catalogue, row: Row) -> None:
    write_incoming(folder, row.id, row.size)
    folder.publish(row.id)
    catalogue.insert(row)


def started(path: Path, boot: str = BOOT) -> tuple[DataFolder, Recovered]:
    folder = DataFolder.open(path)
    return folder, recover(folder, boot, NOW, lambda _: None)


def stopped(folder: DataFolder, recovered: Recovered, *, clean: bool) -> None:
    recovered.catalogue.close(clean=clean)
    recovered.index.close()
    folder.close()


def file_ids(folder: DataFolder) -> list[int]:
    return sorted(each for ids in folder.ids() for each in ids.tolist())


def row_ids(catalogue: Catalogue) -> list[int]:
    return [row[0] for batch in catalogue.rows() for row in batch]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
