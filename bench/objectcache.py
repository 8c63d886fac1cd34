"""The cache against nginx, which serves the same files and knows nobody; `python -m bench.objectcache`.

Both servers and the client, wrk, are processes of their own. nginx sends with sendfile, one worker a core; the cache
has as many workers, checks a token with each request, and keeps its books. Rounds alternate, so that a noisy moment
meets both.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.measuring import Row, machine, table
from bench.objectcache_million import million
from bench.objectcache_routed import routed
from bench.wrk import Load, wrk
from tests.objectcache.caches import RunningCache, free_port, running_cache

_KIB: Final = 2**10
_MIB: Final = 2**20
_SIZES: Final = {"4 KiB": 4 * _KIB, "64 KiB": 64 * _KIB, "1 MiB": _MIB, "64 MiB": 64 * _MIB}
_AIMS: Final = {"4 KiB": 0.0, "64 KiB": 0.7, "1 MiB": 0.9, "64 MiB": 0.9}
_PUT_AIM: Final = 0.7
# What the cache itself keeps open while it is asked for all the time.
_LARGEST_KEPT_OPEN: Final = _MIB
_MANY: Final = 10_000
_BUCKETS: Final = ({"Name": "bk", "BucketQuota": "8Gi", "AllowNamespaces": ["research"]},)
_SECONDS: Final = 20.0
# Of the talk that the cache is after: 75.1 GiB/s over 400 nodes (Preferred Networks, Kubernetes Meetup Tokyo #68).
_TALK_GIB_PER_NODE: Final = 75.1 / 400


def nginx_config(folder: Path, root: Path, port: int, *, keeps_open: bool) -> str:
    """Of Debian's nginx as one would set it up to serve files fast, with its DAV module for PUT.

    Args:
        folder: For its own files.
        root: What it serves.
        port: Where.
        keeps_open: Whether it may serve a file as it was a minute ago, which saves it to open one.
    """
    kept = "open_file_cache max=10000 inactive=60s; open_file_cache_valid 60s;" if keeps_open else ""
    return f"""
worker_processes auto;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  sendfile on;
  {kept}
  tcp_nopush on;
  keepalive_timeout 300;
  keepalive_requests 100000000;
  client_max_body_size 1g;
  client_body_temp_path {folder}/temp;
  proxy_temp_path {folder}/t1; fastcgi_temp_path {folder}/t2; uwsgi_temp_path {folder}/t3; scgi_temp_path {folder}/t4;
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    root {root};
    location / {{ dav_methods PUT DELETE; create_full_put_path on; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, root: Path, *, keeps_open: bool = False) -> Iterator[int]:
    """Serve `root`; the port."""
    port = free_port()
    folder.mkdir(parents=True)
    root.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(nginx_config(folder, root, port, keeps_open=keeps_open))
    if os.geteuid() == 0:
        # Its workers would be nobody's otherwise, and could not write.
        config.write_text("user root;\n" + config.read_text())
    command = [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(config), "-p", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + _SECONDS
        while True:
            try:
                http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
                break
            except OSError:
                assert process.poll() is None, (folder / "nginx.log").read_text()
                assert time.monotonic() < ends, (folder / "nginx.log").read_text()
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(_SECONDS)


def alternating(rounds: int, ours: Callable[[], Load], theirs: Callable[[], Load]) -> tuple[list[Load], list[Load]]:
    ours()
    theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return [mine for mine, _ in pairs], [other for _, other in pairs]


def median(loads: Sequence[Load], field: str = "per_second") -> float:
    return float(statistics.median(getattr(load, field) for load in loads))


@dataclass(frozen=True)
class Sides:
    """All servers with the same content.

    Attributes:
        open_port: Of the nginx that keeps files open.
        folder: With `root`, what nginx serves.
    """

    cache: RunningCache
    nginx_port: int
    open_port: int
    folder: Path
    rounds: int
    seconds: float

    def ours(self, path: str) -> str:
        return f"http://127.0.0.1:{self.cache.direct_port}/v1/objects/bk/{path}"

    def theirs(self, path: str) -> str:
        return f"http://127.0.0.1:{self.nginx_port}/{path}"

    @property
    def headers(self) -> tuple[str, ...]:
        return (f"Authorization: Bearer {self.cache.token}",)

    def fill(self, name: str, content: bytes) -> None:
        status = self.cache.request("PUT", f"/v1/objects/bk/{name}", content)[0]
        assert status == 201, status
        (self.folder / "root" / name).write_bytes(content)

    def remove_puts(self) -> None:
        for each in (self.folder / "root").glob("put*"):
            each.unlink()
        while True:
            page = json.loads(self.cache.request("GET", "/v1/objects/bk?prefix=put&limit=1000")[2])["objects"]
            for each in page:
                self.cache.request("DELETE", f"/v1/objects/bk/{each['name']}")
            if not page:
                return

    def script(self, text: str) -> Path:
        made = self.folder / "wrk.lua"
        made.write_text(text)
        return made


def hits(sides: Sides) -> Iterator[Row]:
    """One hot object of each size, 16 connections."""
    for name, size in _SIZES.items():
        path = name.replace(" ", "")
        sides.fill(path, os.urandom(size))
        ours, theirs = alternating(
            sides.rounds,
            partial(wrk, sides.ours(path), sides.seconds, 16, headers=sides.headers),
            partial(wrk, sides.theirs(path), sides.seconds, 16),
        )
        yield compared(f"GET {name}, 16 connections", ours, theirs, size, _AIMS[name])
        if size <= _LARGEST_KEPT_OPEN:
            ours, theirs = alternating(
                sides.rounds,
                partial(wrk, sides.ours(path), sides.seconds, 16, headers=sides.headers),
                partial(wrk, f"http://127.0.0.1:{sides.open_port}/{path}", sides.seconds, 16),
            )
            yield compared(f"GET {name}, nginx with open_file_cache", ours, theirs, size, 0)


def many(sides: Sides) -> Iterator[Row]:
    """10,000 objects in random order: nothing of one request helps the next."""
    content = os.urandom(64 * _KIB)
    for number in range(_MANY):
        sides.fill(f"many{number}", content)
    text = f'request = function() return wrk.format("GET", "PREFIXmany" .. math.random(0, {_MANY - 1})) end'

    def load(prefix: str, url: str, headers: Sequence[str] = ()) -> Load:
        return wrk(url, sides.seconds, 16, sides.script(text.replace("PREFIX", prefix)), headers)

    ours, theirs = alternating(
        sides.rounds,
        lambda: load("/v1/objects/bk/", sides.ours(""), sides.headers),
        lambda: load("/", sides.theirs("")),
    )
    yield compared(f"GET 64 KiB, one of {_MANY:,} objects at random", ours, theirs, 64 * _KIB, _AIMS["64 KiB"])


def crowd(sides: Sides) -> Iterator[Row]:
    """1,000 connections."""
    sides.fill("crowd", os.urandom(64 * _KIB))
    ours, theirs = alternating(
        sides.rounds,
        lambda: wrk(sides.ours("crowd"), sides.seconds, 1000, headers=sides.headers),
        lambda: wrk(sides.theirs("crowd"), sides.seconds, 1000),
    )
    yield compared("GET 64 KiB, 1,000 connections", ours, theirs, 64 * _KIB, 0)
    yield Row(
        "the same, p50 / p99",
        f"{median(ours, 'p50_ms'):.1f} / {median(ours, 'p99_ms'):.1f} ms "
        f"(nginx: {median(theirs, 'p50_ms'):.1f} / {median(theirs, 'p99_ms'):.1f})",
        "",
        met=True,
    )


def puts(sides: Sides) -> Iterator[Row]:
    """New names only: ext4 writes a file out before it takes the name of another (auto_da_alloc), as nginx lets it.

    What a round has put is removed before the next, on both sides.
    """
    for name, size in {"4 KiB": 4 * _KIB, "64 KiB": 64 * _KIB, "1 MiB": _MIB}.items():
        body = sides.folder / "body"
        body.write_bytes(os.urandom(size))
        text = (
            f'local file = io.open("{body}", "rb") local body = file:read("*a") local number = 0 '
            "request = function() number = number + 1 "
            'return wrk.format("PUT", "PREFIXput" .. number, nil, body) end'
        )

        def load(prefix: str, url: str, text: str = text, headers: Sequence[str] = ()) -> Load:
            sides.remove_puts()
            return wrk(url, sides.seconds, 16, sides.script(text.replace("PREFIX", prefix)), headers)

        ours, theirs = alternating(
            sides.rounds,
            partial(load, "/v1/objects/bk/", sides.ours(""), headers=sides.headers),
            partial(load, "/", sides.theirs("")),
        )
        yield compared(f"PUT {name} of new names, 16 connections", ours, theirs, size, _PUT_AIM)


def compared(what: str, ours: Sequence[Load], theirs: Sequence[Load], size: int, aim: float) -> Row:
    mine, other = median(ours), median(theirs)
    ratio = mine / other
    text = f"{mine:,.0f}/s, {mine * size / 2**30:.2f} GiB/s; nginx {other:,.0f}/s: {ratio:.2f}"
    return Row(what, text, f"{aim:g} of nginx" if aim else "", ratio >= aim)


def cpu_seconds(pids: Sequence[int]) -> float:
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / ticks


def processes(parent: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


def per_core(sides: Sides) -> Iterator[Row]:
    """What a core of ours sustains, by the processor time that it takes; the client's is not counted."""
    for name, size in {"64 KiB": 64 * _KIB, "1 MiB": _MIB, "64 MiB": 64 * _MIB}.items():
        pids = processes(sides.cache.process.pid)
        before = cpu_seconds(pids)
        load = wrk(sides.ours(name.replace(" ", "")), sides.seconds, 16, headers=sides.headers)
        spent = cpu_seconds(pids) - before
        gib = load.per_second * sides.seconds * size / 2**30 / spent
        yield Row(
            f"GET {name}: a core of the cache sustains",
            f"{gib:.1f} GiB/s, {gib / _TALK_GIB_PER_NODE:.0f} times the talk's "
            f"{_TALK_GIB_PER_NODE * 1024:.0f} MiB/s a node",
            "",
            met=True,
        )


def main() -> None:
    """Measure, print the table, and exit with 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds of each kind (5)")
    parser.add_argument("--seconds", type=float, default=3, help="of a round (3)")
    parser.add_argument(
        "--only", default="", help="parts with commas between: hits, many, crowd, puts, cores, million, routed"
    )
    given = parser.parse_args()
    parts: dict[str, Callable[[Sides], Iterator[Row]]] = {
        "hits": hits, "many": many, "crowd": crowd, "puts": puts, "cores": per_core,
    }  # fmt: skip
    wanted = given.only.split(",") if given.only else [*parts, "million", "routed"]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {*wanted} & {*parts}:
            count = len(os.sched_getaffinity(0))
            with (
                nginx(folder / "nginx", folder / "root") as port,
                nginx(folder / "open", folder / "root", keeps_open=True) as open_port,
                running_cache(folder / "cache", buckets=_BUCKETS, capacity="16Gi", workers=count) as cache,
            ):
                sides = Sides(cache, port, open_port, folder, given.rounds, given.seconds)
                for part, measure in parts.items():
                    if part in wanted:
                        rows += _told(measure(sides))
        if "million" in wanted:
            rows += _told(million(folder / "million"))
        if "routed" in wanted:
            rows += _told(routed(folder / "routed", given.rounds, given.seconds))
    print(f"\n{machine()}\n\n{table(rows)}")
    sys.exit(not all(row.met for row in rows))


def _told(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        print(row.what, "|", row.measured, flush=True)
        yield row


if __name__ == "__main__":
    main()
