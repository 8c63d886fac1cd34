"""A cluster of any size, told over HTTP as an API server tells it; a process of its own for `bench.schedext`.

It has no memory of objects: whatever is listed follows from its number. What it does keep is who was bound.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, Final
from zlib import crc32

import uvloop
from aiohttp import web

Json = dict[str, Any]

GPUS: Final = 8
REPLICAS: Final = 10
ZONES: Final = 3
_GPU: Final = "nvidia.com/gpu"
_VERSION: Final = 1000
_PADDING: Final = "x" * 2_500


def node_name(number: int) -> str:
    return f"gpu-node-{number:05d}.example.internal"


def gpu_id(node: int, index: int) -> str:
    return f"GPU-{node:08x}-0000-4000-8000-{index:012x}"


def node(number: int) -> Json:
    """With the labels, conditions and images of a real one."""
    labels = {
        "kubernetes.io/hostname": node_name(number),
        "topology.kubernetes.io/zone": f"zone-{number % ZONES}",
        **{f"feature.node.kubernetes.io/cpu-{i}": "true" for i in range(60)},
    }
    amounts = {"cpu": "128", "memory": "2113Gi", "pods": "110", _GPU: str(GPUS * REPLICAS)}
    images = [{"names": [f"example/image-{i}@sha256:{'0' * 64}"], "sizeBytes": 10**9} for i in range(50)]
    return {
        "metadata": {"name": node_name(number), "uid": f"node-{number}", "resourceVersion": "1", "labels": labels},
        "spec": {},
        "status": {"capacity": amounts, "allocatable": amounts, "images": images},
    }


def slice_of(number: int, nodes: int, turn: int = 0) -> tuple[int, int, int]:
    """Where the pod of this number is: node, GPU and replica.

    Which GPU is as good as random, so that most nodes look like no other; every seventh node is full on one GPU.
    """
    on = number % nodes
    nth = number // nodes
    gpu = 0 if on % 7 == 0 and not turn else crc32(b"%d %d" % (number, turn)) % GPUS
    return on, gpu, nth % REPLICAS


def memory_of(number: int) -> str:
    """What every fourth pod says it needs of its GPU's memory, hardly two the same."""
    return f"{1000 + crc32(b'%d' % number) % 6000}Mi" if number % 4 == 0 else ""


def accelerator_node(number: int, nodes: int, placed: int) -> Json:
    """As a node's daemon publishes it."""
    devices = [
        {
            "id": gpu_id(number, i), "kind": "gpu", "index": str(i), "model": "NVIDIA H100 80GB HBM3",
            "memoryBytes": 85520809984, "healthy": True, "numaNode": i // 4, "pcieRoot": f"pci0000:{i // 2:02x}",
            "pciAddress": f"0000:{i:02x}:00.0", "powerLimitWatts": 700,
            "pciePath": [f"pci0000:{i // 2:02x}", f"0000:{i // 2:02x}:01.0", f"0000:{i:02x}:00.0"],
        }
        for i in range(GPUS)
    ]  # fmt: skip
    pairs = [{"from": gpu_id(number, i), "to": gpu_id(number, j)} for i in range(GPUS) for j in range(i + 1, GPUS)]
    held = [0] * GPUS
    holders = []
    for pod in range(number, placed, nodes):
        _, gpu, replica = slice_of(pod, nodes)
        held[gpu] += 1
        holders.append({
            "namespace": f"team-{pod % 40}", "pod": f"job-{pod}", "container": "main", "count": 1,
            "slices": [f"{gpu_id(number, gpu)}::{replica}"],
        })  # fmt: skip
    resource = {
        "name": _GPU, "sharing": "time-slicing", "onePerRequest": False, "slices": GPUS * REPLICAS,
        "held": sum(held), "unhealthy": 0, "free": GPUS * REPLICAS - sum(held),
        "devices": [
            {"device": gpu_id(number, i), "replicas": REPLICAS, "free": REPLICAS - held[i], "held": held[i]}
            for i in range(GPUS)
        ],
        "holders": holders,
    }  # fmt: skip
    time = "2026-01-01T00:00:00Z"
    status = {
        "summary": "", "gpus": GPUS, "machine": "DGX H100", "driverVersion": "580.95.05", "cudaVersion": "13.0",
        "configuration": {"origin": "file", "digest": "0"}, "devices": devices,
        "links": [{"kind": "nvlink", "bytesPerSecond": 370800000000, "latencySeconds": 7e-7, "pairs": pairs}],
        "resources": [resource], "problems": [],
        "conditions": [
            {"type": kind, "status": "True", "reason": "Offering", "message": "", "lastTransitionTime": time}
            for kind in ("Ready", "HoldersKnown")
        ],
    }  # fmt: skip
    return {"metadata": {"name": node_name(number), "resourceVersion": "1"}, "status": status}


def pod(number: int, nodes: int, placed: int, running: int, turn: int = 0) -> Json:
    """The first have a GPU slice each, others none; those after `running` wait for a slice."""
    gpus = number < placed or number >= running
    limits = {"cpu": "4", "memory": "16Gi"} | ({_GPU: "1"} if gpus else {})
    main = {
        "name": "main", "image": "example/train:1", "command": ["python", "-m", "train"],
        "env": [{"name": f"SETTING_{i}", "value": f"a value that somebody gave it, number {i}"} for i in range(15)],
        "resources": {"limits": limits, "requests": limits},
    }  # fmt: skip
    spec: Json = {"containers": [main], "schedulerName": "default-scheduler"}
    if number < running:
        spec["nodeName"] = node_name(number % nodes)
    metadata: Json = {
        "name": f"job-{number}", "namespace": f"team-{number % 40}", "uid": f"pod-{number}", "resourceVersion": "1",
        "labels": {"app": "job", "number": str(number)}, "annotations": {"example.com/padding": _PADDING},
    }  # fmt: skip
    if number < placed:
        _, gpu, _ = slice_of(number, nodes, turn)
        device = gpu_id(number % nodes, gpu)
        metadata["uid"] += f"-{turn}"
        metadata["annotations"]["tasuki.dev/slices"] = json.dumps({"main": {_GPU: {device: 1}}})
        if memory := memory_of(number):
            metadata["annotations"]["tasuki.dev/gpu-memory"] = memory
    return {
        "metadata": metadata,
        "spec": spec,
        "status": {"phase": "Running" if number < running else "Pending"},
    }


class Cluster:
    """Lists by page, watches that stay silent until somebody is bound or churned, bindings."""

    def __init__(self, nodes: int, placed: int, running: int, waiting: int, churn: float) -> None:
        self._nodes, self._placed, self._running, self._churn = nodes, placed, running, churn
        self._lists: dict[str, tuple[int, Callable[[int], Json]]] = {
            "/api/v1/nodes": (nodes, node),
            "/apis/tasuki.dev/v1alpha1/acceleratornodes": (nodes, lambda n: accelerator_node(n, nodes, placed)),
            "/apis/tasuki.dev/v1alpha1/cachenodes": (0, lambda _: {}),
            "/api/v1/pods": (running + waiting, lambda n: pod(n, nodes, placed, running)),
        }
        self._versions = count(_VERSION + 1)
        self._watches: set[web.StreamResponse] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in self._lists:
            if request.query.get("watch") == "true":
                return await self._watch(request)
            body = await asyncio.to_thread(self._page, request.path, dict(request.query))
            return web.Response(body=body, content_type="application/json")
        if request.method == "POST" and request.path.endswith("/binding"):
            return await self._bind(request)
        if "/leases" in request.path and request.method != "GET":
            lease = await request.json()
            lease["metadata"]["resourceVersion"] = str(next(self._versions))
            return web.json_response(lease, status=201 if request.method == "POST" else 200)
        return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)

    def _page(self, path: str, query: dict[str, str]) -> bytes:
        total, made = self._lists[path]
        start = int(query.get("continue", "0"))
        end = min(total, start + int(query.get("limit", "500")))
        metadata = {"resourceVersion": str(_VERSION)} | ({"continue": str(end)} if end < total else {})
        return json.dumps({"metadata": metadata, "items": [made(n) for n in range(start, end)]}).encode()

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        if request.path == "/api/v1/pods":
            self._watches.add(stream)
        try:
            await asyncio.sleep(float(request.query.get("timeoutSeconds", "300")))
        finally:
            self._watches.discard(stream)
        return stream

    async def _bind(self, request: web.Request) -> web.StreamResponse:
        binding = await request.json()
        number = int(binding["metadata"]["name"].removeprefix("job-"))
        bound = pod(number, self._nodes, self._placed, self._running)
        bound["spec"]["nodeName"] = binding["target"]["name"]
        bound["metadata"]["annotations"] |= binding["metadata"].get("annotations", {})
        await self._tell("MODIFIED", bound)
        return web.json_response({"kind": "Status", "status": "Success"}, status=201)

    async def _tell(self, change: str, what: Json) -> None:
        what["metadata"]["resourceVersion"] = str(next(self._versions))
        line = json.dumps({"type": change, "object": what}).encode() + b"\n"
        for stream in tuple(self._watches):
            with suppress(ConnectionResetError):
                await stream.write(line)

    async def churn(self) -> None:
        """Pods with a slice end, and others come on another GPU in their place, so many a second."""
        for number, turn in self._forever():
            for change, at in (("DELETED", turn), ("ADDED", turn + 1)):
                await self._tell(change, pod(number, self._nodes, self._placed, self._running, at))
            await asyncio.sleep(1 / self._churn)

    def _forever(self) -> Iterator[tuple[int, int]]:
        """Pods, and how often each has been replaced before."""
        if self._placed:
            yield from ((n * 37 % self._placed, n // self._placed) for n in count())


async def serve(options: argparse.Namespace) -> None:
    cluster = Cluster(options.nodes, options.placed, options.running, options.waiting, options.churn)
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/{path:.*}", cluster.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    if options.churn:
        await cluster.churn()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("nodes", 5_000), ("placed", 20_000), ("running", 50_000), ("waiting", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--churn", type=float, default=0.0)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
