"""The overlays for FPGAs and vAccel: what they add to the device plugin, and that their parts meet."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from deviceplugin.config.model import Config
from deviceplugin.config.precedence import Overrides, load
from deviceplugin.vaccel import misfits

Objects = list[dict[str, Any]]
Variant = tuple[str, tuple[str, ...]]

UNIX: Final[Variant] = ("vaccel", ())
TCP: Final[Variant] = ("vaccel-tcp", ("kata-vaccel",))
of_vaccel: Final = pytest.mark.parametrize("variant", [UNIX, TCP], ids=["unix", "tcp"], scope="session")


@pytest.fixture
def agent(objects: Objects) -> dict[str, Any]:
    """The agent's pod."""
    spec: dict[str, Any] = named(objects, "DaemonSet", "vaccel-agent")["spec"]["template"]["spec"]
    return spec


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    [only] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return only


def configured(objects: Objects) -> Config:
    return load(named(objects, "ConfigMap", "tasuki-deviceplugin")["data"]["config.yaml"].encode(), Overrides())


@of_vaccel
def test_the_agent_has_no_privilege(agent: dict[str, Any]) -> None:
    [container] = agent["containers"]
    security = container["securityContext"]

    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert agent["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & agent.keys()
    assert agent["automountServiceAccountToken"] is False
    assert agent["enableServiceLinks"] is False


@of_vaccel
def test_agent_and_device_plugin_are_on_the_same_nodes(agent: dict[str, Any], pod: dict[str, Any]) -> None:
    assert agent["nodeSelector"] == pod["nodeSelector"] == {"vaccel": "true"}
    assert "affinity" not in pod


@of_vaccel
def test_the_agent_is_probed(agent: dict[str, Any]) -> None:
    [container] = agent["containers"]

    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


@of_vaccel
def test_two_agents_are_never_on_one_node(objects: Objects) -> None:
    strategy = named(objects, "DaemonSet", "vaccel-agent")["spec"]["updateStrategy"]

    assert strategy["rollingUpdate"]["maxSurge"] == 0


@of_vaccel
def test_the_configured_agent_is_one_that_containers_can_have(objects: Objects) -> None:
    agents = configured(objects).tasuki.vaccel.agents

    assert len(agents) == 1
    assert misfits(agents) == ()


@of_vaccel
def test_the_agent_writes_its_sessions_files(agent: dict[str, Any]) -> None:
    """Its root file system is read-only, and vAccel writes below /run/user/<uid>."""
    [container] = agent["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    writable = {mounts[volume["name"]] for volume in agent["volumes"] if "emptyDir" in volume}

    assert writable == {f"/run/user/{agent['securityContext']['runAsUser']}"}


@pytest.mark.parametrize("variant", [UNIX], ids=["unix"], scope="session")
def test_agent_daemon_and_containers_have_one_path_to_the_socket(
    objects: Objects, agent: dict[str, Any], pod: dict[str, Any]
) -> None:
    [configured_agent] = configured(objects).tasuki.vaccel.agents
    folder = configured_agent.socket.rpartition("/")[0]

    for spec, read_only in ((agent, False), (pod, True)):
        [container] = spec["containers"]
        [volume] = [each for each in spec["volumes"] if each.get("hostPath", {}).get("path") == folder]
        [mount] = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
        assert mount["mountPath"] == folder
        assert mount.get("readOnly", False) == read_only

    [container] = agent["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["ADDRESS"] == configured_agent.address
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == ["test", "-S", configured_agent.socket]


@pytest.mark.parametrize("variant", [UNIX], ids=["unix"], scope="session")
def test_an_old_socket_is_removed_and_the_new_one_is_for_every_user(agent: dict[str, Any]) -> None:
    [container] = agent["containers"]
    *_, script = container["command"]

    assert [step.split()[0] for step in script.split("; ")] == ["rm", "umask", "exec"]
    assert "umask 0;" in script


@pytest.mark.parametrize("variant", [TCP], ids=["tcp"], scope="session")
def test_the_service_leads_to_the_nodes_own_agent(objects: Objects, agent: dict[str, Any]) -> None:
    service = named(objects, "Service", "vaccel-agent")
    [port] = service["spec"]["ports"]
    [container] = agent["containers"]
    [configured_agent] = configured(objects).tasuki.vaccel.agents

    assert service["spec"]["internalTrafficPolicy"] == "Local"
    assert configured_agent.host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert configured_agent.port == port["port"]
    assert port["targetPort"] == container["ports"][0]["name"]
    assert f"tcp://0.0.0.0:{container['ports'][0]['containerPort']}" in container["command"]


@pytest.mark.parametrize("variant", [TCP], ids=["tcp"], scope="session")
def test_only_clients_and_the_device_plugin_reach_the_agent(objects: Objects, daemonset: dict[str, Any]) -> None:
    spec = named(objects, "NetworkPolicy", "vaccel-agent")["spec"]
    labels = named(objects, "DaemonSet", "vaccel-agent")["spec"]["template"]["metadata"]["labels"]
    [rule] = spec["ingress"]
    clients, plugin = rule["from"]

    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    assert "egress" not in spec
    assert clients["podSelector"]["matchLabels"] == {"vaccel.tasuki.dev/client": "true"}
    assert "namespaceSelector" not in plugin
    template = daemonset["spec"]["template"]["metadata"]["labels"]
    assert plugin["podSelector"]["matchLabels"].items() <= template.items()


@pytest.mark.parametrize("variant", [TCP], ids=["tcp"], scope="session")
def test_sandboxes_are_counted_and_go_where_the_runtime_is(objects: Objects) -> None:
    runtime_class = named(objects, "RuntimeClass", "kata-fc-vaccel")

    assert runtime_class["handler"] == "kata-fc-vaccel"
    assert runtime_class["overhead"] == {"podFixed": {"memory": "130Mi", "cpu": "250m"}}
    assert runtime_class["scheduling"] == {"nodeSelector": {"katacontainers.io/kata-runtime": "true"}}


@pytest.mark.parametrize(
    ("variant", "kinds"),
    [
        pytest.param(("fpga", ()), "fpga", id="fpga"),
        pytest.param(UNIX, "vaccel", id="vaccel"),
        pytest.param(TCP, "vaccel", id="vaccel-tcp"),
    ],
    scope="session",
)
def test_only_the_overlays_kind_is_looked_for(environment: Mapping[str, str], kinds: str) -> None:
    """A node without NVIDIA's driver would never be ready for want of it."""
    assert environment["TASUKI_KINDS"] == kinds


@pytest.mark.parametrize("variant", [("fpga", ())], ids=["fpga"], scope="session")
def test_fpgas_are_looked_for_without_privilege(container: dict[str, Any]) -> None:
    assert "privileged" not in container["securityContext"]
    assert [mount for mount in container["volumeMounts"] if mount["mountPath"].startswith("/dev")] == [
        {"name": "dev", "mountPath": "/dev", "readOnly": True}
    ]
    # The kubelet mounts this file, for which there must be a place.
    assert not container["terminationMessagePath"].startswith("/dev/")


@pytest.mark.parametrize("variant", [("fpga", ("fpga-firmware",))], ids=["firmware"], scope="session")
def test_firmware_is_written_outside_the_containers_own_sys(
    container: dict[str, Any], environment: Mapping[str, str]
) -> None:
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}

    assert mounts[environment["TASUKI_SYSFS_ROOT"]] is False
    assert mounts["/lib/firmware"] is False
    assert mounts[environment["TASUKI_BITSTREAMS"]] is True
    assert "/sys" not in mounts


def test_fpga_nodes_are_those_with_one(render: Callable[[Variant], Objects]) -> None:
    pod = named(render(("fpga", ())), "DaemonSet", "tasuki-deviceplugin")["spec"]["template"]["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    assert [each["key"] for term in terms for each in term["matchExpressions"]] == [
        "fpga.tasuki.dev/present",
        "feature.node.kubernetes.io/pci-1200_8086.present",
        "feature.node.kubernetes.io/pci-1200_10ee.present",
        "feature.node.kubernetes.io/pci-10ee.present",
    ]
