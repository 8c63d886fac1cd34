"""Caches and spools."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.objectcache.caches import RunningCache, running_cache


@pytest.fixture(scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCache]:
    """Starting one takes longer than most tests."""
    with running_cache(tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture
def cache(one_cache: RunningCache) -> RunningCache:
    """An empty one."""
    _, _, listed = one_cache.request("GET", "/v1/objects/bk")
    for each in json.loads(listed)["objects"]:
        one_cache.request("DELETE", f"/v1/objects/bk/{each['name']}")
    one_cache.log.clear()
    return one_cache


@pytest.fixture
def token_file(cache: RunningCache, tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(cache.token + "\n")
    return file


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder
