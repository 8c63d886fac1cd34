"""Which step is due, from what a replica sees; no clock, no API server."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tests.webhooks.certificates.tls import NAMES, a_chain
from webhooks.certificates.chain import Chain, Pair
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


@pytest.mark.parametrize(
    ("since_issue", "since_trust", "action"),
    [
        pytest.param(0.9 * DAY, 0.9 * DAY, "keep", id="within a day"),
        pytest.param(1.1 * DAY, 1.1 * DAY, "retire", id="after a day"),
        pytest.param(20 * DAY, 0.9 * DAY, "keep", id="after a day by a clock that is ahead"),
        pytest.param(1.1 * DAY, None, "keep", id="after a day in which not all trusted the new one"),
    ],
)
def test_the_old_authority_leaves_a_day_after_the_new_one_signs(
    since_issue: timedelta, since_trust: timedelta | None, action: Action
) -> None:
    now = BEGIN + AUTHORITY_DUE + since_issue

    step = decided(promoted(), now, trusted_since=now - since_trust if since_trust else None)

    assert step.action == action


@pytest.mark.parametrize(
    ("chain", "later", "overrules"),
    [
        pytest.param(fresh, DAY, False, id="kept"),
        pytest.param(fresh, 276 * DAY, False, id="renewed in time"),
        pytest.param(fresh, 366 * DAY, True, id="renewed too late"),
        pytest.param(fresh, -DAY, True, id="an authority from the future"),
        pytest.param(for_another_name, DAY, True, id="for other names"),
        pytest.param(prepared, -DAY, True, id="a next authority from the future"),
        pytest.param(prepared, 3650 * DAY, True, id="promoted because the authority has ended"),
        pytest.param(lambda: None, DAY, False, id="nothing stored"),
    ],
)
def test_a_step_overrules_where_whoever_stored_the_chain_must_have_found_it_good(
    chain: Callable[[], Chain | None], later: timedelta, *, overrules: bool
) -> None:
    step = decided(chain(), BEGIN + later)

    assert step.overrules is overrules


def test_an_authority_of_a_replica_whose_clock_is_ahead_stays_trusted() -> None:
    ahead = a_chain(BEGIN + 400 * DAY)

    step = decided(ahead, BEGIN, configured=ahead.trusted)

    assert (step.action, step.others) == ("start", (ahead.authority.certificate,))


def test_a_secret_that_is_emptied_again_and_again_does_not_grow_for_ever() -> None:
    chain = fresh()
    for _ in range(12):
        step = decided(None, BEGIN, earlier=chain, configured=chain.trusted)
        chain = after(step.base, "prepare", BEGIN)

    assert len(chain.trusted) == 10
    assert chain.server.certificate.issuer == chain.authority.certificate.subject


def with_two_lists_of_names(chain: Chain) -> Chain:
    model = chain.server.certificate
    names = model.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    builder = x509.CertificateBuilder(
        model.issuer, model.subject, model.public_key(), 7, model.not_valid_before_utc, model.not_valid_after_utc
    )
    # No builder adds an extension twice: 2.5.29.99 is made 2.5.29.17 afterwards.
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), names.public_bytes())
    signed = builder.add_extension(names, critical=False).add_extension(other, critical=False)
    der = signed.sign(chain.authority.key, SHA256()).public_bytes(Encoding.DER)
    certificate = x509.load_der_x509_certificate(der.replace(b"\x55\x1d\x63", b"\x55\x1d\x11"))
    return replace(chain, server=Pair(certificate, chain.server.key))


def test_a_certificate_whose_names_cannot_be_read_is_replaced() -> None:
    step = decided(with_two_lists_of_names(fresh()), BEGIN + DAY)

    assert step.action == "renew"


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
