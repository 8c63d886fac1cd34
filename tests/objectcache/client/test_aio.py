"""The client for asyncio, over real sockets."""

import asyncio
from pathlib import Path

import pytest

from objectcache.client.aio import AsyncCacheClient
from objectcache.client.errors import RefusedError, UnreachableError
from tests.objectcache.caches import TOKEN, RunningCache
from tests.objectcache.client.odd_server import Said, answer, odd_server


async def test_an_object_comes_and_goes(cache: RunningCache) -> None:
    async with AsyncCacheClient(cache.url, "bk", token=TOKEN) as client:
        missed = await client.get("a//../b c")
        await client.put("a//../b c", b"0123456789")
        found = [await client.get("a//../b c", *span) for span in [(), (2, 5), (-3,), (50, 60), (3, 3)]]
        stated = await client.head("a//../b c")
        gone = [await client.delete("a//../b c"), await client.delete("a//../b c")]

    assert missed is None
    assert found == [b"0123456789", b"234", b"789", b"", b""]
    assert stated is not None
    assert stated.size_bytes == 10
    assert gone == [True, False]
    assert cache.log[0] == ("GET", "/v1/objects/bk/a//../b%20c", 404)


async def test_many_at_once(cache: RunningCache) -> None:
    async with AsyncCacheClient(cache.url, "bk", token=TOKEN, connections=4) as client:
        await asyncio.gather(*(client.put(f"x{number}", b"%d" % number) for number in range(50)))
        found = await asyncio.gather(*(client.get(f"x{number}") for number in range(50)))

    assert found == [b"%d" % number for number in range(50)]


async def test_a_renewed_token_is_tried_again(cache: RunningCache, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    async with AsyncCacheClient(cache.url, "bk", token_path=path) as client:
        with pytest.raises(RefusedError) as refusal:
            await client.get("x")
        path.write_text(TOKEN + "\n")

        assert await client.get("x") is None

    assert refusal.value.status == 401


async def test_failures_are_the_caches_errors() -> None:
    async with AsyncCacheClient("http://127.0.0.1:1", "bk") as client:
        with pytest.raises(UnreachableError):
            await client.get("x")
    for said in (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"HTTP/1.1 200 OK\r\n\r\nwhole?"):
        with odd_server([Said(said, closes=True)] * 3) as server:
            async with AsyncCacheClient(server.url, "bk", timeout_seconds=2) as client:
                with pytest.raises(UnreachableError):
                    await client.get("x")


async def test_pages_are_followed() -> None:
    pages = [b'{"objects":[{"name":"a","bytes":1}],"more":true}', b'{"objects":[{"name":"b","bytes":1}]}']
    with odd_server([answer(200, each) for each in pages]) as server:
        async with AsyncCacheClient(server.url, "bk") as client:
            found = [each.name async for each in client.list()]

    assert found == [b"a", b"b"]


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await AsyncCacheClient("http://cache", "bk").get("x")
