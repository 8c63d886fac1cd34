"""A collection that is followed over real HTTP, and everything that can break it."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import msgspec
import pytest

from tasuki.kube import collection as module
from tasuki.kube.client import Kube, connect
from tasuki.kube.collection import Applied, Change, Collection, Deleted, Metadata, ObjectName, Replaced, Resource
from tasuki.kube.watching import WatchTimes
from tests.tasuki.kube.api_server import NODES, PODS, ApiServer, Refusal

HASTY = WatchTimes(lasts_seconds=60, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.05)


class Spec(msgspec.Struct, frozen=True):
    size: int = 0


class Wire(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: Spec = Spec()


def size(found: Wire) -> int:
    return found.spec.size


@dataclass
class Followed:
    """A collection as its follower sees it.

    Attributes:
        held: What a follower knows that does as it is told.
        reports: What was told of the contact.
        pauses: The longest that each backoff, and each watch, was given.
    """

    times: WatchTimes = HASTY
    held: dict[ObjectName, int] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    seen: list[Change[int]] = field(default_factory=list)
    collection: Collection[Wire, int] = field(init=False)
    changes: AsyncGenerator[Change[int], None] = field(init=False)

    def longest(self, _: float, most: float) -> float:
        self.pauses.append(most)
        return most

    def start(self, kube: Kube, plural: str, selector: Mapping[str, str]) -> AsyncGenerator[Change[int], None]:
        resource = Resource("", "v1", plural, Wire, size, selector)
        self.collection = Collection(kube, resource, self.times, self.longest, self.reports.append)
        self.changes = self.collection.changes()
        return self.changes

    async def next(self) -> Change[int]:
        change = await asyncio.wait_for(anext(self.changes), 10)
        self.seen.append(change)
        match change:
            case Replaced(objects):
                self.held = dict(objects)
            case Applied(name, kept):
                self.held[name] = kept
            case Deleted(name):
                self.held.pop(name, None)
        return change

    @property
    def lists(self) -> int:
        return sum(isinstance(change, Replaced) for change in self.seen)


@asynccontextmanager
async def following(
    kube: Kube, plural: str = "nodes", times: WatchTimes = HASTY, selector: Mapping[str, str] | None = None
) -> AsyncIterator[Followed]:
    followed = Followed(times)
    async with aclosing(followed.start(kube, plural, selector or {})):
        yield followed


def node(name: str) -> ObjectName:
    return ObjectName("", name)


async def put(api: ApiServer, **sizes: int) -> None:
    for name, value in sizes.items():
        await api.put(NODES, name, spec={"size": value})


def listed(api: ApiServer) -> int:
    """How often a list was begun."""
    return sum(1 for asked in api.requests if asked.startswith(f"GET {NODES}?limit=500") and "continue" not in asked)


def watched(api: ApiServer) -> int:
    return sum(1 for asked in api.requests if asked.startswith(f"GET {NODES}?watch=true"))


async def test_a_list_then_each_change(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1, b=2)
    async with following(kube) as nodes:
        await nodes.next()
        await put(api, c=3, a=4)
        await api.remove(NODES, "b")
        for _ in range(3):
            await nodes.next()

        assert nodes.seen == [
            Replaced({node("a"): 1, node("b"): 2}),
            Applied(node("c"), 3),
            Applied(node("a"), 4),
            Deleted(node("b")),
        ]


async def test_an_empty_collection(api: ApiServer, kube: Kube) -> None:
    api.documents[NODES] = b'{"metadata": {"resourceVersion": "100"}, "items": null}'
    async with following(kube) as nodes:
        assert await nodes.next() == Replaced({})


async def test_objects_are_named_within_their_namespace(api: ApiServer, kube: Kube) -> None:
    await api.put(PODS, "a", metadata={"namespace": "one"})
    async with following(kube, "pods") as pods:
        await pods.next()
        await api.put(PODS, "b", metadata={"namespace": "two"}, spec={"size": 7})
        await api.remove(PODS, "a")
        await pods.next()
        await pods.next()

        assert pods.held == {ObjectName("two", "b"): 7}


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        pytest.param(Resource("", "v1", "pods", Wire, size), "/api/v1/pods", id="of the core group"),
        pytest.param(Resource("apps", "v1", "daemonsets", Wire, size), "/apis/apps/v1/daemonsets", id="of a group"),
        pytest.param(
            Resource("", "v1", "pods", Wire, size, namespace="caches"),
            "/api/v1/namespaces/caches/pods",
            id="of one namespace",
        ),
        pytest.param(
            Resource("apps", "v1", "daemonsets", Wire, size, namespace="caches"),
            "/apis/apps/v1/namespaces/caches/daemonsets",
            id="of a group and a namespace",
        ),
    ],
)
def test_where_a_collection_is(resource: Resource[Wire, int], path: str) -> None:
    assert resource.path == path


async def test_a_selector_is_for_the_list_and_the_watch(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1, b=2)
    async with following(kube, selector={"fieldSelector": "metadata.name=a"}) as nodes:
        await nodes.next()
        await put(api, b=3, a=4)
        await nodes.next()

        assert nodes.seen == [Replaced({node("a"): 1}), Applied(node("a"), 4)]


async def test_only_metadata_is_sent_where_nothing_else_is_asked_for(api: ApiServer, kube: Kube) -> None:
    await put(api, a=3)
    resource = Resource("", "v1", "nodes", Wire, size, metadata_only=True)
    collection = Collection(kube, resource, HASTY, random.uniform, lambda _: None)
    async with aclosing(collection.changes()) as changes:
        listed = await anext(changes)
        await put(api, b=4)
        applied = await asyncio.wait_for(anext(changes), 10)

    assert listed == Replaced({node("a"): 0})
    assert applied == Applied(node("b"), 0)


async def test_a_list_comes_in_pages_and_is_told_once(api: ApiServer, kube: Kube) -> None:
    api.page_limit = 2
    await put(api, a=1, b=2, c=3, d=4, e=5)
    async with following(kube) as nodes:
        await nodes.next()

        assert nodes.held == {node("a"): 1, node("b"): 2, node("c"): 3, node("d"): 4, node("e"): 5}
        assert api.requests == [
            f"GET {NODES}?limit=500",
            f"GET {NODES}?limit=500&continue=page-0",
            f"GET {NODES}?limit=500&continue=page-1",
        ]


async def test_a_change_between_two_pages_comes_in_the_watch(api: ApiServer, kube: Kube) -> None:
    api.page_limit = 1
    await put(api, a=1, b=2)
    api.refusals = [Refusal(503, query="continue=")]
    async with following(kube) as nodes:
        listing = asyncio.ensure_future(nodes.next())
        await api.until(lambda: api.refusals[0].times == 0)
        await put(api, a=3)

        assert await listing == Replaced({node("a"): 1, node("b"): 2})
        assert await nodes.next() == Applied(node("a"), 3)


async def test_a_page_that_fails_is_asked_for_again_without_those_before_it(api: ApiServer, kube: Kube) -> None:
    api.page_limit = 1
    await put(api, a=1, b=2)
    api.refusals = [Refusal(503, query="continue=", times=2)]
    async with following(kube) as nodes:
        await nodes.next()

        assert nodes.held == {node("a"): 1, node("b"): 2}
        assert listed(api) == 1
        assert api.count("GET", f"{NODES}?limit=500&continue=page-0") == 3


async def test_a_list_that_expires_between_two_pages_starts_over(api: ApiServer, kube: Kube) -> None:
    api.page_limit = 1
    await put(api, a=1, b=2)
    api.refusals = [Refusal(410, query="continue=", reason="Expired")]
    async with following(kube) as nodes:
        listing = asyncio.ensure_future(nodes.next())
        await api.until(lambda: api.refusals[0].times == 0)
        await api.remove(NODES, "a")
        await put(api, b=3)

        assert await listing == Replaced({node("b"): 3})
        assert listed(api) == 2


@pytest.mark.parametrize("in_stream", [True, False], ids=["told in the stream", "told by the status"])
async def test_deletions_missed_while_the_version_expired_are_noticed(
    in_stream: bool, api: ApiServer, kube: Kube
) -> None:
    api.gone_in_stream = in_stream
    await put(api, a=1, b=2)
    async with following(kube) as nodes:
        await nodes.next()
        await put(api, a=3)
        await nodes.next()
        await api.stop()
        await api.remove(NODES, "b")
        await put(api, c=4)
        api.oldest_version = 105
        await api.start()
        await nodes.next()
        await put(api, a=5)
        await nodes.next()

        assert nodes.seen[2:] == [Replaced({node("a"): 3, node("c"): 4}), Applied(node("a"), 5)]


async def test_versions_that_expire_at_once_are_listed_ever_more_seldom(api: ApiServer, kube: Kube) -> None:
    times = WatchTimes(lasts_seconds=60, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.04)
    await put(api, a=1)
    api.oldest_version = 10**9
    async with following(kube, times=times) as nodes:
        for _ in range(5):
            await nodes.next()

        assert [pause for pause in nodes.pauses if pause < 60] == [0.01, 0.02, 0.04, 0.04]


async def test_a_dropped_connection_loses_no_change(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    async with following(kube) as nodes:
        await nodes.next()
        await put(api, a=2)
        await nodes.next()
        await api.say(NODES, b'{"type": "MODIFIED", "object": {"metadata": {"name": "a", "resource')
        api.drop(api.streams[0])
        await put(api, a=3)
        await api.remove(NODES, "a")
        await nodes.next()
        await nodes.next()

        assert nodes.seen[2:] == [Applied(node("a"), 3), Deleted(node("a"))]
        assert listed(api) == 1


async def test_a_watch_that_breaks_before_it_brought_anything_is_listed_again(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    async with following(kube) as nodes:
        await nodes.next()
        later = asyncio.ensure_future(nodes.next())
        await api.until(lambda: bool(api.streams))
        api.drop(api.streams[0])

        assert await later == Replaced({node("a"): 1})


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"<html>\n", id="no JSON"),
        pytest.param(b"17\n", id="no event"),
        pytest.param(b'{"type": "\xff", "object": {}}\n', id="no text"),
        pytest.param(b"[" * 100_000 + b"\n", id="nested without end"),
        pytest.param(b'{"type": "ERROR", "object": {"code": 500, "message": "etcd"}}\n', id="an error of the server"),
    ],
)
async def test_garbage_in_a_watch_is_survived(said: bytes, api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    async with following(kube) as nodes:
        await nodes.next()
        await put(api, a=2)
        await nodes.next()
        await api.say(NODES, said)
        await put(api, a=3)
        await nodes.next()

        assert nodes.held == {node("a"): 3}
        assert nodes.reports[-1] == ""
        assert (len(nodes.reports), watched(api)) == (3, 2)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"<html>", id="no JSON"),
        pytest.param(b"{}", id="no list"),
        pytest.param(b'{"metadata": {}, "items": []}', id="no version"),
        pytest.param(b'{"metadata": {"resourceVersion": "\xff"}}', id="no text"),
        pytest.param(b'{"metadata":' + b"[" * 100_000, id="nested without end"),
    ],
)
async def test_what_is_no_list_is_not_taken_for_an_empty_one(answer: bytes, api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    api.documents[NODES] = answer
    async with following(kube) as nodes:
        listing = asyncio.ensure_future(nodes.next())
        await api.until(lambda: len(api.requests) == 2)
        was_synced = nodes.collection.synced
        del api.documents[NODES]

        assert await listing == Replaced({node("a"): 1})
        assert not was_synced
        assert NODES in nodes.reports[0]
        assert nodes.reports[1:] == [""]


async def test_objects_that_cannot_be_read_are_passed_over(
    api: ApiServer, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    await put(api, good=1)
    for name in ("odd", "strange"):
        await api.put(NODES, name, spec={"size": "large"})
    async with following(kube) as nodes:
        await nodes.next()
        await api.put(NODES, "good", spec={"size": "small"})
        await api.remove(NODES, "odd")
        await put(api, strange=2)
        await nodes.next()
        await nodes.next()

        assert nodes.seen[1:] == [Deleted(node("odd")), Applied(node("strange"), 2)]
        assert nodes.held == {node("good"): 1, node("strange"): 2}
        assert nodes.collection.unreadable == 3
        assert watched(api) == 1
        warned = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
        assert len(warned) == 1
        assert "nodes first=odd error=Expected `int`, got `str` - at `$.spec.size`" in warned[0]


async def test_the_version_of_an_object_that_cannot_be_read_counts(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    async with following(kube) as nodes:
        await nodes.next()
        await api.put(NODES, "odd", spec={"size": "large"})
        await put(api, a=2)
        await nodes.next()
        await api.put(NODES, "odd", spec={"size": "larger"})
        later = asyncio.ensure_future(nodes.next())
        while nodes.collection.unreadable < 2:
            await asyncio.sleep(0.001)
        api.drop(api.streams[0])
        await put(api, a=3)
        await later

        assert nodes.collection.unreadable == 2


async def test_a_bookmark_moves_on_the_version(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    async with following(kube) as nodes:
        await nodes.next()
        later = asyncio.ensure_future(nodes.next())
        await api.until(lambda: bool(api.streams))
        before = nodes.collection.last_contact
        await api.bookmark(NODES)
        while nodes.collection.last_contact == before:
            await asyncio.sleep(0.001)
        api.oldest_version = 102
        api.drop(api.streams[0])
        await put(api, a=2)

        assert await later == Applied(node("a"), 2)
        assert listed(api) == 1


async def test_a_watch_that_the_server_ends_is_taken_up(api: ApiServer, kube: Kube) -> None:
    times = WatchTimes(lasts_seconds=1, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.02)
    await put(api, a=1)
    async with following(kube, times=times) as nodes:
        await nodes.next()
        later = asyncio.ensure_future(nodes.next())
        await api.until(lambda: watched(api) == 2)
        await put(api, a=2)

        assert await later == Applied(node("a"), 2)
        assert listed(api) == 1
        assert nodes.reports == [""]


async def test_a_watch_that_ends_as_soon_as_it_begins_is_replaced_by_lists(api: ApiServer, kube: Kube) -> None:
    times = WatchTimes(lasts_seconds=60, silence_seconds=60, first_pause_seconds=0.1, most_pause_seconds=0.1)
    api.watch_seconds = 0
    await put(api, a=1)
    async with following(kube, times=times) as nodes:
        await nodes.next()

        assert await nodes.next() == Replaced({node("a"): 1})
        assert any("ended as soon as it had begun" in report for report in nodes.reports)


async def test_a_silent_watch_is_given_up(api: ApiServer, kube: Kube) -> None:
    times = WatchTimes(lasts_seconds=1, silence_seconds=0.05, first_pause_seconds=0.01, most_pause_seconds=0.02)
    api.watch_seconds = 60
    await put(api, a=1)
    async with following(kube, times=times) as nodes:
        await nodes.next()

        assert await nodes.next() == Replaced({node("a"): 1})


async def test_a_server_that_does_not_answer_in_time_is_asked_again(api: ApiServer, tmp_path: Path) -> None:
    impatient = await connect("auto", 0.1, {"KUBECONFIG": api.kubeconfig(tmp_path)})
    assert impatient is not None
    await put(api, a=1)
    api.answering.clear()
    async with following(impatient) as nodes:
        listing = asyncio.ensure_future(nodes.next())
        await api.until(lambda: len(api.requests) == 2)
        api.answering.set()
        await listing

        assert nodes.held == {node("a"): 1}
    await impatient.close()


async def test_an_api_server_that_is_away_is_waited_for(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    await api.stop()
    async with following(kube) as nodes:
        listing = asyncio.ensure_future(nodes.next())
        while not nodes.reports:
            await asyncio.sleep(0.001)
        before = (nodes.collection.synced, nodes.collection.last_contact)
        began = monotonic()
        await api.start()
        await listing

        assert before == (False, None)
        assert nodes.collection.synced
        assert (nodes.collection.last_contact or 0) >= began
        assert "no answer from" in nodes.reports[0]
        assert nodes.reports[1:] == [""]


async def test_a_server_that_comes_back_with_an_older_store_is_listed_anew(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    backup = api.backup()
    async with following(kube) as nodes:
        await nodes.next()
        await put(api, a=2, b=2)
        await nodes.next()
        await nodes.next()
        await api.stop()
        api.restore(backup)
        await api.start()

        assert await nodes.next() == Replaced({node("a"): 1})
        await put(api, a=3)
        assert await nodes.next() == Applied(node("a"), 3)


async def test_a_server_that_comes_back_as_it_was_is_not_listed_anew(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    async with following(kube) as nodes:
        await nodes.next()
        await put(api, a=2)
        await nodes.next()
        await api.stop()
        await api.start()
        later = asyncio.ensure_future(nodes.next())
        await api.until(lambda: bool(api.streams))
        await put(api, a=3)

        assert await later == Applied(node("a"), 3)
        assert listed(api) == 1


@pytest.mark.parametrize("query", ["limit", "watch"], ids=["may not list", "may not watch"])
async def test_what_is_forbidden_is_told_with_what_to_grant(query: str, api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    api.refusals = [Refusal(403, query=query, times=3, reason="Forbidden")]
    async with following(kube) as nodes:
        await nodes.next()
        later = asyncio.ensure_future(nodes.next())
        await api.until(lambda: bool(api.streams))
        await put(api, a=2)
        await later

        told = [report for report in nodes.reports if report]
        assert len(told) == 1
        assert 'grant our service account the verbs list and watch on nodes of the API group ""' in told[0]
        assert nodes.reports[-1] == ""
        assert nodes.lists == 1
        assert [pause for pause in nodes.pauses if pause < 60] == [0.01, 0.02, 0.04]


async def test_the_pauses_grow_while_refusals_last(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    api.refusals = [Refusal(403), Refusal(500), Refusal(404), Refusal(429), Refusal(503), Refusal(401)]
    async with following(kube) as nodes:
        await nodes.next()

        # 404 says that the collection is not there: that has pauses of its own.
        assert nodes.pauses == [0.01, 0.02, 0.01, 0.04, 0.05, 0.05]


async def test_a_server_that_asks_to_be_left_alone_is(api: ApiServer, kube: Kube) -> None:
    api.refusals = [Refusal(429, retry_after=1)]
    began = monotonic()
    async with following(kube) as nodes:
        await nodes.next()

        assert monotonic() - began >= 1
        assert len(api.requests) == 2


async def test_a_server_that_asks_to_be_left_alone_for_ever_is_not(
    api: ApiServer, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_RETRY_AFTER_SECONDS", 0.01)
    api.refusals = [Refusal(503, retry_after=10**6)]
    async with following(kube) as nodes:
        assert await nodes.next() == Replaced({})


async def test_closing_ends_the_watch(api: ApiServer, kube: Kube) -> None:
    await put(api, a=1)
    async with following(kube) as nodes:
        await nodes.next()
        await put(api, a=2)
        await nodes.next()

    while api.streams:
        # The server notices when it writes.
        await put(api, a=3)
        await asyncio.sleep(0.001)
    assert nodes.held == {node("a"): 2}


EVENTS = ("put", "put", "remove", "drop", "garbage", "expire", "bookmark", "refuse a page", "refuse", "expire a page")


async def happen(event: str, name: str, step: int, api: ApiServer) -> None:
    match event:
        case "remove" if name in api.objects(NODES):
            await api.remove(NODES, name)
        case "drop":
            for stream in list(api.streams):
                api.drop(stream)
        case "garbage":
            await api.say(NODES, b"garbage\n")
        case "expire":
            api.oldest_version = 100 + step
        case "bookmark":
            await api.bookmark(NODES)
        case "refuse":
            api.refusals.append(Refusal(500))
        case "refuse a page":
            api.refusals.append(Refusal(429, query="continue"))
        case "expire a page":
            api.refusals.append(Refusal(410, query="continue"))
        case _:
            await api.put(NODES, name, spec={"size": step})


@pytest.mark.parametrize("seed", range(3), ids=lambda seed: f"seed {seed}")
async def test_whatever_happens_the_follower_ends_with_what_the_server_has(
    seed: int, api: ApiServer, kube: Kube
) -> None:
    chance = random.Random(seed)
    api.page_limit = 3
    async with following(kube) as nodes:
        await nodes.next()
        for step in range(60):
            await happen(chance.choice(EVENTS), f"n{chance.randrange(8)}", step, api)
            if step % 7 == 0:
                await api.put(NODES, "looked", spec={"size": step})
                while nodes.held.get(node("looked")) != step:
                    await nodes.next()
        await api.put(NODES, "last", spec={"size": -1})
        while nodes.held.get(node("last")) != -1:
            await nodes.next()

        assert nodes.held == {node(name): found["spec"]["size"] for name, found in api.objects(NODES).items()}
