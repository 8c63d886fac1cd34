"""What the proxies' and the control plane's manifests come to, and that they fit each other and the service."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from objectcache.xds import settings
from objectcache.xds.bootstrap import Bootstrap, document, text
from objectcache.xds.settings import Settings

# Their fixtures, which unpack the kubectl that the tests bring along.
from tests.manifests.conftest import build, kubectl  # noqa: F401 - pytest finds fixtures by their names

FOLDER = Path(__file__).parents[3] / "manifests/objectcache"
Objects = list[dict[str, Any]]
DEFAULT = Bootstrap()


@pytest.fixture(scope="module")
def objects(build: Callable[[Path], Objects]) -> Objects:  # noqa: F811 - a fixture is a parameter
    return [*build(FOLDER / "envoy"), *build(FOLDER / "xds")]


def one(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def workload(objects: Objects, kind: str, name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """The pod, its container, and the container's ports by name."""
    pod = one(objects, kind, name)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    return pod, container, {each["name"]: each["containerPort"] for each in container["ports"]}


def test_each_object_is_valid(objects: Objects) -> None:
    for each in objects:
        assert kubernetes_validate.validate(each, "1.36", strict=True)


def test_the_bootstrap_is_what_the_command_prints(objects: Objects) -> None:
    comment, _, rest = (FOLDER / "envoy/bootstrap.yaml").read_text().partition("\n")
    [mounted] = [each for each in objects if each["kind"] == "ConfigMap"]

    assert comment.startswith("#")
    assert rest == text(DEFAULT)
    assert mounted["data"]["bootstrap.yaml"].endswith(rest)


def test_envoy_reads_it_and_says_its_node(objects: Objects) -> None:
    pod, container, _ = workload(objects, "DaemonSet", "tasuki-envoy")
    [volume] = pod["volumes"]
    [mounted] = [each for each in objects if each["kind"] == "ConfigMap"]
    [mount] = container["volumeMounts"]
    arguments = container["command"]

    assert volume["configMap"]["name"] == mounted["metadata"]["name"]
    assert arguments[arguments.index("--config-path") + 1] == f"{mount['mountPath']}/bootstrap.yaml"
    assert arguments[arguments.index("--service-node") + 1] == "$(NODE_NAME)"
    assert container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


def test_the_control_plane_runs_with_its_settings(objects: Objects) -> None:
    _, container, ports = workload(objects, "Deployment", "tasuki-xds")
    program, service, *arguments = container["command"]
    read = settings.read(arguments, {each["name"]: each["value"] for each in container["env"]})

    assert (program, service) == ("tasuki", "xds")
    assert read == Settings(log_format="json")
    assert read.metrics_address is not None
    assert ports == {"xds": read.listen[1], "metrics": read.metrics_address[1]}


def test_ports_and_names_agree(objects: Objects) -> None:
    defaults = Settings()
    _, _, proxy = workload(objects, "DaemonSet", "tasuki-envoy")
    service = one(objects, "Service", "tasuki-xds")
    clients = one(objects, "Service", "tasuki-cache")
    egress = one(objects, "NetworkPolicy", "tasuki-envoy")["spec"]["egress"]

    assert DEFAULT.operator is not None
    assert proxy == {"http": defaults.envoy_listen[1], "metrics": DEFAULT.operator[1]}
    assert (service["metadata"]["name"], defaults.listen[1]) == DEFAULT.xds
    assert service["spec"]["ports"][0]["port"] == defaults.listen[1]
    assert clients["spec"]["internalTrafficPolicy"] == "Local"
    allowed = {
        each["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]: each["ports"][0]["port"]
        for each in egress
        if "to" in each
    }
    assert allowed == {"tasuki-cache": defaults.cache_port, "tasuki-xds": defaults.listen[1]}
    assert defaults.selector == "app.kubernetes.io/name=tasuki-cache"


def test_the_admin_interface_is_on_loopback_only() -> None:
    address = document(DEFAULT)["admin"]["address"]["socket_address"]["address"]

    assert address == "127.0.0.1"


def test_pods_are_restricted(objects: Objects) -> None:
    for kind, name in (("DaemonSet", "tasuki-envoy"), ("Deployment", "tasuki-xds")):
        pod, container, _ = workload(objects, kind, name)

        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert not pod.get("hostNetwork")


def test_rights_are_two_watches(objects: Objects) -> None:
    rules = [
        (each["kind"], rule["resources"], rule["verbs"])
        for each in objects
        if each["kind"] in {"Role", "ClusterRole"}
        for rule in each["rules"]
    ]

    assert sorted(rules) == [("ClusterRole", ["nodes"], ["list", "watch"]), ("Role", ["pods"], ["list", "watch"])]
