"""AcceleratorNodes as device plugins publish them, in one line each."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from schedext.layouts import AcceleratorNodeFound, Accelerators, Layouts
from tasuki.devices.model import device_id_of

Json = dict[str, Any]
GPU = "nvidia.com/gpu"
GIB = 2**30


def gpu(number: int, node: str = "n", **content: Any) -> Json:
    """`n-0`, `n-1`: two to a switch and 80 GiB each."""
    place = {
        "numaNode": number // 2,
        "pciAddress": f"0000:{number:02x}:00.0",
        "pciePath": ["pci0000:00", f"0000:00:0{number // 2}.0", f"0000:{number:02x}:00.0"],
    }
    made = {"id": f"{node}-{number}", "kind": "gpu", "index": str(number), "model": "A100", "memoryBytes": 80 * GIB}
    return made | {"healthy": True} | place | content


def holder(pod: str, *slices: str, namespace: str = "research", container: str = "main", count: int = 0) -> Json:
    named = {"namespace": namespace, "pod": pod, "container": container}
    return named | {"count": count or len(slices), "slices": list(slices)}


def resource(
    name: str, devices: Sequence[Json], replicas: int, *holders: Json, held: Sequence[int] = (), **content: Any
) -> Json:
    """Of all these devices; `held` by each of them, if not all of it is listed."""
    listed = Counter(device_id_of(each) for each in {s for h in holders for s in h["slices"]})
    counts = dict(zip((d["id"] for d in devices), held, strict=True)) if held else listed
    cut = [
        {"device": d["id"], "replicas": replicas, "free": replicas - counts[d["id"]], "held": counts[d["id"]]}
        for d in devices
    ]
    slices, taken = sum(each["replicas"] for each in cut), sum(each["held"] for each in cut)
    well = {d["id"] for d in devices if d["healthy"]}
    free = sum(each["free"] for each in cut if each["device"] in well)
    counts_of_all = {"slices": slices, "held": taken, "unhealthy": slices - taken - free, "free": free}
    known = {"name": name, "sharing": "none", "onePerRequest": False, "devices": cut, "holders": list(holders)}
    return known | counts_of_all | content


def status_json(
    devices: Sequence[Json], *resources: Json, links: Sequence[Json] = (), trouble: str = "", **content: Any
) -> Json:
    ready = {"type": "Ready", "status": "False" if trouble else "True", "reason": "R", "message": trouble}
    known: Json = {"devices": list(devices), "links": list(links), "resources": list(resources)}
    machine = {"machine": "DGX", "driverVersion": "580.1", "cudaVersion": "13.0", "gpus": len(devices), "summary": ""}
    known |= machine | {"configuration": {"origin": "defaults", "digest": ""}}
    return known | {"conditions": [ready | {"lastTransitionTime": "2026-01-01T00:00:00Z"}], "problems": []} | content


def gpu_status(
    *holders: Json, gpus: int = 2, replicas: int = 2, node: str = "n", sick: Sequence[int] = (), **options: Any
) -> Json:
    """A node of GPUs that are all shared alike."""
    devices = [gpu(n, node, healthy=n not in sick) for n in range(gpus)]
    pairs = [{"from": f"{node}-{a}", "to": f"{node}-{b}"} for a in range(gpus) for b in range(a + 1, gpus)]
    links = [{"kind": "nvlink", "bytesPerSecond": 300_000_000_000, "latencySeconds": 7e-7, "pairs": pairs}]
    held = options.pop("held", ())
    return status_json(devices, resource(GPU, devices, replicas, *holders, held=held), links=links, **options)


def read(status: Json | None, layouts: Layouts | None = None) -> Accelerators:
    """As the world is told of it."""
    found = msgspec.convert({"metadata": {"name": "n"}, "status": status}, AcceleratorNodeFound)
    made = (layouts or Layouts()).accelerators(found)
    assert made is not None
    return made
