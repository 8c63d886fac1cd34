"""Five caches and one Envoy for all tests; each uses names of its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.objectcache.routed.scenes import NODES, Scene, marked_cache, running_scene


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("routed")
    with ExitStack() as stack:
        made = [marked_cache(folder / node, node) for node in NODES]
        # Side by side: most of a second is imports.
        with ThreadPoolExecutor() as pool:
            caches = dict(zip(NODES, pool.map(stack.enter_context, made), strict=True))
        try:
            yield stack.enter_context(running_scene(folder, caches))
        finally:
            for cache in caches.values():
                cache.process.terminate()


@pytest.fixture
def scene(running: Scene) -> Scene:
    """With all caches in place."""
    running.tell(running.members())
    return running
