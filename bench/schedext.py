"""The scheduler extender against one that answers with a constant; `python -m bench.schedext`.

The extender is the whole process, fed by a stub API server with a cluster of any size, whose pods come and go while it
is asked. Each request is another pod; pods are of twenty kinds. The requests to both extenders alternate, so that a
noisy moment meets both. The client, the extender and the API server share the machine's processors.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.measuring import Row, Sample, alternate, machine, resident_mib, table
from bench.schedext_api import GPUS, REPLICAS, node_name
from tests.ports import free_port

_KINDS: Final = 20
_REQUESTS: Final = 400
_BINDS: Final = 4_000
_READY_SECONDS: Final = 120.0
_CHURN: Final = 20.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Extender:
    """The process, its port, and how long it took from its start until it was ready."""

    pid: int
    port: int
    ready_seconds: float


@dataclass(frozen=True)
class Size:
    nodes: int
    placed: int
    pods: int
    waiting: int = 0


class Connection:
    """One that is kept, as the scheduler's HTTP client keeps its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb", buffering=2**20)

    def ask(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        status = self._stream.readline()
        length = 0
        while (line := self._stream.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body: bytes = self._stream.read(length)
        if b" 200 " not in status:
            raise RuntimeError(f"{status!r}: {body[:300]!r}")
        return body


def request(verb: str, body: Json) -> bytes:
    """As kube-scheduler sends it."""
    content = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST /{verb} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(content)}\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + content


def pod(number: int, kind: int) -> Json:
    """Of one of the kinds, which want one to four slices, some of them on one device or on several.

    Every fifth kind wants so much memory of its devices that it does not fit on most nodes.
    """
    wanted = {"nvidia.com/gpu": str(1 + kind % 4), "cpu": str(1 + kind)}
    annotations = {"example.com/kind": str(kind)}
    if kind % 3 == 1:
        annotations["tasuki.dev/pack"] = "device"
    if kind % 3 == 2:
        annotations["tasuki.dev/spread"] = "devices"
    if kind % 5 == 4:
        annotations["tasuki.dev/gpu-memory"] = "77Gi"
    container = {"name": f"main-{kind}", "image": "example:1", "resources": {"requests": wanted, "limits": wanted}}
    metadata = {"name": f"new-{number}", "namespace": "team-1", "uid": f"new-{number}", "annotations": annotations}
    return {"metadata": metadata, "spec": {"containers": [container]}, "status": {"phase": "Pending"}}


@contextlib.contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A child with a pipe of what it prints, ended at the end."""
    started = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()


def printed_port(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    return int(child.stdout.readline())


@contextlib.contextmanager
def extender(size: Size, folder: Path, *, churn: float = 0.0) -> Iterator[Extender]:
    """The whole process beside a stub API server with a cluster of this size, once it is ready."""
    sizes = ("--nodes", size.nodes), ("--placed", size.placed), ("--running", size.pods), ("--waiting", size.waiting)
    options = [str(word) for pair in sizes for word in pair] + ["--churn", str(churn)]
    with process("bench.schedext_api", *options) as api:
        kubeconfig = write_kubeconfig(folder, printed_port(api))
        port, metrics = free_port(), free_port()
        settings = {
            "KUBECONFIG": kubeconfig,
            "TASUKI_LISTEN": f"127.0.0.1:{port}",
            "TASUKI_EXPLAIN_LISTEN": "",
            "TASUKI_METRICS_ADDRESS": f"127.0.0.1:{metrics}",
            "TASUKI_LOG_LEVEL": "warning",
        }
        started = time.perf_counter()
        with process("schedext", **settings) as ours:
            wait_until_ready(metrics)
            yield Extender(ours.pid, port, time.perf_counter() - started)


def write_kubeconfig(folder: Path, port: int) -> str:
    path = folder / f"kubeconfig-{port}"
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "tasuki-system"}}
    users = [{"name": "u", "user": {"token": "none"}}]
    config = {"users": users, "clusters": [cluster], "contexts": [context], "current-context": "x"}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
    return str(path)


def wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    said = ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except urllib.error.HTTPError as error:
            said = error.read().decode()
        except OSError as error:
            said = str(error)
        time.sleep(0.02)
    raise RuntimeError(f"the extender was not ready in {_READY_SECONDS:g} s: {said}")


def measure_verbs(size: Size, counts: Sequence[int], folder: Path) -> list[Row]:
    rows = []
    answers = folder / "answers"
    answers.mkdir(exist_ok=True)
    chance = random.Random(1)
    with extender(size, folder, churn=_CHURN) as ours:
        connection = Connection(ours.port)
        for count in counts:
            names = [node_name(n) for n in range(size.nodes)]
            chance.shuffle(names)
            bodies = {
                verb: [
                    request(verb, {"Pod": pod(n, n % _KINDS), "Nodes": None, "NodeNames": names[:count]})
                    for n in range(_KINDS * 5)
                ]
                for verb in ("filter", "prioritize")
            }
            for verb, each in bodies.items():
                (answers / verb).write_bytes(connection.ask(each[0]))
            with process("bench.schedext_constant", str(answers)) as constant:
                floor = Connection(printed_port(constant))
                rows += measured(connection, floor, bodies, count)
        rows.append(
            Row(f"resident, {size.nodes} nodes and {size.pods} pods", f"{resident_mib(ours.pid):.0f} MiB", "300 MiB",
                resident_mib(ours.pid) <= 300)
        )  # fmt: skip
        rows.append(Row("ready from cold", f"{ours.ready_seconds:.1f} s", "20 s", ours.ready_seconds <= 20))
    return rows


def measured(ours: Connection, floor: Connection, bodies: dict[str, list[bytes]], count: int) -> list[Row]:
    """Filter and prioritize of one pod, one after the other, as one measurement."""
    pairs = list(zip(bodies["filter"], bodies["prioritize"], strict=True))
    turn = iter(range(10**9))

    def asked(connection: Connection) -> None:
        first, second = pairs[next(turn) // 2 % len(pairs)]
        connection.ask(first)
        connection.ask(second)

    first = Sample()
    for each in pairs[:_KINDS]:
        first.time(lambda each=each: [ours.ask(body) for body in each])  # type: ignore[misc]  # bound at once
    sample, constant = Sample(), Sample()
    alternate(_REQUESTS, (sample, lambda: asked(ours)), (constant, lambda: asked(floor)))
    aim = {500: 2.0, 5_000: 15.0}.get(count)
    result = (
        f"p50 {sample.median_ms:.2f} ms, p99 {sample.percentile_ms(99):.2f} ms; constant {constant.median_ms:.2f} and "
        f"{constant.percentile_ms(99):.2f} ms; ratio {sample.median_ms / constant.median_ms:.1f}"
    )
    p99 = sample.percentile_ms(99)
    return [
        Row(f"filter + prioritize, {count} names", result, f"p99 {aim:g} ms" if aim else "", aim is None or p99 <= aim),
        Row(f"the first of each kind, {count} names", spoken(first), "", True),
    ]


def spoken(sample: Sample) -> str:
    return f"p50 {sample.median_ms:.2f} ms, p99 {sample.percentile_ms(99):.2f} ms"


def bind_all(port: int, size: Size, connections: int) -> tuple[Sample, float]:
    """Bind every waiting pod, so many at a time: how long each took, and all together."""
    numbers = iter(range(size.pods, size.pods + size.waiting))
    lock = threading.Lock()
    sample = Sample()

    def work() -> None:
        connection = Connection(port)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            body = {
                "PodName": f"job-{number}", "PodNamespace": f"team-{number % 40}", "PodUID": f"pod-{number}",
                "Node": node_name(number % size.nodes),
            }  # fmt: skip
            asked = request("bind", body)
            began = time.perf_counter()
            said = connection.ask(asked)
            sample.seconds.append(time.perf_counter() - began)
            if said != b'{"Error":""}':
                raise RuntimeError(said.decode())

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(sample.seconds) != size.waiting:
        raise RuntimeError(f"{len(sample.seconds)} of {size.waiting} pods were bound")
    return sample, time.perf_counter() - began


def measure_binds(size: Size, folder: Path) -> list[Row]:
    rows = []
    for connections in (1, 8):
        waiting = replace(size, waiting=_BINDS)
        with extender(waiting, folder) as ours:
            sample, took = bind_all(ours.port, waiting, connections)
        rows.append(Row(f"binds, {connections} at a time", f"{_BINDS / took:.0f}/s, {spoken(sample)}", "", True))
    return rows


def median_ms(connection: Connection, names: Sequence[str]) -> float:
    """Of filter and prioritize together."""
    body = {"Pod": pod(1, 0), "Nodes": None, "NodeNames": names}
    both = [request(verb, body) for verb in ("filter", "prioritize")]
    sample = Sample()
    for _ in range(60):
        sample.time(lambda: [connection.ask(each) for each in both])
    return sample.median_ms


def measure_growth(folder: Path) -> list[Row]:
    rows = []
    for nodes in (100, 1_000, 5_000, 15_000):
        size = Size(nodes, nodes * 4, nodes * 10)
        # What kube-scheduler asks about by default (pkg/scheduler/schedule_one.go, numFeasibleNodesToFind).
        sampled = max(100, nodes * max(5, 50 - nodes // 125) // 100)
        with extender(size, folder) as ours:
            connection = Connection(ours.port)
            names = [node_name(n) for n in range(nodes)]
            took = [f"{count} names {median_ms(connection, names[:count]):.2f} ms" for count in (sampled, nodes)]
            memory, ready = resident_mib(ours.pid), ours.ready_seconds
        result = f"{', '.join(dict.fromkeys(took))}; {memory:.0f} MiB; ready in {ready:.1f} s"
        rows.append(Row(f"{nodes} nodes, {size.pods} pods", result, "", True))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("verbs", "binds", "growth"))
    options = parser.parse_args()
    size = Size(nodes=5_000, placed=20_000, pods=50_000)
    print(f"{machine()}\n{size.nodes} nodes of {GPUS} GPUs in {REPLICAS} slices each, {size.placed} placed pods\n")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if options.only in (None, "verbs"):
            rows += measure_verbs(size, (500, 5_000), folder)
        if options.only in (None, "binds"):
            rows += measure_binds(size, folder)
        if options.only in (None, "growth"):
            rows += measure_growth(folder)
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
