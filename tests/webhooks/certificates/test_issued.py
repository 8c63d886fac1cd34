"""Replicas that issue their own certificates, an API server that may be away, clients that trust its bundles."""

import asyncio
import errno
import os
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from tasuki.kube.client import Kube
from tasuki.process.tls.live import LiveContext
from tests.tasuki.kube.api_server import Refusal
from tests.webhooks.certificates.api_server import (
    CONFIGURATIONS,
    HOOKS,
    MUTATING,
    SECRET,
    SECRETS,
    VALIDATING,
    AdmissionApiServer,
    a_hook,
)
from tests.webhooks.certificates.telling import Told
from tests.webhooks.certificates.tls import NAME, NAMES, a_chain, an_echo, connected, shown, trusting
from webhooks.certificates.chain import Chain, Pair, chain_of, secret_contents
from webhooks.certificates.issued import IssuedCertificate, IssuedPace, Order
from webhooks.certificates.issuing import DEFAULT_TIMES, Step, Times
from webhooks.certificates.minting import Mint, carried_out

DAY = timedelta(days=1)


class Clock:
    """The system's, which TLS goes by, with an offset."""

    def __init__(self, offset: timedelta = timedelta()) -> None:
        self.offset = offset

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


class Replica:
    def __init__(self, kube: Kube, clock: Clock, order: Order, pauses: tuple[float, float, float]) -> None:
        self.live = LiveContext()
        self.told = Told()
        pace = IssuedPace(lambda least, _: least, clock, *pauses)
        self._keeper = IssuedCertificate(kube, self.live, order, self.told.outlets, pace)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Until the block ends; the answer is the port it serves on."""
        task = asyncio.create_task(self._keeper.run())
        try:
            async with an_echo(self.live) as port:
                yield port
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def is_ready(self) -> None:
        await self.told.until(lambda: self.told.reported == "")

    async def is_in_order(self) -> None:
        await self.told.until(lambda: self.told.reported == "" and self.told.noted == "")

    async def looks_again(self) -> None:
        """Twice, so that one look began after the call."""
        looks = self.told.looks
        await self.told.until(lambda: self.told.looks > looks + 1)


def a_replica(
    kube: Kube,
    clock: Clock | None = None,
    times: Times = DEFAULT_TIMES,
    names: tuple[str, ...] = NAMES,
    pauses: tuple[float, float, float] = (0.02, 0.01, 0.02),
) -> Replica:
    return Replica(kube, clock or Clock(), Order(SECRET, names, CONFIGURATIONS, times), pauses)


def as_stored(chain: Chain) -> dict[str, str]:
    return {name: b64encode(value).decode() for name, value in secret_contents(chain).items() if value is not None}


def chain_in(secret: dict[str, str]) -> Chain | None:
    return chain_of({name: b64decode(text) for name, text in secret.items()})


def loses_nothing(hook: dict[str, Any]) -> bool:
    client = {name: value for name, value in hook["clientConfig"].items() if name != "caBundle"}
    return {**hook, "clientConfig": client} == a_hook(hook["name"])


class Clients:
    """Connect all the time and as the API server does: each trusts what the configurations said a moment ago."""

    def __init__(self, api: AdmissionApiServer, ports: tuple[int, ...]) -> None:
        self._api = api
        self._ports = ports
        self.handshakes = 0
        self.failures: list[str] = []
        self.seen: set[x509.Certificate] = set()

    @asynccontextmanager
    async def connecting(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._connect(port, turn)) for turn in range(3) for port in self._ports]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def all_connect_again(self) -> None:
        """With what is trusted now, several times."""
        target = self.handshakes + 12 * len(self._ports)
        async with asyncio.timeout(10):
            while self.handshakes < target and not self.failures:
                await asyncio.sleep(0.001)

    async def _connect(self, port: int, turn: int) -> None:
        while True:
            bundle = self._api.bundles()[turn % 3]
            # Taken up, and used for several calls.
            for _ in range(2):
                try:
                    self.seen.add(await shown(port, bundle))
                except (OSError, EOFError) as error:
                    self.failures.append(f"{type(error).__name__} {error}")
                self.handshakes += 1


async def test_an_empty_secret_is_filled_and_clients_trust_what_is_served(api: AdmissionApiServer, kube: Kube) -> None:
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.is_in_order()

        assert set(api.secret) == {"tls.crt", "tls.key", "ca.crt", "ca.key"}
        assert api.trusted() == 1
        for bundle in api.bundles():
            assert await shown(port, bundle) == api.served()


async def test_all_else_in_the_configurations_stays_as_it_was(api: AdmissionApiServer, kube: Kube) -> None:
    replica = a_replica(kube)
    async with replica.running():
        await replica.is_in_order()

    hooks = [hook for path in (MUTATING, VALIDATING) for hook in api.objects(path)[HOOKS]["webhooks"]]
    assert len(hooks) == 3
    assert all(loses_nothing(hook) for hook in hooks)


async def test_when_all_is_in_order_nothing_is_written(api: AdmissionApiServer, kube: Kube) -> None:
    replica = a_replica(kube)
    async with replica.running():
        await replica.is_in_order()
        writes = api.count("PATCH", "/") + api.count("POST", "/")
        loaded = replica.live.certificate
        await replica.looks_again()
        await replica.looks_again()

    assert api.count("PATCH", "/") + api.count("POST", "/") == writes == 3
    assert replica.live.certificate is loaded


async def test_a_second_replica_serves_what_the_first_has_issued(api: AdmissionApiServer, kube: Kube) -> None:
    first, second = a_replica(kube), a_replica(kube)
    async with first.running():
        await first.is_in_order()
    async with second.running() as port:
        await second.is_in_order()

        assert await shown(port, api.bundles()[0]) == first.live.certificate


async def test_replicas_that_start_at_once_agree_on_one_certificate(api: AdmissionApiServer, kube: Kube) -> None:
    replicas = [a_replica(kube) for _ in range(4)]
    api.answering.clear()
    async with replicas[0].running(), replicas[1].running(), replicas[2].running(), replicas[3].running():
        # All have asked before any is answered.
        await api.until(lambda: api.count("GET", MUTATING) == 4)
        api.answering.set()
        for replica in replicas:
            await replica.is_in_order()
            await replica.looks_again()

        assert {replica.live.certificate for replica in replicas} == {api.served()}
        assert api.trusted() == 1
    assert api.count("PATCH", SECRETS) > 1
    assert len(api.issued) == 1


async def test_no_handshake_fails_while_server_and_authority_certificates_rotate(
    api: AdmissionApiServer, kube: Kube
) -> None:
    # All are issued 28 days ago, so that both are due by now and yet nothing has really expired.
    times = Times(60 * DAY, 30 * DAY, 5 * DAY, timedelta(minutes=10), timedelta(minutes=30))
    clock = Clock(-28 * DAY)
    one, two = a_replica(kube, clock, times), a_replica(kube, clock, times)
    async with one.running() as port_one, two.running() as port_two:
        await one.is_in_order()
        await two.is_in_order()
        first = api.served()
        clients = Clients(api, (port_one, port_two))
        async with connected(port_one, trusting(api.bundles()[0])) as early, clients.connecting():
            await clients.all_connect_again()

            clock.offset = timedelta(hours=-2)
            await api.until(lambda: api.trusted() == 2 and "ca-next.key" in api.secret)
            await api.until(lambda: api.served() != first)
            second = api.served()
            await one.looks_again()
            await two.looks_again()
            await clients.all_connect_again()
            assert "ca-next.key" in api.secret

            clock.offset += timedelta(minutes=11)
            await api.until(lambda: "ca-next.key" not in api.secret)
            third = api.served()
            await one.looks_again()
            await two.looks_again()
            await clients.all_connect_again()
            assert api.trusted() == 2

            clock.offset += timedelta(minutes=31)
            await api.until(lambda: api.trusted() == 1)
            await clients.all_connect_again()

            assert await early.is_answered()

    assert clients.failures == []
    assert clients.seen == {first, second, third}
    assert first.issuer == second.issuer != third.issuer


async def test_no_handshake_fails_when_the_secret_is_emptied_to_force_a_rotation(
    api: AdmissionApiServer, kube: Kube
) -> None:
    clock = Clock(timedelta(hours=-2))
    one, two = a_replica(kube, clock), a_replica(kube, clock)
    async with one.running() as port_one, two.running() as port_two:
        await one.is_in_order()
        await two.is_in_order()
        old = api.served()
        clients = Clients(api, (port_one, port_two))
        async with clients.connecting():
            await api.put_secret({})
            await api.until(lambda: api.trusted() == 2)
            assert api.served() == old
            await one.looks_again()
            await two.looks_again()
            await clients.all_connect_again()

            clock.offset += timedelta(minutes=11)
            await api.until(lambda: api.served() != old)
            await one.looks_again()
            await two.looks_again()
            await clients.all_connect_again()

    assert clients.failures == []
    assert clients.seen == {old, api.served()}


async def test_a_replica_that_starts_with_an_emptied_secret_leaves_the_others_trusted(
    api: AdmissionApiServer, kube: Kube
) -> None:
    old, new = a_replica(kube), a_replica(kube)
    async with old.running():
        await old.is_in_order()
    async with an_echo(old.live) as old_port:
        await api.put_secret({})
        async with new.running() as new_port:
            await new.is_in_order()
            bundle = api.bundles()[0]

            assert api.trusted() == 2
            assert await shown(old_port, bundle) == old.live.certificate
            assert await shown(new_port, bundle) == new.live.certificate != old.live.certificate


async def test_an_expired_certificate_that_clients_refuse_is_healed(api: AdmissionApiServer, kube: Kube) -> None:
    clock = Clock(-400 * DAY)
    replica = a_replica(kube, clock)
    async with replica.running() as port:
        await replica.is_in_order()
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await shown(port, api.bundles()[0])
        old = api.served()
        clock.offset = timedelta()
        await api.until(lambda: api.served() != old)
        await replica.looks_again()

        assert await shown(port, api.bundles()[0]) == api.served()


async def test_new_names_are_served_at_once(api: AdmissionApiServer, kube: Kube) -> None:
    before, after = a_replica(kube), a_replica(kube, names=(*NAMES, "hooks.example.com"))
    async with before.running():
        await before.is_in_order()
    bundles = api.bundles()
    async with after.running() as port:
        await after.is_in_order()

        assert api.bundles() == bundles
        for name in (NAME, "hooks.example.com"):
            async with connected(port, trusting(bundles[0]), name) as connection:
                assert await connection.is_answered()


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param({"tls.crt": "bm9uc2Vuc2U=", "tls.key": "bm9uc2Vuc2U="}, id="nonsense"),
        pytest.param({"ca.key": as_stored(a_chain())["tls.key"]}, id="another key"),
        pytest.param({"ca.crt": as_stored(a_chain())["ca.crt"]}, id="another authority"),
        pytest.param({"tls.key": ""}, id="a key gone"),
    ],
)
async def test_a_broken_secret_is_replaced_while_the_last_good_certificate_serves(
    api: AdmissionApiServer, kube: Kube, caplog: pytest.LogCaptureFixture, contents: dict[str, str]
) -> None:
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.is_in_order()
        good = api.served()
        good_contents = api.secret
        await api.put_secret({**good_contents, **contents})
        await api.until(lambda: api.trusted() == 2)
        await replica.looks_again()

        assert replica.told.reported == ""
        assert await shown(port, api.bundles()[0]) == api.served() == good
    told = "\n".join(caplog.messages)
    assert told.count("what is in the Secret is replaced") == 1
    assert not any(b64decode(value).decode()[40:80] in told for value in good_contents.values())


async def test_a_bundle_that_somebody_reset_is_put_back(api: AdmissionApiServer, kube: Kube) -> None:
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.is_in_order()
        bundles = api.bundles()
        await api.put_configurations()
        await api.until(lambda: api.bundles() == bundles)

        assert await shown(port, api.bundles()[2]) == api.served()


@asynccontextmanager
async def a_rotation(api: AdmissionApiServer, kube: Kube, clock: Clock) -> AsyncIterator[Replica]:
    """A replica with a next authority, which every configuration trusts as of the clock."""
    replica = a_replica(kube, clock)
    async with replica.running():
        await replica.is_in_order()
        await api.put_secret({})
        await api.until(lambda: api.trusted() == 2)
        await replica.looks_again()
        yield replica


async def test_the_next_authority_waits_while_a_configuration_cannot_be_changed(
    api: AdmissionApiServer, kube: Kube
) -> None:
    clock = Clock(timedelta(hours=-2))
    replica = a_replica(kube, clock)
    async with replica.running():
        await replica.is_in_order()
        old = api.served()
        api.refusals.append(Refusal(403, "PATCH", VALIDATING, times=10**6, reason="Forbidden"))
        await api.put_secret({})
        await replica.told.until(lambda: "403" in replica.told.noted)
        clock.offset += timedelta(minutes=30)
        await replica.looks_again()
        assert api.served() == old

        api.refusals.clear()
        await api.until(lambda: api.trusted() == 2)
        await replica.looks_again()
        assert api.served() == old

        clock.offset += timedelta(minutes=11)
        await api.until(lambda: api.served() != old)


async def test_the_next_authority_waits_while_a_configuration_cannot_be_read(
    api: AdmissionApiServer, kube: Kube
) -> None:
    clock = Clock(timedelta(hours=-2))
    async with a_rotation(api, kube, clock) as replica:
        old = api.served()
        api.refusals.append(Refusal(403, "GET", VALIDATING, times=10**6, reason="Forbidden"))
        await replica.told.until(lambda: "403" in replica.told.noted)
        clock.offset += timedelta(minutes=30)
        await replica.looks_again()
        assert api.served() == old

        api.refusals.clear()
        await api.until(lambda: api.served() != old)


async def test_the_overlap_begins_when_the_last_configuration_is_seen_to_trust(
    api: AdmissionApiServer, kube: Kube
) -> None:
    clock = Clock(timedelta(hours=-2))
    replica = a_replica(kube, clock)
    async with replica.running():
        await replica.is_in_order()
        old = api.served()
        api.refusals.append(Refusal(403, "GET", VALIDATING, times=10**6, reason="Forbidden"))
        await replica.told.until(lambda: "403" in replica.told.noted)
        await api.put_secret({})
        await api.until(lambda: "ca-next.key" in api.secret)
        await replica.looks_again()
        clock.offset += timedelta(minutes=11)
        # As another replica does, which may read it.
        await api.put_configurations(b64decode(api.secret["ca.crt"]))
        api.refusals.clear()
        await replica.is_in_order()
        await replica.looks_again()

        assert api.served() == old


async def test_a_bundle_that_is_reset_within_the_overlap_begins_it_anew(api: AdmissionApiServer, kube: Kube) -> None:
    clock = Clock(timedelta(hours=-2))
    async with a_rotation(api, kube, clock) as replica:
        old = api.served()
        clock.offset += timedelta(minutes=9)
        await api.put_configurations()
        await api.until(lambda: api.trusted() == 2)
        await replica.looks_again()
        clock.offset += timedelta(minutes=2)
        await replica.looks_again()
        assert api.served() == old

        clock.offset += timedelta(minutes=9)
        await api.until(lambda: api.served() != old)


async def test_what_somebody_changes_between_a_look_and_a_write_is_kept(api: AdmissionApiServer, kube: Kube) -> None:
    replica = a_replica(kube)

    async def somebody_is_less_patient() -> None:
        hooks = [{**hook, "timeoutSeconds": 3} for hook in api.objects(MUTATING)[HOOKS]["webhooks"]]
        await api.put(MUTATING, HOOKS, webhooks=hooks)

    api.after_reading[SECRETS] = somebody_is_less_patient
    async with replica.running():
        await replica.is_in_order()

    assert [hook["timeoutSeconds"] for hook in api.objects(MUTATING)[HOOKS]["webhooks"]] == [3, 3]
    assert api.trusted() == 1


@pytest.mark.parametrize("moment", [MUTATING, VALIDATING, SECRETS], ids=["mutating", "validating", "secret"])
async def test_an_older_bundle_never_replaces_a_newer_one(api: AdmissionApiServer, kube: Kube, moment: str) -> None:
    """While this replica looks, another one writes: the Secret first, then the configurations."""
    replica = a_replica(kube)
    newer = a_chain()

    async def the_other_writes() -> None:
        await api.put_secret(as_stored(newer))
        await api.put_configurations(newer.bundle)

    async with replica.running():
        await replica.is_in_order()
        api.after_reading[moment] = the_other_writes
        await api.until(lambda: moment not in api.after_reading)
        await replica.told.until(lambda: replica.live.certificate == newer.server.certificate)
        await replica.looks_again()

    assert set(api.history[api.history.index(newer.bundle.decode()) :]) == {newer.bundle.decode()}


async def test_a_certificate_serves_on_while_the_api_server_is_away(api: AdmissionApiServer, kube: Kube) -> None:
    clock = Clock()
    replica = a_replica(kube, clock)
    async with replica.running() as port:
        await replica.is_in_order()
        bundle = api.bundles()[0]
        await api.stop()
        await replica.told.until(lambda: "no answer" in replica.told.noted)
        assert replica.told.reported == ""
        assert await shown(port, bundle) == replica.live.certificate

        clock.offset = 366 * DAY
        await replica.told.until(lambda: "no answer" in replica.told.reported)
        clock.offset = timedelta()
        await api.start()
        await replica.is_in_order()


async def test_an_api_server_that_is_away_at_first_is_waited_for(api: AdmissionApiServer, kube: Kube) -> None:
    await api.stop()
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.told.until(lambda: "no answer" in replica.told.reported)
        await api.start()
        await replica.is_in_order()

        assert await shown(port, api.bundles()[0]) == api.served()


async def test_a_certificate_that_expires_while_the_api_server_is_away_is_told_of_at_once(
    api: AdmissionApiServer, kube: Kube
) -> None:
    chain = a_chain()
    await api.put_secret(as_stored(chain))
    ends = chain.server.certificate.not_valid_after_utc
    clock = Clock(ends - datetime.now(UTC) - timedelta(seconds=1))
    hour = 3600.0
    replica = a_replica(kube, clock, Times(renew_before=timedelta(milliseconds=1)), pauses=(hour, hour, hour))

    async def goes_away() -> None:
        api.refusals.append(Refusal(503, "GET", SECRETS, times=10**6))

    api.after_reading[SECRETS] = goes_away
    async with replica.running():
        await replica.is_in_order()

        await replica.told.until(lambda: "503" in replica.told.reported)


async def test_an_api_server_that_asks_to_be_left_alone_for_a_day_is_asked_again_sooner(
    api: AdmissionApiServer, kube: Kube
) -> None:
    api.refusals.append(Refusal(503, "GET", SECRETS, retry_after=86400))
    replica = a_replica(kube)
    async with replica.running():
        await replica.is_in_order()

    assert not any(refusal.times for refusal in api.refusals)


async def test_a_replica_without_a_free_file_leaves_the_secret_alone_and_goes_on(
    api: AdmissionApiServer, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_files(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    chain = a_chain()
    await api.put_secret(as_stored(chain))
    replica = a_replica(kube)
    with monkeypatch.context() as system:
        system.setattr(os, "memfd_create", no_more_files)
        async with replica.running() as port:
            await replica.told.until(lambda: "Too many open files" in replica.told.reported)
            await replica.looks_again()
            system.undo()
            await replica.is_in_order()

            assert await shown(port, api.bundles()[0]) == chain.server.certificate
    assert api.served() == chain.server.certificate


async def test_replicas_that_want_different_names_come_to_rest_and_serve_their_own(
    api: AdmissionApiServer, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.is_in_order()
        stored = api.secret
        elsewhere = carried_out(
            Step("renew", "", chain_in(stored)), Mint(("elsewhere.svc",), Times(), datetime.now(UTC))
        )
        async with asyncio.timeout(10):
            while "--server-names" not in replica.told.noted:
                await api.put_secret(as_stored(elsewhere))
                await replica.looks_again()

        assert replica.told.reported == ""
        assert await shown(port, api.bundles()[0]) == replica.live.certificate
        assert any("others replace the certificates" in message for message in caplog.messages)
        # By and by it does overrule, for the other one may be gone.
        await api.until(lambda: api.served() != elsewhere.server.certificate)


@pytest.mark.parametrize(
    "client",
    ["null", '"text"', '{"caBundle": 5}', '{"caBundle": "ä"}'],
    ids=["null", "a text", "a number for a bundle", "not base64"],
)
async def test_a_configuration_that_makes_no_sense_does_not_end_the_replica(
    api: AdmissionApiServer, kube: Kube, client: str
) -> None:
    path = f"{VALIDATING}/{HOOKS}"
    text = f'{{"metadata": {{"resourceVersion": "1"}}, "webhooks": [{{"name": "a", "clientConfig": {client}}}]}}'
    api.documents[path] = text.encode()
    replica = a_replica(kube)
    async with replica.running():
        await api.until(lambda: api.count("PATCH", VALIDATING) > 0)
        del api.documents[path]

        await replica.is_in_order()


@pytest.mark.parametrize("code", [429, 500, 503], ids=["too many requests", "internal error", "unavailable"])
async def test_passing_failures_at_every_request_are_overcome(api: AdmissionApiServer, kube: Kube, code: int) -> None:
    for method in ("GET", "PATCH"):
        for path in (MUTATING, VALIDATING, SECRETS):
            api.refusals.append(Refusal(code, method, path))
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.is_in_order()

        assert not any(refusal.times for refusal in api.refusals)
        assert await shown(port, api.bundles()[0]) == api.served()


async def test_a_configuration_that_may_not_be_changed_is_reported_with_the_remedy(
    api: AdmissionApiServer, kube: Kube, caplog: pytest.LogCaptureFixture
) -> None:
    api.refusals.append(Refusal(403, "PATCH", MUTATING, times=10**6, reason="Forbidden"))
    replica = a_replica(kube)
    async with replica.running():
        await replica.told.until(lambda: "403" in replica.told.reported)
        await replica.looks_again()

        assert sum("not in order" in message for message in caplog.messages) == 1
        assert replica.told.reported.endswith("apply manifests/webhooks, which allows it")
        assert replica.live.certificate == api.served()


async def test_configurations_that_are_not_there_are_noted_and_found_later(api: AdmissionApiServer, kube: Kube) -> None:
    await api.remove(VALIDATING, HOOKS)
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.is_ready()
        await replica.told.until(lambda: f"no ValidatingWebhookConfiguration {HOOKS}" in replica.told.noted)
        await api.put_configurations()
        await replica.is_in_order()

        assert await shown(port, api.bundles()[2]) == api.served()


async def test_a_secret_that_is_not_there_is_created_where_that_is_allowed(api: AdmissionApiServer, kube: Kube) -> None:
    await api.remove(SECRETS, SECRET)
    replica = a_replica(kube)
    async with replica.running():
        await replica.is_in_order()

        assert replica.live.certificate == api.served()


async def test_a_secret_that_may_not_be_created_is_reported_with_the_remedy(
    api: AdmissionApiServer, kube: Kube
) -> None:
    await api.remove(SECRETS, SECRET)
    api.refusals.append(Refusal(403, "POST", SECRETS, times=10**6, reason="Forbidden"))
    replica = a_replica(kube)
    async with replica.running():
        await replica.told.until(lambda: replica.told.reported not in {"", "nothing yet"})

        assert "there is no Secret gpus/webhooks-tls" in replica.told.reported
        assert replica.told.reported.endswith("kubectl -n gpus create secret generic webhooks-tls")
        await api.put_secret()
        await replica.is_in_order()


async def test_a_certificate_that_openssl_does_not_serve_is_replaced(api: AdmissionApiServer, kube: Kube) -> None:
    weak = a_chain()
    contents = as_stored(weak)
    contents["tls.crt"], contents["tls.key"] = weak_pair(weak)
    await api.put_secret(contents)
    replica = a_replica(kube)
    async with replica.running() as port:
        await replica.is_in_order()

        assert await shown(port, api.bundles()[0]) == api.served()


def weak_pair(chain: Chain) -> tuple[str, str]:
    """A certificate for a key that is too short for OpenSSL's security level 2."""
    key = ec.generate_private_key(ec.SECP192R1())
    model = chain.server.certificate
    builder = x509.CertificateBuilder(
        model.issuer, model.subject, key.public_key(), 7, model.not_valid_before_utc, model.not_valid_after_utc
    )
    pair = Pair(builder.sign(chain.authority.key, SHA256()), key)
    return b64encode(pair.certificate_pem).decode(), b64encode(pair.key_pem).decode()


@pytest.mark.parametrize("name", ["", "höoks.gpus.svc"], ids=["empty", "not ASCII"])
def test_names_that_no_certificate_can_be_for_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="host name in ASCII"):
        Order(SECRET, (name,), CONFIGURATIONS)
