"""A cache that is empty at the start of each test."""

import json
from collections.abc import Iterator

import pytest

from tests.objectcache.caches import RunningCache, running_cache


@pytest.fixture(scope="session")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCache]:
    with running_cache(tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture
def cache(one_cache: RunningCache) -> RunningCache:
    """Starting one takes a second, emptying it nothing."""
    _, _, listed = one_cache.request("GET", "/v1/objects/bk")
    for each in json.loads(listed)["objects"]:
        one_cache.request("DELETE", f"/v1/objects/bk/{each['name']}")
    one_cache.log.clear()
    return one_cache
