"""What is damaged on the disk is a miss or a broken answer, never the wrong content."""

import http.client
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.objectcache.storms.flights import Request, fly
from tests.objectcache.storms.nodes import Node, bucket, content, eventually, target

BUCKETS: Final = (bucket("bk", "1Gi", PinnedQuota="8Mi"),)
SIZE: Final = 300_000
FEW_SECONDS: Final = 3.0
BODIES: Final = {f"o{serial}": content(serial, SIZE) for serial in range(6)}


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """With BODIES; its parameter are options."""
    node = Node(tmp_path, BUCKETS, options=getattr(request, "param", ()))
    node.start()
    try:
        for name, body in BODIES.items():
            assert node.put(name, body) == 201
        yield node
    finally:
        node.close()


def start_again(node: Node) -> None:
    node.close()
    node.start()


def file_of(node: Node, name: str) -> Path:
    return next(path for path in node.files().values() if path.read_bytes() == BODIES[name])


def flip(path: Path, offset: int = SIZE // 2) -> None:
    """A bit of it, in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def answer(node: Node, name: str, **headers: str) -> tuple[int, bytes] | None:
    """None if it breaks off."""
    try:
        status, _, body = node.cache.request("GET", target(name), headers=headers)
    except (http.client.HTTPException, ConnectionError):
        return None
    return status, body


def is_answered(node: Node, name: str) -> bool:
    """Completely, by whatever."""
    return answer(node, name) is not None


def pretend_reboot(node: Node) -> None:
    """As if another run of the operating system had been the last to use what lies here."""
    with closing(sqlite3.connect(node.data_dir / "catalogue.sqlite")) as catalogue, catalogue:
        catalogue.execute("UPDATE meta SET value = 'another' WHERE key = 'boot_id'")


def forget_rounds(node: Node) -> None:
    """As if nothing had ever been verified in the background."""
    with closing(sqlite3.connect(node.data_dir / "catalogue.sqlite")) as catalogue, catalogue:
        catalogue.execute("DELETE FROM meta WHERE key LIKE '%scrub%'")


def assert_adds_up(node: Node) -> None:
    """Objects, files and sums are one another's."""
    listed = node.listed()
    assert sorted(each.bytes for each in listed.values()) == sorted(p.stat().st_size for p in node.files().values())
    total = sum(each.bytes for each in listed.values())
    eventually(lambda: (node.held()["bk"].bytes, node.held()["bk"].objects) == (total, len(listed)), node.readiness)


# The catalogue.


def overwrite(path: Path) -> None:
    path.write_bytes(content(0, path.stat().st_size))


def overwrite_pages(path: Path) -> None:
    """All but the first, so that it still looks like a catalogue."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(content(0, path.stat().st_size - 4096))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "is_killed"),
    [
        pytest.param(overwrite, False, id="all of it, after stop"),
        pytest.param(overwrite_pages, True, id="all but its first page, after kill"),
        pytest.param(overwrite_pages, False, id="all but its first page, after stop"),
        pytest.param(truncate, True, id="its second half is gone, after kill"),
    ],
)
def test_a_damaged_catalogue_costs_what_was_kept_and_nothing_else(
    node: Node, damage: Callable[[Path], None], *, is_killed: bool
) -> None:
    ids = set(node.files())
    if is_killed:
        node.kill()
        # What is in the log goes into the catalogue first, so that there is something to damage.
        with closing(sqlite3.connect(node.data_dir / "catalogue.sqlite")) as catalogue:
            catalogue.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    else:
        node.stop()
    damage(node.data_dir / "catalogue.sqlite")
    start_again(node)

    assert node.listed() == {}
    assert [node.get(name) for name in BODIES] == [None] * len(BODIES)
    assert (node.data_dir / "catalogue.broken-1").exists()
    assert node.files() == {}
    assert node.put("o0", BODIES["o0"]) == 201
    assert node.get("o0") == BODIES["o0"]
    assert min(node.files()) > max(ids)
    assert_adds_up(node)


def cut_wal(path: Path) -> None:
    # In the middle of a frame (24 bytes, and 4096 of the page).
    os.truncate(path, 32 + 10 * (24 + 4096) + 2000)


def garble_wal(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(content(0, 10_000))


def lose_wal(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_wal, id="cut off"),
        pytest.param(garble_wal, id="garbage in the middle"),
        pytest.param(lose_wal, id="gone"),
    ],
)
def test_a_damaged_log_costs_at_most_what_was_written_last(node: Node, damage: Callable[[Path], None]) -> None:
    ids = set(node.files())
    node.kill()
    damage(node.data_dir / "catalogue.sqlite-wal")
    start_again(node)

    for name, body in BODIES.items():
        assert node.get(name) in {body, None}
    assert_adds_up(node)
    assert node.put("new", b"x") == 201
    assert max(node.files()) > max(ids)
    assert_adds_up(node)


# Files.


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(path.parents[2] / "incoming" / "0000000000000001")
    elsewhere.symlink_to("/etc/passwd")
    elsewhere.rename(path)


@pytest.mark.parametrize("is_stopped", [pytest.param(True, id="stopped"), pytest.param(False, id="running")])
def test_a_damaged_file_is_never_a_whole_answer_and_then_a_miss(node: Node, *, is_stopped: bool) -> None:
    damages = {"o1": truncate, "o2": empty, "o3": remove, "o4": link}
    sound = sorted(BODIES.keys() - damages.keys())
    if is_stopped:
        node.stop()
    for name, damage in damages.items():
        damage(file_of(node, name))
    if is_stopped:
        start_again(node)
    for name in damages:
        first = answer(node, name)

        assert first is None or first[0] == 404, name
        eventually(partial(is_answered, node, name), lambda: node.output)
        assert node.get(name) is None
    assert [node.get(name) == BODIES[name] for name in sound] == [True] * len(sound)
    eventually(lambda: sorted(node.listed()) == sound, lambda: str(node.listed()))
    assert node.put("o3", b"again") == 201
    assert node.get("o3") == b"again"


def test_a_file_that_cannot_be_read_although_it_is_there_becomes_a_miss(node: Node) -> None:
    path = file_of(node, "o3")
    path.unlink()
    # `open` takes it, and `sendfile` says that it is none: as a disk does whose bad sector was never read before.
    path.mkdir()
    first = answer(node, "o3")

    assert first is None or first[0] == 404
    eventually(partial(is_answered, node, "o3"), lambda: node.output)


def test_a_file_that_cannot_be_removed_does_not_keep_the_cache_from_taking_others(node: Node) -> None:
    path = file_of(node, "o3")
    path.unlink()
    path.mkdir()
    refusals = "the disk takes no new objects"
    status, _, _ = node.cache.request("DELETE", target("o3"))
    # For some ticks of the keeper.
    with pytest.raises(AssertionError, match="is not refused"):
        eventually(lambda: node.output.count(refusals) > 1, lambda: "is not refused", FEW_SECONDS)

    assert status == 204
    assert node.put("o3", b"again") == 201


@pytest.mark.parametrize("node", [("--scrub-rate", "1Gi")], indirect=True, ids=["verified fast"])
def test_content_that_changed_on_the_disk_is_found_by_background_verification(node: Node) -> None:
    node.kill()
    # A new round of the verification begins with the process if the last one never ended.
    forget_rounds(node)
    flip(file_of(node, "o3"))
    start_again(node)

    eventually(lambda: node.metric("tasuki_cache_damaged_objects_total") == 1)
    assert node.get("o3") is None
    assert node.get("o0") == BODIES["o0"]


# After a loss of power.


def test_after_a_reboot_every_object_is_verified_before_it_is_used(node: Node) -> None:
    node.kill()
    pretend_reboot(node)
    for name in ("o1", "o3", "o5"):
        flip(file_of(node, name))
    start_again(node)
    first = answer(node, "o1")
    part = answer(node, "o3", Range="bytes=0-9")
    head = node.has("o5")
    sound = {name: node.get(name) == BODIES[name] for name in ("o0", "o2", "o4")}

    assert "before=rebooted objects=6 suspect=6" in node.output
    assert first is not None
    assert (first[0], part is not None and part[0], head) == (404, 404, False)
    assert sound == {"o0": True, "o2": True, "o4": True}
    eventually(lambda: set(node.listed()) == {"o0", "o2", "o4"}, lambda: str(node.listed()))
    eventually(lambda: node.metric("tasuki_cache_damaged_objects_total") == 3)
    assert_adds_up(node)


@pytest.mark.parametrize("node", [("--scrub-days", "0")], indirect=True, ids=["not verified in the background"])
def test_what_was_not_verified_yet_is_not_trusted_after_another_end_either(node: Node) -> None:
    node.kill()
    pretend_reboot(node)
    start_again(node)
    assert node.get("o0") == BODIES["o0"]
    node.stop()
    for name in ("o1", "o2"):
        flip(file_of(node, name))
    start_again(node)
    after_stop = node.get("o1")
    node.kill()
    start_again(node)
    after_kill = node.get("o2")

    assert (after_stop, after_kill) == (None, None)
    assert node.get("o3") == BODIES["o3"]


def test_many_who_ask_for_one_unverified_object_get_all_of_it(node: Node) -> None:
    node.kill()
    pretend_reboot(node)
    flip(file_of(node, "o1"))
    start_again(node)
    requests = [Request("GET", name) for name in ("o0", "o1") for _ in range(8)]
    fly(node.cache.direct_port, requests, 1.0, lambda: None)

    assert all((each.status, each.found) == (200, BODIES["o0"]) for each in requests[:8])
    assert {each.status for each in requests[8:]} == {404}


def test_a_reboot_after_a_clean_end_costs_no_verification(node: Node) -> None:
    node.stop()
    pretend_reboot(node)
    start_again(node)

    assert "before=closed objects=6 suspect=0" in node.output
    assert {name: node.get(name) == body for name, body in BODIES.items()} == dict.fromkeys(BODIES, True)


# The folder.


def test_files_of_nobody_are_removed_after_a_kill(node: Node) -> None:
    path = file_of(node, "o0")
    orphan = path.with_name(f"{int(path.name, 16) + 1000 * 2**20:016x}")
    node.kill()
    shutil.copy(path, orphan)
    (node.data_dir / "incoming" / orphan.name).write_bytes(b"half")
    start_again(node)

    assert not orphan.exists()
    assert node.incoming() == []
    assert node.put("new", b"x") == 201
    assert max(node.files()) > int(orphan.name, 16)
    assert_adds_up(node)


def test_a_second_cache_waits_for_the_folder_and_then_goes_on_with_it(tmp_path: Path, node: Node) -> None:
    second = Node(tmp_path, BUCKETS)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(second.start)
        try:
            eventually(lambda: "is used by another cache" in node.output, lambda: node.output)
            assert not starting.done()
            assert node.get("o0") == BODIES["o0"]
            assert node.put("o1", b"later") == 201
            node.kill()
            starting.result()

            assert second.get("o0") == BODIES["o0"]
            assert second.get("o1") == b"later"
            assert_adds_up(second)
        finally:
            node.close()
            second.close()
