"""A cache ends while clients read through Envoy: what they notice of it."""

import http.client
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest

from objectcache.xds.member import Member
from tests.objectcache.routed.scenes import MARKS, SECONDS, ZONE, Scene, asking, named
from tests.objectcache.wires import Wire
from tests.objectcache.xds.envoys import PREFIX, predicted, until

ENDING: Final = "node-f"
READERS: Final = 4
LARGE_BYTES: Final = 24 * 2**20
BROKEN: Final = 0


@dataclass
class Reading:
    """Clients that read the same names again and again, each on a connection of its own.

    Attributes:
        statuses: Of all answers so far; BROKEN where none came.
    """

    statuses: Counter[int] = field(default_factory=Counter)

    def some_more(self) -> None:
        """Return when each name has been read once more, at least."""
        wanted = self.statuses.total() + READERS * READERS * len(MARKS)
        until(lambda: self.statuses.total() >= wanted)


@contextmanager
def reading(scene: Scene, names: Sequence[str]) -> Iterator[Reading]:
    found, stop, lock = Reading(), threading.Event(), threading.Lock()

    def read() -> None:
        while not stop.is_set():
            with asking(scene.envoy.port) as ask:
                for name in names:
                    status = BROKEN
                    with suppress(OSError, http.client.HTTPException):
                        status = ask("GET", name).status
                    with lock:
                        found.statuses[status] += 1

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for each in threads:
        each.start()
    try:
        yield found
    finally:
        stop.set()
        for each in threads:
            each.join(SECONDS)


def leaving(members: Sequence[Member]) -> list[Member]:
    """The control plane has seen the deletion of the pod."""
    return [replace(each, leaving=each.node == ENDING) for each in members]


def name_of(members: Sequence[Member], group: str) -> str:
    """Of an object that the cache which ends owns."""
    names = named(group, 60)
    return names[predicted(members, ZONE, names).index(ENDING)]


def test_nobody_notices_a_cache_that_is_told_to_end_and_leaves_the_tables_meanwhile(
    scene: Scene, tmp_path: Path
) -> None:
    """Every cache has MARKS, so that each answer is 200 wherever it comes from."""
    with scene.one_more(tmp_path, drain_seconds=5) as (cache, members), reading(scene, MARKS) as readers:
        readers.some_more()
        # Both at once, as a pod that is deleted: its cache and the control plane hear of it from the API server.
        scene.plane.publish(leaving(members), {"client": ZONE})
        assert cache.stop() == 0
        readers.some_more()
        scene.plane.publish(scene.members(), {"client": ZONE})
        readers.some_more()

    assert {*readers.statuses} == {200}


def test_what_is_under_way_when_a_cache_ends_comes_to_its_end(scene: Scene, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(LARGE_BYTES)
    with scene.one_more(tmp_path, drain_seconds=0) as (cache, members):
        name, other = name_of(members, "being-sent"), name_of(members, "being-put")
        with asking(scene.envoy.port) as ask:
            assert ask("PUT", name, content).status == 201
        with Wire(scene.envoy.port) as getting, Wire(scene.envoy.port) as putting:
            getting.ask("GET", PREFIX + name)
            getting.sock.recv(1, socket.MSG_PEEK)
            putting.ask("PUT", PREFIX + other, "Content-Length: 10", "Expect: 100-continue")
            assert putting.answer()[0] == 100
            scene.plane.publish(leaving(members), {"client": ZONE})
            cache.process.terminate()
            until(lambda: "stopping" in cache.page("/readyz"))
            putting.send(b"0123456789")
            put, _, _ = putting.answer()
            got, _, received = getting.answer()
        status = cache.process.wait(SECONDS)

    assert (got, received == content) == (200, True)
    assert (put, status) == (201, 0)


def test_a_cache_that_is_killed_is_missed_until_the_control_plane_hears_of_it(scene: Scene, tmp_path: Path) -> None:
    content = bytes(LARGE_BYTES)
    with scene.one_more(tmp_path, drain_seconds=0) as (cache, members):
        owners = predicted(members, ZONE, MARKS)
        mine, name = MARKS[owners.index(ENDING)], name_of(members, "killed")
        with asking(scene.envoy.port) as ask, Wire(scene.envoy.port) as getting:
            assert ask("PUT", name, content).status == 201
            getting.ask("GET", PREFIX + name)
            getting.sock.recv(1, socket.MSG_PEEK)
            cache.kill()
            # Nobody takes a part for the whole.
            with pytest.raises((EOFError, ConnectionError)):
                getting.answer()
            until(lambda: scene.answering([mine]) == ["503"])
            away = scene.answering(MARKS)
            scene.tell(scene.members())
            missed = ask("GET", name).status
            put = ask("PUT", name, b"anew").status
            again = ask("GET", name)

    # Nobody else's objects were touched by it.
    assert away == ["503" if owner == ENDING else owner for owner in owners]
    assert (missed, put, again.status, again.body) == (404, 201, 200, b"anew")


def test_a_cache_that_comes_back_elsewhere_has_what_it_had(scene: Scene, tmp_path: Path) -> None:
    """Its pod has another address; its node's name, by which objects find it, and its folder are the same."""
    names = named("comes-back", 60)
    with scene.one_more(tmp_path, drain_seconds=0) as (cache, members):
        with asking(scene.envoy.port) as ask:
            assert {ask("PUT", name, name.encode()).status for name in names} == {201}
        cache.stop()
        with scene.one_more(tmp_path, drain_seconds=0) as (again, _):
            assert again.direct_port != cache.direct_port
            with asking(scene.envoy.port) as ask:
                found = [ask("GET", name).body.decode() for name in names]

    assert ENDING in predicted(members, ZONE, names)
    assert found == list(names)
