"""Pods that the scheduler would not try again are woken, and no others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import pytest

from schedext.waking import Waiting, Waker, WakingTimes
from tasuki.kube.client import Kube
from tests.schedext.api_server import SchedulingApiServer, serving
from tests.tasuki.kube.api_server import NODES, Refusal

FAST = WakingTimes(settle_seconds=0.02, between_seconds=0.05, first_pause_seconds=0.02, most_pause_seconds=0.05)
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[tuple[SchedulingApiServer, Kube]]:
    async with serving(tmp_path) as (api, kube):
        for name in ("a", "b"):
            await api.put(NODES, name)
        yield api, kube


@asynccontextmanager
async def waker(kube: Kube, told: list[str], times: WakingTimes = FAST) -> AsyncIterator[Waker]:
    made = Waker(kube, monotonic, lambda: NOW, told.append, times)
    task = asyncio.create_task(made.run(lambda uid: uid != "deleted"))
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_pod_that_nobody_asks_about_after_room_was_freed_is_woken(
    connection: tuple[SchedulingApiServer, Kube],
) -> None:
    api, kube = connection
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("u")
        made.room_freed("a")
        await until(lambda: bool(told))

    assert told == ["touched"]
    assert api.objects(NODES)["a"]["metadata"]["annotations"] == {
        "tasuki.dev/room-freed": "2026-01-31T12:00:00.000000Z"
    }


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(Waker.refused, id="the pod was asked about again"),
        pytest.param(Waker.fitted, id="the pod fits now"),
        pytest.param(Waker.gone, id="the pod is gone"),
    ],
)
async def test_nobody_is_woken_for_whom_the_scheduler_did_something(
    connection: tuple[SchedulingApiServer, Kube], then: Callable[[Waker, str], None]
) -> None:
    api, kube = connection
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("u")
        made.room_freed("a")
        await asyncio.sleep(0)
        then(made, "u")
        await until(lambda: made._freed is None)

    assert (told, api.count("PATCH", NODES)) == ([], 0)


async def test_room_that_nobody_waits_for_wakes_nobody(connection: tuple[SchedulingApiServer, Kube]) -> None:
    _, kube = connection
    async with waker(kube, []) as made:
        made.room_freed("a")
        made.refused("u")

        assert made._freed is None


async def test_much_room_is_one_event_on_the_node_freed_last(connection: tuple[SchedulingApiServer, Kube]) -> None:
    api, kube = connection
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("u")
        for node in ("a", "b", "a", "b"):
            made.room_freed(node)
        await until(lambda: bool(told) and made._freed is None)

    assert [request for request in api.requests if request.startswith("PATCH")] == [f"PATCH {NODES}/b"]


async def test_room_that_is_freed_while_the_first_settles_wakes_who_was_refused_in_between(
    connection: tuple[SchedulingApiServer, Kube],
) -> None:
    _, kube = connection
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("u")
        made.room_freed("a")
        await asyncio.sleep(0.001)
        made.refused("u")
        await asyncio.sleep(0.001)
        made.room_freed("a")
        await until(lambda: bool(told))

    assert told == ["touched"]


async def test_a_failed_attempt_is_repeated_while_somebody_waits(connection: tuple[SchedulingApiServer, Kube]) -> None:
    api, kube = connection
    api.refusals.append(Refusal(503, "PATCH", times=2))
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("u")
        made.room_freed("a")
        await until(lambda: len(told) == 3)

    assert told == ["failed", "failed", "touched"]


async def test_a_failed_attempt_is_not_repeated_for_nobody(connection: tuple[SchedulingApiServer, Kube]) -> None:
    api, kube = connection
    api.refusals.append(Refusal(503, "PATCH", times=100))
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("u")
        made.room_freed("a")
        await until(lambda: bool(told))
        made.gone("u")
        await until(lambda: made._freed is None)


async def test_a_node_that_is_gone_is_no_failure(connection: tuple[SchedulingApiServer, Kube]) -> None:
    api, kube = connection
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("u")
        made.room_freed("vanished")
        await until(lambda: api.count("PATCH", NODES) == 1 and made._freed is None)
        made.room_freed("a")
        await until(lambda: bool(told))

    assert told == ["touched"]


async def test_a_pod_that_was_deleted_waits_no_more(connection: tuple[SchedulingApiServer, Kube]) -> None:
    api, kube = connection
    told: list[str] = []
    async with waker(kube, told, replace(FAST, tidy_seconds=0.01, unseen_seconds=0.02)) as made:
        made.refused("deleted")
        await until(lambda: not made.waiting)
        made.refused("u")
        made.gone("u")
        made.room_freed("a")
        await asyncio.sleep(0)

        assert made._freed is None
    assert (told, api.count("PATCH", NODES)) == ([], 0)


async def test_a_failed_attempt_is_not_repeated_for_a_pod_that_was_deleted(
    connection: tuple[SchedulingApiServer, Kube],
) -> None:
    api, kube = connection
    api.refusals.append(Refusal(503, "PATCH", times=10**6))
    told: list[str] = []
    async with waker(kube, told, replace(FAST, unseen_seconds=0.1)) as made:
        made.refused("deleted")
        made.room_freed("a")
        await until(lambda: bool(told))
        await until(lambda: made._freed is None)

        assert not made.waiting


async def test_a_pod_that_no_watch_has_brought_yet_is_woken(connection: tuple[SchedulingApiServer, Kube]) -> None:
    _, kube = connection
    told: list[str] = []
    async with waker(kube, told) as made:
        made.refused("deleted")
        made.room_freed("a")
        await until(lambda: bool(told))

    assert told == ["touched"]


def test_a_pod_is_forgotten_when_the_scheduler_would_long_have_asked_again() -> None:
    waiting = Waiting(WakingTimes(forget_seconds=600.0))
    waiting.refused("old", 0.0)
    waiting.refused("new", 500.0)
    waiting.tidy(599.0, lambda _: True)

    assert waiting.any_since(freed_at=499.0)
    waiting.tidy(601.0, lambda _: True)
    assert not waiting.any_since(freed_at=499.0)
    assert len(waiting) == 1


def test_a_pod_that_no_watch_knows_is_forgotten_sooner() -> None:
    waiting = Waiting(WakingTimes(unseen_seconds=60.0))
    waiting.refused("deleted", 0.0)
    waiting.refused("known", 0.0)
    waiting.tidy(59.0, lambda uid: uid == "known")

    assert len(waiting) == 2
    waiting.tidy(61.0, lambda uid: uid == "known")
    assert len(waiting) == 1


def test_of_too_many_pods_the_ones_refused_longest_ago_are_forgotten() -> None:
    waiting = Waiting(WakingTimes(), most=2)
    for at, uid in enumerate(["a", "b", "a", "c"]):
        waiting.refused(uid, float(at))

    assert len(waiting) == 2
    assert not waiting.any_since(freed_at=1.0)
    assert waiting.any_since(freed_at=2.0)
