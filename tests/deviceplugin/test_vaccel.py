import pytest

from deviceplugin.config.model import VaccelAgent
from deviceplugin.vaccel import FoundAgent, is_shared_folder, labels, misfits
from tasuki.devices.model import HEALTHY, DeviceKind, unhealthy


def an_agent(name: str, *plugins: str, version: str = "", answered: bool = True) -> FoundAgent:
    agent = VaccelAgent(name=name, address=f"tcp://{name}:1", sessions=1, plugins=plugins, version=version)
    return FoundAgent(agent, 0, HEALTHY, answered=answered)


def test_an_agent_is_a_device() -> None:
    device = an_agent("local", version="0.5.0").device

    assert (device.id, device.kind, device.index) == ("vaccel-local", DeviceKind.VACCEL, "0")
    assert device.model == "vAccel agent 0.5.0"
    assert an_agent("local").device.model == "vAccel agent"


def test_labels_tell_plugins_and_version() -> None:
    assert labels([an_agent("a", "torch", "noop", version="0.5.0")]) == {
        "vaccel.tasuki.dev/plugin.noop": "true",
        "vaccel.tasuki.dev/plugin.torch": "true",
        "vaccel.tasuki.dev/agent-version": "0.5.0",
    }


@pytest.mark.parametrize(
    ("agents", "expected"),
    [
        pytest.param([an_agent("a", "noop", "torch"), an_agent("b", "torch")], ["plugin.torch"], id="what all have"),
        pytest.param([an_agent("a", "torch"), an_agent("b")], [], id="nobody says what one has"),
        pytest.param([an_agent("a", "torch"), an_agent("b", answered=False)], ["plugin.torch"], id="one never seen"),
        pytest.param([an_agent("a", "torch", answered=False)], [], id="none ever seen"),
        pytest.param([an_agent("a", version="1"), an_agent("b", version="2")], [], id="different versions"),
        pytest.param([an_agent("a", version="1"), an_agent("b", version="1")], ["agent-version"], id="one version"),
        pytest.param([an_agent("a", version="1"), an_agent("b")], [], id="one unknown version"),
        pytest.param([], [], id="no agents"),
    ],
)
def test_labels_promise_what_every_session_has(agents: list[FoundAgent], expected: list[str]) -> None:
    assert sorted(labels(agents)) == [f"vaccel.tasuki.dev/{name}" for name in expected]


def test_labels_stay_while_an_agent_is_away_for_a_moment() -> None:
    agent = VaccelAgent(name="a", address="tcp://a:1", sessions=1, plugins=("torch",))

    assert labels([FoundAgent(agent, 0, unhealthy("gone"), answered=True)])


@pytest.mark.parametrize(
    "folder",
    [
        *(
            "/",
            "/run",
            "/var/run",
            "/tmp",
            "/var/tmp",
            "/var/lib",
            "/etc",
            "/etc/kubernetes",
            "/dev/shm",
            "/proc/1/root",
        ),
        *("/run/containerd", "/var/run/crio", "/run/user", "/var/lib/kubelet", "/usr/lib"),
    ],
)
def test_folders_of_others_are_not_given_to_containers(folder: str) -> None:
    assert is_shared_folder(folder)


@pytest.mark.parametrize("folder", ["/run/vaccel", "/var/run/vaccel", "/var/lib/vaccel", "/tmp/vaccel", "/opt/a/b"])
def test_a_folder_of_its_own_is_given(folder: str) -> None:
    assert not is_shared_folder(folder)


def test_an_agent_in_a_folder_of_others_does_not_fit() -> None:
    [problem] = misfits(
        [
            VaccelAgent(name="good", address="unix:///run/vaccel/vaccel.sock", sessions=1),
            VaccelAgent(name="bad", address="unix:///run/vaccel.sock", sessions=1),
            VaccelAgent(name="tcp", address="tcp://run:1", sessions=1),
        ]
    )

    assert "bad: containers would be given all of /run" in problem
