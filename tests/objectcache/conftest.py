"""A cache that many tests share; each uses names of its own."""

from collections.abc import Iterator

import pytest

from tests.objectcache.caches import RunningCache, running_cache

SHARED_BUCKETS = (
    {"Name": "bk", "BucketQuota": "64Mi", "AllowNamespaces": ["research"], "PinnedQuota": "1Mi"},
    {"Name": "public", "BucketQuota": "16Mi", "Public": True, "AllowNamespaces": ["research"]},
    {"Name": "open", "BucketQuota": "16Mi", "Public": True},
    {"Name": "other", "BucketQuota": "16Mi", "AllowNamespaces": ["other"]},
    {"Name": "small", "BucketQuota": "1Mi", "AllowNamespaces": ["research"]},
)
SHARED_TOKENS = {"token-of-research": "research", "token-of-other": "other"}


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCache]:
    """Buckets bk and small of `research`, public and open for everybody, other of `other`."""
    folder = tmp_path_factory.mktemp("cache")
    with running_cache(folder, buckets=SHARED_BUCKETS, tokens=SHARED_TOKENS, workers=2) as cache:
        yield cache
