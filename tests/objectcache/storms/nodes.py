"""A node's cache that ends in many ways and starts again over the same folder."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tests.objectcache.caches import RunningCache, running_cache
from tests.objectcache.storms.disks import SmallDisk

SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02


class Listed(msgspec.Struct, frozen=True):
    """An object, as a bucket's page tells of it."""

    name: str
    bytes: int
    etag: str


class _Page(msgspec.Struct, frozen=True):
    objects: list[Listed]
    more: bool


class Held(msgspec.Struct, frozen=True, rename="camel"):
    """A bucket, as the summary tells of it."""

    name: str
    bytes: int
    objects: int
    pinned_bytes: int


class _Summary(msgspec.Struct, frozen=True):
    buckets: list[Held]


def content(serial: int, size: int) -> bytes:
    """Bytes that no other serial has, nor the same serial at another offset."""
    return random.Random(serial).randbytes(size)


def target(name: str, bucket: str = "bk") -> str:
    return f"/v1/objects/{bucket}/{quote(name)}"


class Node:
    """One at a time runs over `folder`.

    Attributes:
        cache: The one that runs.
        data_dir: Where its objects lie.
    """

    cache: RunningCache

    def __init__(
        self,
        folder: Path,
        buckets: Sequence[Mapping[str, Any]],
        *,
        capacity: str = "1Gi",
        options: Sequence[str] = (),
        workers: int = 1,
        disk: SmallDisk | None = None,
    ) -> None:
        """Nothing runs before `start`; the arguments are those of `running_cache`, and `disk`, to run on."""
        self.data_dir: Final = (folder if disk is None else disk.path) / "data"
        # The last one counts.
        own = ("--data-dir", str(disk.mounted_at / "data")) if disk is not None else ()
        self._disk: Final = disk
        self._folder: Final = folder
        self._buckets: Final = buckets
        self._capacity: Final = capacity
        self._options: Final = (*options, *own)
        self._workers: Final = workers
        self._stack: Final = ExitStack()

    def start(self) -> None:
        running = running_cache(
            self._folder,
            buckets=self._buckets,
            capacity=self._capacity,
            options=self._options,
            workers=self._workers,
        )
        with self._disk.running_inside() if self._disk is not None else nullcontext():
            self.cache = self._stack.enter_context(running)

    def close(self) -> None:
        """End it if it runs."""
        self._stack.close()

    @property
    def is_running(self) -> bool:
        return hasattr(self, "cache") and self.cache.process.poll() is None

    def stop(self) -> None:
        """As the kubelet does."""
        workers = self.workers()
        status = self.cache.stop()
        assert status == 0, self.output
        self._gone(workers)

    def kill(self) -> None:
        """The keeper, with SIGKILL; returns when its workers have noticed."""
        workers = self.workers()
        self.cache.kill()
        self._gone(workers)

    def kill_worker(self) -> None:
        """One of them, with SIGKILL; the one that is started next if none runs."""
        eventually(lambda: bool(self.workers()))
        os.kill(self.workers()[0], signal.SIGKILL)

    def workers(self) -> list[int]:
        """Ids of its processes, ascending."""
        found: list[int] = []
        for task in Path(f"/proc/{self.cache.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text("ascii").split())
        return sorted(found)

    @property
    def output(self) -> str:
        """All that it and those before it have logged."""
        return (self._folder / "output.log").read_text()

    # What a client sees.

    def put(self, name: str, body: bytes, bucket: str = "bk", **headers: str) -> int:
        """The status."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.cache.request("PUT", target(name, bucket), body, named)[0]

    def get(self, name: str, bucket: str = "bk") -> bytes | None:
        """The content; None if there is no such object."""
        status, _, body = self.cache.request("GET", target(name, bucket))
        assert status in (200, 404), body
        return body if status == 200 else None

    def has(self, name: str, bucket: str = "bk") -> bool:
        """Asked for with HEAD."""
        status, _, _ = self.cache.request("HEAD", target(name, bucket))
        assert status in (200, 404), status
        return status == 200

    def listed(self, bucket: str = "bk") -> dict[str, Listed]:
        """By name."""
        found: dict[str, Listed] = {}
        while True:
            after = quote(max(found), safe="") if found else ""
            status, _, body = self.cache.request("GET", f"/v1/objects/{bucket}?limit=100&after={after}")
            assert status == 200, body
            page = msgspec.json.decode(body, type=_Page)
            found |= {each.name: each for each in page.objects}
            if not page.more:
                return found

    def held(self) -> dict[str, Held]:
        """The summary, by bucket."""
        status, _, body = self.cache.request("GET", "/v1/summary")
        assert status == 200, body
        return {each.name: each for each in msgspec.json.decode(body, type=_Summary).buckets}

    # What an operator sees.

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.cache.page("/metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def readiness(self) -> str:
        """The page of `/readyz`."""
        return self.cache.page("/readyz")

    # What lies on the disk.

    def files(self) -> dict[int, Path]:
        """Of objects, by id."""
        return {int(each.name, 16): each for each in (self.data_dir / "data").glob("*/*")}

    def incoming(self) -> list[str]:
        """What is being written."""
        return sorted(each.name for each in (self.data_dir / "incoming").iterdir())

    def _gone(self, processes: Sequence[int]) -> None:
        eventually(lambda: not any(map(_is_running, processes)), lambda: f"workers outlive their keeper: {self.output}")


def eventually(is_true: Callable[[], bool], said: Callable[[], str] = lambda: "", seconds: float = SECONDS) -> None:
    """Wait until something is true.

    Raises:
        AssertionError: With what was `said`, if it takes longer.
    """
    ends = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < ends, said()
        time.sleep(_POLL_SECONDS)


def bucket(name: str, quota: str, **more: Any) -> dict[str, Any]:
    """As the talk spells it, of the namespace that `running_cache` knows."""
    return {"Name": name, "BucketQuota": quota, "AllowNamespaces": ["research"], **more}


def _is_running(process: int) -> bool:
    """Nobody may be there to wait for a process whose keeper was killed: it stays a zombie."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
