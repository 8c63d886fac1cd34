"""The watch of our node, and everything that can break it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from tasuki.kube.client import Kube
from tasuki.kube.objects import Node
from tasuki.kube.watching import WatchTimes, follow_node
from tests.tasuki.kube.api_server import NODES, ApiServer, Refusal

LIST = f"GET {NODES}?fieldSelector=metadata.name%3Dn"
HASTY = WatchTimes(lasts_seconds=60, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.05)


def longest(_: float, most: float) -> float:
    return most


@asynccontextmanager
async def following(kube: Kube, times: WatchTimes = HASTY) -> AsyncIterator[AsyncIterator[Node | None]]:
    async with aclosing(follow_node(kube, "n", longest, times)) as nodes:
        yield nodes


async def label(nodes: AsyncIterator[Node | None]) -> str:
    """The next value of the node's one label; `absent` if there is no node."""
    node = await anext(nodes)
    return node.metadata.labels.get("x", "none") if node else "absent"


async def put(api: ApiServer, value: str) -> None:
    await api.put(NODES, "n", metadata={"labels": {"x": value}})


async def watching(api: ApiServer) -> None:
    await api.until(lambda: bool(api.streams))


async def test_each_change_of_our_node_and_of_no_other(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    async with following(kube) as nodes:
        first = await label(nodes)
        await api.put(NODES, "other")
        await put(api, "2")

        assert (first, await label(nodes)) == ("1", "2")


async def test_a_node_that_comes_and_goes(api: ApiServer, kube: Kube) -> None:
    async with following(kube) as nodes:
        before = await label(nodes)
        await put(api, "1")
        there = await label(nodes)
        await api.remove(NODES, "n")

        assert (before, there, await label(nodes)) == ("absent", "1", "absent")


async def test_a_dropped_connection_loses_no_change(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    async with following(kube) as nodes:
        await label(nodes)
        following_change = anext(nodes)
        await put(api, "2")
        await following_change
        api.drop(api.streams[0])
        await put(api, "3")

        assert await label(nodes) == "3"
        assert api.count("GET", f"{NODES}?watch=true") == 2
        assert api.requests.count(LIST) == 1


async def test_a_server_that_comes_back_with_an_older_store_is_asked_anew(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    backup = api.backup()
    async with following(kube) as nodes:
        await label(nodes)
        await put(api, "2")
        await label(nodes)
        later = asyncio.ensure_future(label(nodes))
        await api.stop()
        api.refusals = [Refusal(503, query="watch")]
        api.restore(backup)
        await api.start()

        assert await asyncio.wait_for(later, 10) == "1"
        await put(api, "3")
        assert await label(nodes) == "3"


@pytest.mark.parametrize("in_stream", [True, False], ids=["told in the stream", "told by the status"])
async def test_an_expired_version_is_listed_again(in_stream: bool, api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    api.gone_in_stream = in_stream
    async with following(kube) as nodes:
        await label(nodes)
        await put(api, "2")
        await label(nodes)
        api.oldest_version = 103
        api.drop(api.streams[0])
        await put(api, "3")

        assert await label(nodes) == "3"
        assert api.requests.count(LIST) == 2


async def test_a_bookmark_moves_on_the_version(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    async with following(kube) as nodes:
        await label(nodes)
        await put(api, "2")
        await label(nodes)
        await api.bookmark(NODES)
        await put(api, "3")
        await label(nodes)
        api.oldest_version = 103
        api.drop(api.streams[0])
        await put(api, "4")

        assert await label(nodes) == "4"
        assert api.count("GET", f"{NODES}?watch=true") == 2
        assert api.requests.count(LIST) == 1


async def test_a_watch_that_the_server_ends_is_taken_up(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    times = WatchTimes(lasts_seconds=0.01, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.02)
    async with following(kube, times) as nodes:
        await label(nodes)
        later = anext(nodes)
        await put(api, "2")

        node = await later
        assert node is not None
        assert node.metadata.labels == {"x": "2"}


async def test_a_silent_connection_is_given_up(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    times = WatchTimes(lasts_seconds=0, silence_seconds=0.05, first_pause_seconds=0.01, most_pause_seconds=0.02)
    async with following(kube, times) as nodes:
        await label(nodes)
        api.answering.clear()
        later = asyncio.ensure_future(label(nodes))
        await api.until(lambda: api.requests.count(LIST) == 2)
        api.answering.set()
        await put(api, "2")

        assert await later == "2"


async def test_an_api_server_that_is_away_is_waited_for(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    await api.stop()
    async with following(kube) as nodes:
        first = anext(nodes)
        await api.start()

        node = await first
        assert node is not None
        assert node.metadata.labels == {"x": "1"}


async def test_refusals_are_outlasted(api: ApiServer, kube: Kube) -> None:
    await put(api, "1")
    api.refusals = [Refusal(403, times=2), Refusal(429, times=1), Refusal(500, times=1)]
    async with following(kube) as nodes:
        assert await label(nodes) == "1"
        assert len(api.requests) == 5
