"""One Envoy a module."""

from collections.abc import Iterator

import pytest

from tests.objectcache.xds.envoys import Envoy, Plane, running_caches, running_envoy, until
from tests.objectcache.xds.scenes import FAR, NEAR, ZONES, Scene
from tests.ports import free_port


@pytest.fixture(scope="module")
def variant() -> str:
    """Of the protocol."""
    return "delta"


@pytest.fixture(scope="module")
def running(variant: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    port = free_port()
    plane = Plane(port)
    plane.start()
    try:
        with running_caches((*NEAR, *FAR)) as caches:
            folder = tmp_path_factory.mktemp("envoy")
            with running_envoy(plane.port, port, folder, variant=variant) as envoy:
                until(lambda: plane.connected == 1)
                yield Scene(plane, envoy, caches)
    finally:
        plane.close()


@pytest.fixture
def scene(running: Scene) -> Scene:
    """With all caches in place."""
    running.plane.publish(running.members(), ZONES)
    until(lambda: _answers(running.envoy))
    running.tell(running.members())
    return running


def _answers(envoy: Envoy) -> bool:
    try:
        return envoy.ask("GET", "/ready")[0] == 200
    except ConnectionRefusedError:
        return False
