from collections.abc import Mapping
from typing import Any

import pytest

from deviceplugin import settings
from deviceplugin.config.flags import FLAGS
from deviceplugin.config.model import DeviceListStrategy
from deviceplugin.config.precedence import load
from tasuki.cli import SERVICES

Objects = list[dict[str, Any]]
Variant = tuple[str, tuple[str, ...]]

# Read by the Kubernetes client, NVIDIA's runtime and the dynamic loader, not by us.
FOREIGN = {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_MIG_MONITOR_DEVICES", "LD_LIBRARY_PATH"}


def read(container: dict[str, Any], environment: Mapping[str, str]) -> settings.Settings:
    _, _, *arguments = container["command"]
    return settings.read([*arguments, *container.get("args", [])], {**environment, "NODE_NAME": "worker-1"})


def test_the_image_is_started_as_a_service(container: dict[str, Any]) -> None:
    program, service, *_ = container["command"]

    assert program == "tasuki"
    assert service in SERVICES


def test_every_variable_is_one_that_somebody_reads(environment: Mapping[str, str]) -> None:
    ours = {option.variable for option in settings._OPTIONS} | {name for flag in FLAGS for name in flag.variables}

    assert environment.keys() - ours - FOREIGN == set()


def test_the_daemon_starts_with_these_settings(container: dict[str, Any], environment: Mapping[str, str]) -> None:
    chosen = read(container, environment)

    assert chosen.node_name == "worker-1"
    assert chosen.log_format == "json"
    assert chosen.notices == ()


def test_the_nodes_name_is_kubernetes_own(environment: Mapping[str, str]) -> None:
    assert environment["NODE_NAME"] == "spec.nodeName"


def test_every_configuration_is_valid_under_the_daemons_environment(
    container: dict[str, Any], environment: Mapping[str, str], objects: Objects
) -> None:
    [config_map] = [each for each in objects if each["kind"] == "ConfigMap"]

    for content in config_map["data"].values():
        config = load(content.encode(), read(container, environment).overrides)

        assert config.sharing is not None


def test_the_configuration_is_where_it_is_mounted(
    container: dict[str, Any], environment: Mapping[str, str], objects: Objects, variant: Variant
) -> None:
    [config_map] = [each for each in objects if each["kind"] == "ConfigMap"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "config"]
    chosen = read(container, environment)

    if "config-by-label" in variant[1]:
        assert str(chosen.config_dir) == mount["mountPath"]
        assert chosen.default_config in config_map["data"]
    else:
        assert chosen.config_file is not None
        assert str(chosen.config_file.parent) == mount["mountPath"]
        assert chosen.config_file.name in config_map["data"]


def test_sockets_and_specifications_are_where_the_host_is_mounted(
    container: dict[str, Any], environment: Mapping[str, str]
) -> None:
    chosen = read(container, environment)
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    readable = {mount["mountPath"] for mount in container["volumeMounts"]}

    assert chosen.kubelet_socket is not None
    assert str(chosen.kubelet_socket.parent) in writable
    assert str(chosen.pod_resources_socket.parent) in readable


@pytest.mark.parametrize(
    ("variant", "strategy"),
    [
        pytest.param(("nvidia-runtime", ()), DeviceListStrategy.ENVVAR, id="nvidia-runtime"),
        pytest.param(("nvidia-runtime", ("volume-mounts",)), DeviceListStrategy.VOLUME_MOUNTS, id="volume-mounts"),
        pytest.param(("cdi", ()), DeviceListStrategy.CDI_CRI, id="cdi"),
        pytest.param(("plain-runc", ()), DeviceListStrategy.ENVVAR, id="plain-runc"),
    ],
    scope="session",
)
def test_the_strategy_is_the_one_that_the_overlay_is_for(
    container: dict[str, Any], environment: Mapping[str, str], objects: Objects, strategy: DeviceListStrategy
) -> None:
    [config_map] = [each for each in objects if each["kind"] == "ConfigMap"]

    config = load(config_map["data"]["config.yaml"].encode(), read(container, environment).overrides)

    assert config.flags.plugin.device_list_strategy == (strategy,)


@pytest.mark.parametrize("variant", [("cdi", ())], ids=["cdi"], scope="session")
def test_cdi_has_its_folders(container: dict[str, Any], environment: Mapping[str, str], objects: Objects) -> None:
    [config_map] = [each for each in objects if each["kind"] == "ConfigMap"]
    chosen = read(container, environment)
    root = load(config_map["data"]["config.yaml"].encode(), chosen.overrides).flags.plugin.container_driver_root
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}

    assert mounts[str(chosen.cdi_root)] is False
    assert mounts[f"{root}/usr"] is True


@pytest.mark.parametrize("variant", [("plain-runc", ())], ids=["plain-runc"], scope="session")
def test_plain_runc_hands_out_the_libraries_that_the_daemon_uses(
    container: dict[str, Any], pod: dict[str, Any], environment: Mapping[str, str], objects: Objects
) -> None:
    [config_map] = [each for each in objects if each["kind"] == "ConfigMap"]
    nodes = load(config_map["data"]["config.yaml"].encode(), read(container, environment).overrides).tasuki.device_nodes
    [volume] = [each for each in pod["volumes"] if each["name"] == "driver-libraries"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "driver-libraries"]

    assert nodes.enabled
    assert nodes.library_host_path == volume["hostPath"]["path"]
    assert nodes.library_container_path == mount["mountPath"]
    assert environment["LD_LIBRARY_PATH"] == f"{nodes.library_container_path}/lib64"


@pytest.mark.parametrize(
    "variant", [("nvidia-runtime", ("node-feature-api",))], ids=["node-feature-api"], scope="session"
)
def test_labels_go_through_node_features(
    container: dict[str, Any], environment: Mapping[str, str], objects: Objects
) -> None:
    [config_map] = [each for each in objects if each["kind"] == "ConfigMap"]

    config = load(config_map["data"]["config.yaml"].encode(), read(container, environment).overrides)

    assert config.flags.use_node_feature_api


def test_probes_ask_where_the_daemon_answers(
    container: dict[str, Any], daemonset: dict[str, Any], environment: Mapping[str, str]
) -> None:
    address = read(container, environment).metrics_address
    assert address is not None
    _, port = address
    [metrics] = container["ports"]
    annotations = daemonset["spec"]["template"]["metadata"]["annotations"]

    assert metrics == {"name": "metrics", "containerPort": port}
    assert annotations["prometheus.io/port"] == str(port)
    assert annotations["prometheus.io/path"] == "/metrics"
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
