from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tasuki.kube.client import Kube, connect
from tests.webhooks.certificates.api_server import AdmissionApiServer


@pytest.fixture
async def api() -> AsyncIterator[AdmissionApiServer]:
    """With an empty Secret and configurations without a bundle, as the manifests leave them."""
    server = AdmissionApiServer()
    await server.put_secret()
    await server.put_configurations()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def kube(api: AdmissionApiServer, tmp_path: Path) -> AsyncIterator[Kube]:
    connection = await connect("auto", 2.0, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert connection is not None
    yield connection
    await connection.close()
