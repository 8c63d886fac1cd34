from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Json, admit, container, pod, scene
from tests.webhooks.mutations.api_server import again
from webhooks.editing import ReservedNameError
from webhooks.mutations.vaccel import vaccel
from webhooks.policy.model import Policy, SharedNodes, Vaccel, VaccelSandbox, VaccelSidecar
from webhooks.scene import NOTHING, RefusedError

SESSION = "vaccel.tasuki.dev/session"
AGENT = "tasuki-vaccel-agent"
SOCKET = "unix:///var/run/tasuki-vaccel/vaccel.sock"
EVERYTHING = Vaccel(sidecar=VaccelSidecar(image="vaccel-rpc-agent:0.5"), sandbox=VaccelSandbox())
OFFERED = scene(Policy(vaccel=EVERYTHING))


def wanting(mode: str, *containers: Json, annotations: dict[str, str] | None = None, **fields: Any) -> Json:
    return pod(*containers, annotations={"tasuki.dev/vaccel": mode} | (annotations or {}), **fields)


def env_of(found: Json) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in found.get("env", [])}


def asking(name: str = "main", **fields: Any) -> Json:
    return container(name, resources={"limits": {SESSION: "2"}, "requests": {SESSION: "2"}}, **fields)


# A session of the node's agent


def test_a_session_is_requested_and_the_pod_labelled_as_client() -> None:
    admitted = admit(vaccel, wanting("session"), OFFERED)

    [main] = admitted.pod["spec"]["containers"]
    assert main["resources"] == {"limits": {SESSION: "1"}, "requests": {SESSION: "1"}}
    assert admitted.pod["metadata"]["labels"] == {"vaccel.tasuki.dev/client": "true"}


def test_the_device_plugins_environment_is_not_overridden() -> None:
    admitted = admit(vaccel, wanting("session"), OFFERED)

    assert "env" not in admitted.pod["spec"]["containers"][0]
    assert "volumes" not in admitted.pod["spec"]


def test_other_resources_stay_beside_the_session() -> None:
    resources = {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}, "claims": [{"name": "claim"}]}
    before = wanting("session", container(resources=resources), resourceClaims=[{"name": "claim"}])

    admitted = admit(vaccel, before, OFFERED)

    assert admitted.pod["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "1", SESSION: "1"},
        "requests": {"cpu": "1", SESSION: "1"},
        "claims": [{"name": "claim"}],
    }


def test_a_container_that_asks_already_keeps_what_it_asks_for() -> None:
    admitted = admit(vaccel, wanting("session", container("first"), asking("second")), OFFERED)

    first, second = admitted.pod["spec"]["containers"]
    assert "resources" not in first
    assert second["resources"]["limits"] == {SESSION: "2"}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        pytest.param("two", "two", id="the default container"),
        pytest.param("none", "one", id="the first, where there is none of that name"),
        pytest.param("", "one", id="the first"),
    ],
)
def test_one_container_gets_the_session(named: str, expected: str) -> None:
    annotations = {"kubectl.kubernetes.io/default-container": named}

    admitted = admit(vaccel, wanting("session", container("one"), container("two"), annotations=annotations), OFFERED)

    assert [c["name"] for c in admitted.pod["spec"]["containers"] if "resources" in c] == [expected]


def test_a_session_whose_address_the_container_overrides_is_told() -> None:
    admitted = admit(vaccel, wanting("session", container(env={"VACCEL_RPC_ADDRESS": "tcp://mine:1"})), OFFERED)

    assert admitted.change.warnings == (
        "container 'main' sets VACCEL_RPC_ADDRESS itself, which goes before its session's",
    )


def test_a_label_that_had_to_change_is_told() -> None:
    admitted = admit(vaccel, wanting("session", labels={"vaccel.tasuki.dev/client": "no"}), OFFERED)

    [warning] = admitted.change.warnings
    assert "'vaccel.tasuki.dev/client' became 'true'" in warning


def test_a_session_on_a_shared_node_is_refused() -> None:
    before = wanting("session", annotations={"tasuki.dev/gpu-sharing": "shared-node"})

    with pytest.raises(RefusedError, match="leave one of the annotations out"):
        admit(vaccel, before, scene(Policy(vaccel=EVERYTHING, shared_nodes=SharedNodes())))


# An agent in the pod


def test_the_agent_is_a_native_sidecar_in_front_of_the_init_containers() -> None:
    admitted = admit(vaccel, wanting("sidecar", init=(container("fetch"),)), OFFERED)

    agent, fetch = admitted.pod["spec"]["initContainers"]
    assert (agent["name"], agent["image"], agent["restartPolicy"]) == (AGENT, "vaccel-rpc-agent:0.5", "Always")
    assert env_of(agent) == {"ADDRESS": SOCKET, "PLUGINS": "libvaccel-noop.so"}
    assert fetch["name"] == "fetch"


def test_the_pods_containers_start_when_the_agent_listens() -> None:
    admitted = admit(vaccel, wanting("sidecar"), OFFERED)

    [agent] = admitted.pod["spec"]["initContainers"]
    assert agent["startupProbe"]["exec"]["command"] == ["test", "-S", "/var/run/tasuki-vaccel/vaccel.sock"]


def test_every_container_is_led_to_the_agent() -> None:
    admitted = admit(vaccel, wanting("sidecar", container("a"), container("b"), init=(container("c"),)), OFFERED)

    spec = admitted.pod["spec"]
    for each in (spec["initContainers"][1], *spec["containers"]):
        assert env_of(each) == {"VACCEL_RPC_ADDRESS": SOCKET, "VACCEL_PLUGINS": "libvaccel-rpc.so"}
        mount = {"name": "tasuki-vaccel", "mountPath": "/var/run/tasuki-vaccel", "readOnly": True}
        assert each["volumeMounts"] == [mount]


@pytest.mark.parametrize("name", ["tasuki-modules", "tasuki-modules-2"])
def test_what_tasuki_itself_adds_is_not_led_to_the_agent(name: str) -> None:
    loader = container(name, volumeMounts=[{"name": "tasuki-modules", "mountPath": "/var/run/tasuki.dev/modules"}])
    before = wanting("sidecar", init=(loader,), volumes=[{"name": "tasuki-modules", "emptyDir": {}}])

    admitted = admit(vaccel, before, OFFERED)

    assert admitted.pod["spec"]["initContainers"][1] == loader


@pytest.mark.parametrize("name", ["tasuki-fetch", "tasuki-modules", "tasuki-modules-mine"])
def test_an_init_container_of_the_user_is_led_to_the_agent_whatever_its_name(name: str) -> None:
    admitted = admit(vaccel, wanting("sidecar", init=(container(name),)), OFFERED)

    assert env_of(admitted.pod["spec"]["initContainers"][1])["VACCEL_RPC_ADDRESS"] == SOCKET


def test_a_container_with_a_session_keeps_the_sessions_agent() -> None:
    admitted = admit(vaccel, wanting("sidecar", asking("own"), container("other")), OFFERED)

    own, other = admitted.pod["spec"]["containers"]
    assert "env" not in own
    assert "VACCEL_RPC_ADDRESS" in env_of(other)


@pytest.mark.parametrize(
    ("mode", "address"),
    [
        pytest.param("sidecar", SOCKET, id="an agent in the pod"),
        pytest.param("sandbox", "vsock://2:2048", id="a sandbox"),
    ],
)
def test_a_container_that_loses_its_session_to_a_shared_node_is_led_to_the_agent(mode: str, address: str) -> None:
    before = wanting(mode, asking(), annotations={"tasuki.dev/gpu-sharing": "shared-node"})

    admitted = admit(vaccel, before, scene(Policy(vaccel=EVERYTHING, shared_nodes=SharedNodes())))

    assert env_of(admitted.pod["spec"]["containers"][0])["VACCEL_RPC_ADDRESS"] == address


def test_a_container_with_an_agent_of_its_own_keeps_it() -> None:
    admitted = admit(vaccel, wanting("sidecar", container(env={"VACCEL_RPC_ADDRESS": "tcp://mine:1"})), OFFERED)

    assert env_of(admitted.pod["spec"]["containers"][0])["VACCEL_RPC_ADDRESS"] == "tcp://mine:1"
    [warning] = admitted.change.warnings
    assert "keeps its own VACCEL_RPC_ADDRESS" in warning


RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize(
    ("of_pod", "of_container", "expected"),
    [
        pytest.param({"runAsNonRoot": True, "runAsUser": 1000}, {}, {}, id="the pod says who it is"),
        pytest.param(
            {},
            {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 100},
            {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 100},
            id="the container says who it is",
        ),
    ],
)
def test_a_restricted_pod_stays_restricted(of_pod: Json, of_container: Json, expected: Json) -> None:
    before = wanting("sidecar", container(securityContext=RESTRICTED | of_container), securityContext=of_pod)

    admitted = admit(vaccel, before, OFFERED)

    [agent] = admitted.pod["spec"]["initContainers"]
    assert agent["securityContext"] == RESTRICTED | {"readOnlyRootFilesystem": True} | expected


def test_a_guaranteed_pod_stays_guaranteed() -> None:
    admitted = admit(vaccel, wanting("sidecar"), OFFERED)

    [agent] = admitted.pod["spec"]["initContainers"]
    assert agent["resources"]["limits"] == agent["resources"]["requests"] == {"cpu": "100m", "memory": "128Mi"}


@pytest.mark.parametrize(
    ("of_pod", "expected"),
    [
        pytest.param(
            {"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "1", "memory": "4Gi"}},
            {},
            id="the pod has both",
        ),
        pytest.param({"requests": {"cpu": "1"}}, {"memory": "128Mi"}, id="the pod requests one"),
        pytest.param({"limits": {"memory": "1Gi"}}, {"cpu": "100m"}, id="the pod limits one"),
    ],
)
def test_the_agent_has_its_share_of_what_the_pod_has_as_a_whole(of_pod: Json, expected: dict[str, str]) -> None:
    admitted = admit(vaccel, wanting("sidecar", resources=of_pod), OFFERED)

    [agent] = admitted.pod["spec"]["initContainers"]
    assert agent["resources"] == ({"limits": expected, "requests": expected} if expected else {})


def test_the_agents_accelerator_is_the_policys() -> None:
    resources = {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}
    sidecar = VaccelSidecar(image="agent", plugins=("torch", "/opt/mine.so", "libvaccel-tf.so.1"), resources=resources)

    admitted = admit(vaccel, wanting("sidecar"), scene(Policy(vaccel=Vaccel(sidecar=sidecar))))

    [agent] = admitted.pod["spec"]["initContainers"]
    assert agent["resources"] == resources
    assert env_of(agent)["PLUGINS"] == "libvaccel-torch.so:/opt/mine.so:libvaccel-tf.so.1"


def test_a_container_of_the_agents_name_is_refused() -> None:
    with pytest.raises(ReservedNameError, match=AGENT):
        admit(vaccel, wanting("sidecar", container(AGENT)), OFFERED)


# A sandbox


def test_a_sandbox_is_a_runtime_class_with_its_labels_and_nodes() -> None:
    admitted = admit(vaccel, wanting("sandbox"), OFFERED)

    spec = admitted.pod["spec"]
    assert spec["runtimeClassName"] == "kata-fc-vaccel"
    assert spec["nodeSelector"] == {"vaccel": "true"}
    assert admitted.pod["metadata"]["labels"] == {"vaccel": "true"}
    assert env_of(spec["containers"][0]) == {
        "VACCEL_RPC_ADDRESS": "vsock://2:2048",
        "VACCEL_PLUGINS": "libvaccel-rpc.so",
    }
    assert "overhead" not in spec


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"runtimeClassName": "gvisor"}, "the pod has 'gvisor'", id="another runtime class"),
        pytest.param({"nodeSelector": {"vaccel": "false"}}, "nodeSelector has 'false'", id="other nodes"),
    ],
)
def test_a_sandbox_that_conflicts_with_the_pod_is_refused(fields: Json, expected: str) -> None:
    with pytest.raises(RefusedError, match=expected):
        admit(vaccel, wanting("sandbox", **fields), OFFERED)


def test_a_pod_that_has_the_sandbox_already_gets_the_rest() -> None:
    before = wanting("sandbox", runtimeClassName="kata-fc-vaccel", nodeSelector={"vaccel": "true", "zone": "a"})

    admitted = admit(vaccel, before, OFFERED)

    assert admitted.pod["spec"]["nodeSelector"] == {"vaccel": "true", "zone": "a"}
    assert "VACCEL_RPC_ADDRESS" in env_of(admitted.pod["spec"]["containers"][0])


# All of them


@pytest.mark.parametrize("mode", ["session", "sidecar", "sandbox"])
def test_the_second_round_of_admission_finds_nothing_to_do(mode: str) -> None:
    admitted = admit(vaccel, wanting(mode, container(), asking("other"), init=(container("fetch"),)), OFFERED)

    change = again(vaccel, admitted.pod, OFFERED)

    assert (change.operations, change.warnings) == ((), ())


@pytest.mark.parametrize(
    ("policy", "mode", "expected"),
    [
        pytest.param(None, "session", "offers no vAccel", id="no vAccel at all"),
        pytest.param(Vaccel(session=""), "session", "offers no vAccel", id="no mode at all"),
        pytest.param(Vaccel(), "sidecar", "is not offered here; write session", id="a mode that is not offered"),
        pytest.param(EVERYTHING, "sesion", "is it 'session'? write session, sidecar or sandbox", id="misspelt"),
        pytest.param(EVERYTHING, "Sidecar", "is it 'sidecar'?", id="upper case"),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(policy: Vaccel | None, mode: str, expected: str) -> None:
    with pytest.raises(RefusedError, match=r"tasuki\.dev/vaccel") as refused:
        admit(vaccel, wanting(mode), scene(Policy(vaccel=policy)))

    assert expected in str(refused.value)


@pytest.mark.parametrize("mode", ["session", "sidecar", "sandbox"])
def test_a_windows_pod_is_refused(mode: str) -> None:
    with pytest.raises(RefusedError, match=r"is for Linux, and spec\.os\.name of the pod is windows; leave the"):
        admit(vaccel, wanting(mode, os={"name": "windows"}), OFFERED)


def test_a_pod_without_the_annotation_is_left_alone() -> None:
    assert admit(vaccel, pod(asking()), OFFERED).change is NOTHING


@pytest.mark.parametrize("mode", ["", " \n"], ids=["empty", "white space"])
def test_an_annotation_without_a_word_asks_for_nothing(mode: str) -> None:
    assert admit(vaccel, wanting(mode), scene()).change is NOTHING


@settings(max_examples=50, deadline=None)
@given(mode=st.text(max_size=200))
def test_any_other_mode_is_refused_on_one_line(mode: str) -> None:
    with pytest.raises(RefusedError) as refused:
        admit(vaccel, wanting(f"{mode}?"), OFFERED)

    assert str(refused.value).isprintable()
