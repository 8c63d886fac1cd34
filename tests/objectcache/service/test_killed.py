"""Processes that are killed: what was answered is kept, and what was begun leaves nothing."""

import os
import signal
from pathlib import Path

from tests.objectcache.service.nodes import node, until
from tests.objectcache.wires import Wire

BIG = bytes(range(256)) * 2**14


def test_a_worker_that_is_killed_takes_only_its_own_requests_with_it(tmp_path: Path) -> None:
    with node(tmp_path, workers=2) as cache:
        cache.request("PUT", "/v1/objects/bk/kept", b"kept")
        until(lambda: cache.count("used_bytes") == 4)
        wires = [Wire(cache.direct_port) for _ in range(16)]
        for number, wire in enumerate(wires):
            wire.ask("PUT", f"/v1/objects/bk/half-{number}", "Content-Length: 2000", body=b"x" * 1000)
        until(lambda: len(cache.incoming()) == 16)
        victim, other = cache.workers()
        os.kill(victim, signal.SIGKILL)

        statuses = []
        for wire in wires:
            try:
                wire.send(b"x" * 1000)
                statuses.append(wire.answer()[0])
            except (ConnectionError, EOFError):
                statuses.append(0)
            wire.sock.close()
        until(lambda: len(cache.workers()) == 2)
        cache.wait_ready()
        assert {*statuses} <= {0, 201}
        assert other in cache.workers()
        assert cache.count("worker_restarts") == 1
        until(lambda: cache.incoming() == [])
        until(lambda: cache.count("used_bytes") == 4 + 2000 * statuses.count(201), "reservations stay")
        for number, status in enumerate(statuses):
            found = cache.request("GET", f"/v1/objects/bk/half-{number}")
            assert (found[0], len(found[2])) == (200, 2000) if status else found[0] == 404
        assert cache.request("GET", "/v1/objects/bk/kept")[2] == b"kept"


def test_a_restarted_worker_never_answers_that_there_is_nothing(tmp_path: Path) -> None:
    """Connections that come while it starts wait until it knows what there is."""
    with node(tmp_path) as cache:
        cache.request("PUT", "/v1/objects/bk/kept", b"kept")
        for restarts in range(1, 4):
            os.kill(cache.workers()[0], signal.SIGKILL)
            until(lambda: cache.count("open_connections") == 0)
            statuses: list[int] = []
            while cache.count("worker_restarts") < restarts or not statuses:
                try:
                    statuses.append(cache.request("GET", "/v1/objects/bk/kept")[0])
                except OSError:
                    continue

            assert {*statuses} == {200}


def test_what_was_answered_outlives_the_keeper(tmp_path: Path) -> None:
    with node(tmp_path, workers=2, kill=True) as cache:
        workers = cache.workers()
        for number in range(50):
            assert cache.request("PUT", f"/v1/objects/bk/{number}", b"%d" % number)[0] == 201
        cache.kill()
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in workers), "workers stay behind")

    with node(tmp_path) as cache:
        assert [cache.request("GET", f"/v1/objects/bk/{number}")[2] for number in range(50)] == [
            b"%d" % number for number in range(50)
        ]
        assert "before=killed" in cache.output.read_text()
