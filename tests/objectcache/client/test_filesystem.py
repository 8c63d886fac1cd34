"""The cached file system, over real sockets, before origins of several kinds."""

import asyncio
import json
import multiprocessing
import os
import pickle
import runpy
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.memory import MemoryFileSystem

from objectcache.client.address import AddressError
from objectcache.client.filesystem import CachedFileSystem
from tests.objectcache.caches import TOKEN, RunningCache
from tests.objectcache.client.origins import ListedFileSystem, RefreshingFileSystem

fsspec.register_implementation("tasukicache", CachedFileSystem, clobber=True)

BLOCK = 64 * 1024
CONTENT = bytes(range(256)) * 1024  # 256 KiB


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture(autouse=True)
def pods_environment(cache: RunningCache, token: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TASUKI_CACHE_URL", f"{cache.url}/v1/objects")
    monkeypatch.setenv("TASUKI_CACHE_BUCKET", "bk")
    monkeypatch.setenv("PFIO_HTTP_BEARER_TOKEN_PATH", str(token))
    yield
    # Others would find instances with this test's counts and token.
    CachedFileSystem.clear_instance_cache()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "data"
    found.mkdir()
    return found


def local(**options: Any) -> CachedFileSystem:
    return CachedFileSystem("file", **options)


def asked(cache: RunningCache) -> list[tuple[str, int]]:
    """What was asked since the last time."""
    found = [(method, status) for method, _, status in cache.log]
    cache.log.clear()
    return found


def test_a_chained_url_takes_nothing_but_the_pods_environment(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(b"abc")

    for _ in range(2):
        with fsspec.open(f"tasukicache::file://{folder}/a") as file:
            assert file.read() == b"abc"

    assert asked(cache) == [("GET", 404), ("PUT", 201), ("GET", 200)]


def test_a_chained_url_with_options(cache: RunningCache, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TASUKI_CACHE_URL", "TASUKI_CACHE_BUCKET"):
        monkeypatch.delenv(name)
    MemoryFileSystem().pipe_file("/d/a", b"abc")
    options = {"cache_url": cache.url, "bucket": "bk", "version": "none"}

    with fsspec.open("tasukicache::memory://d/a", "rt", tasukicache=options) as file:
        assert file.read() == "abc"

    assert cache.log[-1] == ("PUT", "/v1/objects/bk/memory:///d/a", 201)


def test_the_example_reads_a_folder(cache: RunningCache, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a").write_bytes(b"abc")
    example = Path(__file__).parents[3] / "examples" / "objectcache" / "client.py"

    runpy.run_path(str(example))["main"](f"file://{folder}")

    assert f"{folder}/a begins with b'abc'\n" in capsys.readouterr().out


def test_without_an_address_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASUKI_CACHE_URL", raising=False)

    with pytest.raises(AddressError, match=r"TASUKI_CACHE_URL.*tasuki\.dev/cache"):
        local(bucket="bk", skip_instance_cache=True)


@pytest.mark.parametrize("options", [{"threads": 0}, {"fs": MemoryFileSystem()}], ids=["no threads", "two origins"])
def test_impossible_options_are_refused(cache: RunningCache, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"threads is 0|give either"):
        local(**options)


@pytest.mark.parametrize("version", ["auto", "none"])
@pytest.mark.parametrize(
    ("start", "end"),
    [(None, None), (3, 9), (None, 5), (-4, None), (5, -2), (9, 3), (10, 99), (99, 120), (0, 0), (-99, 2)],
)
def test_spans_are_those_of_a_slice(
    cache: RunningCache, folder: Path, version: str, start: int | None, end: int | None
) -> None:
    (folder / "a").write_bytes(b"0123456789abc")
    fs = local(version=version)

    found = [fs.cat_file(f"{folder}/a", start, end) for _ in range(2)]

    assert found == [b"0123456789abc"[start:end]] * 2


def test_large_files_are_read_and_kept_block_by_block(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(CONTENT)
    fs = local(max_object=BLOCK, block_size=BLOCK)

    part = fs.cat_file(f"{folder}/a", BLOCK - 2, BLOCK + 3)
    missed = asked(cache)
    with fs.open(f"{folder}/a", block_size=1000) as file:
        file.seek(-5, os.SEEK_END)
        end = file.read()
        file.seek(BLOCK - 1)
        across = file.read(2)
    whole = fs.cat_file(f"{folder}/a")

    assert (part, end, across, whole) == (
        CONTENT[BLOCK - 2 : BLOCK + 3],
        CONTENT[-5:],
        CONTENT[BLOCK - 1 : BLOCK + 1],
        CONTENT,
    )
    assert sorted(missed) == sorted([("GET", 404), ("PUT", 201)] * 2)
    assert sum(method == "PUT" for method, _ in asked(cache)) == 2


def test_a_large_file_that_has_no_version_is_the_origins(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(CONTENT)
    fs = local(version="none", max_object=BLOCK)

    assert fs.cat_file(f"{folder}/a", 5, 9) == CONTENT[5:9]
    with fs.open(f"{folder}/a") as file:
        assert file.read() == CONTENT
    assert {method for method, _ in asked(cache)} == {"GET", "HEAD"}


def test_a_changed_file_is_read_anew(cache: RunningCache, folder: Path) -> None:
    path, fs = folder / "a", local()
    path.write_bytes(b"old")
    fs.cat_file(path)
    path.write_bytes(b"new")
    os.utime(path, ns=(1, 1))

    assert fs.cat_file(path) == b"new"


@pytest.mark.parametrize("kind", [ListedFileSystem, RefreshingFileSystem])
def test_what_changed_behind_a_listing_in_memory_is_not_kept_as_what_it_was(
    cache: RunningCache, kind: type[ListedFileSystem]
) -> None:
    origin = kind()
    fs = CachedFileSystem(fs=origin)
    origin.write("/a", b"old")
    origin.info("/a")
    origin.write("/a", b"new")

    fs.cat_file("/a")
    origin.write("/a", b"old")
    origin.listed.clear()

    assert fs.cat_file("/a") == b"old"


def test_what_cannot_be_looked_at_after_it_was_read_is_still_read(cache: RunningCache) -> None:
    origin = ListedFileSystem()
    fs = CachedFileSystem(fs=origin)
    origin.write("/a", b"abc")
    origin.after_read = lambda: origin.store.pop("/a")

    assert fs.cat_file("/a") == b"abc"
    assert asked(cache) == [("GET", 404)]


def test_ranges_of_one_file_look_at_it_once(cache: RunningCache) -> None:
    origin = ListedFileSystem()
    origin.listed = _Forgetful()
    fs = CachedFileSystem(fs=origin)
    origin.write("/a", CONTENT)
    fs.cat_file("/a")
    origin.looks.clear()

    fs.cat_ranges(["/a"] * 20 + ["/none"] * 20, [0] * 40, [5] * 40)

    assert sorted(origin.looks) == ["/a", "/none"]


class _Forgetful(dict[str, dict[str, Any]]):
    """No listing: every `info` asks the store, which takes a while."""

    def __contains__(self, key: object) -> bool:
        time.sleep(0.001)
        return False


def test_a_file_that_never_changes_is_not_looked_at(cache: RunningCache, folder: Path) -> None:
    path, fs = folder / "a", local(version="none")
    path.write_bytes(b"abc")
    fs.cat_file(path)
    path.unlink()

    with fs.open(path) as file:
        assert file.read() == b"abc"
    assert fs.cat_file(path, 1, 2) == b"b"
    with pytest.raises(FileNotFoundError):
        fs.cat_file(folder / "b")


def test_empty_files_are_hits(cache: RunningCache, folder: Path) -> None:
    (folder / "a").touch()
    fs = local()

    found = [fs.cat_file(folder / "a"), fs.cat_file(folder / "a")]

    assert found == [b"", b""]
    assert asked(cache) == [("GET", 404), ("PUT", 201), ("GET", 200)]


@pytest.mark.parametrize("version", ["auto", "none"])
def test_every_way_of_writing_is_seen_by_the_next_read(cache: RunningCache, folder: Path, version: str) -> None:
    fs, path = local(version=version), f"{folder}/a"
    (folder / "b").write_bytes(b"from b")

    def write(content: bytes) -> None:
        with fs.open(path, "wb") as file:
            file.write(content)

    def append() -> None:
        with fs.open(path, "ab") as file:
            file.write(b"!")

    ways: list[tuple[Callable[[], None], bytes]] = [
        (lambda: write(b"1"), b"1"),
        (lambda: write(b"2"), b"2"),
        (append, b"2!"),
        (lambda: fs.pipe_file(path, b"3"), b"3"),
        (lambda: fs.put_file(f"{folder}/b", path), b"from b"),
        (lambda: fs.touch(path), b""),
        (lambda: fs.cp_file(f"{folder}/b", path), b"from b"),
        (lambda: fs.pipe({path: b"4"}), b"4"),
        (lambda: fs.mv(f"{folder}/b", path), b"from b"),
    ]

    for way, expected in ways:
        way()
        # The same size and time as before is all that could hide it.
        os.utime(path, ns=(1, 1))
        assert fs.cat_file(path) == expected
    fs.rm(path)
    with pytest.raises(FileNotFoundError):
        fs.cat_file(path)


def test_removing_a_folder_forgets_what_was_in_it(cache: RunningCache, folder: Path) -> None:
    fs = local(version="none")
    for name in "ab":
        (folder / name).write_bytes(b"1")
        fs.cat_file(folder / name)
    asked(cache)

    fs.rm(str(folder), recursive=True)

    assert asked(cache).count(("DELETE", 204)) == 2


def test_a_transaction_forgets_when_it_is_committed(cache: RunningCache, folder: Path) -> None:
    fs, path = local(version="none"), folder / "a"
    path.write_bytes(b"old")
    fs.cat_file(path)

    with fs.transaction, fs.open(path, "wb") as file:
        file.write(b"new")
        assert fs.cat_file(path) == b"old"

    assert fs.cat_file(path) == b"new"


def test_listings_are_the_origins(cache: RunningCache, folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "a.bin").write_bytes(b"abc")
    fs = local()

    assert fs.ls(folder, detail=False) == [f"{folder}/d"]
    assert fs.find(folder) == [f"{folder}/d/a.bin"]
    assert fs.glob(f"{folder}/*/*.bin") == [f"{folder}/d/a.bin"]
    assert [names for _, _, names in fs.walk(folder)] == [[], ["a.bin"]]
    assert fs.info(f"tasukicache://{folder}/d/a.bin")["size"] == 3
    assert (fs.exists(folder / "x"), fs.isdir(folder / "d"), fs.isfile(folder / "d")) == (False, True, False)
    assert fs.du(folder) == 3
    assert asked(cache) == []


def test_many_files_and_ranges_at_once(cache: RunningCache, folder: Path) -> None:
    for number in range(6):
        (folder / str(number)).write_bytes(b"%d" % number * 10)
    fs, paths = local(threads=4), [f"{folder}/{number}" for number in range(6)]

    whole = fs.cat(paths)
    ranges = fs.cat_ranges([*paths, f"{folder}/none"], [2] * 7, [5] * 7)

    assert whole == {path: b"%d" % number * 10 for number, path in enumerate(paths)}
    assert ranges[:6] == [b"%d" % number * 3 for number in range(6)]
    assert isinstance(ranges[6], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat([*paths, f"{folder}/none"])
    assert fs.cat(f"{folder}/*", on_error="omit") == whole


def test_many_ranges_of_one_file_read_the_origin_once(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(CONTENT)
    fs = local()

    found = fs.cat_ranges([f"{folder}/a"] * 50, list(range(50)), [each + 3 for each in range(50)])

    assert found == [CONTENT[each : each + 3] for each in range(50)]
    assert fs.counts.origin_bytes == len(CONTENT)


def test_a_cache_that_is_down_costs_no_more_than_the_ranges(folder: Path) -> None:
    (folder / "a").write_bytes(CONTENT)
    fs = local(cache_url="http://127.0.0.1:1", bucket="bk", token_path="")

    found = fs.cat_ranges([f"{folder}/a"] * 50, list(range(50)), [each + 3 for each in range(50)])
    with fs.open(f"{folder}/a") as file:
        assert file.read() == CONTENT
    fs.pipe_file(f"{folder}/a", b"new")

    assert found == [CONTENT[each : each + 3] for each in range(50)]
    assert fs.cat_file(folder / "a") == b"new"
    assert fs.counts.origin_bytes <= 150 + len(CONTENT) + 3


def test_removing_does_not_wait_for_a_cache_that_is_down(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(50):
        (folder / str(number)).touch()
    fs = local(cache_url="http://127.0.0.1:1", bucket="bk", token_path="", threads=1)

    fs.rm(str(folder), recursive=True)

    assert not folder.exists()
    assert fs.counts.failures == 3


@pytest.mark.parametrize("options", [{"bucket": "other"}, {"token_path": ""}], ids=["bucket", "token"])
def test_a_refused_reader_reads_the_origin(cache: RunningCache, folder: Path, options: dict[str, Any]) -> None:
    (folder / "a").write_bytes(b"abc")
    fs = local(**options)

    with fs.open(folder / "a") as file:
        assert file.read() == b"abc"
    assert {method for method, _ in asked(cache)} == {"GET"}


def test_files_are_downloaded_through_the_cache(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(CONTENT)
    fs = local(max_object=BLOCK, block_size=BLOCK)

    fs.get_file(f"{folder}/a", folder / "copies" / "1")
    fs.get(f"{folder}/a", f"{folder}/2")

    assert (folder / "copies" / "1").read_bytes() == (folder / "2").read_bytes() == CONTENT
    assert fs.counts.hits == fs.counts.misses == 4


def test_members_of_two_archives_are_two_objects(cache: RunningCache, folder: Path) -> None:
    found = []
    for name in ("one", "two"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr("member", name)
        url = f"tasukicache::zip://member::file://{folder}/{name}.zip"
        with fsspec.open(url, tasukicache={"version": "none"}) as file:
            found.append(file.read())

    assert found == [b"one", b"two"]


def test_options_of_the_origins_own_pass_the_cache_by(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(b"abc")

    with local().open(folder / "a", compression=None, newline=None) as file:
        assert file.read() == b"abc"
    assert asked(cache) == []


def test_a_file_system_survives_pickling_and_holds_no_token(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(b"abc")
    fs = local()

    other = pickle.loads(pickle.dumps(fs))
    third = fsspec.AbstractFileSystem.from_json(fs.to_json())

    assert other.cat_file(folder / "a") == third.cat_file(folder / "a") == b"abc"
    assert TOKEN not in json.dumps(fs.to_dict()) + repr(fs.files.cache.client)
    assert TOKEN.encode() not in pickle.dumps(fs)


def test_an_open_file_survives_pickling(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(CONTENT)
    opened = fsspec.open(f"tasukicache::file://{folder}/a")

    with pickle.loads(pickle.dumps(opened)) as file:
        assert file.read(3) == CONTENT[:3]


def _read(fs: CachedFileSystem, path: str) -> bytes:
    return fs.cat_file(path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_with_the_file_system_that_they_are_given(cache: RunningCache, folder: Path, method: str) -> None:
    (folder / "a").write_bytes(CONTENT)
    fs = local()
    fs.cat_file(folder / "a")
    context = multiprocessing.get_context(method)

    with context.Pool(2) as pool:
        found = pool.starmap(_read, [(fs, f"{folder}/a")] * 4)

    assert found == [CONTENT] * 4


def test_a_forked_worker_reads_while_its_parents_threads_do(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(CONTENT)
    fs, path = local(), f"{folder}/a"
    context = multiprocessing.get_context("fork")

    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(fs.cat_file, path) for _ in range(40)]
        children = [context.Process(target=lambda: os._exit(fs.cat_file(path) != CONTENT)) for _ in range(3)]
        for child in children:
            child.start()
        assert all(each.result() == CONTENT for each in reading)
        for child in children:
            child.join(30)

    assert [child.exitcode for child in children] == [0, 0, 0]


def test_from_asyncio_by_fsspecs_own_wrapper(cache: RunningCache, folder: Path) -> None:
    (folder / "a").write_bytes(b"abc")
    (folder / "b").write_bytes(b"def")

    async def read() -> list[bytes]:
        fs = AsyncFileSystemWrapper(local(), asynchronous=True)
        return list(await asyncio.gather(fs._cat_file(f"{folder}/a"), fs._cat_file(f"{folder}/b")))

    assert asyncio.run(read()) == [b"abc", b"def"]
