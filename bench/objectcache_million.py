"""A million objects: how long the cache takes to start with them, and how much memory it has then."""

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.measuring import Row
from objectcache.storage.catalogue import Catalogue
from objectcache.storage.catalogue import Row as ObjectRow
from objectcache.storage.files import DataFolder, open_data
from objectcache.storage.recovery import boot_id
from tests.objectcache.caches import RunningCache, running_cache

_OBJECTS: Final = 1_000_000
_SIZE_BYTES: Final = 100_000
_AT_ONCE: Final = 10_000
AFTER_STOP: Final = "after a clean stop"
AFTER_KILL: Final = "after kill -9"
_BUCKETS: Final = ({"Name": "bk", "BucketQuota": "1Ti", "AllowNamespaces": ["research"]},)
_START_AIM_SECONDS: Final = 10
_MEMORY_AIM_MIB: Final = 400


def million(folder: Path) -> Iterator[Row]:
    """Starts after a clean stop, and after a kill."""
    _fill(folder / "data")
    options = ("--workers", str(len(os.sched_getaffinity(0))))
    for what in (AFTER_STOP, AFTER_KILL):
        began = time.monotonic()
        with running_cache(folder, buckets=_BUCKETS, capacity="1Ti", options=options) as cache:
            took = time.monotonic() - began
            found = cache.request("GET", "/v1/objects/bk?limit=1")[2]
            assert b"dataset" in found, found
            yield Row(
                f"start to ready with {_OBJECTS:,} objects, {what}",
                f"{took:.1f} s",
                f"< {_START_AIM_SECONDS} s",
                took < _START_AIM_SECONDS,
            )
            if what == AFTER_STOP:
                _touch_all(cache)
                memory = _proportional_mib(cache)
                yield Row(
                    f"memory with {_OBJECTS:,} objects, keeper and workers", f"{memory:.0f} MiB",
                    f"< {_MEMORY_AIM_MIB} MiB", memory < _MEMORY_AIM_MIB,
                )  # fmt: skip
                cache.kill()


def _fill(path: Path) -> None:
    """Rows and files as so many PUTs would leave them; the files are empty, as nobody reads them."""
    path.parent.mkdir(parents=True)
    folder = DataFolder.open(path)
    catalogue = Catalogue.open(folder.catalogue_path)
    with catalogue.changes():
        number = catalogue.number_of("bk")
    now = int(time.time())
    data = open_data(path)
    for shard in range(0x1000):
        Path(path, "data", f"{shard:03x}").mkdir(mode=0o700, exist_ok=True)
    for _ in range(0, _OBJECTS, _AT_ONCE):
        with catalogue.changes():
            for object_id in catalogue.take_ids(_AT_ONCE):
                name = b"s3://storage/datasets/images/dataset-%03d/%09d.jpg" % (object_id % 300, object_id)
                row = ObjectRow(object_id, number, name, _SIZE_BYTES, secrets.token_bytes(16), now, 0, 0)
                catalogue.insert(row)
                place = f"{object_id >> 8 & 0xFFF:03x}/{object_id:016x}"
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=data))
    os.close(data)
    catalogue.use(boot_id(), suspect=False)
    catalogue.close(clean=True)
    folder.close()


def _touch_all(cache: RunningCache) -> None:
    """Let every process map what it uses."""
    for number in range(200):
        cache.request("GET", f"/v1/objects/bk/no-such-object-{number}")


def _proportional_mib(cache: RunningCache) -> float:
    """What the processes take together, shared memory counted once (Pss)."""
    parent = cache.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    total = 0
    for pid in (parent, *map(int, children)):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024
