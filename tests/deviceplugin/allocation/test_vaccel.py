from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation.errors import RepeatedSliceError, UnhealthySliceError, UnknownSliceError
from deviceplugin.allocation.vaccel import Allocator, SeveralAgentsError, one_agent
from deviceplugin.config.model import AllocationPolicy, VaccelAgent
from deviceplugin.container import ContainerEdits, Mount
from deviceplugin.resources import Resource
from deviceplugin.vaccel import SESSION, FoundAgent
from tasuki.devices.model import HEALTHY, Slice, slices_of, unhealthy
from tasuki.devices.preference import PreferenceError

UNIX = VaccelAgent(name="unix", address="unix:///run/vaccel/vaccel.sock", sessions=3)
TCP = VaccelAgent(name="tcp", address="tcp://vaccel-agent.tasuki-system.svc:65500", sessions=2)
VSOCK = VaccelAgent(name="vsock", address="vsock://2:2048", sessions=2)


def found(*agents: VaccelAgent) -> list[FoundAgent]:
    return [FoundAgent(agent, i, HEALTHY, answered=True) for i, agent in enumerate(agents)]


def offered(*agents: VaccelAgent) -> tuple[Allocator, Resource, dict[str, Slice]]:
    present = found(*agents)
    slices = tuple(s for each in present for s in slices_of(each.device, each.agent.sessions))
    allocator = Allocator({each.device.id: each.agent for each in present})
    return allocator, Resource(SESSION, slices), {s.id: s for s in slices}


def test_a_unix_socket_comes_with_its_folder() -> None:
    allocator, resource, index = offered(UNIX, TCP)

    edits = allocator.grant(resource, index, ["vaccel-unix::2", "vaccel-unix::0"])

    assert edits == ContainerEdits(
        envs={
            "TASUKI_VACCEL_AGENT": "unix",
            "TASUKI_VACCEL_SESSIONS": "2",
            "VACCEL_PLUGINS": "libvaccel-rpc.so",
            "VACCEL_RPC_ADDRESS": "unix:///run/vaccel/vaccel.sock",
        },
        mounts=(Mount("/run/vaccel", "/run/vaccel", read_only=True),),
    )


@pytest.mark.parametrize("agent", [pytest.param(TCP, id="tcp"), pytest.param(VSOCK, id="vsock")])
def test_other_addresses_need_no_mount(agent: VaccelAgent) -> None:
    allocator, resource, index = offered(UNIX, agent)

    edits = allocator.grant(resource, index, [f"vaccel-{agent.name}::0"])

    assert edits.envs["VACCEL_RPC_ADDRESS"] == agent.address
    assert (edits.mounts, edits.nodes) == ((), ())


def test_sessions_of_two_agents_are_refused_together() -> None:
    allocator, resource, index = offered(UNIX, TCP)

    with pytest.raises(SeveralAgentsError, match=r"of 2 agents \(vaccel-tcp, vaccel-unix\).*talks to one"):
        allocator.grant(resource, index, ["vaccel-unix::0", "vaccel-tcp::0"])


def test_a_session_that_is_not_there_is_refused() -> None:
    allocator, resource, index = offered(UNIX)

    with pytest.raises(UnknownSliceError, match="vaccel-unix::3"):
        allocator.grant(resource, index, ["vaccel-unix::3"])


def test_a_session_is_not_given_twice() -> None:
    allocator, resource, index = offered(UNIX)

    with pytest.raises(RepeatedSliceError):
        allocator.grant(resource, index, ["vaccel-unix::0", "vaccel-unix::0"])


def test_an_agent_that_is_away_gives_no_session() -> None:
    [away] = [FoundAgent(UNIX, 0, unhealthy("unix:///x: nothing listens there"), answered=True)]
    slices = slices_of(away.device, 2)

    with pytest.raises(UnhealthySliceError, match="nothing listens there"):
        Allocator({away.device.id: UNIX}).grant(
            Resource(SESSION, slices), {s.id: s for s in slices}, ["vaccel-unix::0"]
        )


def test_nothing_asked_for_is_nothing_changed() -> None:
    allocator, resource, index = offered(UNIX)

    assert allocator.grant(resource, index, []) == ContainerEdits()


def named(agents: list[FoundAgent], text: str) -> list[Slice]:
    """`a0 a2 b1`: sessions by the agent's first letter and number."""
    index = {f"{each.agent.name[0]}{s.replica}": s for each in agents for s in slices_of(each.device, 4)}
    return [index[word] for word in text.split()]


@pytest.mark.parametrize(
    ("policy", "available", "required", "size", "expected"),
    [
        pytest.param("distributed", "a0 a1 a2 b0 b1 b2 b3", "", 1, "b0", id="the one that is used least"),
        pytest.param("packed", "a0 a1 a2 b0 b1 b2 b3", "", 1, "a0", id="the one that is used most"),
        pytest.param("packed", "a0 a1 b0 b1 b2 b3", "", 3, "b0 b1 b2", id="the one that has enough"),
        pytest.param("distributed", "b3 b1 a1 a3", "", 2, "a1 a3", id="the first of equals, in order"),
        pytest.param("distributed", "a3 b0 b1 b2 b3", "a3", 1, "a3", id="the one that is required"),
        pytest.param("distributed", "a0 a3 b0 b1 b2 b3", "a3", 2, "a3 a0", id="the required one and more of its agent"),
        pytest.param("distributed", "a0 b0", "", 0, "", id="none"),
    ],
)
def test_all_sessions_are_of_one_agent(policy: str, available: str, required: str, size: int, expected: str) -> None:
    agents = found(*(VaccelAgent(name=n, address=f"tcp://{n}:1", sessions=4) for n in ("alpha", "beta")))

    chosen = one_agent(AllocationPolicy(policy))(named(agents, available), named(agents, required), size)

    assert chosen == named(agents, expected)


@pytest.mark.parametrize(
    ("available", "required", "size", "reason"),
    [
        pytest.param("b0 b1 a0", "", 3, "3 sessions.*vaccel-alpha has 1, vaccel-beta has 2", id="none has enough"),
        pytest.param("a0 b0 b1 b2", "a0", 2, "2 sessions.*vaccel-alpha has 1$", id="the required one has not"),
        pytest.param("a0 b0 b1", "a0 b0", 2, "several agents", id="two are required"),
        pytest.param("a0", "", 2, "only 1 are available", id="too few at all"),
    ],
)
def test_what_no_agent_has_is_refused(available: str, required: str, size: int, reason: str) -> None:
    agents = found(*(VaccelAgent(name=n, address=f"tcp://{n}:1", sessions=4) for n in ("alpha", "beta")))

    with pytest.raises(PreferenceError, match=reason):
        one_agent(AllocationPolicy.DISTRIBUTED)(named(agents, available), named(agents, required), size)


@given(
    st.lists(st.sets(st.integers(0, 7), max_size=8), min_size=1, max_size=5),
    st.integers(1, 9),
    st.sampled_from(AllocationPolicy),
    st.randoms(use_true_random=False),
)
def test_whatever_is_preferred_can_be_granted(
    free: list[set[int]], size: int, policy: AllocationPolicy, random: object
) -> None:
    agents = found(*(VaccelAgent(name=f"a{n}", address=f"tcp://a:{n}", sessions=8) for n in range(1, len(free) + 1)))
    available = [
        s for each, numbers in zip(agents, free, strict=True) for s in slices_of(each.device, 8) if s.replica in numbers
    ]
    random.shuffle(available)  # type: ignore[attr-defined]  # hypothesis types it as object
    try:
        chosen = one_agent(policy)(available, [], size)
    except PreferenceError:
        assert all(len(numbers) < size for numbers in free)
        return

    assert len({s.id for s in chosen}) == size
    assert set(chosen) <= set(available)
    assert Counter(s.device.id for s in chosen).total() == size
    assert chosen == one_agent(policy)(sorted(available, key=lambda s: s.id), [], size)
    allocator = Allocator({each.device.id: each.agent for each in agents})
    index = {s.id: s for s in available}
    assert allocator.grant(Resource(SESSION, tuple(available)), index, [s.id for s in chosen]).envs
