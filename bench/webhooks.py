"""Reviews over TLS, against the same server that answers with a constant; `python -m bench.webhooks`.

Both servers and the client, wrk, are processes of their own. Ours holds a cluster of 5,000 nodes and the policy of the
manifests. The rounds alternate, so that a noisy moment meets both.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.measuring import Row, machine, resident_mib, table
from bench.wrk import Load, wrk
from tests.tasuki.kube.api_server import NODES
from tests.webhooks.certificates.api_server import HOOKS, SECRET, AdmissionApiServer

_POLICY: Final = Path(__file__).parents[1] / "manifests" / "webhooks" / "base" / "policy.yaml"
_BODY_BYTES: Final = 5_000
_MEMORY_REVIEWS: Final = 100_000
_NODES: Final = 5_000
# Where the client writes another number into each pod, if each is to be another.
_NUMBER: Final = "@@@@@@@@@@"


def pod(*, gpus: int) -> dict[str, Any]:
    """A pod of an ordinary size: two containers, three volumes, an environment and probes."""
    environment = [{"name": f"SETTING_{i}", "value": f"a value that somebody gave it, number {i}"} for i in range(20)]
    limits = {"cpu": "4", "memory": "16Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    main = {
        "name": "main",
        "image": "pytorch/pytorch:2.13.0",
        "command": ["python", "-m", "train", "--epochs", "10"],
        "env": environment,
        "resources": {"limits": limits, "requests": limits},
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/scratch"},
            {"name": "token", "mountPath": "/var/run/token"},
        ],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10, "failureThreshold": 3},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }
    helper = {"name": "logs", "image": "fluent/fluent-bit:4", "resources": {"limits": {"cpu": "100m"}}}
    volumes: list[dict[str, Any]] = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        {"name": "config", "configMap": {"name": "settings"}},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "train-",
            "labels": {"app": "train", "pod-template-hash": "6d4cf56db6"},
            "annotations": {"example.com/owner": "somebody", **({"tasuki.dev/gpu-slice": "timeshare"} if gpus else {})},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": "0", "controller": True}
            ],
        },
        "spec": {
            "containers": [main, helper],
            "volumes": volumes,
            "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority",
            "schedulerName": "default-scheduler",
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{key}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
                for key in ("not-ready", "unreachable")
            ],
        },
    }


def body(of: dict[str, Any]) -> bytes:
    """A review of 5 kB."""
    review = {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "9f0d3b1c-0000-4000-8000-000000000001",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "namespace-1",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:job-controller"},
            "object": of,
            "oldObject": None,
            "dryRun": False,
        },
    }
    missing = _BODY_BYTES - len(json.dumps(review)) - len('"example.com/padding": "", ')
    of["metadata"]["annotations"]["example.com/padding"] = _NUMBER + "x" * max(0, missing - len(_NUMBER))
    return json.dumps(review).encode()


@contextlib.contextmanager
def server(policy: Path, answer: Path | None = None) -> Iterator[tuple[int, int]]:
    """A server's port and process id."""
    command = [sys.executable, "-m", "bench.webhooks_server", str(policy), *([str(answer)] if answer else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.terminate()
        process.wait(10)


def ask(port: int, content: bytes) -> bytes:
    """One review, and its answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(f"https://127.0.0.1:{port}/mutate", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, context=context, timeout=10) as response:
        answer: bytes = response.read()
        return answer


def load(port: int, script: Path, connections: int, seconds: float) -> Load:
    # wrk's own patience.
    return wrk(f"https://127.0.0.1:{port}/mutate", seconds, connections, script, timeout_seconds=2)


def middle(loads: Sequence[Load]) -> Load:
    """The median of each figure."""
    return Load(
        per_second=statistics.median(each.per_second for each in loads),
        p50_ms=statistics.median(each.p50_ms for each in loads),
        p99_ms=statistics.median(each.p99_ms for each in loads),
        requests=sum(each.requests for each in loads),
    )


def script(content: bytes, folder: Path, *, numbered: bool) -> Path:
    """What wrk sends: the same review again and again, or each with a pod that nobody has seen before."""
    (folder / "body").write_bytes(content)
    lines = [
        f'local file = io.open("{folder / "body"}", "rb")',
        'wrk.method = "POST"',
        'wrk.body = file:read("*a")',
        'wrk.headers["Content-Type"] = "application/json"',
    ]
    if numbered:
        lines += [
            "local count = math.floor(os.time() % 10000) * 100000",
            f'local first, last = wrk.body:find("{_NUMBER}", 1, true)',
            "local head, tail = wrk.body:sub(1, first - 1), wrk.body:sub(last + 1)",
            "request = function()",
            "  count = count + 1",
            '  return wrk.format(nil, nil, nil, head .. string.format("%010d", count) .. tail)',
            "end",
        ]
    file = folder / "post.lua"
    file.write_text("\n".join(lines) + "\n")
    return file


def compared(title: str, content: bytes, folder: Path, asked: argparse.Namespace, *, numbered: bool) -> list[Row]:
    """One kind of pod at 1 and at 8 connections."""
    lua = script(content, folder, numbered=numbered)
    rows: list[Row] = []
    answer = folder / "answer"
    with server(_POLICY) as (ours, _):
        answer.write_bytes(ask(ours, content))
        with server(_POLICY, answer) as (constant, _):
            for connections in (1, 8):
                seen: dict[int, list[Load]] = {ours: [], constant: []}
                for port in (ours, constant) * (asked.rounds + 1):
                    seen[port].append(load(port, lua, connections, asked.seconds))
                # The first round of each warms it up.
                mine, floor = middle(seen[ours][1:]), middle(seen[constant][1:])
                share = mine.per_second / floor.per_second
                rows.append(
                    Row(
                        f"{title}, {connections} connection{'s' * (connections > 1)}: p50 / p99",
                        f"{mine.p50_ms:.2f} / {mine.p99_ms:.2f} ms (constant: {floor.p50_ms:.2f} / {floor.p99_ms:.2f})",
                        "p99 < 5 ms",
                        mine.p99_ms < 5,
                    )
                )
                rows.append(
                    Row(
                        "the same, reviews a second",
                        f"{mine.per_second:,.0f} of {floor.per_second:,.0f}: {share:.0%}",
                        "60% of constant",
                        share >= 0.6,
                    )
                )
    return rows


def memory(content: bytes, folder: Path) -> Row:
    """How much resident memory 100,000 reviews add, each of another pod."""
    lua = script(content, folder, numbered=True)
    with server(_POLICY) as (port, pid):
        warm = load(port, lua, 8, 10).requests
        before = resident_mib(pid)
        done = 0
        while done < _MEMORY_REVIEWS:
            done += load(port, lua, 8, 5).requests
        after = resident_mib(pid)
    return Row(
        f"resident memory, after {warm:,} reviews and {done:,} more", f"{before:.1f} / {after:.1f} MiB", "flat",
        after - before < 1.0,
    )  # fmt: skip


def a_node(number: int) -> dict[str, Any]:
    """A node of some 12 kB, most of it the names of images."""
    images = [{"names": [f"registry.example/team-{number % 40}/image-{i}@sha256:{'0' * 64}"] * 2} for i in range(40)]
    labels = {f"example.com/label-{i}": f"value-{i}" for i in range(30)} | {"kubernetes.io/hostname": f"node-{number}"}
    return {
        "metadata": {"labels": labels},
        "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
        "status": {
            "capacity": {"cpu": "64", "memory": "1Ti", "nvidia.com/gpu": "8"},
            "nodeInfo": {"kubeletVersion": "v1.36.1"},
            "images": images,
        },
    }


async def watching(folder: Path) -> Row:
    """Resident memory of the process as it is shipped, with all of a large cluster's nodes."""
    api = AdmissionApiServer()
    await api.put_secret()
    await api.put_configurations()
    for number in range(_NODES):
        await api.put(NODES, f"node-{number}", **a_node(number))
    await api.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tasuki.cli", "webhooks", "--policy", str(_POLICY), "--tls-secret", SECRET,
        "--webhook-configuration", HOOKS, "--listen", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0",
        "--log-level", "debug",
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "KUBECONFIG": api.kubeconfig(folder)},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while f"nodes indexed nodes={_NODES}" not in (await process.stderr.readline()).decode():
                pass
        await asyncio.sleep(3)
        resident = resident_mib(process.pid)
    finally:
        process.terminate()
        await process.communicate()
        await api.stop()
    return Row(f"resident memory, watching {_NODES:,} nodes", f"{resident:.0f} MiB", "< 128 MiB", resident < 128)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.webhooks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement, after one that warms up (5)")
    parser.add_argument("--seconds", type=float, default=3, help="that a round takes (3)")
    asked = parser.parse_args(argv)
    if shutil.which("wrk") is None:
        print("wrk, which sends the load, is not installed; Debian has it as the package wrk", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gpu, cpu = body(pod(gpus=1)), body(pod(gpus=0))
        print(f"a review of {len(gpu):,} bytes; {machine()}\n", flush=True)
        rows = [
            *compared("GPU pods of one template", gpu, folder, asked, numbered=False),
            *compared("CPU pods of one template", cpu, folder, asked, numbered=False),
            *compared("GPU pods, each another", gpu, folder, asked, numbered=True),
            *compared("CPU pods, each another", cpu, folder, asked, numbered=True),
        ]
        rows.append(memory(gpu, folder))
        rows.append(asyncio.run(watching(folder)))
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
