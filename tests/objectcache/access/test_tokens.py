"""Reviewing tokens with an API server that answers, refuses, is slow, or is away."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.access.reviewing import MOST_TOKEN_BYTES
from objectcache.access.tokens import DEFAULT_LIMITS, ReviewLimits, Surroundings, TokenReviewer, expires_at
from objectcache.link import Identity
from tasuki.kube.client import Kube
from tests.objectcache.access.cluster import AUDIENCE, TOKEN_REVIEWS, Clock, ReviewingServer, Told, jwt, of_pod
from tests.tasuki.kube.api_server import Refusal

TOKEN = jwt("a")
IDENTITY = Identity("research", "trainer", "pod-a", "uid-of-pod-a")
# Without waiting long, a server that does not answer is away.
IMPATIENT = replace(DEFAULT_LIMITS, timeout_seconds=0.05)
PATIENT = replace(DEFAULT_LIMITS, timeout_seconds=10.0, queue_seconds=10.0)


def reviewer(
    kube: Kube, clock: Clock, limits: ReviewLimits = PATIENT, report: Callable[[str], None] = print
) -> TokenReviewer:
    around = Surroundings(clock.monotonic, clock.now, clock.uniform)
    return TokenReviewer(kube, [AUDIENCE], report, limits, around)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_pods_token_names_its_namespace_service_account_and_pod(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    api.accepted[TOKEN] = of_pod("pod-a")

    verdict = await reviewer(kube, clock).review(TOKEN)

    assert (verdict.identity, verdict.status, verdict.lasts_seconds) == (IDENTITY, 200, 60.0)
    assert api.bodies[-1]["spec"] == {"token": TOKEN, "audiences": [AUDIENCE]}


async def test_a_token_that_is_bound_to_no_pod_is_valid_too(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    user = {"username": "system:serviceaccount:research:trainer"}
    api.accepted[TOKEN] = {"authenticated": True, "user": user, "audiences": ["other", AUDIENCE]}

    verdict = await reviewer(kube, clock).review(TOKEN)

    assert verdict.identity == Identity("research", "trainer")


async def test_what_else_is_said_of_a_user_does_not_matter(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    found = of_pod("pod-a")
    # Go writes an empty list as null.
    found["user"]["extra"] |= {"example.org/teams": None, "example.org/roles": []}
    api.accepted[TOKEN] = found

    verdict = await reviewer(kube, clock).review(TOKEN)

    assert verdict.identity == IDENTITY


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param({}, "does not accept the token", id="no status"),
        pytest.param({"authenticated": False, "error": "expired"}, "does not accept the token", id="not authenticated"),
        pytest.param({**of_pod("a"), "audiences": ["vault"]}, "is for another audience", id="another audience"),
        pytest.param({**of_pod("a"), "audiences": None}, "is for another audience", id="no audience"),
        pytest.param({**of_pod("a"), "user": {"username": "alice"}}, "is no service account's", id="a person"),
        pytest.param(
            {**of_pod("a"), "user": {"username": "system:serviceaccount:research:a:b"}},
            "is no service account's",
            id="one name too many",
        ),
        pytest.param(
            {**of_pod("a"), "user": {"username": "system:serviceaccount::b"}}, "is no service account's", id="no name"
        ),
    ],
)
async def test_other_tokens_are_worth_nothing_for_a_short_while(
    api: ReviewingServer, kube: Kube, clock: Clock, status: Mapping[str, Any], reason: str
) -> None:
    api.accepted[TOKEN] = status
    tokens = reviewer(kube, clock)

    verdict = await tokens.review(TOKEN)
    clock.advance(3)
    again = await tokens.review(TOKEN)
    clock.advance(3)
    api.accepted[TOKEN] = of_pod("pod-a")
    later = await tokens.review(TOKEN)

    assert (verdict.identity, verdict.status, verdict.lasts_seconds) == (None, 401, 5.0)
    assert reason in verdict.reason
    assert (again.status, again.lasts_seconds) == (401, 2.0)
    assert later.identity == IDENTITY
    assert len(api.reviewed) == 2


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        pytest.param("", "there is no token", id="empty"),
        pytest.param("a" * (MOST_TOKEN_BYTES + 1), "the token has 16385 bytes", id="too long"),
        pytest.param(f"{TOKEN}\n", "perhaps a line's end", id="a line's end"),
        pytest.param("a b", "characters that no bearer token has", id="a space"),
        pytest.param("\ud800", "characters that no bearer token has", id="a surrogate"),
        pytest.param("é", "characters that no bearer token has", id="not ASCII"),
    ],
)
async def test_what_is_no_bearer_token_is_refused_without_a_review(
    api: ReviewingServer, kube: Kube, clock: Clock, token: str, reason: str
) -> None:
    verdict = await reviewer(kube, clock).review(token)

    assert (verdict.identity, verdict.status, api.reviewed) == (None, 401, [])
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("expires_in", "lasts"),
    [
        pytest.param(3600.0, 60.0, id="long before it expires"),
        pytest.param(20.0, 20.0, id="until it expires"),
    ],
)
async def test_a_valid_token_is_remembered_for_a_minute_at_most(
    api: ReviewingServer, kube: Kube, clock: Clock, expires_in: float, lasts: float
) -> None:
    token = jwt("a", clock.now() + expires_in)
    api.accepted[token] = of_pod("pod-a")
    tokens = reviewer(kube, clock)

    first = await tokens.review(token)
    clock.advance(lasts - 1)
    before = await tokens.review(token)
    reviews_before = len(api.reviewed)
    clock.advance(1)
    await tokens.review(token)

    assert (first.identity, first.lasts_seconds) == (IDENTITY, lasts)
    assert before.identity == IDENTITY
    assert (reviews_before, len(api.reviewed)) == (1, 2)


async def test_a_token_that_has_expired_by_our_clock_is_reviewed_each_time(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    token = jwt("a", clock.now() - 5)
    api.accepted[token] = of_pod("pod-a")
    tokens = reviewer(kube, clock)

    verdicts = [await tokens.review(token) for _ in range(2)]

    assert [(verdict.identity, verdict.lasts_seconds) for verdict in verdicts] == [(IDENTITY, 0.0)] * 2
    assert api.reviewed == [token, token]


async def test_a_rotated_token_is_reviewed_by_itself(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    tokens = reviewer(kube, clock)
    names = [jwt("first", clock.now() + 30), jwt("second", clock.now() + 3600)]
    api.accepted = {name: of_pod("pod-a") for name in names}

    verdicts = [await tokens.review(name) for name in names]

    assert [verdict.identity for verdict in verdicts] == [IDENTITY, IDENTITY]
    assert [verdict.lasts_seconds for verdict in verdicts] == [30.0, 60.0]
    assert api.reviewed == names


async def test_many_who_ask_at_once_cost_one_review(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    api.accepted[TOKEN] = of_pod("pod-a")
    api.may_answer.clear()
    tokens = reviewer(kube, clock)

    asking = [asyncio.create_task(tokens.review(TOKEN)) for _ in range(20)]
    await api.until(lambda: bool(api.reviewed))
    api.may_answer.set()
    verdicts = await asyncio.gather(*asking)

    assert {verdict.identity for verdict in verdicts} == {IDENTITY}
    assert api.reviewed == [TOKEN]


async def test_when_the_one_who_asks_goes_away_another_asks(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    api.accepted[TOKEN] = of_pod("pod-a")
    api.may_answer.clear()
    tokens = reviewer(kube, clock)

    first, *others = [asyncio.create_task(tokens.review(TOKEN)) for _ in range(3)]
    await api.until(lambda: bool(api.reviewed))
    first.cancel()
    await api.until(lambda: len(api.reviewed) == 2)
    api.may_answer.set()
    verdicts = await asyncio.gather(*others)

    assert {verdict.identity for verdict in verdicts} == {IDENTITY}
    assert first.cancelled()
    assert len(api.reviewed) == 2


async def test_only_so_many_reviews_are_in_flight(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    api.may_answer.clear()
    tokens = reviewer(kube, clock, replace(PATIENT, at_once=3))

    asking = [asyncio.create_task(tokens.review(jwt(str(i)))) for i in range(8)]
    await api.until(lambda: api.in_flight == 3)
    api.may_answer.set()
    verdicts = await asyncio.gather(*asking)

    assert [verdict.status for verdict in verdicts] == [401] * 8
    assert api.most_in_flight == 3


async def test_who_waits_too_long_for_a_turn_is_told_to_come_back(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    api.may_answer.clear()
    told = Told()
    tokens = reviewer(kube, clock, replace(PATIENT, at_once=1, queue_seconds=0.01), told)

    slow = asyncio.create_task(tokens.review(TOKEN))
    await api.until(lambda: bool(api.reviewed))
    verdict = await tokens.review(jwt("b"))
    api.may_answer.set()
    await slow

    assert (verdict.identity, verdict.status) == (None, 503)
    assert "too many tokens are being reviewed" in verdict.reason
    assert told.all == []


async def test_a_server_that_is_away_leaves_known_tokens_valid_for_a_while_and_no_others(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    api.accepted[TOKEN] = of_pod("pod-a")
    told = Told()
    tokens = reviewer(kube, clock, PATIENT, told)
    await tokens.review(TOKEN)
    await api.stop()

    clock.advance(61)
    known = await tokens.review(TOKEN)
    unknown = await tokens.review(jwt("b"))
    clock.advance(237)
    last = await tokens.review(TOKEN)
    clock.advance(2)
    too_late = await tokens.review(TOKEN)
    await api.start()
    clock.advance(10)
    recovered = await tokens.review(TOKEN)

    assert (known.identity, known.lasts_seconds) == (IDENTITY, 5.0)
    assert (unknown.identity, unknown.status) == (None, 503)
    assert "cannot be said now" in unknown.reason
    assert (last.identity, last.lasts_seconds) == (IDENTITY, 2.0)
    assert (too_late.identity, too_late.status) == (None, 503)
    assert (recovered.identity, recovered.lasts_seconds) == (IDENTITY, 60.0)
    assert told.all[0].startswith(f"POST {TOKEN_REVIEWS}: no answer from")
    assert told.all[-1] == ""


async def test_a_token_that_expires_during_an_outage_is_no_longer_accepted(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    token = jwt("a", clock.now() + 90)
    api.accepted[token] = of_pod("pod-a")
    tokens = reviewer(kube, clock)
    await tokens.review(token)
    await api.stop()

    clock.advance(88)
    before = await tokens.review(token)
    clock.advance(2)
    after = await tokens.review(token)

    assert (before.identity, before.lasts_seconds) == (IDENTITY, 2.0)
    assert (after.identity, after.status) == (None, 503)


async def test_a_token_that_was_refused_stays_so_during_an_outage(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    tokens = reviewer(kube, clock)
    await tokens.review(TOKEN)
    await api.stop()

    clock.advance(6)
    verdict = await tokens.review(TOKEN)

    assert (verdict.identity, verdict.status) == (None, 401)


async def test_a_server_that_is_away_is_asked_again_only_after_a_pause(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    api.refusals = [Refusal(500, path=TOKEN_REVIEWS, times=1000)]
    tokens = reviewer(kube, clock)
    asked = []

    for step in (0.0, 0.4, 0.2, 0.9, 0.2, 0.0):
        clock.advance(step)
        await tokens.review(jwt("a"))
        await tokens.review(jwt("b"))
        asked.append(api.count("POST", TOKEN_REVIEWS))

    assert asked == [1, 1, 2, 2, 3, 3]


async def test_a_failure_of_many_at_once_counts_as_one(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    api.refusals = [Refusal(503, path=TOKEN_REVIEWS, times=8)]
    api.answering.clear()
    tokens = reviewer(kube, clock)

    asking = [asyncio.create_task(tokens.review(jwt(str(i)))) for i in range(8)]
    await api.until(lambda: api.count("POST", TOKEN_REVIEWS) == 8)
    api.answering.set()
    await asyncio.gather(*asking)
    clock.advance(0.5)
    api.accepted[TOKEN] = of_pod("pod-a")
    verdict = await tokens.review(TOKEN)

    assert verdict.identity == IDENTITY


async def test_while_one_finds_out_whether_the_server_is_back_the_others_do_not_wait(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    api.refusals = [Refusal(503, path=TOKEN_REVIEWS)]
    api.accepted[TOKEN] = of_pod("pod-a")
    tokens = reviewer(kube, clock)
    await tokens.review(TOKEN)
    clock.advance(1)
    api.may_answer.clear()

    probing = asyncio.create_task(tokens.review(TOKEN))
    await api.until(lambda: api.in_flight == 1)
    other = await tokens.review(jwt("b"))
    api.may_answer.set()
    probed = await probing

    assert other.status == 503
    assert probed.identity == IDENTITY
    assert api.reviewed == [TOKEN]


async def test_a_server_that_does_not_answer_in_time_is_away(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    api.may_answer.clear()
    told = Told()

    verdict = await reviewer(kube, clock, IMPATIENT, told).review(TOKEN)

    assert (verdict.identity, verdict.status) == (None, 503)
    assert told.all == [f"POST {TOKEN_REVIEWS}: no answer within 0.05 s"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        pytest.param(401, "grant our service account the verb create on tokenreviews", id="we are not known"),
        pytest.param(403, "grant our service account the verb create on tokenreviews", id="we may not"),
        pytest.param(404, "404 Refused", id="it has no reviews"),
        pytest.param(429, "429 Refused", id="it is busy"),
        pytest.param(500, "500 Refused", id="it is broken"),
    ],
)
async def test_a_server_that_refuses_us_says_nothing_of_the_token(
    api: ReviewingServer, kube: Kube, clock: Clock, code: int, told: str
) -> None:
    api.accepted[TOKEN] = of_pod("pod-a")
    api.refusals = [Refusal(code, path=TOKEN_REVIEWS)]
    reports = Told()
    tokens = reviewer(kube, clock, PATIENT, reports)

    verdict = await tokens.review(TOKEN)
    clock.advance(1)
    later = await tokens.review(TOKEN)

    assert (verdict.identity, verdict.status) == (None, 503)
    assert told in reports.all[0]
    assert later.identity == IDENTITY
    assert reports.all[1:] == [""]


async def test_a_server_that_asks_for_time_is_given_it_within_reason(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    api.refusals = [Refusal(429, path=TOKEN_REVIEWS, retry_after=3600)]
    tokens = reviewer(kube, clock)
    await tokens.review(TOKEN)

    clock.advance(9.9)
    await tokens.review(TOKEN)
    meanwhile = len(api.reviewed)
    clock.advance(0.1)
    await tokens.review(TOKEN)

    assert (meanwhile, len(api.reviewed)) == (0, 1)


async def test_one_token_that_the_server_cannot_take_is_that_tokens_fault(
    api: ReviewingServer, kube: Kube, clock: Clock
) -> None:
    api.refusals = [Refusal(422, path=TOKEN_REVIEWS)]
    api.accepted[TOKEN] = of_pod("pod-a")
    told = Told()
    tokens = reviewer(kube, clock, PATIENT, told)

    bad = await tokens.review(jwt("bad"))
    good = await tokens.review(TOKEN)

    assert (bad.identity, bad.status) == (None, 401)
    assert good.identity == IDENTITY
    assert told.all == []


@pytest.mark.parametrize(
    "raw", [b"[]", b"\xff", b'{"status": {"authenticated": "yes"}}'], ids=["list", "bytes", "text"]
)
async def test_an_answer_that_cannot_be_read_says_nothing_of_the_token(
    api: ReviewingServer, kube: Kube, clock: Clock, raw: bytes
) -> None:
    api.raw = raw

    verdict = await reviewer(kube, clock).review(TOKEN)

    assert (verdict.identity, verdict.status) == (None, 503)


async def test_tokens_are_never_told(
    api: ReviewingServer, kube: Kube, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.echoes = True
    told = Told()
    tokens = reviewer(kube, clock, PATIENT, told)
    verdicts = []
    for code in (500, 403, 422):
        api.refusals = [Refusal(code, path=TOKEN_REVIEWS)]
        clock.advance(20)
        verdicts.append(await tokens.review("a-secret"))
    api.accepted["a-secret"] = of_pod("pod-a")
    clock.advance(20)
    verdicts.append(await tokens.review("a-secret"))

    assert "[token]" in told.all[0]
    assert "a-secret" not in f"{told.all} {verdicts} {caplog.text} {tokens.__dict__} {tokens.verdicts.__dict__}"
    assert verdicts[-1].identity == IDENTITY


async def test_not_even_the_beginning_of_a_token_is_told(
    api: ReviewingServer, kube: Kube, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an answer that is no Status, as a proxy's, only the beginning is told."""
    api.echoes = True
    told = Told()
    token = jwt("a" * 500)
    api.refusals = [Refusal(500, path=TOKEN_REVIEWS)]

    await reviewer(kube, clock, PATIENT, told).review(token)

    assert told.all[0].endswith("[token]")
    assert token[20:40] not in f"{told.all} {caplog.text}"


async def test_a_flood_of_tokens_drops_no_valid_one(api: ReviewingServer, kube: Kube, clock: Clock) -> None:
    api.accepted[TOKEN] = of_pod("pod-a")
    tokens = reviewer(kube, clock, replace(PATIENT, most=8))
    await tokens.review(TOKEN)

    for i in range(12):
        await tokens.review(jwt(f"bad-{i}"))
    await tokens.review(TOKEN)

    assert api.reviewed.count(TOKEN) == 1
    assert len(tokens.verdicts) == 3


async def test_at_least_one_audience_is_needed(kube: Kube) -> None:
    with pytest.raises(ValueError, match="name at least one, such as"):
        TokenReviewer(kube, [], print)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        pytest.param(jwt("a", 1_800_000_000), 1_800_000_000.0, id="a number"),
        pytest.param(jwt("a", 1.5), 1.5, id="a fraction"),
        pytest.param(jwt("a"), float("inf"), id="it does not say"),
        pytest.param("opaque", float("inf"), id="no JWT"),
        pytest.param("a.%.c", float("inf"), id="no base64"),
        pytest.param("a.W10.c", float("inf"), id="no claims"),
        pytest.param("a.eyJleHAiOiJ4In0.c", float("inf"), id="no time"),
    ],
)
def test_when_a_token_expires(token: str, expected: float) -> None:
    assert expires_at(token) == expected


@given(st.text(alphabet="abcXYZ019-_.=", max_size=60))
def test_whatever_a_token_holds_its_time_is_a_number(token: str) -> None:
    assert isinstance(expires_at(token), float)
