"""Clients that know nothing of the cache but HTTP."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from objectcache.client.client import CacheClient
from tests.objectcache.caches import TOKEN, RunningCache, running_cache

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCache]:
    with running_cache(tmp_path_factory.mktemp("http")) as running:
        client = CacheClient(running.url, "bk", token=TOKEN)
        client.put("d/a.bin", CONTENT)
        client.close()
        yield running


@pytest.fixture
def url(cache: RunningCache) -> str:
    cache.log.clear()
    return f"{cache.url}/v1/objects/bk/d/a.bin"


def test_fsspecs_http_file_system_reads_ranges_by_url(cache: RunningCache, url: str) -> None:
    fs = http_file_system()

    assert fs.info(url)["size"] == len(CONTENT)
    assert fs.cat_file(url, start=1000, end=1010) == CONTENT[1000:1010]
    assert fs.cat_file(url, start=-5) == CONTENT[-5:]
    assert fs.cat_file(url) == CONTENT
    with fs.open(url, block_size=4096) as file:
        file.seek(-6, 2)
        assert file.read() == CONTENT[-6:]
        file.seek(70_000)
        assert file.read(5) == CONTENT[70_000:70_005]
    assert 206 in {status for _, _, status in cache.log}
    with pytest.raises(FileNotFoundError):
        fs.cat_file(url + ".none")


def test_fsspecs_http_file_system_writes_by_url(cache: RunningCache, url: str) -> None:
    fs = http_file_system()

    fs.pipe_file(f"{url}.new", b"written", mode="overwrite")

    assert fs.cat_file(f"{url}.new") == b"written"


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("0-9", 206, CONTENT[:10]),
        ("-5", 206, CONTENT[-5:]),
        ("255990-", 206, CONTENT[255990:]),
        ("255990-999999", 206, CONTENT[255990:]),
    ],
)
def test_curl_reads_ranges(url: str, asked: str, status: int, expected: bytes) -> None:
    found, content = curl("--range", asked, url)

    assert (found, content) == (status, expected)


def test_curl_behind_the_end_and_without_a_range(url: str) -> None:
    assert curl("--range", "999999-", url)[0] == 416
    assert curl(url) == (200, CONTENT)


def test_curl_uploads_a_large_body_after_asking_and_in_chunks(url: str, tmp_path: Path) -> None:
    body = bytes(3_000_000)
    (tmp_path / "body").write_bytes(body)

    # From 1 MiB on curl sends `Expect: 100-continue` first.
    assert curl("--upload-file", str(tmp_path / "body"), f"{url}.large")[0] == 201
    assert curl("--upload-file", "-", f"{url}.chunks", send=body)[0] == 201
    assert curl(f"{url}.large") == curl(f"{url}.chunks") == (200, body)


def http_file_system() -> Any:
    """With the token on its session; options of a file system itself are not sent with a PUT (fsspec 2026.9)."""
    options = {"headers": {"Authorization": f"Bearer {TOKEN}"}}
    return fsspec.filesystem("http", client_kwargs=options, skip_instance_cache=True)


def curl(*arguments: str, send: bytes = b"") -> tuple[int, bytes]:
    """Status and content."""
    program = shutil.which("curl")
    assert program is not None, "curl is not installed"
    done = subprocess.run(
        [program, "--silent", "--show-error", "--max-time", "20", "--header", f"Authorization: Bearer {TOKEN}",
         "--write-out", "%{stderr}%{http_code}", *arguments],
        input=send, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    return int(done.stderr), done.stdout
