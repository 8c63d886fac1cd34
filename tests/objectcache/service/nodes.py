"""A node with a cache of which more can be seen and broken than clients see: its processes, files and counters."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.objectcache.caches import BUCKETS, SECONDS, TOKEN, RunningCache
from tests.ports import free_port

HASTY: Final = "tests.objectcache.service.hasty_cache"
SHIPPED: Final = "objectcache"


def until(condition: Callable[[], object], what: str = "") -> None:
    """Look again and again.

    Raises:
        AssertionError: It takes too long.
    """
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends, what or condition
        time.sleep(0.01)


@dataclass
class Node(RunningCache):
    """A node's cache.

    Attributes:
        folder: Holds `data`, the cache's own, and `buckets.json`.
    """

    folder: Path = Path()

    def workers(self) -> list[int]:
        """Process ids of its workers, sorted."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(int(each) for each in children if b"objectcache.serving" in command_of(int(each)))

    def descriptors(self) -> int:
        """Open in its workers, all together."""
        return sum(len([*Path(f"/proc/{each}/fd").iterdir()]) for each in self.workers())

    def count(self, name: str, **labels: str) -> float:
        """A metric's value; 0 if it is not there."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in self.page("/metrics").splitlines():
            found = re.fullmatch(rf"tasuki_cache_{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and wanted <= {*(found[1] or "").split(",")}:
                return float(found[2])
        return 0.0

    def object_files(self) -> list[Path]:
        """Of committed objects, the oldest first."""
        return sorted((self.folder / "data" / "data").glob("*/*"), key=lambda each: each.stat().st_mtime_ns)

    def incoming(self) -> list[Path]:
        """Of objects that are being put."""
        return sorted((self.folder / "data" / "incoming").iterdir())

    def is_unharmed(self) -> bool:
        """No worker had to be restarted, and no request met a defect."""
        return (self.count("worker_restarts"), self.count("defects_total")) == (0, 0)


def write_tokens(path: Path, tokens: Mapping[str, str]) -> None:
    known = [{"token": token, "namespace": name, "serviceAccount": "default"} for token, name in tokens.items()]
    path.write_text(json.dumps(known))
    path.chmod(0o600)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def node(
    folder: Path,
    *,
    buckets: Sequence[Mapping[str, Any]] = BUCKETS,
    tokens: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    workers: int = 1,
    module: str = SHIPPED,
    environ: Mapping[str, str] | None = None,
    auth: str = "static",
    port: int = 0,
    wait: bool = True,
    kill: bool = False,
) -> Iterator[Node]:
    """Run one.

    Args:
        folder: Empty, or of an earlier one.
        buckets: As in a file of them; none for no file.
        tokens: Namespace by token.
        options: More of its command line.
        workers: How many.
        module: Which program.
        environ: More of its environment.
        auth: Where tokens are known from.
        port: Of objects; 0 for any.
        wait: Until it is ready.
        kill: In the end, in place of telling it to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, metrics_port, output = port or free_port(), free_port(), folder / "output.log"
    command = [
        sys.executable, "-m", module, "--auth", auth, "--data-dir", str(folder / "data"), "--listen",
        f"127.0.0.1:{port}", "--metrics-address", f"127.0.0.1:{metrics_port}", "--capacity", "1Gi", "--free-bytes",
        "1Mi", "--drain-seconds", "0", "--workers", str(workers), *options,
    ]  # fmt: skip
    if buckets:
        (folder / "buckets.json").write_text(json.dumps([*buckets]))
        command += ["--buckets", str(folder / "buckets.json")]
    if auth == "static":
        write_tokens(folder / "tokens.json", tokens or {TOKEN: "research"})
        command += ["--tokens", str(folder / "tokens.json")]
    known = {name: value for name, value in os.environ.items() if not name.startswith(("TASUKI_", "KUBE"))}
    with output.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**known, **(environ or {})})
    cache = Node(f"http://127.0.0.1:{port}", port, port, metrics_port, process, output, folder=folder)
    try:
        if wait:
            cache.wait_ready()
        yield cache
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                cache.kill()
