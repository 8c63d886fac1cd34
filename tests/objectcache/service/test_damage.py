"""Objects whose files are not what was put: a miss, a broken connection, and never bytes that pass as whole."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectcache.storage.catalogue import Catalogue
from tests.objectcache.service.nodes import Node, node, until
from tests.objectcache.wires import Wire

CONTENT = bytes(range(256)) * 2**14
TARGET = "/v1/objects/bk/damaged"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("damaged")) as running:
        yield running
        assert running.is_unharmed(), running.output.read_text()


@pytest.fixture
def file(cache: Node) -> Path:
    """Of an object that was just put."""
    assert cache.request("PUT", TARGET, CONTENT)[0] == 201
    return cache.object_files()[-1]


def test_an_object_whose_file_is_gone_is_a_miss_and_forgotten(cache: Node, file: Path) -> None:
    before = cache.count("damaged_objects_total")
    file.unlink()

    assert cache.request("GET", TARGET)[0] == 404
    until(lambda: cache.count("damaged_objects_total") == before + 1)
    assert cache.request("DELETE", TARGET)[0] == 404


def test_an_object_whose_file_is_a_link_is_a_miss(cache: Node, file: Path) -> None:
    before = cache.count("damaged_objects_total")
    file.unlink()
    file.symlink_to("/etc/passwd")

    assert cache.request("GET", TARGET)[0] == 404
    until(lambda: cache.count("damaged_objects_total") == before + 1)
    assert not file.is_symlink()


@pytest.mark.parametrize("size", [0, 1, 4096, len(CONTENT) - 1])
def test_an_object_whose_file_is_short_breaks_the_connection(cache: Node, file: Path, size: int) -> None:
    before = cache.count("connections_broken_total"), cache.count("damaged_objects_total")
    with file.open("r+b") as opened:
        opened.truncate(size)
    with Wire(cache.direct_port) as wire:
        wire.ask("GET", TARGET)
        with pytest.raises((EOFError, ConnectionError)):
            wire.answer()

    until(lambda: cache.count("damaged_objects_total") == before[1] + 1)
    assert cache.count("connections_broken_total") == before[0] + 1
    assert cache.request("GET", TARGET)[0] == 404


def test_an_object_that_is_put_again_is_whole_again(cache: Node, file: Path) -> None:
    before = cache.count("damaged_objects_total")
    file.unlink()
    cache.request("GET", TARGET)

    assert cache.request("PUT", TARGET, CONTENT)[0] == 201
    assert cache.request("GET", TARGET)[2] == CONTENT
    # Another test must not count it.
    until(lambda: cache.count("damaged_objects_total") == before + 1)


def rebooted(folder: Path) -> None:
    """The catalogue says that it was last used by another run of the operating system, which ended without warning."""
    catalogue = Catalogue.open(folder / "data" / "catalogue.sqlite")
    catalogue.use("of another run", suspect=False)
    catalogue.close(clean=False)


def test_after_a_power_failure_nothing_is_served_that_was_not_verified(tmp_path: Path) -> None:
    sizes = {"sound": 100_000, "flipped": 100_000, "short": 100_000, "empty": 100_000, "longer": 100_000}
    with node(tmp_path, kill=True) as cache:
        for name, size in sizes.items():
            cache.request("PUT", f"/v1/objects/bk/{name}", name.encode() * (size // len(name)))
        files = dict(zip(sizes, cache.object_files(), strict=True))
        cache.kill()
    rebooted(tmp_path)
    with files["flipped"].open("r+b") as opened:
        opened.seek(5000)
        opened.write(b"?")
    for name, size in (("short", 50_000), ("empty", 0), ("longer", 100_001)):
        with files[name].open("r+b") as opened:
            opened.truncate(size)

    with node(tmp_path) as cache:
        assert "suspect=5" in cache.output.read_text()
        statuses: dict[str, list[int]] = {name: [] for name in sizes}

        def get(name: str) -> None:
            status, _, body = cache.request("GET", f"/v1/objects/bk/{name}")
            assert status == 404 or body == name.encode() * (100_000 // len(name))
            statuses[name].append(status)

        threads = [threading.Thread(target=get, args=(name,)) for name in sizes for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

        assert {name: {*found} for name, found in statuses.items()} == {
            name: {200} if name == "sound" else {404} for name in sizes
        }
        assert [len(found) for found in statuses.values()] == [8] * 5
        until(lambda: cache.count("damaged_objects_total") == 4)
        assert cache.is_unharmed(), cache.output.read_text()
