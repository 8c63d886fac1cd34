"""The cache as it is shipped beside an API server: tokens are reviewed there, and buckets defined."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.objectcache.access.cluster import AUDIENCE, CACHE_BUCKETS, ReviewingServer, of_pod
from tests.objectcache.service.nodes import Node, node
from tests.tasuki.kube.api_server import PODS

TARGET = "/v1/objects/bk/a"
BUCKET: dict[str, Any] = {"bucketQuota": "1Mi", "allowNamespaces": ["research"]}


@pytest.fixture
async def server() -> AsyncIterator[ReviewingServer]:
    found = ReviewingServer()
    found.accepted["of-trainer"] = of_pod("trainer")
    found.accepted["of-other"] = of_pod("guest", namespace="other")
    found.accepted["for-others"] = {**of_pod("trainer"), "audiences": ["https://kubernetes.default.svc"]}
    await found.start()
    yield found
    await found.stop()


async def status(cache: Node, method: str, token: str, target: str = TARGET, body: bytes | None = None) -> int:
    return (await asyncio.to_thread(cache.request, method, target, body, None, token))[0]


async def until_status(cache: Node, wanted: int, token: str, target: str = TARGET) -> None:
    async with asyncio.timeout(30):
        while await status(cache, "GET", token, target) != wanted:
            await asyncio.sleep(0.02)


def arguments(server: ReviewingServer, folder: Path) -> dict[str, Any]:
    return {"auth": "tokenreview", "environ": {"KUBECONFIG": server.kubeconfig(folder)}, "wait": False}


async def test_the_api_server_says_what_tokens_are_worth(server: ReviewingServer, tmp_path: Path) -> None:
    with node(tmp_path, **arguments(server, tmp_path)) as cache:
        await asyncio.to_thread(cache.wait_ready)

        assert await status(cache, "PUT", "of-trainer", body=b"x") == 201
        assert await status(cache, "GET", "of-trainer") == 200
        assert await status(cache, "GET", "of-other") == 403
        assert await status(cache, "GET", "of-nobody") == 401
        assert await status(cache, "GET", "for-others") == 401
        reviews = [body for body in server.bodies if isinstance(body, dict) and body.get("kind") == "TokenReview"]
        assert {tuple(each["spec"]["audiences"]) for each in reviews} == {(AUDIENCE,)}
        assert server.reviewed.count("of-trainer") == 1
        assert "of-trainer" not in cache.output.read_text()
        assert cache.is_unharmed()


async def test_the_token_of_a_pod_that_is_deleted_is_refused_soon(server: ReviewingServer, tmp_path: Path) -> None:
    await server.put(PODS, "trainer", metadata={"namespace": "research", "uid": "uid-of-trainer"}, status={})
    with node(tmp_path, **arguments(server, tmp_path)) as cache:
        await asyncio.to_thread(cache.wait_ready)
        assert await status(cache, "PUT", "of-trainer", body=b"x") == 201
        del server.accepted["of-trainer"]
        assert await status(cache, "GET", "of-trainer") == 200
        await server.remove(PODS, "trainer")

        await until_status(cache, 401, "of-trainer")


async def test_while_the_api_server_is_away_known_tokens_stand_and_others_come_back(
    server: ReviewingServer, tmp_path: Path
) -> None:
    with node(tmp_path, **arguments(server, tmp_path)) as cache:
        await asyncio.to_thread(cache.wait_ready)
        assert await status(cache, "PUT", "of-trainer", body=b"x") == 201
        await server.stop()

        assert await status(cache, "GET", "of-trainer") == 200
        assert await status(cache, "GET", "of-other") == 503
        await server.start()
        await until_status(cache, 403, "of-other")
        assert cache.is_unharmed()


async def test_buckets_appear_change_and_vanish(server: ReviewingServer, tmp_path: Path) -> None:
    with node(tmp_path, buckets=(), **arguments(server, tmp_path)) as cache:
        await asyncio.to_thread(cache.wait_ready)
        target = "/v1/objects/images/a"
        assert await status(cache, "GET", "of-trainer", target) == 403
        await server.put(CACHE_BUCKETS, "images", spec=BUCKET)
        await until_status(cache, 404, "of-trainer", target)
        assert await status(cache, "PUT", "of-trainer", target, b"x") == 201
        assert await status(cache, "GET", "of-other", target) == 403
        await server.put(CACHE_BUCKETS, "images", spec={**BUCKET, "allowNamespaces": ["other"]})
        await until_status(cache, 200, "of-other", target)
        assert await status(cache, "GET", "of-trainer", target) == 403
        await server.remove(CACHE_BUCKETS, "images")
        await until_status(cache, 403, "of-other", target)
        await server.put(CACHE_BUCKETS, "images", spec=BUCKET)
        await until_status(cache, 200, "of-trainer", target)

        assert cache.is_unharmed()


async def test_a_file_of_buckets_that_is_wrong_keeps_what_was_right(tmp_path: Path) -> None:
    with node(tmp_path, wait=False) as cache:
        await asyncio.to_thread(cache.wait_ready)
        assert await status(cache, "PUT", cache.token, body=b"x") == 201
        (tmp_path / "buckets.json").write_text('[{"Name": "bk", "BucketQuota": "much"}]')
        async with asyncio.timeout(20):
            while "[!]buckets file" not in await asyncio.to_thread(cache.page, "/readyz"):
                await asyncio.sleep(0.02)

        assert await status(cache, "GET", cache.token) == 200
        assert (await asyncio.to_thread(cache.page, "/readyz")).endswith("\nready\n")
