"""Pods that end, seen over real HTTP."""

import asyncio
import random

import pytest

from objectcache.access.pod_watch import drop_ended, unfinished_pods
from objectcache.access.tokens import TokenReviewer
from objectcache.link import Identity
from tasuki.kube.client import Kube
from tests.objectcache.access.cluster import AUDIENCE, HASTY, ReviewingServer, Told, of_pod, running
from tests.tasuki.kube.api_server import PODS, Refusal

TERMINATING = {"metadata": {"namespace": "research", "deletionTimestamp": "2026-11-01T00:00:00Z"}}
RUNNING = {"metadata": {"namespace": "research"}, "status": {"phase": "Running"}}


@pytest.fixture
def tokens(kube: Kube) -> TokenReviewer:
    return TokenReviewer(kube, [AUDIENCE], print)


async def put(api: ReviewingServer, pod: str, **content: object) -> None:
    await api.put(PODS, pod, **{**RUNNING, **content})


@pytest.mark.parametrize("end", ["deleted", "succeeded", "terminating", "replaced"])
async def test_the_tokens_of_a_pod_that_ends_are_forgotten(
    api: ReviewingServer, kube: Kube, tokens: TokenReviewer, end: str
) -> None:
    for pod in ("pod-a", "pod-b"):
        await put(api, pod)
        api.accepted[pod] = of_pod(pod)
        await tokens.review(pod)
    reports, forgotten = Told(), Told()

    async with running(drop_ended(unfinished_pods(kube, reports, random.uniform, HASTY), tokens.verdicts, forgotten)):
        await reports.until(bool)
        match end:
            case "deleted":
                await api.remove(PODS, "pod-a")
            case "succeeded":
                await put(api, "pod-a", status={"phase": "Succeeded"})
            case "terminating":
                await put(api, "pod-a", **TERMINATING)
            case "replaced":
                await put(api, "pod-a", metadata={"namespace": "research", "uid": "another"})
        await forgotten.until(bool)
        api.accepted = {}
        after = [(await tokens.review(pod)).identity for pod in ("pod-a", "pod-b")]

    assert forgotten.all == ["uid-of-pod-a"]
    assert after == [None, Identity("research", "trainer", "pod-b", "uid-of-pod-b")]


async def test_a_pod_that_ended_while_nobody_watched_is_noticed_at_the_list(
    api: ReviewingServer, kube: Kube, tokens: TokenReviewer
) -> None:
    api.accepted["pod-a"] = of_pod("pod-a")
    await tokens.review("pod-a")
    forgotten = Told()

    async with running(drop_ended(unfinished_pods(kube, print, random.uniform, HASTY), tokens.verdicts, forgotten)):
        await forgotten.until(bool)

    assert forgotten.all == ["uid-of-pod-a"]
    assert len(tokens.verdicts) == 0


async def test_a_review_that_was_under_way_when_its_pod_was_deleted_is_not_kept(
    api: ReviewingServer, kube: Kube, tokens: TokenReviewer
) -> None:
    for pod in ("pod-a", "pod-b"):
        await put(api, pod)
        api.accepted[pod] = of_pod(pod)
    await tokens.review("pod-b")
    reports, forgotten = Told(), Told()
    api.may_answer.clear()

    async with running(drop_ended(unfinished_pods(kube, reports, random.uniform, HASTY), tokens.verdicts, forgotten)):
        await reports.until(bool)
        asking = asyncio.create_task(tokens.review("pod-a"))
        await api.until(lambda: api.in_flight == 1)
        await api.remove(PODS, "pod-a")
        # Events come in order, so that the other pod's end tells that this one's was seen.
        await api.remove(PODS, "pod-b")
        await forgotten.until(bool)
        api.may_answer.set()
        verdict = await asking

    assert verdict.lasts_seconds == 0
    assert len(tokens.verdicts) == 0


async def test_where_pods_may_not_be_watched_tokens_last_their_time_and_it_is_told(
    api: ReviewingServer, kube: Kube, tokens: TokenReviewer
) -> None:
    api.refusals = [Refusal(403, path=PODS, times=1_000)]
    api.accepted["pod-a"] = of_pod("pod-a")
    await tokens.review("pod-a")
    reports, forgotten = Told(), Told()

    async with running(drop_ended(unfinished_pods(kube, reports, random.uniform, HASTY), tokens.verdicts, forgotten)):
        await reports.until(bool)
        await put(api, "pod-b")
        api.refusals = []
        await reports.until(lambda told: told[-1] == "")

    assert "grant our service account the verbs list and watch on pods" in reports.all[0]
    assert forgotten.all == ["uid-of-pod-a"]
