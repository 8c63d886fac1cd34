"""A pod is bound with its devices in one call, at most once, whatever becomes of that call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from schedext.binding import Binder, BindTimes, Choosing
from schedext.lease import AlwaysHeld, Lease
from schedext.placement import Refusal
from schedext.pod import Pod
from schedext.world import World
from tasuki.kube.client import Kube
from tasuki.kube.collection import Applied, Deleted, ObjectName
from tasuki.kube.names import BOUND_DEVICES, BOUND_SLICES, GPU_DEVICES, GPU_SHARING, SHARED_NODE
from tests.schedext.api_server import Fault, SchedulingApiServer, serving
from tests.schedext.binders import first_free, take_gpus
from tests.schedext.pods import Json, a_container, pod_json
from tests.tasuki.kube.api_server import Refusal as Refused

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FAST = BindTimes(prepare_seconds=0.3, post_seconds=0.2, look_seconds=0.2, reserve_seconds=60.0)
# However busy the machine is, nothing takes longer that is not held up on purpose.
PATIENT = BindTimes(prepare_seconds=10.0, post_seconds=10.0, look_seconds=10.0, reserve_seconds=60.0)
BINDING = "/binding"
GPU_POD = pod_json(a_container(gpus=1), name="p", namespace="n", uid="u")


class NotHeld(AlwaysHeld):
    async def held(self) -> str:
        return "another replica binds"


@dataclass
class KeptLease(AlwaysHeld):
    kept_seconds: list[float] = field(default_factory=list)

    def keep(self, seconds: float) -> None:
        self.kept_seconds.append(seconds)


@dataclass
class House:
    """A cluster with nodes of two GPUs, and one pod that wants one of them."""

    api: SchedulingApiServer
    kube: Kube
    clock: float = 0.0
    freed: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    lease: Lease = field(default_factory=AlwaysHeld)
    reason: str = ""
    times: BindTimes = PATIENT

    def __post_init__(self) -> None:
        self.world = World(lambda: self.clock, lambda: NOW, self.freed.append)
        for node in ("a", "b"):
            take_gpus(self.world, node, 2)
        self.freed.clear()

    async def has(self, pod: Json, *, seen: bool = True) -> None:
        metadata = pod["metadata"]
        await self.api.put_pod(metadata["namespace"], metadata["name"], **{**pod, "metadata": {**metadata}})
        if seen:
            self.sees(metadata["name"])

    def sees(self, name: str = "p") -> None:
        """The watch of pods brings what the server has."""
        key = ObjectName("n", name)
        found = self.api.objects("/api/v1/pods").get(f"n/{name}")
        tracked = self.world.demands.tracked(msgspec.convert(found, Pod)) if found else None
        self.world.take_pods(Applied(key, tracked) if tracked is not None else Deleted(key))

    @asynccontextmanager
    async def binder(self) -> AsyncIterator[Binder]:
        choosing = Choosing(self.world, lambda: self.reason, first_free)
        made = Binder(self.kube, choosing, self.lease, self.words.append, self.times)
        task = asyncio.create_task(made.run())
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def bind(self, node: str = "a", uid: str = "u", name: str = "p") -> str:
        async with self.binder() as made:
            return await made.bind("n", name, uid, node)

    def posts(self) -> int:
        return sum(1 for request in self.api.requests if request.endswith(BINDING))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with serving(tmp_path) as (api, kube):
        made = House(api, kube)
        await made.has(GPU_POD)
        yield made


async def test_a_pod_is_bound_with_its_devices_in_one_call(house: House) -> None:
    assert await house.bind() == ""

    assert house.api.requests == ["POST /api/v1/namespaces/n/pods/p/binding"]
    assert house.api.node_of("n", "p") == "a"
    assert house.api.annotations("n", "p") == {
        BOUND_DEVICES: "a-gpu-0",
        BOUND_SLICES: '{"main":{"nvidia.com/gpu":{"a-gpu-0":1}}}',
    }
    assert house.words == ["bound"]


async def test_the_binding_is_what_the_api_server_expects(house: House) -> None:
    await house.bind()

    assert house.api.bodies[-1] | {"metadata": None} == {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": None,
        "target": {"apiVersion": "v1", "kind": "Node", "name": "a"},
    }
    assert house.api.bodies[-1]["metadata"]["uid"] == "u"


async def test_devices_are_named_once_and_as_the_node_lists_them(house: House) -> None:
    take_gpus(house.world, "c", 12)
    await house.has(pod_json(a_container("x", gpus=6), a_container("y", gpus=5), name="q", namespace="n", uid="q"))

    assert await house.bind("c", "q", "q") == ""

    assert house.api.annotations("n", "q")[BOUND_DEVICES] == ",".join(f"c-gpu-{number}" for number in range(11))


async def test_a_pod_that_sees_devices_without_holding_slices_is_told_which(house: House) -> None:
    shared = {GPU_SHARING: SHARED_NODE, GPU_DEVICES: "one"}
    await house.has(pod_json(name="q", namespace="n", uid="q", annotations=shared))

    assert await house.bind("a", "q", "q") == ""

    assert house.api.annotations("n", "q") == {**shared, BOUND_DEVICES: "a-gpu-0"}


async def test_a_pod_without_devices_is_bound_without_annotations(house: House) -> None:
    await house.has(pod_json(name="q", namespace="n", uid="q"))

    assert await house.bind("a", "q", "q") == ""

    assert house.api.node_of("n", "q") == "a"
    assert house.api.annotations("n", "q") == {}
    assert not house.world.reservations


async def test_a_pod_that_no_watch_has_brought_yet_is_looked_at(house: House) -> None:
    await house.has(pod_json(a_container(gpus=1), name="q", namespace="n", uid="q"), seen=False)

    assert await house.bind("a", "q", "q") == ""

    assert house.api.annotations("n", "q")[BOUND_DEVICES] == "a-gpu-0"
    assert house.world.reservation("q") is not None


async def test_what_was_chosen_stays_reserved_until_the_pod_is_seen(house: House) -> None:
    await house.bind()
    assert house.world.reservation("u") is not None
    await house.has(pod_json(a_container(gpus=1), name="q", namespace="n", uid="q"))
    await house.bind("a", "q", "q")

    assert house.api.annotations("n", "q")[BOUND_DEVICES] == "a-gpu-1"
    house.sees()
    assert house.world.reservation("u") is None


async def test_what_is_certainly_bound_stays_reserved_as_long_as_a_watch_may_be_broken(house: House) -> None:
    await house.bind()
    house.clock = PATIENT.reserve_seconds
    house.world.tick()

    assert house.world.reservation("u") is not None
    house.clock = PATIENT.seen_seconds
    house.world.tick()
    assert house.world.reservation("u") is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(lambda house: setattr(house, "reason", "not synced"), "not synced", id="the world is not synced"),
        pytest.param(lambda house: setattr(house, "lease", NotHeld()), "another replica binds", id="another one binds"),
    ],
)
async def test_nothing_is_chosen_unless_it_may(house: House, change: Callable[[House], None], text: str) -> None:
    change(house)

    assert await house.bind() == text

    assert (house.words, house.posts()) == (["failed"], 0)
    assert not house.world.reservations


async def test_a_pod_that_does_not_fit_any_more_is_refused(house: House) -> None:
    for number in range(2):
        name = f"q{number}"
        await house.has(pod_json(a_container(gpus=1), name=name, namespace="n", uid=name, node="a"))

    assert await house.bind() == "no GPU is free"

    assert (house.words, house.posts()) == (["refused"], 0)


async def test_a_node_that_is_not_known_is_named(house: House) -> None:
    assert "nowhere" in await house.bind("nowhere")


async def test_asking_again_while_it_is_in_flight_shares_the_attempt(house: House) -> None:
    house.api.faults.append(Fault("POST", ends=BINDING, silent_seconds=0.05))
    async with house.binder() as binder:
        assert await asyncio.gather(*(binder.bind("n", "p", "u", "a") for _ in range(5))) == [""] * 5

    assert (house.words, house.posts()) == (["bound"], 1)


@pytest.mark.parametrize("seen", [pytest.param(True, id="seen"), pytest.param(False, id="not seen yet")])
async def test_asking_again_after_success_costs_no_call(house: House, seen: bool) -> None:
    async with house.binder() as binder:
        await binder.bind("n", "p", "u", "a")
        if seen:
            house.sees()

        assert await binder.bind("n", "p", "u", "a") == ""

    assert (house.words, house.posts()) == (["bound", "again"], 1)


async def test_another_node_while_it_is_in_flight_is_refused(house: House) -> None:
    house.api.faults.append(Fault("POST", ends=BINDING, silent_seconds=0.05))
    async with house.binder() as binder:
        first = asyncio.create_task(binder.bind("n", "p", "u", "a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert await binder.bind("n", "p", "u", "b") == "the pod is being bound to a at the moment"
        assert await first == ""


async def test_who_asked_may_leave(house: House) -> None:
    house.api.faults.append(Fault("POST", ends=BINDING, silent_seconds=0.05))
    async with house.binder() as binder:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await binder.bind("n", "p", "u", "a")
        assert binder.in_flight == 1
        await binder.drain()

        assert binder.in_flight == 0
    assert house.words == ["bound"]


async def test_after_draining_nothing_is_begun(house: House) -> None:
    async with house.binder() as binder:
        await binder.drain()

        assert "stopping" in await binder.bind("n", "p", "u", "a")
    assert house.posts() == 0


async def test_a_pod_that_was_deleted_and_made_anew_is_not_bound(house: House) -> None:
    await house.has(pod_json(a_container(gpus=1), name="p", namespace="n", uid="new"), seen=False)

    assert await house.bind() == "the pod was deleted and made anew"

    assert house.api.node_of("n", "p") == ""
    assert house.words == ["gone"]
    assert not house.world.reservations
    assert house.freed == ["a"]


async def test_a_pod_that_was_deleted_releases_what_was_reserved(house: House) -> None:
    await house.api.remove_pod("n", "p")

    assert await house.bind() == "the pod was deleted"

    assert house.words == ["gone"]
    assert not house.world.reservations


async def test_a_pod_that_is_bound_there_already_is_a_success(house: House) -> None:
    await house.has({**GPU_POD, "spec": {**GPU_POD["spec"], "nodeName": "a"}}, seen=False)

    assert await house.bind() == ""


async def test_a_pod_that_is_bound_elsewhere_is_named_and_released(house: House) -> None:
    await house.has({**GPU_POD, "spec": {**GPU_POD["spec"], "nodeName": "b"}}, seen=False)

    assert await house.bind() == "the pod is bound to b already"

    assert house.words == ["conflict"]
    assert not house.world.reservations


async def test_a_pod_that_is_seen_bound_elsewhere_costs_no_call(house: House) -> None:
    await house.has({**GPU_POD, "spec": {**GPU_POD["spec"], "nodeName": "b"}})

    assert await house.bind() == "the pod is bound to b already"

    assert house.api.requests == []


async def test_a_pod_that_is_being_deleted_is_released(house: House) -> None:
    metadata = {**GPU_POD["metadata"], "deletionTimestamp": "2026-01-31T12:00:00Z"}
    await house.has({**GPU_POD, "metadata": metadata}, seen=False)

    assert "is being deleted" in await house.bind()

    assert house.words == ["conflict"]
    assert not house.world.reservations


@pytest.mark.parametrize(
    ("status", "text"),
    [
        pytest.param(403, "grant our service account the verb create on pods/binding", id="forbidden"),
        pytest.param(422, "422", id="invalid"),
        pytest.param(429, "429", id="too many requests"),
    ],
)
async def test_what_the_server_certainly_did_not_do_is_released(house: House, status: int, text: str) -> None:
    house.api.refusals.append(Refused(status, "POST"))

    assert text in await house.bind()

    assert house.words == ["failed"]
    assert not house.world.reservations
    assert house.freed == ["a"]


async def test_what_was_sent_to_nobody_is_released(house: House) -> None:
    house.lease = lease = KeptLease()
    await house.api.stop()

    assert "no answer" in await house.bind()

    await house.api.start()
    assert (house.words, lease.kept_seconds) == (["failed"], [])
    assert not house.world.reservations
    assert await house.bind("b") == ""


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("POST", ends=BINDING, lost=True), id="the connection breaks"),
        pytest.param(Fault("POST", ends=BINDING, answered=500), id="the server says it failed"),
        pytest.param(Fault("POST", ends=BINDING, silent_seconds=1.5), id="the answer is late"),
    ],
)
async def test_a_binding_that_took_effect_without_an_answer_is_a_success(house: House, fault: Fault) -> None:
    house.times = replace(PATIENT, post_seconds=1.0)
    house.api.faults.append(replace(fault))

    assert await house.bind() == ""

    assert house.words == ["bound"]
    assert house.world.reservation("u") is not None


UNDONE = [
    pytest.param(Fault("POST", ends=BINDING, refused=500), id="the server failed"),
    pytest.param(Fault("POST", ends=BINDING, refused=500, lost=True), id="the connection broke"),
    pytest.param(Fault("POST", ends=BINDING, late_seconds=5.0), id="it is still on its way"),
]


@pytest.mark.parametrize("fault", UNDONE)
async def test_what_may_still_take_effect_stays_reserved_and_the_lease_with_it(house: House, fault: Fault) -> None:
    house.lease = lease = KeptLease()
    house.times = replace(PATIENT, post_seconds=0.5)
    house.api.faults.append(replace(fault))

    assert "will be seen at the next attempt" in await house.bind()

    assert house.words == ["unknown"]
    assert house.world.reservation("u") is not None
    assert lease.kept_seconds == [60.0]


@pytest.mark.parametrize("fault", UNDONE)
async def test_the_next_attempt_has_the_same_devices(house: House, fault: Fault) -> None:
    await house.has(pod_json(a_container(gpus=1), name="q", namespace="n", uid="q"))
    await house.bind("a", "q", "q")
    house.api.faults.append(replace(fault))
    house.times = replace(PATIENT, post_seconds=0.5)
    await house.bind()
    house.times = PATIENT
    # Now the first device would be chosen, were another one not reserved for the pod.
    await house.api.remove_pod("n", "q")
    house.sees("q")
    house.clock = 1.0

    assert await house.bind() == ""

    assert house.api.annotations("n", "p")[BOUND_DEVICES] == "a-gpu-1"


async def test_another_node_is_refused_while_nobody_knows(house: House) -> None:
    house.api.faults.append(Fault("POST", ends=BINDING, refused=500))
    await house.bind()

    assert "may still become bound to a" in await house.bind("b")

    house.clock = PATIENT.reserve_seconds
    house.world.tick()
    assert await house.bind("b") == ""


async def test_a_later_refusal_does_not_release_what_an_earlier_request_may_still_take(house: House) -> None:
    house.api.faults.append(Fault("POST", ends=BINDING, late_seconds=5.0))
    house.times = replace(PATIENT, post_seconds=0.5)
    await house.bind()
    house.times = PATIENT
    house.api.refusals.append(Refused(403, "POST"))

    assert "grant" in await house.bind()

    assert house.world.reservation("u") is not None


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("GET", refused=500), id="the server fails"),
        pytest.param(Fault("GET", silent_seconds=0.5), id="no answer"),
    ],
)
async def test_if_a_second_look_fails_the_reservation_stays(house: House, fault: Fault) -> None:
    house.api.faults += [Fault("POST", ends=BINDING, lost=True), replace(fault)]
    house.times = replace(PATIENT, look_seconds=0.2)

    assert await house.bind() != ""

    assert house.words == ["unknown"]
    assert house.world.reservation("u") is not None
    house.times = PATIENT
    assert await house.bind() == ""


async def test_a_bind_ends_in_time_whatever_hangs(house: House) -> None:
    house.api.answering.clear()
    house.times = FAST
    async with asyncio.timeout(30):
        assert "no answer within" in await house.bind()
        assert await house.bind("a", "q", "q") == "the API server does not answer in time"
    house.api.answering.set()

    assert house.words == ["unknown", "failed"]


async def test_a_mistake_of_ours_fails_one_bind_and_no_other(house: House) -> None:
    def broken(*_: object) -> Refusal:
        raise ZeroDivisionError

    made = Binder(house.kube, Choosing(house.world, lambda: "", broken), AlwaysHeld(), house.words.append, PATIENT)
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)

    assert "mistake" in await made.bind("n", "p", "u", "a")
    assert not task.done()
    await made.drain()
    await task


async def test_two_pods_at_once_never_get_the_same_device(house: House) -> None:
    names = [f"q{number}" for number in range(10)]
    for name in names:
        await house.has(pod_json(a_container(gpus=1), name=name, namespace="n", uid=name))
    async with house.binder() as binder:
        answers = await asyncio.gather(*(binder.bind("n", name, name, "a") for name in names))

    bound = [name for name, answer in zip(names, answers, strict=True) if not answer]
    assert {house.api.annotations("n", name)[BOUND_DEVICES] for name in bound} == {"a-gpu-0", "a-gpu-1"}
    assert len(bound) == 2
