"""The cache as it is shipped, a process of its own, for whoever needs one."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.objectcache.recording import recording
from tests.ports import free_port as free_port  # noqa: PLC0414 - benchmarks have it from here

TOKEN: Final = "token-of-research"
BUCKETS: Final = ({"Name": "bk", "Public": False, "BucketQuota": "1Gi", "AllowNamespaces": ["research"]},)
SECONDS: Final = 30.0


@dataclass
class RunningCache:
    """One node's cache.

    Attributes:
        url: Without a slash at its end; objects lie under `{url}/v1/objects/{bucket}/{object}`.
        port: Of `url`, behind which requests are noted in `log`.
        direct_port: The cache's own.
        token: Of namespace `research`, which may read and write bucket `bk`.
        log: Method, target and status of each request so far, in the order of their answers.
    """

    url: str
    port: int
    direct_port: int
    metrics_port: int
    process: subprocess.Popen[bytes]
    output: Path
    token: str = TOKEN
    log: list[tuple[str, str, int]] = field(default_factory=list)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers in lower case, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.direct_port, timeout=SECONDS)
        try:
            known = {"Authorization": f"Bearer {self.token if token is None else token}"}
            connection.request(method, target, body, {**known, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def page(self, path: str) -> str:
        """Of the operator's port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def wait_ready(self) -> None:
        """Until all is ready.

        Raises:
            AssertionError: With what it logged, if it ended or takes too long.
        """
        ends = time.monotonic() + SECONDS
        while True:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < ends, self.output.read_text()
            try:
                if self.page("/readyz").endswith("\nready\n"):
                    return
            except OSError:
                pass
            time.sleep(0.02)

    def stop(self) -> int:
        """As the kubelet does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        """With SIGKILL, the keeper alone: its workers notice."""
        self.process.kill()
        self.process.wait(SECONDS)


@contextmanager
def running_cache(
    folder: Path,
    *,
    buckets: Sequence[Mapping[str, Any]] = BUCKETS,
    tokens: Mapping[str, str] | None = None,
    capacity: str = "1Gi",
    options: Sequence[str] = (),
    workers: int = 1,
) -> Iterator[RunningCache]:
    """Run one.

    Args:
        folder: Empty, or of an earlier one.
        buckets: As the talk spells them.
        tokens: Namespace by token; TOKEN of `research` unless given.
        capacity: Of the disk.
        options: More of its command line.
        workers: How many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, metrics_port = free_port(), free_port()
    bucket_file, token_file, output = folder / "buckets.json", folder / "tokens.json", folder / "output.log"
    bucket_file.write_text(json.dumps([*buckets]))
    known = dict(tokens or {TOKEN: "research"})
    token_file.write_text(
        json.dumps([{"token": token, "namespace": name, "serviceAccount": "default"} for token, name in known.items()])
    )
    token_file.chmod(0o600)
    command = [
        sys.executable, "-m", "objectcache", "--auth", "static", "--tokens", str(token_file), "--buckets",
        str(bucket_file), "--data-dir", str(folder / "data"), "--listen", f"127.0.0.1:{port}", "--metrics-address",
        f"127.0.0.1:{metrics_port}", "--capacity", capacity, "--free-bytes", "1Mi", "--drain-seconds", "0",
        "--workers", str(workers), *options,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TASUKI_", "KUBE"))}
    with output.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    cache = RunningCache("", 0, port, metrics_port, process, output)
    try:
        cache.wait_ready()
        with recording(port, cache.log) as noted:
            cache.port, cache.url = noted, f"http://127.0.0.1:{noted}"
            yield cache
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                cache.kill()
