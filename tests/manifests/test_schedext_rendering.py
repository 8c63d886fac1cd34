"""What the scheduler extender's manifests come to, and that their parts fit each other and the service."""

import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from schedext import settings
from schedext.lease import LEASE_NAME
from tasuki.cli import SERVICES

Objects = list[dict[str, Any]]

KUBERNETES: Final = "1.36"
CLUSTER_SCOPED: Final = {
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
# What a binding of ours grants that the cluster itself brings.
OF_THE_CLUSTER: Final = {
    "system:kube-scheduler",
    "system:volume-scheduler",
    "extension-apiserver-authentication-reader",
}
DEPLOYED: Final = ("second-scheduler", "default-scheduler-tls")

only: Final = functools.partial(pytest.mark.parametrize, "way", indirect=True)
of_the_second_scheduler: Final = only(argvalues=["second-scheduler"])
of_the_daemonset: Final = only(argvalues=["default-scheduler"])
of_deployments: Final = only(argvalues=DEPLOYED)
of_certificates: Final = only(argvalues=["default-scheduler-tls"])


@functools.cache
def validated(text: str) -> str:
    """The version that an object, as JSON, is valid for; most are the same in every way."""
    version: str = kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    return version


def one(objects: Objects, kind: str, name: str | None = None) -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)]
    return found


def containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.fixture
def started(extender_container: dict[str, Any]) -> settings.Settings:
    """With the command and the environment of the container."""
    program, service, *arguments = extender_container["command"]
    assert (program, service) == ("tasuki", "schedext")
    return settings.read(arguments, {each["name"]: each["value"] for each in extender_container["env"]})


@pytest.fixture
def kube_scheduler(extender_pod: dict[str, Any]) -> dict[str, Any]:
    [found] = extender_pod["containers"]
    container: dict[str, Any] = found
    return container


@pytest.fixture
def configuration(extender: Objects) -> dict[str, Any]:
    """The second scheduler's."""
    read: dict[str, Any] = yaml.safe_load(one(extender, "ConfigMap")["data"]["config.yaml"])
    return read


def test_every_object_is_valid_by_kubernetes_schema(extender: Objects) -> None:
    for each in extender:
        if not each["apiVersion"].startswith("cert-manager.io/"):
            assert validated(json.dumps(each, sort_keys=True)) == KUBERNETES


def test_every_object_is_in_our_namespace_or_in_none(extender: Objects) -> None:
    for each in extender:
        expected = None if each["kind"] in CLUSTER_SCOPED else "tasuki-system"
        if each["kind"] == "RoleBinding" and each["roleRef"]["name"] in OF_THE_CLUSTER:
            expected = "kube-system"

        assert each["metadata"].get("namespace") == expected, each["metadata"]["name"]


def test_no_object_is_there_twice(extender: Objects) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in extender]

    assert sorted(names) == sorted(set(names))


def test_every_way_is_rendered(schedext_folder: Path, request: pytest.FixtureRequest) -> None:
    """A new one must be added to the ways, or nothing would test it."""
    folders = {each.name for each in schedext_folder.iterdir()} - {"base"}

    assert folders == {*DEPLOYED, "default-scheduler"}


def test_it_goes_into_one_kustomization_with_the_other_services(
    build: Callable[[Path], Objects], repository: Path, way: str, tmp_path: Path
) -> None:
    manifests = repository / "manifests"
    sources = ["deviceplugin/overlays/simulated", "webhooks/base", f"schedext/{way}"]
    kustomization = {"resources": [os.path.relpath(manifests / each, tmp_path) for each in sources]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    built = build(tmp_path)

    present = {(each["kind"], each["metadata"]["name"]) for each in built}
    assert ("Namespace", "tasuki-system") in present
    # Whom the right to pods is granted to.
    assert ("ServiceAccount", "tasuki-deviceplugin") in present


def test_deleting_it_leaves_the_namespace_and_our_kinds(extender: Objects) -> None:
    assert not {each["kind"] for each in extender} & {"Namespace", "CustomResourceDefinition"}


def test_another_namespace_and_image_reach_every_object(
    build: Callable[[Path], Objects], schedext_folder: Path, way: str, tmp_path: Path
) -> None:
    kustomization = {
        "namespace": "elsewhere",
        "resources": [os.path.relpath(schedext_folder / way, tmp_path)],
        "images": [
            {"name": "tasuki", "newName": "mirror.example/tasuki", "newTag": "9"},
            {"name": "kube-scheduler", "newName": "mirror.example/kube-scheduler", "newTag": "v1.35.2"},
        ],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    built = build(tmp_path)

    namespaces = {each["metadata"]["namespace"] for each in built if each["kind"] not in CLUSTER_SCOPED}
    bound = {
        subject["namespace"] for each in built if each["kind"].endswith("RoleBinding") for subject in each["subjects"]
    }
    assert namespaces == {"elsewhere"}
    # The device plugin may be elsewhere still; kustomize moves only accounts that it knows.
    assert bound == {"elsewhere", "tasuki-system"}
    [workload] = [each for each in built if each["kind"] in {"Deployment", "DaemonSet"}]
    images = {each["image"] for each in containers(workload["spec"]["template"]["spec"])}
    assert images <= {"mirror.example/tasuki:9", "mirror.example/kube-scheduler:v1.35.2"}


def test_manifests_name_no_place_to_fetch_from(extender_pod: dict[str, Any]) -> None:
    """Where images come from is the cluster's own choice, made in its own kustomization."""
    assert {each["image"] for each in containers(extender_pod)} <= {"tasuki:0.1.0", "kube-scheduler:v1.36.0"}


def test_the_image_is_started_as_a_service(extender_container: dict[str, Any]) -> None:
    assert extender_container["command"] == ["tasuki", "schedext"]
    assert "schedext" in SERVICES


def test_the_container_is_the_same_in_every_way_but_for_where_it_listens(
    render_schedext: Callable[[str], Objects], schedext_folder: Path
) -> None:
    alike = []
    for way in (*DEPLOYED, "default-scheduler"):
        [workload] = [each for each in render_schedext(way) if each["kind"] in {"Deployment", "DaemonSet"}]
        [found] = [each for each in containers(workload["spec"]["template"]["spec"]) if each["name"] == "schedext"]
        apart = {"env", "ports", "volumeMounts", "restartPolicy"}
        alike.append({key: value for key, value in found.items() if key not in apart})

    assert all(one == other for one, other in itertools.pairwise(alike))


def test_ports_are_those_that_the_service_listens_on(
    extender_container: dict[str, Any], started: settings.Settings, way: str
) -> None:
    ports = {each["name"]: each["containerPort"] for each in extender_container["ports"]}
    assert started.explain_listen is not None
    assert started.metrics_address is not None

    expected = {"explain": started.explain_listen[1], "metrics": started.metrics_address[1]}
    # What is on loopback is nobody else's.
    assert ports == expected | ({"scheduler": started.listen[1]} if way == "default-scheduler-tls" else {})


@pytest.mark.parametrize("way", ["second-scheduler", "default-scheduler"], indirect=True)
def test_without_certificates_only_loopback_may_bind_pods(started: settings.Settings) -> None:
    assert started.listen == ("127.0.0.1", 9445)


@of_the_daemonset
def test_on_the_hosts_network_the_page_is_on_loopback_too(started: settings.Settings) -> None:
    assert started.explain_listen == ("127.0.0.1", 9446)


@of_certificates
def test_beyond_loopback_certificates_are_shown_and_asked_for(
    extender: Objects, extender_pod: dict[str, Any], extender_container: dict[str, Any], started: settings.Settings
) -> None:
    volumes = {each["name"]: each for each in extender_pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in extender_container["volumeMounts"]}
    certificate = one(extender, "Certificate", "tasuki-schedext")["spec"]

    assert started.listen[0] in {"0.0.0.0", "::"}
    assert mounts[str(started.tls_dir)]["secret"]["secretName"] == certificate["secretName"]
    # As cert-manager calls the authority in the Secret of what it signed.
    assert started.client_ca is not None
    assert started.tls_dir is not None
    assert started.client_ca == started.tls_dir / "ca.crt"


@of_certificates
def test_both_certificates_are_of_the_one_authority_and_for_one_use_each(extender: Objects) -> None:
    authority = one(extender, "Certificate", "tasuki-schedext-authority")["spec"]
    served = one(extender, "Certificate", "tasuki-schedext")["spec"]
    shown = one(extender, "Certificate", "tasuki-schedext-client")["spec"]

    assert authority["isCA"] is True
    assert one(extender, "Issuer", authority["issuerRef"]["name"])["spec"] == {"selfSigned": {}}
    assert served["issuerRef"] == shown["issuerRef"]
    assert one(extender, "Issuer", served["issuerRef"]["name"])["spec"]["ca"]["secretName"] == authority["secretName"]
    assert (served["usages"], shown["usages"]) == (["server auth"], ["client auth"])


@of_certificates
def test_the_schedulers_file_expects_the_certificate_that_is_served(extender: Objects, schedext_folder: Path) -> None:
    text = (schedext_folder / "default-scheduler-tls" / "kube-scheduler-config.yaml").read_text()
    [entry] = yaml.safe_load(text)["extenders"]
    service = one(extender, "Service")

    assert [entry["tlsConfig"]["serverName"]] == one(extender, "Certificate", "tasuki-schedext")["spec"]["dnsNames"]
    assert int(entry["urlPrefix"].rsplit(":", 1)[1]) in {each["port"] for each in service["spec"]["ports"]}


@of_certificates
def test_a_scheduler_stays_at_one_replica(extender: Objects) -> None:
    assert one(extender, "Service")["spec"]["sessionAffinity"] == "ClientIP"


@of_deployments
def test_the_service_leads_to_the_page(extender: Objects, extender_workload: dict[str, Any]) -> None:
    service = one(extender, "Service", "tasuki-schedext")["spec"]
    labels = extender_workload["spec"]["template"]["metadata"]["labels"]

    assert service["selector"].items() <= labels.items()
    assert "explain" in {each["name"] for each in service["ports"]}


@of_the_second_scheduler
def test_no_service_leads_to_where_pods_are_bound(extender: Objects) -> None:
    assert [each["name"] for each in one(extender, "Service")["spec"]["ports"]] == ["explain"]


@of_the_second_scheduler
def test_the_scheduler_reads_the_configuration_that_is_mounted(
    extender: Objects, extender_pod: dict[str, Any], kube_scheduler: dict[str, Any]
) -> None:
    [mount] = kube_scheduler["volumeMounts"]
    [volume] = [each for each in extender_pod["volumes"] if each["name"] == mount["name"]]
    found = one(extender, "ConfigMap")

    assert f"--config={mount['mountPath']}/{next(iter(found['data']))}" in kube_scheduler["command"]
    # A hash, so that a change replaces the pods.
    assert re.fullmatch(r"tasuki-scheduler-config-[a-z0-9]{10}", found["metadata"]["name"])
    assert volume["configMap"]["name"] == found["metadata"]["name"]


@of_the_second_scheduler
def test_the_scheduler_has_its_lease_where_it_may_write_it(
    extender: Objects, kube_scheduler: dict[str, Any], configuration: dict[str, Any]
) -> None:
    [variable] = kube_scheduler["env"]
    [rule] = one(extender, "Role", "tasuki-scheduler")["rules"]

    assert f"--leader-elect-resource-namespace=$({variable['name']})" in kube_scheduler["command"]
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    assert rule["resourceNames"] == [configuration["leaderElection"]["resourceName"]]


@of_the_second_scheduler
def test_the_scheduler_starts_after_the_extender(
    extender_pod: dict[str, Any], extender_container: dict[str, Any]
) -> None:
    """A sidecar: the next container waits for its startup probe, and it ends last."""
    assert extender_pod["initContainers"] == [extender_container]
    assert extender_container["restartPolicy"] == "Always"
    assert "startupProbe" in extender_container


@of_the_second_scheduler
def test_the_scheduler_calls_where_the_extender_listens(
    configuration: dict[str, Any], started: settings.Settings
) -> None:
    [entry] = configuration["extenders"]
    host, port = started.listen

    assert entry["urlPrefix"] == f"http://{host}:{port}"


def test_the_service_may_write_its_own_lease(extender: Objects) -> None:
    names = [tuple(rule.get("resourceNames", ())) for rule in one(extender, "Role", "tasuki-schedext")["rules"]]

    assert names == [(), (LEASE_NAME,)]


@of_deployments
def test_an_update_takes_no_replica_away(extender_workload: dict[str, Any]) -> None:
    assert extender_workload["spec"]["replicas"] == 2
    assert extender_workload["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


@of_the_daemonset
def test_two_are_never_on_one_node(extender_workload: dict[str, Any]) -> None:
    assert extender_workload["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


@of_deployments
def test_a_drained_node_takes_one_replica_at_a_time(extender: Objects, extender_workload: dict[str, Any]) -> None:
    budget = one(extender, "PodDisruptionBudget")["spec"]

    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == extender_workload["spec"]["selector"]


@of_deployments
def test_the_replicas_can_share_a_node_but_rather_do_not(
    extender_pod: dict[str, Any], extender_workload: dict[str, Any]
) -> None:
    constraints = extender_pod["topologySpreadConstraints"]
    spread = {each["topologyKey"]: each["whenUnsatisfiable"] for each in constraints}

    assert spread == {"kubernetes.io/hostname": "ScheduleAnyway", "topology.kubernetes.io/zone": "ScheduleAnyway"}
    assert all(each["labelSelector"] == extender_workload["spec"]["selector"] for each in constraints)


@of_deployments
def test_the_scheduler_of_ours_is_not_needed_to_start_ours(extender_pod: dict[str, Any]) -> None:
    """The default one asks the extender about pods with accelerators only, and these request none."""
    assert "schedulerName" not in extender_pod
    amounts = [amount for each in containers(extender_pod) for amount in each["resources"].values()]

    assert {resource for each in amounts for resource in each} <= {"cpu", "memory"}


def test_a_binding_in_flight_outlasts_the_drain(extender_pod: dict[str, Any], schedext_folder: Path) -> None:
    text = (schedext_folder / "second-scheduler" / "config.yaml").read_text()
    [entry] = yaml.safe_load(text)["extenders"]

    assert extender_pod["terminationGracePeriodSeconds"] > int(entry["httpTimeout"].removesuffix("s"))


def test_a_quota_admits_the_priority_class(extender: Objects, extender_pod: dict[str, Any]) -> None:
    [scope] = one(extender, "ResourceQuota")["spec"]["scopeSelector"]["matchExpressions"]

    assert scope["values"] == [extender_pod["priorityClassName"]]


def test_probes_ask_where_the_service_answers(
    extender_container: dict[str, Any], extender_workload: dict[str, Any]
) -> None:
    annotations = extender_workload["spec"]["template"]["metadata"]["annotations"]
    [metrics] = [each["containerPort"] for each in extender_container["ports"] if each["name"] == "metrics"]

    assert annotations["prometheus.io/port"] == str(metrics)
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert extender_container[probe]["httpGet"] == {"path": path, "port": "metrics"}


@of_deployments
def test_metrics_go_to_monitoring_and_calls_to_ports_of_api_servers(
    extender: Objects, extender_workload: dict[str, Any], way: str
) -> None:
    spec = one(extender, "NetworkPolicy")["spec"]
    open_to_all = {port["port"] for each in spec["ingress"] if "from" not in each for port in each["ports"]}
    [monitoring] = [each for each in spec["ingress"] if "from" in each]
    [egress] = spec["egress"]

    assert spec["podSelector"] == extender_workload["spec"]["selector"]
    assert open_to_all == {"explain"} | ({"scheduler"} if way == "default-scheduler-tls" else set())
    assert monitoring["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert [each["port"] for each in egress["ports"]] == [443, 6443, 8443]


def test_bindings_name_the_role_and_account_that_are_there(extender: Objects) -> None:
    present = {(each["kind"], each["metadata"]["name"]) for each in extender}
    # Whose manifests have it.
    present.add(("ServiceAccount", "tasuki-deviceplugin"))
    for binding in (each for each in extender if each["kind"].endswith("RoleBinding")):
        [subject] = binding["subjects"]
        role = binding["roleRef"]

        assert (role["kind"], role["name"]) in present or role["name"] in OF_THE_CLUSTER
        assert (subject["kind"], subject["name"]) in present


def test_the_kustomization_in_the_documentation_builds(
    build: Callable[[Path], Objects], repository: Path, tmp_path: Path
) -> None:
    """What docs/scheduling.md shows as a user's own folder."""
    page = (repository / "docs" / "scheduling.md").read_text()
    files = dict(re.findall(r"```yaml\n# my-scheduler/(\S+)\n(.*?)```", page, re.DOTALL))
    folder = tmp_path / "my-scheduler"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    (tmp_path / "tasuki").symlink_to(repository)

    built = build(folder)

    assert set(files) == {"kustomization.yaml"}
    pod = one(built, "Deployment")["spec"]["template"]["spec"]
    assert {each["image"] for each in containers(pod)}.isdisjoint({"tasuki:0.1.0", "kube-scheduler:v1.36.0"})
