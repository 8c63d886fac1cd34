from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tasuki.kube.client import Kube, connect
from tests.objectcache.access.cluster import ReviewingServer


@pytest.fixture
async def api() -> AsyncIterator[ReviewingServer]:
    server = ReviewingServer()
    await server.start()
    yield server
    server.may_answer.set()
    await server.stop()


@pytest.fixture
async def kube(api: ReviewingServer, tmp_path: Path) -> AsyncIterator[Kube]:
    connection = await connect("auto", 2.0, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert connection is not None
    yield connection
    await connection.close()
