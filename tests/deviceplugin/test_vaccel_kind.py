"""The kind as its loop drives it: the loop's calls, over real sockets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deviceplugin import vaccel_kind
from deviceplugin.config.model import AllocationPolicy, Config, Flags, PluginFlags, TasukiOptions, VaccelAgent
from deviceplugin.config.model import VaccelOptions as Options
from deviceplugin.container import RefusedError
from deviceplugin.discovery.vaccel import Prober
from deviceplugin.health import Ailment, HealthBook, Part
from deviceplugin.kind import Kind, Offered
from deviceplugin.vaccel import Agents
from deviceplugin.vaccel_kind import VaccelKind
from tests.deviceplugin.discovery.vaccel.agents import FakeAgent, an_agent, silent


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because a socket's path has 107 bytes at most."""
    with TemporaryDirectory(prefix="vaccel", dir="/tmp") as path:
        yield Path(path)


class Driven:
    """A kind, and how often it asked for a scan."""

    def __init__(self) -> None:
        self.rescans = 0
        self.kind = VaccelKind(self._rescan, Prober(0.5))

    def _rescan(self) -> None:
        self.rescans += 1

    def offered(self, config: Config) -> Offered:
        """As the loop does it: a plan, and another after a scan if one was asked for."""
        before = self.rescans
        made = self.kind.plan(self.kind.scan(), HealthBook(), config, "")
        if self.rescans > before:
            made = self.kind.plan(self.kind.scan(), HealthBook(), config, "")
        return made


@pytest.fixture
def driven() -> Iterator[Driven]:
    driven = Driven()
    yield driven
    driven.kind.close()


def configured(*agents: VaccelAgent, policy: AllocationPolicy = AllocationPolicy.DISTRIBUTED) -> Config:
    return Config(
        flags=Flags(plugin=PluginFlags(shared_devices_allocation_policy=policy)),
        tasuki=TasukiOptions(vaccel=Options(agents=agents)),
    )


def healths(offered: Offered) -> dict[str, bool]:
    return {device.id: device.health.healthy for device in offered.devices}


def test_it_is_a_kind(driven: Driven) -> None:
    kind: Kind[Agents] = driven.kind

    assert kind.name == "vaccel"


def test_sessions_of_all_agents_are_one_resource(driven: Driven, folder: Path) -> None:
    with FakeAgent.unix(folder / "a") as one, FakeAgent.tcp() as other:
        config = configured(an_agent(one.address, "one", sessions=2), an_agent(other.address, "other", sessions=1))

        offered = driven.offered(config)

    [resource] = offered.resources
    assert resource.name == "vaccel.tasuki.dev/session"
    assert [s.id for s in resource.slices] == ["vaccel-one::0", "vaccel-one::1", "vaccel-other::0"]
    assert healths(offered) == {"vaccel-one": True, "vaccel-other": True}
    assert (offered.start, offered.problems, offered.misfits, offered.trouble) == (None, (), (), "")
    index = {s.id: s for s in resource.slices}
    assert offered.grant(resource, index, ["vaccel-other::0"]).envs["VACCEL_RPC_ADDRESS"] == other.address


def test_without_agents_nothing_is_offered_or_asked(driven: Driven) -> None:
    offered = driven.offered(configured())

    assert (offered.resources, offered.devices, offered.labels, driven.rescans) == ((), (), {}, 0)
    assert offered.waiting == ""


def test_agents_that_nobody_has_asked_yet_are_not_offered(driven: Driven, folder: Path) -> None:
    config = configured(an_agent(f"unix://{folder}/a"))

    offered = driven.kind.plan(driven.kind.scan(), HealthBook(), config, "")

    assert (offered.resources, offered.devices) == ((), ())
    assert offered.waiting == "no vAccel agent has been asked yet whether it answers"
    assert driven.rescans == 1


def test_a_configuration_is_scanned_for_once(driven: Driven, folder: Path) -> None:
    config, found = configured(an_agent(f"unix://{folder}/a")), driven.kind.scan()

    for _ in range(3):
        driven.kind.plan(found, HealthBook(), config, "")

    assert driven.rescans == 1


def test_an_agent_comes_goes_and_comes_again(driven: Driven, folder: Path) -> None:
    config = configured(an_agent(f"unix://{folder}/a", plugins=("noop",)))
    before = driven.offered(config)
    with FakeAgent.unix(folder / "a"):
        present = driven.offered(config)
    gone = driven.offered(config)
    with FakeAgent.unix(folder / "a"):
        again = driven.offered(config)

    assert [healths(o)["vaccel-local"] for o in (before, present, gone, again)] == [False, True, False, True]
    assert [len(o.resources[0].slices) for o in (before, present, gone, again)] == [4] * 4
    # Not before it is there, and not taken away for a restart.
    assert [bool(o.labels) for o in (before, present, gone, again)] == [False, True, True, True]
    assert "no such socket" in before.devices[0].health.reason
    assert "no agent listens at it" in gone.devices[0].health.reason


def test_what_the_health_book_remembers_does_not_keep_an_agent_away(driven: Driven, folder: Path) -> None:
    with FakeAgent.unix(folder / "a") as fake:
        config = configured(an_agent(fake.address))
        driven.offered(config)
        book = HealthBook({Part("vaccel-local"): Ailment("it was gone")})

        offered = driven.kind.plan(driven.kind.scan(), book, config, "")

    assert healths(offered) == {"vaccel-local": True}


def test_an_agent_that_answers_again_is_taken_out_of_the_health_book(driven: Driven, folder: Path) -> None:
    with FakeAgent.unix(folder / "a") as fake:
        driven.offered(configured(an_agent(fake.address), an_agent(f"unix://{folder}/b", "other")))
        after = driven.kind.scan()
    book = HealthBook({Part(f"vaccel-{name}"): Ailment("it was gone") for name in ("local", "other", "removed")})

    assert driven.kind.settled(book, Agents(), after).ailing == ("vaccel-other",)


def test_a_change_of_sessions_needs_no_answer_first(driven: Driven, folder: Path) -> None:
    with FakeAgent.unix(folder / "a") as fake:
        driven.offered(configured(an_agent(fake.address, sessions=1)))
        found = driven.kind.scan()

        offered = driven.kind.plan(found, HealthBook(), configured(an_agent(fake.address, sessions=3)), "")

    assert len(offered.resources[0].slices) == 3
    assert healths(offered) == {"vaccel-local": True}


def test_an_agent_taken_out_of_the_configuration_is_not_offered(driven: Driven, folder: Path) -> None:
    with FakeAgent.unix(folder / "a") as one, FakeAgent.unix(folder / "b") as other:
        both = an_agent(one.address, "one"), an_agent(other.address, "other")
        driven.offered(configured(*both))

        offered = driven.offered(configured(both[1]))

    assert healths(offered) == {"vaccel-other": True}


def test_trouble_keeps_everything_back(driven: Driven, folder: Path) -> None:
    with FakeAgent.unix(folder / "a") as fake:
        config = configured(an_agent(fake.address))
        driven.offered(config)

        offered = driven.kind.plan(driven.kind.scan(), HealthBook(), config, "away")

    assert offered.devices[0].health.reason == "away"


def test_a_socket_among_others_files_is_refused(driven: Driven) -> None:
    config = configured(an_agent("unix:///run/vaccel.sock"))

    offered = driven.offered(config)

    assert offered.resources == ()
    assert driven.kind.check(Agents(), config) == offered.misfits
    assert "all of /run" in offered.misfits[0]


def test_more_sessions_than_a_list_holds_are_refused(driven: Driven) -> None:
    agents = [an_agent(f"tcp://agent:{n}", "x" * 60 + str(n), sessions=60_000) for n in range(1, 4)]

    [misfit] = driven.kind.check(Agents(), configured(*agents))

    assert "vaccel.tasuki.dev/session" in misfit


@pytest.mark.parametrize("policy", list(AllocationPolicy))
def test_the_configured_policy_chooses(driven: Driven, folder: Path, policy: AllocationPolicy) -> None:
    with FakeAgent.unix(folder / "a") as one, FakeAgent.unix(folder / "b") as other:
        config = configured(an_agent(one.address, "one"), an_agent(other.address, "other"), policy=policy)
        offered = driven.offered(config)
    [resource] = offered.resources
    taken, *available = resource.slices

    [chosen] = offered.policy(resource)(available, [], 1)

    assert (chosen.device.id == taken.device.id) == (policy is AllocationPolicy.PACKED)


def test_nothing_is_granted_while_the_agent_is_away(driven: Driven, folder: Path) -> None:
    offered = driven.offered(configured(an_agent(f"unix://{folder}/a")))
    [resource] = offered.resources

    with pytest.raises(RefusedError, match="no such socket"):
        offered.grant(resource, {s.id: s for s in resource.slices}, ["vaccel-local::0"])


@contextmanager
def looking(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """The loop's fault thread; yields how many scans were asked for."""
    monkeypatch.setattr(vaccel_kind, "_LOOK_SECONDS", 0.0)
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            assert driven.kind.wait_for_faults(0.02) == []

    thread = threading.Thread(target=follow)
    thread.start()
    yield lambda: driven.rescans
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_scan_is_asked_for_when_an_agent_appears(
    driven: Driven, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven.offered(configured(an_agent(f"unix://{folder}/a")))
    asked = driven.rescans
    with looking(driven, monkeypatch) as rescans, FakeAgent.unix(folder / "a"):
        wait_until(lambda: rescans() > asked)


def test_a_scan_is_asked_for_when_an_agent_dies(driven: Driven, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeAgent.unix(folder / "a") as fake:
        driven.offered(configured(an_agent(fake.address)))
    asked = driven.rescans

    with looking(driven, monkeypatch) as rescans:
        wait_until(lambda: rescans() > asked)


def test_nothing_is_asked_for_while_nothing_changes(
    driven: Driven, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeAgent.unix(folder / "a") as fake:
        driven.offered(configured(an_agent(fake.address)))
        asked, requests = driven.rescans, len(fake.requests)
        with looking(driven, monkeypatch) as rescans:
            wait_until(lambda: len(fake.requests) > requests + 5)

            assert rescans() == asked


def test_closing_ends_a_wait(driven: Driven, folder: Path) -> None:
    with FakeAgent.unix(folder / "a", silent) as fake:
        driven.offered(configured(an_agent(fake.address)))
        waiting = threading.Thread(target=driven.kind.wait_for_faults, args=(60.0,))
        waiting.start()

        driven.kind.close()

        waiting.join(10)
        assert not waiting.is_alive()


@pytest.mark.parametrize("present", [True, False], ids=["well", "away"])
def test_a_probe_is_a_finding(driven: Driven, folder: Path, present: bool) -> None:
    with FakeAgent.unix(folder / "a") as fake:
        driven.offered(configured(an_agent(fake.address)))
        if present:
            assert driven.kind.probe("vaccel-local") == ""
    if not present:
        assert "no agent listens at it" in driven.kind.probe("vaccel-local")
    assert driven.kind.probe("vaccel-other") == "it is not configured any more"


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail(f"not so within {seconds} s")
