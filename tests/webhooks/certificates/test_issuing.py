"""Which step is due, from what a replica sees; no clock, no API server."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.webhooks.certificates.tls import NAMES, a_chain
from webhooks.certificates.chain import Chain
from webhooks.certificates.issuing import DEFAULT_TIMES, Action, Known, Step, Times, next_step
from webhooks.certificates.minting import Mint, carried_out

BEGIN = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
DAY = timedelta(days=1)
# An authority is replaced 455 days before its end.
AUTHORITY_DUE = timedelta(days=3650 - 455)


def after(chain: Chain | None, action: Action, now: datetime) -> Chain:
    return carried_out(Step(action, "", chain), Mint(NAMES, DEFAULT_TIMES, now))


def decided(chain: Chain | None, now: datetime, **known: object) -> Step:
    return next_step(replace(Known(chain), **known), now, NAMES, DEFAULT_TIMES)  # type: ignore[arg-type]


def fresh() -> Chain:
    return a_chain(BEGIN)


def renewed(later: timedelta) -> Chain:
    return after(fresh(), "renew", BEGIN + later)


def of_another_authority() -> Chain:
    return replace(fresh(), authority=fresh().authority)


def for_another_name() -> Chain:
    return a_chain(BEGIN, ("elsewhere.gpus.svc", NAMES[1]))


def prepared() -> Chain:
    return after(renewed(AUTHORITY_DUE), "prepare", BEGIN + AUTHORITY_DUE)


def promoted() -> Chain:
    return after(prepared(), "promote", BEGIN + AUTHORITY_DUE)


@pytest.mark.parametrize(
    ("chain", "later", "action", "reason"),
    [
        pytest.param(fresh, DAY, "keep", "", id="fresh certificates are kept"),
        pytest.param(fresh, -timedelta(minutes=4), "keep", "", id="a clock that is four minutes behind is no reason"),
        pytest.param(fresh, 274 * DAY, "keep", "", id="91 days before its end a certificate is kept"),
        pytest.param(fresh, 276 * DAY, "renew", "ends at 2027-01-02", id="89 days before its end it is renewed"),
        pytest.param(fresh, 366 * DAY, "renew", "not valid now", id="an expired one is renewed"),
        pytest.param(fresh, 3651 * DAY, "start", "authority is not valid", id="an expired authority is replaced"),
        pytest.param(fresh, -DAY, "start", "authority is not valid", id="one from the future is replaced"),
        pytest.param(for_another_name, DAY, "renew", f"not for {NAMES[0]}", id="a name that is missing"),
        pytest.param(of_another_authority, DAY, "renew", "not the authority's", id="another authority's certificate"),
        pytest.param(lambda: renewed(AUTHORITY_DUE - DAY), AUTHORITY_DUE - DAY, "keep", "", id="old authority"),
        pytest.param(lambda: renewed(AUTHORITY_DUE), AUTHORITY_DUE + DAY, "prepare", "authority ends", id="too old"),
        pytest.param(prepared, AUTHORITY_DUE + DAY, "keep", "", id="a next authority that is not trusted yet waits"),
        pytest.param(prepared, AUTHORITY_DUE + 280 * DAY, "renew", "ends at", id="renewed while the next one waits"),
        pytest.param(prepared, 3650 * DAY, "promote", "authority is not valid", id="expired before it was trusted"),
        pytest.param(prepared, -DAY, "prepare", "next authority is not valid", id="a next authority of another time"),
        pytest.param(promoted, AUTHORITY_DUE + 0.9 * DAY, "keep", "", id="the old authority stays for a day"),
        pytest.param(promoted, AUTHORITY_DUE + 1.1 * DAY, "retire", "no replica", id="it leaves after a day"),
        pytest.param(lambda: None, DAY, "start", "no usable", id="an empty Secret"),
    ],
)
def test_the_step_that_is_due(chain: Callable[[], Chain | None], later: timedelta, action: Action, reason: str) -> None:
    step = decided(chain(), BEGIN + later)

    assert step.action == action
    assert reason in step.reason


@pytest.mark.parametrize(
    ("minutes", "action"),
    [pytest.param(9, "keep", id="for nine minutes"), pytest.param(10, "promote", id="for ten minutes")],
)
def test_the_next_authority_signs_once_all_have_trusted_it_for_the_overlap(minutes: int, action: Action) -> None:
    now = BEGIN + AUTHORITY_DUE

    step = decided(prepared(), now, trusted_since=now - timedelta(minutes=minutes))

    assert step.action == action


def test_a_certificate_that_lasts_as_long_as_its_authority_is_not_renewed_again_and_again() -> None:
    now = BEGIN + 3600 * DAY
    chain = after(after(fresh(), "renew", now), "prepare", now)

    step = decided(chain, now)

    assert chain.server.certificate.not_valid_after_utc == chain.authority.certificate.not_valid_after_utc
    assert step.action == "keep"


def test_an_emptied_secret_starts_a_rotation_from_what_is_served() -> None:
    earlier, elsewhere = prepared(), a_chain(BEGIN + AUTHORITY_DUE)
    configured = (elsewhere.authority.certificate, earlier.authority.certificate)

    step = decided(None, BEGIN + AUTHORITY_DUE, earlier=earlier, configured=configured)

    assert step.action == "prepare"
    chain = after(step.base, "prepare", BEGIN + AUTHORITY_DUE)
    assert chain.server == earlier.server
    assert chain.next_authority is not None
    assert earlier.next_authority is not None
    assert chain.trusted == (
        chain.next_authority.certificate,
        earlier.authority.certificate,
        earlier.next_authority.certificate,
        elsewhere.authority.certificate,
    )


def test_starting_anew_keeps_trusting_what_other_replicas_may_serve() -> None:
    elsewhere, expired = fresh(), a_chain(BEGIN - 4000 * DAY)

    step = decided(None, BEGIN, configured=(expired.authority.certificate, elsewhere.authority.certificate))

    assert (step.action, step.others) == ("start", (elsewhere.authority.certificate,))


def test_what_was_served_is_of_no_use_once_it_has_expired() -> None:
    step = decided(None, BEGIN + 366 * DAY, earlier=fresh())

    assert step.action == "start"


def test_other_authorities_stay_while_the_next_one_waits() -> None:
    chain = replace(prepared(), others=(a_chain(BEGIN + AUTHORITY_DUE).authority.certificate,))

    step = decided(chain, BEGIN + AUTHORITY_DUE + DAY)

    assert step.action == "keep"


def test_over_thirty_years_every_certificate_is_of_an_authority_that_was_trusted_before() -> None:
    chain: Chain | None = None
    trusted_before: set[object] = set()
    actions: list[Action] = []
    now = BEGIN
    while now < BEGIN + 30 * 365 * DAY:
        step = decided(chain, now, trusted_since=now - DAY)
        if step.action != "keep":
            chain = after(step.base, step.action, now)
            actions.append(step.action)
        assert chain is not None
        chain.server.certificate.verify_directly_issued_by(chain.authority.certificate)
        assert chain.server.certificate.not_valid_after_utc - now > 80 * DAY
        assert chain.authority.certificate in trusted_before or step.action == "start"
        assert len(chain.trusted) <= 2
        trusted_before = set(chain.trusted)
        now += 3 * DAY

    assert actions.count("start") == 1
    assert actions.count("prepare") == actions.count("promote") == actions.count("retire") == 3


@pytest.mark.parametrize(
    ("times", "text"),
    [
        pytest.param({"renew_before": 365 * DAY}, "make renew_before shorter", id="renewed as soon as issued"),
        pytest.param({"renew_before": timedelta()}, "make renew_before", id="renewed only when it has ended"),
        pytest.param({"authority_lifetime": 455 * DAY}, "longer than 455 days", id="an authority due at once"),
    ],
)
def test_times_that_would_never_come_to_rest_are_refused(times: dict[str, timedelta], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Times(**times)
