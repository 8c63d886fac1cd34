"""pfio as it is, reading through the cache: what it gets, and what the cache saw."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.objectcache.caches import TOKEN, RunningCache, running_cache
from tests.objectcache.pfio.child import run_pfio

# Prints how long each file is that it reads, and its first bytes; a second read follows the first.
READ_TWICE = """
import sys
from pfio.v2 import from_url
folder, prefix, *names = sys.argv[1:]
with from_url(folder, http_cache=prefix) as fs:
    for name in names * 2:
        with fs.open(name, "rb") as file:
            content = file.read()
        print(name, len(content), content[:8].decode(), flush=True)
"""

BUCKETS = (
    {"Name": "bk", "BucketQuota": "64Mi", "AllowNamespaces": ["research"]},
    {"Name": "tiny", "BucketQuota": "1Ki", "AllowNamespaces": ["research"]},
    {"Name": "theirs", "BucketQuota": "1Mi", "AllowNamespaces": ["others"]},
)


@pytest.fixture(scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCache]:
    with running_cache(tmp_path_factory.mktemp("pfio"), buckets=BUCKETS) as running:
        yield running


@pytest.fixture
def cache(one_cache: RunningCache) -> RunningCache:
    one_cache.log.clear()
    return one_cache


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "data"
    found.mkdir()
    return found


def prefix(cache: RunningCache, bucket: str = "bk") -> str:
    return f"{cache.url}/v1/objects/{bucket}"


def asked(cache: RunningCache) -> list[tuple[str, int]]:
    return [(method, status) for method, _, status in cache.log]


def test_a_file_is_put_once_and_read_from_the_cache_after(cache: RunningCache, folder: Path, token: Path) -> None:
    (folder / "a.bin").write_bytes(b"content!" * 100)

    said = run_pfio(READ_TWICE, str(folder), prefix(cache), "a.bin", token_path=token)

    assert said == "a.bin 800 content!\n" * 2
    target = f"/v1/objects/bk/file:/{folder}/a.bin"
    assert cache.log == [("GET", target, 404), ("PUT", target, 201), ("GET", target, 200)]


def test_another_process_reads_what_the_origin_has_no_more(cache: RunningCache, folder: Path, token: Path) -> None:
    (folder / "a").write_bytes(b"kept")
    run_pfio(READ_TWICE, str(folder), prefix(cache), "a", token_path=token)
    (folder / "a").unlink()

    assert run_pfio(READ_TWICE, str(folder), prefix(cache), "a", token_path=token) == "a 4 kept\n" * 2


def test_an_empty_file_is_a_hit(cache: RunningCache, folder: Path, token: Path) -> None:
    (folder / "empty").touch()

    said = run_pfio(READ_TWICE, str(folder), prefix(cache), "empty", token_path=token)

    assert said == "empty 0 \n" * 2
    assert asked(cache) == [("GET", 404), ("PUT", 201), ("GET", 200)]


def test_names_that_look_like_something_else_are_names(cache: RunningCache, folder: Path, token: Path) -> None:
    names = ["a%2Fb", "a?b", "a;b", "[a]", "a+b", "100%", "a#b"]
    for name in names:
        (folder / name).write_bytes(name.encode())

    said = run_pfio(READ_TWICE, str(folder), prefix(cache), *names, token_path=token)

    assert said == "".join(f"{name} {len(name)} {name}\n" for name in names) * 2
    assert [status for _, status in asked(cache)] == [404, 201] * len(names) + [200] * len(names)


def test_what_pfio_cannot_send_is_read_from_the_origin(cache: RunningCache, folder: Path, token: Path) -> None:
    (folder / "a b").write_bytes(b"space")

    said = run_pfio(READ_TWICE, str(folder), prefix(cache), "a b", token_path=token)

    assert said.count("a b 5 space\n") == 2
    assert cache.log == []


def test_each_member_of_an_archive_is_an_object(cache: RunningCache, folder: Path, token: Path) -> None:
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("train/0.txt", "zero")
        archive.writestr("train/1.txt", "one")

    said = run_pfio(READ_TWICE, str(folder / "set.zip"), prefix(cache), "train/0.txt", "train/1.txt", token_path=token)

    assert said == "train/0.txt 4 zero\ntrain/1.txt 3 one\n" * 2
    assert ("PUT", f"/v1/objects/bk/file:/{folder}/set.zip/pfio-zipfs/train/1.txt", 201) in cache.log
    assert [status for _, status in asked(cache)] == [404, 201, 404, 201, 200, 200]


def test_names_of_an_object_store(cache: RunningCache, token: Path) -> None:
    code = """
import sys
from pfio.cache import HTTPConnector
connector = HTTPConnector(sys.argv[1])
name = "s3://store.example/bucket/train//a/../0.jpg"
print(connector.get(name), connector.put(name, b"pixels"), connector.get(name))
"""

    assert run_pfio(code, prefix(cache), token_path=token) == "None True b'pixels'\n"
    assert {target for _, target, _ in cache.log} == {"/v1/objects/bk/s3://store.example/bucket/train//a/../0.jpg"}


def test_an_index_cache_of_pickles(cache: RunningCache, token: Path) -> None:
    code = """
import sys
from pfio.cache import HTTPCache
cache = HTTPCache(3, sys.argv[1], do_pickle=True)
print([cache.get_and_cache(index, lambda i: {"square": i * i}) for index in (2, 1, 2)])
"""

    said = run_pfio(code, prefix(cache) + "/squares", token_path=token)

    assert said == "[{'square': 4}, {'square': 1}, {'square': 4}]\n"
    assert asked(cache) == [("GET", 404), ("PUT", 201), ("GET", 404), ("PUT", 201), ("GET", 200)]


def test_forked_workers_share_what_one_of_them_put(cache: RunningCache, folder: Path, token: Path) -> None:
    for number in range(8):
        (folder / str(number)).write_bytes(b"%d" % number * 5000)
    code = """
import multiprocessing, sys
from pfio.v2 import from_url
folder, prefix = sys.argv[1:]
fs = from_url(folder, http_cache=prefix)
def read(number):
    with fs.open(str(number), "rb") as file:
        return file.read() == str(number).encode() * 5000
print(all(map(read, range(8))))
with multiprocessing.get_context("fork").Pool(4) as pool:
    print(all(pool.map(read, list(range(8)) * 3)))
"""

    assert run_pfio(code, str(folder), prefix(cache), token_path=token) == "True\nTrue\n"
    assert asked(cache)[:16] == [("GET", 404), ("PUT", 201)] * 8
    assert asked(cache)[16:] == [("GET", 200)] * 24


def test_a_token_is_rotated_under_a_running_reader(folder: Path, tmp_path: Path, token: Path) -> None:
    (folder / "a").write_bytes(b"x")
    code = """
import os, sys, time
from pfio.v2 import from_url
folder, prefix, path, new = sys.argv[1:]
with from_url(folder, http_cache=prefix) as fs:
    fs.open("a", "rb").read()
    # As the kubelet does: another file takes its place.
    with open(path + ".new", "w") as file:
        file.write(new)
    os.replace(path + ".new", path)
    time.sleep(1.1)
    print(fs.open("a", "rb").read())
"""
    with running_cache(tmp_path / "cache", tokens={"old-token": "research", "new-token": "research"}) as cache:
        token.write_text("old-token")
        said = run_pfio(code, str(folder), prefix(cache), str(token), "new-token", token_path=token)
        token.write_text("gone-token")
        refused = run_pfio(READ_TWICE, str(folder), prefix(cache), "a", token_path=token)

    assert said == "b'x'\n"
    assert asked(cache)[:3] == [("GET", 404), ("PUT", 201), ("GET", 200)]
    assert refused.count("a 1 x\n") == 2
    assert {status for _, status in asked(cache)[3:]} == {401}


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        pytest.param(("bk", "wrong-token"), 401, id="wrong token"),
        pytest.param(("theirs", TOKEN), 403, id="another's bucket"),
        pytest.param(("nosuch", TOKEN), 403, id="no such bucket"),
    ],
)
def test_a_refused_reader_reads_the_origin(
    cache: RunningCache, folder: Path, token: Path, refused: tuple[str, str], status: int
) -> None:
    bucket, shown = refused
    (folder / "a").write_bytes(b"mine" * 300_000)
    token.write_text(shown)

    said = run_pfio(READ_TWICE, str(folder), prefix(cache, bucket), "a", token_path=token)

    assert said.count("a 1200000 minemine\n") == 2
    assert f"get: unexpected status code {status}" in said
    # A refused GET is followed by a PUT of the whole file, which must not be read to its end first.
    assert {found for _, found in asked(cache)} == {status}
    assert [method for method, _ in asked(cache)].count("GET") == 2


def test_over_quota_is_read_from_the_origin(cache: RunningCache, folder: Path, token: Path) -> None:
    (folder / "a").write_bytes(b"too much" * 1000)

    said = run_pfio(READ_TWICE, str(folder), prefix(cache, "tiny"), "a", token_path=token)

    assert said.count("a 8000 too much\n") == 2
    assert [status for method, status in asked(cache) if method == "GET"] == [404, 404]
    assert 201 not in {status for _, status in asked(cache)}


def test_without_a_server_the_origin_is_read(folder: Path, token: Path) -> None:
    (folder / "a").write_bytes(b"alone")

    said = run_pfio(READ_TWICE, str(folder), "http://127.0.0.1:1/v1/objects/bk", "a", token_path=token)

    assert said.count("a 5 alone\n") == 2
    assert "Connection refused" in said


def test_a_cache_that_restarts_under_a_reader_is_used_again(tmp_path: Path, folder: Path, token: Path) -> None:
    (folder / "a").write_bytes(b"survives")
    with running_cache(tmp_path / "cache") as cache:
        run_pfio(READ_TWICE, str(folder), prefix(cache), "a", token_path=token)
    (folder / "a").unlink()

    with running_cache(tmp_path / "cache") as cache:
        said = run_pfio(READ_TWICE, str(folder), prefix(cache), "a", token_path=token)

    assert said == "a 8 survives\n" * 2


def test_64_threads_that_want_one_new_key_all_get_it(cache: RunningCache, folder: Path, token: Path) -> None:
    (folder / "a").write_bytes(bytes(range(256)) * 400)
    code = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pfio.v2 import from_url
folder, prefix = sys.argv[1:]
barrier = threading.Barrier(64)
with from_url(folder, http_cache=prefix) as fs:
    def read(_):
        barrier.wait()
        with fs.open("a", "rb") as file:
            return file.read() == bytes(range(256)) * 400
    with ThreadPoolExecutor(64) as pool:
        print(all(pool.map(read, range(64))))
"""

    assert run_pfio(code, str(folder), prefix(cache), token_path=token).endswith("True\n")

    _, _, content = cache.request("GET", f"/v1/objects/bk/file:/{folder}/a")
    assert content == bytes(range(256)) * 400
    gets = [status for method, status in asked(cache) if method == "GET"]
    assert set(gets) <= {200, 404}
    assert {status for method, status in asked(cache) if method == "PUT"} == {201}


@pytest.mark.parametrize(("size", "is_put"), [(2**20 - 1, True), (2**20, False)], ids=["below", "at"])
def test_the_largest_that_pfio_puts(cache: RunningCache, folder: Path, token: Path, size: int, is_put: bool) -> None:
    with (folder / "a").open("wb") as file:
        file.truncate(size)
    code = """
import sys
from pfio.v2 import from_url, HTTPCachedFS
folder, prefix = sys.argv[1:]
fs = HTTPCachedFS(prefix, from_url(folder), max_cache_size=2**20)
for _ in range(2):
    with fs.open("a", "rb") as file:
        print(len(file.read(-1)))
"""

    said = run_pfio(code, str(folder), prefix(cache), token_path=token)

    assert said.count(f"{size}\n") == 2
    expected = [("GET", 404), ("PUT", 201), ("GET", 200)] if is_put else [("GET", 404), ("GET", 404)]
    assert asked(cache) == expected


def test_one_byte_less_than_a_gib(tmp_path: Path, folder: Path, token: Path) -> None:
    with (folder / "a").open("wb") as file:
        file.truncate(2**30 - 1)
    buckets = [{"Name": "bk", "BucketQuota": "2Gi", "AllowNamespaces": ["research"]}]
    with running_cache(tmp_path / "cache", buckets=buckets, capacity="2Gi") as cache:
        said = run_pfio(READ_TWICE, str(folder), prefix(cache), "a", token_path=token, seconds=110)

    assert said == f"a {2**30 - 1} \0\0\0\0\0\0\0\0\n" * 2
    assert asked(cache) == [("GET", 404), ("PUT", 201), ("GET", 200)]
