"""Through Envoy on one node, as a pod reaches the cache: what the hop costs."""

import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench.measuring import Row
from bench.wrk import Load, wrk
from objectcache.xds.member import Member
from tests.objectcache.caches import running_cache
from tests.objectcache.xds.envoys import Envoy, Plane, free_port, running_envoy, until

_SIZES: Final = {"4 KiB": 4 * 2**10, "64 KiB": 64 * 2**10, "1 MiB": 2**20}
_BUCKETS: Final = ({"Name": "bk", "BucketQuota": "8Gi", "AllowNamespaces": ["research"]},)


def routed(folder: Path, rounds: int, seconds: float) -> Iterator[Row]:
    """The same objects with and without Envoy between, in turn."""
    folder.mkdir(parents=True)
    workers = len(os.sched_getaffinity(0))
    plane = Plane(free_port())
    plane.start()
    try:
        with (
            running_cache(folder / "cache", buckets=_BUCKETS, capacity="8Gi", workers=workers) as cache,
            running_envoy(plane.port, plane.options.listen[1], folder) as envoy,
        ):
            plane.publish([Member("node-a", "127.0.0.1", cache.direct_port)], {})
            until(partial(_answers, envoy, cache.token))
            header = (f"Authorization: Bearer {cache.token}",)
            for name, size in _SIZES.items():
                path = f"/v1/objects/bk/{name.replace(' ', '')}"
                assert cache.request("PUT", path, os.urandom(size))[0] == 201

                def load(port: int, path: str = path) -> Load:
                    return wrk(f"http://127.0.0.1:{port}{path}", seconds, 16, headers=header)

                direct, through = _alternating(rounds, partial(load, cache.direct_port), partial(load, envoy.port))
                text = f"{through:,.0f}/s, {through * size / 2**30:.2f} GiB/s; without it {direct:,.0f}/s"
                yield Row(f"GET {name} through Envoy (1 thread)", text, "", met=True)
    finally:
        plane.close()


def _answers(envoy: Envoy, token: str) -> bool:
    try:
        status, _ = envoy.ask("GET", "/v1/objects/bk/none", headers={"Authorization": f"Bearer {token}"})
    except OSError:
        return False
    return status == 404


def _alternating(rounds: int, direct: Callable[[], Load], through: Callable[[], Load]) -> tuple[float, float]:
    direct()
    through()
    pairs = [(direct(), through()) for _ in range(rounds)]
    return statistics.median(a.per_second for a, _ in pairs), statistics.median(b.per_second for _, b in pairs)
