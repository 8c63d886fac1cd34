"""Bodies whose size nobody tells: as much fits into a bucket as of those whose size is told."""

from pathlib import Path

import pytest

from tests.objectcache.service.nodes import node
from tests.objectcache.wires import Wire

QUOTA = 1_300_000
SMALL = ({"Name": "bk", "BucketQuota": QUOTA, "AllowNamespaces": ["research"], "PinnedQuota": 1000},)


@pytest.mark.parametrize(
    ("size", "headers", "status"),
    [
        pytest.param(10, (), 201, id="a few bytes"),
        pytest.param(QUOTA, (), 201, id="all of the quota"),
        pytest.param(QUOTA + 1, (), 413, id="more than the quota"),
        pytest.param(1000, ("Tasuki-Pinned: true",), 201, id="all that may be pinned"),
        pytest.param(1001, ("Tasuki-Pinned: true",), 507, id="more than may be pinned"),
    ],
)
def test_a_body_in_chunks_is_held_to_what_it_has(
    tmp_path: Path, size: int, headers: tuple[str, ...], status: int
) -> None:
    with node(tmp_path, buckets=SMALL) as cache, Wire(cache.direct_port) as wire:
        wire.ask("PUT", "/v1/objects/bk/a", "Transfer-Encoding: chunked", *headers)
        wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size)))

        assert wire.answer()[0] == status
        assert cache.is_unharmed()
