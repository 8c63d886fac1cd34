"""Layers through the mirror: misses, hits and parts."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.objectcache.caches import RunningCache
from tests.objectcache.registry.mirrors import HOST, Given, running_mirror
from tests.objectcache.registry.registries import Registry, digest_of, running_registry

LAYER: Final = random.Random(1).randbytes(1_500_000)
DIGEST: Final = digest_of(LAYER)
NAME: Final = "/v1/objects/bk/" + DIGEST.replace(":", "/")

MakeGiven = Callable[..., Given]


@pytest.fixture
def given(cache: RunningCache, token_file: Path, spool_dir: Path) -> MakeGiven:
    def make(registry: Registry, **changes: object) -> Given:
        made = {"cache_url": cache.url, "token_file": token_file, **changes}
        return Given(registry.url, spool_dir, **made)  # type: ignore[arg-type]  # each test knows its fields

    return make


def puts(cache: RunningCache) -> list[tuple[str, int]]:
    return [(path, status) for method, path, status in cache.log if method == "PUT"]


async def test_a_layer_is_fetched_once_and_then_comes_from_the_cache(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)

        first = await mirror.blob(DIGEST)
        await mirror.settled()
        second = await mirror.blob(DIGEST)

        assert (first.status, second.status) == (200, 200)
        assert first.body == second.body == LAYER
        assert registry.asked("GET", "/blobs/") == 1
        assert puts(cache) == [(NAME, 201)]
        for answer in (first, second):
            assert answer.headers["Docker-Content-Digest"] == DIGEST
            assert answer.headers["Content-Length"] == str(len(LAYER))
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["ETag"] == f'"{DIGEST}"'
            assert answer.headers["Accept-Ranges"] == "bytes"
        await mirror.answered("fetched", 1)
        await mirror.answered("hit", 1)
        assert mirror.spool.used_bytes == 0


async def test_the_same_layer_of_another_repository_is_not_fetched_again(given: MakeGiven) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        await mirror.blob(DIGEST, "library/one")
        await mirror.settled()

        assert (await mirror.blob(DIGEST, "library/two")).body == LAYER
        assert registry.asked("GET", "/blobs/") == 1


async def test_an_empty_layer_is_one_too(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        digest = registry.add_blob(b"")

        assert ((await mirror.blob(digest)).status, (await mirror.blob(digest)).body) == (200, b"")
        await mirror.settled()
        assert (await mirror.blob(digest)).status == 200


async def test_twenty_clients_at_once_make_one_fetch(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.gate = asyncio.Event()
        async with AsyncExitStack() as stack:
            url = f"{mirror.url}/v2/a/blobs/{DIGEST}?ns={HOST}"
            asking = [stack.enter_async_context(mirror.session.get(url)) for _ in range(20)]
            # Each has a head, and so a part in the fetch.
            answers = await asyncio.gather(*asking)

            registry.gate.set()
            bodies = await asyncio.gather(*(answer.read() for answer in answers))
        await mirror.settled()

        assert all(body == LAYER for body in bodies)
        assert registry.asked("GET", "/blobs/") == 1
        assert puts(cache) == [(NAME, 201)]
        await mirror.answered("joined", 19)


async def test_the_first_half_is_sent_before_the_second_has_come(given: MakeGiven) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.gate = asyncio.Event()

        async with mirror.session.get(f"{mirror.url}/v2/a/blobs/{DIGEST}?ns={HOST}") as answer:
            half = await answer.content.readexactly(len(LAYER) // 2 - 1)
            registry.gate.set()
            rest = await answer.read()

        assert half + rest == LAYER


async def test_a_client_that_leaves_does_not_end_the_fetch(given: MakeGiven, cache: RunningCache) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        registry.gate = asyncio.Event()
        async with mirror.session.get(f"{mirror.url}/v2/a/blobs/{DIGEST}?ns={HOST}") as answer:
            await answer.content.readexactly(1000)
            answer.close()

        registry.gate.set()
        await mirror.settled()

        assert puts(cache) == [(NAME, 201)]


@pytest.mark.parametrize("is_stored", [pytest.param(True, id="a hit"), pytest.param(False, id="a miss")])
@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        pytest.param("bytes=1000000-", 206, (1_000_000, 1_499_999), id="what is left, as containerd resumes"),
        pytest.param("bytes=10-19", 206, (10, 19), id="ten bytes"),
        pytest.param("bytes=-7", 206, (1_499_993, 1_499_999), id="the last seven"),
        pytest.param("bytes=0-1499998", 206, (0, 1_499_998), id="all but the last"),
        pytest.param("bytes=1-2,4-5", 200, (0, 1_499_999), id="several are ignored"),
        pytest.param("bytes=5-4", 200, (0, 1_499_999), id="an impossible one is ignored"),
        pytest.param("lines=1-2", 200, (0, 1_499_999), id="another unit is ignored"),
    ],
)
async def test_a_part(given: MakeGiven, is_stored: bool, asked: str, status: int, span: tuple[int, int]) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        if is_stored:
            await mirror.blob(DIGEST)
            await mirror.settled()

        answer = await mirror.blob(DIGEST, Range=asked)

        first, last = span
        assert (answer.status, answer.body == LAYER[first : last + 1]) == (status, True)
        told = f"bytes {first}-{last}/{len(LAYER)}"
        assert answer.headers.get("Content-Range") == (told if status == 206 else None)
        await mirror.settled()
        assert registry.asked("GET", "/blobs/") == 1


@pytest.mark.parametrize("is_stored", [pytest.param(True, id="a hit"), pytest.param(False, id="a miss")])
async def test_a_part_that_is_not_there(given: MakeGiven, is_stored: bool) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        if is_stored:
            await mirror.blob(DIGEST)
            await mirror.settled()

        answer = await mirror.blob(DIGEST, Range="bytes=1500000-")

        assert (answer.status, answer.body) == (416, b"")
        assert answer.headers["Content-Range"] == f"bytes */{len(LAYER)}"


async def test_a_part_of_another_thing_is_the_whole(given: MakeGiven) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)

        assert (await mirror.blob(DIGEST, Range="bytes=5-9", If_Range='"other"')).status == 200
        assert (await mirror.blob(DIGEST, Range="bytes=5-9", If_Range=f'"{DIGEST}"')).body == LAYER[5:10]


async def test_who_has_it_gets_nothing(given: MakeGiven) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        answer = await mirror.blob(DIGEST, If_None_Match=f'"x", "{DIGEST}"')

        assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize(
    "is_stored", [pytest.param(True, id="of the cache"), pytest.param(False, id="of the registry")]
)
async def test_head_tells_the_size(given: MakeGiven, is_stored: bool) -> None:
    async with running_registry() as registry, running_mirror(given(registry)) as mirror:
        registry.add_blob(LAYER)
        if is_stored:
            await mirror.blob(DIGEST)
            await mirror.settled()

        answer = await mirror.blob(DIGEST, method="HEAD")

        assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, str(len(LAYER)), b"")
        assert registry.asked("HEAD", "/blobs/") == (0 if is_stored else 1)
