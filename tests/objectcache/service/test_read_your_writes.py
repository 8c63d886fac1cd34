"""What one worker has answered, all others know: the next request anywhere sees it."""

import json
import os
import signal
from pathlib import Path

from objectcache.storage.catalogue import Catalogue, Row
from objectcache.storage.recovery import boot_id
from tests.objectcache.service.nodes import Node, node, until
from tests.objectcache.wires import Wire

# An index begins half full with 32,768 objects, and is rebuilt beyond 45,875 (IndexWriter.needs_rebuild).
THERE = 32_000
MORE = 14_400


def connections(cache: Node, count: int) -> list[Wire]:
    """Spread over the workers by the system."""
    return [Wire(cache.direct_port) for _ in range(count)]


def total(wire: Wire) -> tuple[int, int]:
    wire.ask("GET", "/v1/summary")
    [bucket] = json.loads(wire.answer()[2])["buckets"]
    return bucket["objects"], bucket["bytes"]


def test_every_connection_sees_what_another_was_told(tmp_path: Path) -> None:
    with node(tmp_path, workers=2) as cache:
        wires = connections(cache, 8)
        for turn in range(100):
            body = b"%d" % turn * (turn + 1)
            writer = wires[turn % 8]
            writer.ask("PUT", "/v1/objects/bk/a", f"Content-Length: {len(body)}", body=body)
            assert writer.answer()[0] == 201
            for wire in wires:
                wire.ask("GET", "/v1/objects/bk/a")
            assert [wire.answer()[2] for wire in wires] == [body] * 8
            assert total(wires[(turn + 3) % 8]) == (1, len(body))
            writer.ask("DELETE", "/v1/objects/bk/a")
            assert writer.answer()[0] == 204
            for wire in wires:
                wire.ask("GET", "/v1/objects/bk/a")
            assert [wire.answer()[0] for wire in wires] == [404] * 8
            assert total(wires[(turn + 5) % 8]) == (0, 0)
        for wire in wires:
            wire.sock.close()
        assert cache.is_unharmed()


def indexes(cache: Node) -> set[str]:
    """Inodes of the indexes that its workers look into."""
    maps = [line.split() for each in cache.workers() for line in Path(f"/proc/{each}/maps").read_text().splitlines()]
    return {fields[4] for fields in maps if len(fields) > 5 and "tasuki-index" in fields[5]}


def fill(folder: Path) -> None:
    """Leave a catalogue that says that there are THERE objects; a cache that was closed is believed."""
    with node(folder) as cache:
        cache.request("PUT", "/v1/objects/bk/first", b"x")
    catalogue = Catalogue.open(folder / "data" / "catalogue.sqlite")
    bucket = catalogue.number_of("bk")
    catalogue.use(boot_id(), suspect=False)
    with catalogue.changes():
        for object_id in catalogue.take_ids(THERE - 1):
            catalogue.insert(Row(object_id, bucket, b"%d" % object_id, 1, bytes(16), 1, 0, 0))
    catalogue.close(clean=True)


def test_a_new_index_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    with node(tmp_path, workers=2) as cache:
        before = indexes(cache)
        writers, readers = connections(cache, 4), connections(cache, 4)
        for first in range(0, MORE, 200):
            names = [f"/v1/objects/bk/{number}" for number in range(first, first + 200)]
            for at, name in enumerate(names):
                writers[at % 4].ask("PUT", name, "Content-Length: 1", body=b"x")
            assert {writers[at % 4].answer()[0] for at in range(200)} == {201}
            for at, name in enumerate(names):
                readers[at % 4].ask("HEAD", name)
            assert {readers[at % 4].answer(to_head=True)[0] for at in range(200)} == {200}
        assert total(readers[0]) == (THERE + MORE, THERE + MORE)
        for wire in [*writers, *readers]:
            wire.sock.close()
        assert cache.is_unharmed()
        assert cache.count("damaged_total") == 0
        assert not before & indexes(cache), "there was no new index"


def test_what_was_told_while_workers_restart_is_known(tmp_path: Path) -> None:
    with node(tmp_path, workers=2) as cache:
        kept = []
        for number in range(60):
            if number % 20 == 10:
                os.kill(cache.workers()[0], signal.SIGKILL)
            try:
                if cache.request("PUT", f"/v1/objects/bk/{number}", b"x")[0] == 201:
                    kept.append(number)
            except OSError:
                continue
        until(lambda: len(cache.workers()) == 2)

        assert len(kept) > 50
        for number in kept:
            assert cache.request("GET", f"/v1/objects/bk/{number}")[0] == 200
