"""Events: counted up when they repeat, kept while the API server is away, never in the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from tasuki.kube.client import Kube
from tasuki.kube.events import EventRecorder, Occurrence, event, micro_time, shortened
from tests.tasuki.kube.api_server import EVENTS, ApiServer, Json, Refusal, check_event

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SICK = Occurrence("Warning", "DeviceUnhealthy", "GPU-0: XID 79")


def shortest(least: float, _: float) -> float:
    return least / 100


@asynccontextmanager
async def recording(kube: Kube) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(kube, "n", shortest, spacing_seconds=0.0)
    sender = asyncio.create_task(recorder.run())
    yield recorder
    sender.cancel()
    with suppress(asyncio.CancelledError):
        await sender


def sent(api: ApiServer) -> list[Json]:
    return list(api.objects(EVENTS).values())


def counted(api: ApiServer) -> list[int]:
    return [e.get("series", {}).get("count", 1) for e in sent(api)]


def test_an_event_is_what_kubernetes_accepts() -> None:
    written = event(SICK, "n", "n.1", 2, NOW)

    check_event(written)
    assert written["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "n"}


def test_a_micro_time_has_six_digits_even_at_a_full_second() -> None:
    assert micro_time(NOW) == "2026-01-02T03:04:05.000000Z"


@pytest.mark.parametrize("note", ["x" * 5000, "襷" * 5000], ids=["ascii", "three bytes a character"])
def test_a_long_note_is_cut_to_what_kubernetes_takes(note: str) -> None:
    short = shortened(note)

    assert 1000 < len(short.encode()) <= 1024
    assert short.endswith("…")


async def test_an_occurrence_becomes_an_event(api: ApiServer, kube: Kube) -> None:
    async with recording(kube) as recorder:
        recorder.record(SICK)
        await api.until(lambda: len(sent(api)) == 1)

    (found,) = sent(api)
    assert (found["type"], found["reason"], found["note"]) == ("Warning", "DeviceUnhealthy", "GPU-0: XID 79")


async def test_what_repeats_is_counted_up(api: ApiServer, kube: Kube) -> None:
    async with recording(kube) as recorder:
        recorder.record(SICK)
        await api.until(lambda: counted(api) == [1])
        recorder.record(SICK)
        await api.until(lambda: counted(api) == [2])
        recorder.record(SICK)
        recorder.record(SICK)
        await api.until(lambda: counted(api) == [4])

    assert len(sent(api)) == 1


async def test_different_notes_are_different_events(api: ApiServer, kube: Kube) -> None:
    async with recording(kube) as recorder:
        recorder.record(SICK)
        recorder.record(Occurrence("Normal", "DeviceHealthy", "GPU-0"))
        await api.until(lambda: len(sent(api)) == 2)

    assert counted(api) == [1, 1]


async def test_an_event_that_the_server_forgot_is_sent_anew(api: ApiServer, kube: Kube) -> None:
    async with recording(kube) as recorder:
        recorder.record(SICK)
        await api.until(lambda: len(sent(api)) == 1)
        api.objects(EVENTS).clear()
        recorder.record(SICK)
        await api.until(lambda: len(sent(api)) == 1)

    assert counted(api) == [1]


async def test_events_wait_for_an_api_server_that_is_away(api: ApiServer, kube: Kube) -> None:
    await api.stop()
    async with recording(kube) as recorder:
        for _ in range(3):
            recorder.record(SICK)
        await asyncio.sleep(0.05)
        await api.start()
        await api.until(lambda: counted(api) == [3])

    assert recorder.dropped == 0


async def test_too_many_different_events_are_dropped_and_counted(api: ApiServer, kube: Kube) -> None:
    recorder = EventRecorder(kube, "n", shortest, spacing_seconds=0.0)

    for n in range(100):
        recorder.record(Occurrence("Normal", "Many", str(n)))

    assert recorder.dropped == 36


async def test_a_refused_event_holds_up_no_other(api: ApiServer, kube: Kube) -> None:
    api.refusals = [Refusal(422, "POST", EVENTS)]
    async with recording(kube) as recorder:
        recorder.record(SICK)
        recorder.record(Occurrence("Normal", "DeviceHealthy", "GPU-0"))
        await api.until(lambda: len(sent(api)) == 1)

    assert recorder.dropped == 1
    assert sent(api)[0]["reason"] == "DeviceHealthy"
