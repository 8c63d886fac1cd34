"""What the webhooks' manifests come to, and that their parts fit each other and the service."""

import functools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from tasuki.cli import SERVICES
from webhooks import settings
from webhooks.policy.reading import read_policy

Objects = list[dict[str, Any]]
Components = tuple[str, ...]

KUBERNETES: Final = "1.36"
CLUSTER_SCOPED: Final = {
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
}
CONFIGURATIONS: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
# An example within policy.yaml: deeper than prose, or a key by itself.
EXAMPLE: Final = re.compile(r"^# (?=  |\w+:$)", re.MULTILINE)


@functools.cache
def validated(text: str) -> str:
    """The version that an object, as JSON, is valid for; most are the same in every variant."""
    version: str = kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    return version


def one(objects: Objects, kind: str, name: str = "tasuki-webhooks") -> dict[str, Any]:
    [found] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def called(objects: Objects) -> list[dict[str, Any]]:
    """Every webhook of both configurations."""
    return [webhook for kind in CONFIGURATIONS for webhook in one(objects, kind)["webhooks"]]


@pytest.fixture
def base(render_webhooks: Callable[[Components], Objects]) -> Objects:
    return render_webhooks(())


@pytest.fixture
def deployment(webhooks: Objects) -> dict[str, Any]:
    return one(webhooks, "Deployment")


@pytest.fixture
def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [only] = pod["containers"]
    found: dict[str, Any] = only
    return found


@pytest.fixture
def started(container: dict[str, Any]) -> settings.Settings:
    """With the command and the environment of the container."""
    program, service, *arguments = container["command"]
    assert (program, service) == ("tasuki", "webhooks")
    return settings.read(arguments, {each["name"]: each["value"] for each in container["env"]})


@pytest.fixture
def mounts(container: dict[str, Any], pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By path, the volumes that are mounted."""
    volumes = {each["name"]: each for each in pod["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}


def test_every_object_is_valid_by_kubernetes_schema(webhooks: Objects, admission_policies: Objects) -> None:
    for each in (*webhooks, *admission_policies):
        if not each["apiVersion"].startswith("cert-manager.io/"):
            assert validated(json.dumps(each, sort_keys=True)) == KUBERNETES


def test_every_object_is_in_our_namespace_or_in_none(webhooks: Objects, admission_policies: Objects) -> None:
    for each in (*webhooks, *admission_policies):
        expected = None if each["kind"] in CLUSTER_SCOPED else "tasuki-system"

        assert each["metadata"].get("namespace") == expected, each["metadata"]["name"]


def test_no_object_is_there_twice(webhooks: Objects) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in webhooks]

    assert sorted(names) == sorted(set(names))


def test_they_go_into_one_kustomization_with_the_device_plugin(
    build: Callable[[Path], Objects], deviceplugin: Path, webhooks_folder: Path, tmp_path: Path
) -> None:
    sources = [
        deviceplugin / "overlays" / "simulated",
        webhooks_folder / "base",
        webhooks_folder / "admission-policies",
    ]
    kustomization = {"resources": [os.path.relpath(each, tmp_path) for each in sources]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    built = build(tmp_path)

    assert [each["metadata"]["name"] for each in built if each["kind"] == "Namespace"] == ["tasuki-system"]
    assert {each["metadata"]["name"] for each in built} >= {"tasuki-webhooks", "tasuki-deviceplugin", "tasuki-priority"}


def test_deleting_them_leaves_the_namespace(webhooks: Objects) -> None:
    assert not any(each["kind"] == "Namespace" for each in webhooks)


def test_another_namespace_and_image_reach_every_object(
    build: Callable[[Path], Objects], webhooks_folder: Path, tmp_path: Path
) -> None:
    kustomization = {
        "namespace": "elsewhere",
        "resources": [os.path.relpath(webhooks_folder / "base", tmp_path)],
        "components": [os.path.relpath(webhooks_folder / "components" / "fail-closed", tmp_path)],
        "images": [{"name": "tasuki", "newName": "mirror.example/tasuki", "newTag": "9"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    built = build(tmp_path)

    namespaces = {each["metadata"]["namespace"] for each in built if each["kind"] not in CLUSTER_SCOPED}
    bound = {each["subjects"][0]["namespace"] for each in built if each["kind"].endswith("RoleBinding")}
    assert namespaces == bound == {"elsewhere"}
    assert {each["clientConfig"]["service"]["namespace"] for each in called(built)} == {"elsewhere"}
    [container] = one(built, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mirror.example/tasuki:9"


def test_the_kustomization_in_the_documentation_builds(
    build: Callable[[Path], Objects], repository: Path, tmp_path: Path
) -> None:
    """What docs/admission.md shows as a user's own folder, with the policy copied into it as it says."""
    page = (repository / "docs" / "admission.md").read_text()
    files = dict(re.findall(r"```yaml\n# my-admission/(\S+)\n(.*?)```", page, re.DOTALL))
    folder = tmp_path / "my-admission"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    (tmp_path / "tasuki").symlink_to(repository)
    assert "\ncp tasuki/manifests/webhooks/base/policy.yaml my-admission/\n" in page
    own = f"{(tmp_path / 'tasuki/manifests/webhooks/base/policy.yaml').read_text()}# Our own.\n"
    (folder / "policy.yaml").write_text(own)

    built = build(folder)

    assert set(files) == {"kustomization.yaml"}
    assert one(built, "ConfigMap")["data"]["policy.yaml"] == own
    assert all(each["namespaceSelector"]["matchExpressions"][1]["values"] == ["on"] for each in called(built))
    [container] = one(built, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] != "tasuki:0.1.0"


def test_every_component_is_rendered(webhooks_folder: Path, chosen: Components) -> None:
    """A new one must be added to the choices, or nothing would test it."""
    if len(chosen) > 2:
        assert set(chosen) == {each.name for each in (webhooks_folder / "components").iterdir()}


def test_the_image_is_started_as_a_service(container: dict[str, Any]) -> None:
    assert container["command"] == ["tasuki", "webhooks"]
    assert "webhooks" in SERVICES


def test_the_policy_is_where_the_service_reads_it(
    started: settings.Settings, mounts: dict[str, dict[str, Any]], webhooks: Objects
) -> None:
    name = mounts[str(started.policy.parent)]["configMap"]["name"]

    assert started.policy.name in one(webhooks, "ConfigMap", name)["data"]


def test_the_catalogue_may_be_missing(started: settings.Settings, mounts: dict[str, dict[str, Any]]) -> None:
    assert mounts[str(started.modules_catalogue.parent)]["configMap"]["optional"] is True


def test_the_policy_can_be_read(base: Objects) -> None:
    policy = read_policy(one(base, "ConfigMap")["data"]["policy.yaml"].encode())

    assert policy.shared_nodes is not None
    assert policy.vaccel is not None
    assert policy.chains is not None
    assert policy.cpu_only is not None
    assert (policy.modules, policy.cache, policy.teams) == (None, None, ())
    assert [(rule.visible_devices, rule.privileged, rule.host_devices) for rule in policy.protection] == [("warn",) * 3]


def test_the_policys_examples_can_be_read_too(base: Objects) -> None:
    text = one(base, "ConfigMap")["data"]["policy.yaml"]

    policy = read_policy(EXAMPLE.sub("", text).encode())

    assert policy.modules is not None
    assert policy.cache is not None
    assert policy.vaccel is not None
    assert policy.vaccel.sidecar is not None
    assert policy.vaccel.sandbox is not None
    assert [len(each) for each in (policy.teams, policy.protection, policy.accelerators.tolerations)] == [1, 2, 1]
    assert policy.cpu_only is not None
    assert policy.cpu_only.exempt_namespaces


def test_the_policys_priority_class_is_there_and_below_ordinary_pods(base: Objects) -> None:
    text = one(base, "ConfigMap")["data"]["policy.yaml"]
    policy = read_policy(EXAMPLE.sub("", text).encode())
    assert policy.cpu_only is not None

    found = one(base, "PriorityClass", policy.cpu_only.priority_class)

    assert found["value"] == -10
    assert found["preemptionPolicy"] == "Never"
    assert not found.get("globalDefault", False)


def test_the_configurations_lead_to_the_service(webhooks: Objects, deployment: dict[str, Any]) -> None:
    service = one(webhooks, "Service")
    [port] = service["spec"]["ports"]

    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    for webhook in called(webhooks):
        target = webhook["clientConfig"]["service"]
        assert (target["name"], target["namespace"]) == (service["metadata"]["name"], service["metadata"]["namespace"])
        assert target["port"] == port["port"]


def test_the_service_leads_to_where_reviews_are_served(
    webhooks: Objects, container: dict[str, Any], started: settings.Settings
) -> None:
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    [port] = one(webhooks, "Service")["spec"]["ports"]
    assert started.metrics_address is not None

    assert ports == {port["targetPort"]: started.listen[1], "metrics": started.metrics_address[1]}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        pytest.param("MutatingWebhookConfiguration", "/mutate", id="mutating"),
        pytest.param("ValidatingWebhookConfiguration", "/validate", id="validating"),
    ],
)
def test_each_kind_calls_its_path(webhooks: Objects, kind: str, path: str) -> None:
    assert {each["clientConfig"]["service"]["path"] for each in one(webhooks, kind)["webhooks"]} == {path}


def test_the_service_knows_its_configurations_by_name(webhooks: Objects, started: settings.Settings) -> None:
    for kind in CONFIGURATIONS:
        assert one(webhooks, kind, started.webhook_configuration)


def test_applying_again_keeps_what_the_service_wrote(webhooks: Objects) -> None:
    for secret in (each for each in webhooks if each["kind"] == "Secret"):
        assert not {"data", "stringData"} & secret.keys()
    for webhook in called(webhooks):
        assert "caBundle" not in webhook["clientConfig"]


def test_the_certificate_is_where_the_service_looks(
    webhooks: Objects, started: settings.Settings, mounts: dict[str, dict[str, Any]], chosen: Components
) -> None:
    names = {each["metadata"]["name"] for each in webhooks if each["kind"] == "Secret"}

    if "cert-manager" not in chosen:
        assert started.tls_dir is None
        assert names == {started.tls_secret}
        return
    certificate = one(webhooks, "Certificate")["spec"]
    assert names == set()
    assert mounts[str(started.tls_dir)]["secret"]["secretName"] == certificate["secretName"]
    assert certificate["dnsNames"] == ["tasuki-webhooks.tasuki-system.svc"]
    assert set(certificate["dnsNames"]) <= set(started.names("tasuki-system"))


def test_cert_manager_vouches_for_the_certificate_by_one_authority(
    render_webhooks: Callable[[Components], Objects],
) -> None:
    objects = render_webhooks(("cert-manager",))
    authority = one(objects, "Certificate", "tasuki-webhooks-authority")["spec"]
    served = one(objects, "Certificate")["spec"]

    assert authority["isCA"] is True
    assert one(objects, "Issuer", authority["issuerRef"]["name"])["spec"] == {"selfSigned": {}}
    assert one(objects, "Issuer", served["issuerRef"]["name"])["spec"]["ca"]["secretName"] == authority["secretName"]
    for kind in CONFIGURATIONS:
        annotations = one(objects, kind)["metadata"]["annotations"]
        assert annotations["cert-manager.io/inject-ca-from"] == "tasuki-system/tasuki-webhooks"


def test_an_update_takes_no_replica_away(deployment: dict[str, Any]) -> None:
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_a_drained_node_takes_one_replica_at_a_time(webhooks: Objects, deployment: dict[str, Any]) -> None:
    budget = one(webhooks, "PodDisruptionBudget")["spec"]

    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == deployment["spec"]["selector"]


def test_the_replicas_can_share_a_node_but_rather_do_not(pod: dict[str, Any]) -> None:
    spread = {each["topologyKey"]: each["whenUnsatisfiable"] for each in pod["topologySpreadConstraints"]}

    assert spread == {"kubernetes.io/hostname": "ScheduleAnyway", "topology.kubernetes.io/zone": "ScheduleAnyway"}


def test_reviews_in_flight_outlast_the_drain(pod: dict[str, Any], started: settings.Settings, base: Objects) -> None:
    longest = max(each["timeoutSeconds"] for each in called(base))

    assert pod["terminationGracePeriodSeconds"] > started.drain_seconds + longest


def test_a_quota_admits_the_priority_class(webhooks: Objects, pod: dict[str, Any]) -> None:
    quota = one(webhooks, "ResourceQuota", "tasuki-cluster-critical")
    [scope] = quota["spec"]["scopeSelector"]["matchExpressions"]

    assert scope["values"] == [pod["priorityClassName"]]


def test_probes_ask_where_the_service_answers(container: dict[str, Any], deployment: dict[str, Any]) -> None:
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    [metrics] = [each["containerPort"] for each in container["ports"] if each["name"] == "metrics"]

    assert annotations["prometheus.io/port"] == str(metrics)
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}


def test_reviews_come_from_anywhere_and_metrics_go_to_monitoring(webhooks: Objects, deployment: dict[str, Any]) -> None:
    spec = one(webhooks, "NetworkPolicy")["spec"]
    peers = {each["ports"][0]["port"]: each.get("from", "anywhere") for each in spec["ingress"]}

    assert spec["podSelector"] == deployment["spec"]["selector"]
    assert peers["https"] == "anywhere"
    assert peers["metrics"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_calls_go_to_ports_of_api_servers_only(webhooks: Objects) -> None:
    [egress] = one(webhooks, "NetworkPolicy")["spec"]["egress"]

    assert [each["port"] for each in egress["ports"]] == [443, 6443, 8443]


def test_bindings_name_the_role_and_account_that_are_there(webhooks: Objects) -> None:
    present = {(each["kind"], each["metadata"]["name"]) for each in webhooks}
    for binding in (each for each in webhooks if each["kind"].endswith("RoleBinding")):
        [subject] = binding["subjects"]

        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in present
        assert (subject["kind"], subject["name"]) in present


def test_every_policy_is_bound(admission_policies: Objects) -> None:
    policies = {each["metadata"]["name"] for each in admission_policies if each["kind"].endswith("Policy")}
    bound = {each["spec"]["policyName"] for each in admission_policies if each["kind"].endswith("Binding")}

    assert bound == policies
    assert len(policies) == 4


def test_manifests_name_no_place_to_fetch_from(webhooks: Objects) -> None:
    """Where images come from is the cluster's own choice, made in its own kustomization."""
    images: Sequence[str] = [
        container["image"]
        for each in webhooks
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    ]

    assert images == ["tasuki:0.1.0"]
