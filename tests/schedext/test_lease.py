"""Of several replicas one binds at a time, and the other one takes over without two of them ever doing so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import pytest

from schedext.lease import LEASE_NAME, AlwaysHeld, HeldLease, LeaseTimes
from tasuki.kube.client import Kube
from tests.schedext.api_server import LEASES, Fault, SchedulingApiServer, serving
from tests.tasuki.kube.api_server import Json, Refusal

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
# Leases last whole seconds.
FAST = LeaseTimes(
    lease_seconds=1.0,
    ours_seconds=0.6,
    renew_seconds=0.1,
    idle_seconds=0.3,
    settle_seconds=0.1,
    wait_seconds=0.4,
    retry_seconds=0.1,
)
# However busy the machine is, nothing lapses, and nobody waits in vain.
PATIENT = LeaseTimes(
    lease_seconds=15.0,
    ours_seconds=10.0,
    renew_seconds=0.1,
    idle_seconds=60.0,
    settle_seconds=0.1,
    wait_seconds=10.0,
    retry_seconds=1.0,
)
Connection = tuple[SchedulingApiServer, Kube]


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    async with serving(tmp_path) as served:
        yield served


class Replica:
    """A lease and the task that keeps it."""

    def __init__(self, kube: Kube, identity: str, times: LeaseTimes = FAST) -> None:
        self.lease = HeldLease(kube, identity, monotonic, lambda: NOW, times)
        self.taken = 0
        self.task = asyncio.create_task(self.lease.run(self._take))

    def _take(self) -> None:
        self.taken += 1

    async def crash(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def stop(self) -> None:
        self.lease.stop()
        await self.task


@asynccontextmanager
async def replicas(kube: Kube, *identities: str, times: LeaseTimes = FAST) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        made = [Replica(kube, identity, times) for identity in identities]
        for each in made:
            stack.push_async_callback(each.crash)
        yield made


async def takes(replica: Replica) -> None:
    """A bind may wait in vain on a busy machine; kube-scheduler asks again."""
    while await replica.lease.held():
        await asyncio.sleep(0)


def spec(api: SchedulingApiServer) -> Json:
    found: Json = api.objects(LEASES)[LEASE_NAME]["spec"]
    return found


def holder(api: SchedulingApiServer) -> str:
    return str(spec(api)["holderIdentity"])


async def test_nothing_is_held_before_a_bind_wants_it(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a"):
        await asyncio.sleep(0.05)

    assert api.requests == []


async def test_the_first_bind_takes_it(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", times=PATIENT) as [a]:
        assert await a.lease.held() == ""

        assert a.lease.is_ours
    assert spec(api) == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-31T12:00:00.000000Z",
        "renewTime": "2026-01-31T12:00:00.000000Z",
        "leaseTransitions": 1,
    }


async def test_many_binds_at_once_take_it_once(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", times=PATIENT) as [a]:
        assert set(await asyncio.gather(*(a.lease.held() for _ in range(50)))) == {""}

    assert api.count("POST", LEASES) == 1


async def test_the_other_replica_is_told_at_once_who_binds(connection: Connection) -> None:
    _, kube = connection
    async with replicas(kube, "a", "b", times=PATIENT) as [a, b]:
        await a.lease.held()

        reason = await b.lease.held()

        assert "'a' binds at the moment" in reason
        assert a.lease.is_ours
        assert not b.lease.is_ours


async def test_it_is_renewed_while_binds_come(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", "b", times=PATIENT) as [a, b]:
        while api.count("PUT", LEASES) < 3:
            assert await a.lease.held() == ""
            assert await b.lease.held() != ""
            await asyncio.sleep(0.1)

    assert holder(api) == "a"


async def test_it_is_handed_back_when_no_bind_came_for_a_while(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", "b", times=replace(PATIENT, idle_seconds=0.3)) as [a, b]:
        await takes(a)
        await api.until(lambda: holder(api) == "")

        assert not a.lease.is_ours
        await takes(b)


async def test_it_is_kept_while_something_may_still_take_effect(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", times=replace(PATIENT, idle_seconds=0.3)) as [a]:
        a.lease.keep(60.0)
        await a.lease.held()
        await asyncio.sleep(0.6)

        assert a.lease.is_ours
        await a.stop()
        assert holder(api) == "a"


async def test_it_is_handed_back_at_the_end(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", times=PATIENT) as [a]:
        await a.lease.held()
        await a.stop()

        assert holder(api) == ""
        assert await a.lease.held() == "this replica is stopping"


async def test_whoever_takes_over_waits_for_what_the_former_holder_bound(connection: Connection) -> None:
    _, kube = connection
    async with replicas(kube, "a", "b", times=PATIENT) as [a, b]:
        await a.lease.held()
        await a.stop()
        began = monotonic()

        assert await b.lease.held() == ""

        assert monotonic() - began >= FAST.settle_seconds


async def test_whoever_had_it_last_need_not_wait(connection: Connection) -> None:
    api, kube = connection
    times = replace(PATIENT, settle_seconds=3.0, idle_seconds=0.3)
    async with replicas(kube, "a", times=times) as [a]:
        first = asyncio.create_task(a.lease.held())
        await api.until(lambda: LEASE_NAME in api.objects(LEASES) and holder(api) == "")
        began = monotonic()
        await takes(a)

        assert monotonic() - began < times.settle_seconds
        assert await first == ""


async def test_a_crashed_holders_lease_lapses_and_not_before_that(connection: Connection) -> None:
    _, kube = connection
    async with replicas(kube, "a", "b", times=replace(FAST, retry_seconds=0.3)) as [a, b]:
        await takes(a)
        await a.crash()
        crashed_at = monotonic()
        await takes(b)
        took_over_at = monotonic()

        # Counted from when the other one first saw it.
        assert took_over_at - crashed_at >= FAST.lease_seconds


async def test_a_holder_that_cannot_renew_stops_before_another_one_may_take_over(connection: Connection) -> None:
    api, kube = connection
    times = replace(PATIENT, lease_seconds=3.0, ours_seconds=1.9, wait_seconds=1.0)
    async with replicas(kube, "a", "b", times=times) as [a, b]:
        a.lease.keep(60.0)
        await takes(a)
        assert await b.lease.held() != ""
        api.refusals.append(Refusal(503, "PUT", LEASES, times=1000))
        while a.lease.is_ours:
            assert not b.lease.is_ours
            await asyncio.sleep(0.01)

        while "503" not in (reason := await a.lease.held()):
            assert reason
        api.refusals.clear()
        await takes(a)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("PUT", LEASES, times=3, lost=True), id="the connection breaks"),
        pytest.param(Fault("PUT", LEASES, times=3, answered=500), id="the server says it failed"),
        pytest.param(Fault("PUT", LEASES, times=3, silent_seconds=0.5), id="the answer is late"),
    ],
)
async def test_a_renewal_whose_answer_is_lost_is_still_ones_own(connection: Connection, fault: Fault) -> None:
    api, kube = connection
    async with replicas(kube, "a", times=replace(PATIENT, retry_seconds=0.3)) as [a]:
        await a.lease.held()
        api.faults.append(fault := replace(fault))
        while fault.times:
            assert await a.lease.held() == ""
            await asyncio.sleep(0.05)

        assert await a.lease.held() == ""
    assert holder(api) == "a"


async def test_a_takeover_whose_answer_is_lost_waits_all_the_same(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", "b", times=PATIENT) as [a, b]:
        await a.lease.held()
        await a.stop()
        api.faults.append(Fault("PUT", LEASES, lost=True))
        began = monotonic()

        assert await b.lease.held() == ""

        assert monotonic() - began >= FAST.settle_seconds


async def test_of_two_that_want_a_free_one_one_gets_it(connection: Connection) -> None:
    api, kube = connection
    names = [f"replica-{number}" for number in range(8)]
    async with replicas(kube, *names) as made:
        reasons = await asyncio.gather(*(each.lease.held() for each in made))
        while all(reasons):
            # On a machine that is busy with other things, all may have waited in vain; kube-scheduler asks again.
            reasons = await asyncio.gather(*(each.lease.held() for each in made))

        assert sum(1 for reason in reasons if not reason) == 1
        assert [each.lease.is_ours for each in made].count(True) == 1
        assert holder(api) in names


async def test_somebody_elses_lease_of_the_distant_future_is_judged_by_our_clock(connection: Connection) -> None:
    api, kube = connection
    future = {"holderIdentity": "x", "leaseDurationSeconds": 3, "renewTime": "2099-01-01T00:00:00.000000Z"}
    await api.put(LEASES, LEASE_NAME, spec=future)
    async with replicas(kube, "a", times=replace(PATIENT, wait_seconds=1.0)) as [a]:
        assert "'x' binds" in await a.lease.held()
        # In three seconds.
        await takes(a)


async def test_it_is_deleted_under_its_holder(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", times=PATIENT) as [a]:
        await a.lease.held()
        await api.remove(LEASES, LEASE_NAME)
        await api.until(lambda: LEASE_NAME in api.objects(LEASES))

        assert await a.lease.held() == ""


async def test_who_may_not_have_it_says_what_to_grant(connection: Connection) -> None:
    api, kube = connection
    api.refusals.append(Refusal(403, "GET", LEASES, times=100))
    async with replicas(kube, "a", times=replace(PATIENT, wait_seconds=1.0)) as [a]:
        assert "grant our service account the verbs get, create and update on leases" in await a.lease.held()


async def test_without_an_api_server_the_answer_comes_in_time(connection: Connection) -> None:
    api, kube = connection
    api.answering.clear()
    async with replicas(kube, "a") as [a]:
        async with asyncio.timeout(30):
            assert "does not answer" in await a.lease.held()
    api.answering.set()


async def test_a_single_replica_always_holds_it() -> None:
    assert await AlwaysHeld().held() == ""


async def test_whoever_takes_it_over_is_told_that_others_may_have_bound(connection: Connection) -> None:
    _, kube = connection
    async with replicas(kube, "a", "b", times=PATIENT) as [a, b]:
        await a.lease.held()
        await a.stop()
        await b.lease.held()

        assert (a.taken, b.taken) == (1, 1)


async def test_taking_it_again_after_nobody_else_had_it_tells_nothing_new(connection: Connection) -> None:
    api, kube = connection
    async with replicas(kube, "a", times=replace(PATIENT, idle_seconds=0.3)) as [a]:
        await takes(a)
        await api.until(lambda: holder(api) == "")
        await takes(a)

        assert a.taken == 1
