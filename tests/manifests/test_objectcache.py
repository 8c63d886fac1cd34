"""What the object cache's manifests come to, and that their parts fit each other, the service and the webhooks."""

import functools
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # ships no types
import kubernetes_validate
import msgspec
import pytest
import yaml
from cel_expr_python import cel  # type: ignore[import-untyped]  # ships no types

from objectcache.access.buckets import Bucket, read_cache_bucket
from objectcache.service import settings
from objectcache.xds import settings as xds_settings
from tasuki.cli import SERVICES
from tasuki.kube import names
from tasuki.kube.quantity import QuantityError, parse
from tasuki.process.document import ConfigError
from webhooks.policy.services import Cache

Objects = list[dict[str, Any]]
Object = dict[str, Any]

KUBERNETES: Final = "1.36"
CLUSTER_SCOPED: Final = {
    "ClusterRole",
    "ClusterRoleBinding",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
NODE: Final = "worker-1"
CACHE: Final = "system:serviceaccount:tasuki-system:tasuki-cache"
FOLDER: Final = "/var/lib/tasuki/cache"
CACHES: Final = "tasuki-cache"
PROXIES: Final = "tasuki-envoy"
CONTROL_PLANE: Final = "tasuki-xds"
# Where users are told which address and audience to give to the webhooks.
EXAMPLES: Final = (
    "examples/admission/policy.yaml",
    "manifests/webhooks/base/policy.yaml",
    "docs/admission-policy.md",
    "docs/object-cache.md",
)


@functools.cache
def validated(text: str) -> str:
    version: str = kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    return version


def one(objects: Objects, kind: str, name: str | None = None) -> Object:
    [found] = [each for each in objects if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)]
    return found


@pytest.fixture(scope="session")
def folder(repository: Path) -> Path:
    return repository / "manifests" / "objectcache"


@pytest.fixture(scope="session")
def composed(build: Callable[[Path], Objects], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An overlay, or the base, with components; each built once."""

    @functools.cache
    def run(overlay: str, components: tuple[str, ...] = ()) -> Objects:
        own = tmp_path_factory.mktemp("kustomization")
        source = folder / "base" if overlay == "base" else folder / "overlays" / overlay
        kustomization = {
            "resources": [os.path.relpath(source, own)],
            "components": [os.path.relpath(folder / "components" / each, own) for each in components],
        }
        (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return build(own)

    return run


VARIANTS: Final = (
    ("base", ()),
    ("base", ("prepared-folder",)),
    ("direct", ()),
    ("direct", ("prefer-same-node",)),
    ("direct", ("prepared-folder", "prefer-same-node")),
    ("envoy", ()),
    ("envoy", ("prepared-folder", "prefer-same-node")),
)


@pytest.fixture(params=VARIANTS, ids=lambda chosen: "+".join([chosen[0], *chosen[1]]))
def objects(composed: Callable[..., Objects], request: pytest.FixtureRequest) -> Objects:
    return composed(*request.param)


@pytest.fixture
def base(composed: Callable[..., Objects]) -> Objects:
    return composed("base")


@pytest.fixture
def proxied(composed: Callable[..., Objects]) -> Objects:
    return composed("envoy")


def the_pod(objects: Objects) -> Object:
    spec: Object = one(objects, "DaemonSet", CACHES)["spec"]["template"]["spec"]
    return spec


def workloads(objects: Objects) -> Objects:
    return [each for each in objects if each["kind"] in {"DaemonSet", "Deployment"}]


def selects(labels: Mapping[str, str], workload: Object) -> bool:
    """Whether its pods have these labels."""
    found: Object = workload["spec"]["template"]["metadata"]["labels"]
    return labels.items() <= found.items()


def ports_of(objects: Objects, name: str) -> dict[str, int]:
    """By name, of the container of a workload."""
    [found] = [each for each in workloads(objects) if each["metadata"]["name"] == name]
    [container] = found["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["containerPort"] for each in container["ports"]}


@pytest.fixture
def pod(objects: Objects) -> Object:
    return the_pod(objects)


@pytest.fixture
def container(pod: Object) -> Object:
    [only] = pod["containers"]
    found: Object = only
    return found


@pytest.fixture
def started(container: Object) -> settings.Settings:
    """With the command and the environment of the container, as the kubelet fills it in."""
    program, service, *arguments = container["command"]
    assert (program, service) == ("tasuki", "cache")
    environment = {each["name"]: each.get("value", NODE) for each in container["env"]}
    return settings.read(arguments, environment)


class TestObjects:
    def test_each_is_valid_by_kubernetes_schema(self, objects: Objects) -> None:
        for each in objects:
            assert validated(json.dumps(each, sort_keys=True)) == KUBERNETES

    def test_each_is_in_our_namespace_or_in_none(self, objects: Objects) -> None:
        for each in objects:
            expected = None if each["kind"] in CLUSTER_SCOPED else "tasuki-system"

            assert each["metadata"].get("namespace") == expected, each["metadata"]["name"]

    def test_none_is_there_twice(self, objects: Objects) -> None:
        found = [(each["kind"], each["metadata"]["name"]) for each in objects]

        assert len(found) == len(set(found))

    def test_deleting_them_leaves_the_namespace_and_our_kinds(self, objects: Objects) -> None:
        assert not {"Namespace", "CustomResourceDefinition"} & {each["kind"] for each in objects}

    def test_bindings_name_what_is_there(self, objects: Objects) -> None:
        present = {(each["kind"], each["metadata"]["name"]) for each in objects}
        for binding in (each for each in objects if each["kind"].endswith("RoleBinding")):
            [subject] = binding["subjects"]

            assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in present
            assert (subject["kind"], subject["name"]) in present

    def test_another_namespace_and_image_reach_each(
        self, build: Callable[[Path], Objects], folder: Path, tmp_path: Path
    ) -> None:
        kustomization = {
            "namespace": "elsewhere",
            "resources": [os.path.relpath(folder / "overlays" / "direct", tmp_path)],
            "images": [{"name": "tasuki", "newName": "mirror.example/tasuki", "newTag": "9"}],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

        built = build(tmp_path)

        namespaces = {each["metadata"]["namespace"] for each in built if each["kind"] not in CLUSTER_SCOPED}
        bound = {each["subjects"][0]["namespace"] for each in built if each["kind"].endswith("RoleBinding")}
        assert namespaces == bound == {"elsewhere"}
        pod = the_pod(built)
        assert {each["image"] for each in (*pod["initContainers"], *pod["containers"])} == {"mirror.example/tasuki:9"}

    def test_they_go_into_one_kustomization_with_the_others(
        self, build: Callable[[Path], Objects], repository: Path, tmp_path: Path
    ) -> None:
        sources = ["deviceplugin/overlays/simulated", "webhooks/base", "objectcache/overlays/direct"]
        kustomization = {"resources": [os.path.relpath(repository / "manifests" / each, tmp_path) for each in sources]}
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

        built = build(tmp_path)

        assert {each["metadata"]["name"] for each in built} >= {"tasuki-cache", "cachebuckets.tasuki.dev"}

    def test_the_list_of_folders_has_each(self, repository: Path, folder: Path) -> None:
        listed = (repository / "manifests/README.md").read_text()
        overlays = [f"overlays/{each.name}" for each in (folder / "overlays").iterdir()]

        for name in [*(each.name for each in folder.iterdir() if each.name != "overlays"), *overlays]:
            assert f"| `objectcache/{name}/` |" in listed

    def test_every_overlay_and_component_is_rendered(self, folder: Path) -> None:
        overlays = {each.name for each in (folder / "overlays").iterdir()}
        components = {each.name for each in (folder / "components").iterdir()}

        assert overlays == {overlay for overlay, _ in VARIANTS} - {"base"}
        assert components == {each for _, chosen in VARIANTS for each in chosen}


class TestTheService:
    def test_the_image_is_started_as_a_service(self, container: Object) -> None:
        assert container["command"] == ["tasuki", "cache"]
        assert "cache" in SERVICES

    def test_it_starts_with_these_settings(self, started: settings.Settings, container: Object) -> None:
        assert (started.node_name, started.zone, started.log_format) == (NODE, "", "json")
        [node] = [each for each in container["env"] if each["name"] == "TASUKI_NODE_NAME"]
        assert node["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"

    def test_settings_are_those_of_the_documentation(self, table: Callable[..., list[list[str]]]) -> None:
        documented = [(row[0], row[1]) for row in table("Settings", "object-cache.md")]

        assert documented == [(f"--{each.name}", each.variable) for each in settings._OPTIONS]

    def test_so_are_their_defaults(self, table: Callable[..., list[list[str]]]) -> None:
        documented = {row[0].removeprefix("--"): row[2] for row in table("Settings", "object-cache.md")}
        said = {each.name: re.search(r"\(([^()]*)\)$", each.help) for each in settings._OPTIONS}
        # Those that take a sentence have another one there.
        words = {name: found[1] for name, found in said.items() if found and " " not in found[1]}

        assert len(words) > 10
        assert {name: documented[name] for name in words if words[name] != "empty"} == {
            name: word for name, word in words.items() if word != "empty"
        }

    def test_it_leaves_the_kubelet_as_much_as_it_needs(self, started: settings.Settings) -> None:
        """It evicts pods below 10 % free, and removes images below 15 % (kubelet, evictionHard, imageGC)."""
        assert started.capacity.of(100) <= 80

    def test_ports_are_those_of_the_service(self, container: Object, started: settings.Settings) -> None:
        assert started.metrics_address is not None
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}

        assert ports == {"http": started.listen[1], "metrics": started.metrics_address[1]}

    def test_objects_lie_on_the_nodes_disk(self, container: Object, pod: Object, started: settings.Settings) -> None:
        volumes = {each["name"]: each for each in pod["volumes"]}
        [mount] = container["volumeMounts"]

        assert mount["mountPath"] == str(started.data_dir) == FOLDER
        assert volumes[mount["name"]]["hostPath"]["path"] == FOLDER

    def test_tokens_are_for_the_audience_that_the_webhooks_ask_for(self, started: settings.Settings) -> None:
        assert started.audience == Cache(url="http://cache.example").audience

    def test_what_is_drained_has_time_to_end(self, pod: Object, started: settings.Settings) -> None:
        finishing, hanging, closing = 20, 5, 5

        assert pod["terminationGracePeriodSeconds"] >= started.drain_seconds + finishing + hanging + closing

    def test_a_container_that_stops_leaves_the_tables_while_it_still_answers(
        self, container: Object, started: settings.Settings
    ) -> None:
        probe = container["readinessProbe"]
        noticed = probe["failureThreshold"] * probe["periodSeconds"]

        assert noticed + probe["timeoutSeconds"] < started.drain_seconds

    def test_probes_ask_where_the_service_answers(self, objects: Objects, container: Object) -> None:
        annotations = one(objects, "DaemonSet", CACHES)["spec"]["template"]["metadata"]["annotations"]
        [metrics] = [each["containerPort"] for each in container["ports"] if each["name"] == "metrics"]

        assert annotations["prometheus.io/port"] == str(metrics)
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}

    def test_there_are_never_two_on_a_node(self, objects: Objects) -> None:
        assert one(objects, "DaemonSet", CACHES)["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0

    def test_its_priority_class_ends_no_pod(self, objects: Objects, pod: Object) -> None:
        found = one(objects, "PriorityClass", pod["priorityClassName"])

        assert found["preemptionPolicy"] == "Never"
        assert 0 < found["value"] < 10**9

    def test_services_lead_to_pods_that_have_the_port(self, objects: Objects) -> None:
        for service in (each for each in objects if each["kind"] == "Service"):
            [behind] = [each for each in workloads(objects) if selects(service["spec"]["selector"], each)]
            [container] = behind["spec"]["template"]["spec"]["containers"]

            assert {each["targetPort"] for each in service["spec"]["ports"]} <= {
                each["name"] for each in container["ports"]
            }


class TestTheWayToThem:
    def test_only_proxies_reach_the_caches(self, base: Objects) -> None:
        spec = one(base, "NetworkPolicy")["spec"]
        [http] = [each for each in spec["ingress"] if each["ports"][0]["port"] == "http"]

        assert spec["podSelector"] == one(base, "DaemonSet")["spec"]["selector"]
        assert http["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": PROXIES}}}]

    def test_without_proxies_everybody_does(self, composed: Callable[..., Objects]) -> None:
        [http, metrics] = one(composed("direct"), "NetworkPolicy")["spec"]["ingress"]

        assert "from" not in http
        assert metrics["from"] == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ]

    def test_calls_go_to_ports_of_api_servers_only(self, objects: Objects) -> None:
        [egress] = one(objects, "NetworkPolicy", CACHES)["spec"]["egress"]

        assert [each["port"] for each in egress["ports"]] == [443, 6443, 8443]

    def test_directly_the_own_zones_caches_are_preferred(self, composed: Callable[..., Objects]) -> None:
        spec = one(composed("direct"), "Service", CACHES)["spec"]

        assert spec["trafficDistribution"] == "PreferSameZone"
        assert "internalTrafficPolicy" not in spec
        assert spec["selector"] == {"app.kubernetes.io/name": CACHES}

    def test_with_proxies_it_is_the_own_nodes(self, proxied: Objects) -> None:
        spec = one(proxied, "Service", CACHES)["spec"]

        assert spec["internalTrafficPolicy"] == "Local"
        assert "trafficDistribution" not in spec
        assert spec["selector"] == {"app.kubernetes.io/name": PROXIES}

    @pytest.mark.parametrize("overlay", ["direct", "envoy"])
    def test_the_own_node_may_be_preferred(self, composed: Callable[..., Objects], overlay: str) -> None:
        spec = one(composed(overlay, ("prefer-same-node",)), "Service", CACHES)["spec"]

        assert (spec["trafficDistribution"], spec["internalTrafficPolicy"]) == ("PreferSameNode", "Cluster")

    def test_there_is_one_way_or_the_other(self, kubectl: Path, folder: Path, tmp_path: Path) -> None:
        overlays = [os.path.relpath(folder / "overlays" / each, tmp_path) for each in ("envoy", "direct")]
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": overlays}))

        done = subprocess.run([kubectl, "kustomize", tmp_path], capture_output=True, text=True, timeout=60, check=False)

        assert done.returncode
        assert "already registered id" in done.stderr

    @pytest.mark.parametrize("overlay", ["direct", "envoy"])
    @pytest.mark.parametrize("page", EXAMPLES)
    def test_examples_of_policies_lead_here(
        self, composed: Callable[..., Objects], repository: Path, overlay: str, page: str
    ) -> None:
        service = one(composed(overlay), "Service", CACHES)
        [port] = service["spec"]["ports"]
        lines = [line.lstrip("# ") for line in (repository / page).read_text().splitlines()]

        [url] = [line.split()[1] for line in lines if line.startswith("url: http://tasuki-cache.")]
        audiences = {line.split()[1] for line in lines if line.startswith("audience:")}

        assert url == f"http://{service['metadata']['name']}.{service['metadata']['namespace']}:{port['port']}"
        assert audiences <= {Cache(url=url).audience}


class TestWithProxies:
    """Caches, proxies and the control plane, each behind its own NetworkPolicy."""

    @pytest.mark.parametrize(
        ("caller", "called"),
        [
            pytest.param(PROXIES, CACHES, id="a proxy asks a cache"),
            pytest.param(PROXIES, CONTROL_PLANE, id="a proxy asks the control plane"),
        ],
    )
    def test_policies_let_each_reach_what_it_asks(self, proxied: Objects, caller: str, called: str) -> None:
        numbers = ports_of(proxied, called)
        [rule] = [
            each
            for each in one(proxied, "NetworkPolicy", caller)["spec"]["egress"]
            if each.get("to") == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": called}}}]
        ]
        [goes_to] = [each["port"] for each in rule["ports"]]
        admitted = [
            numbers[port["port"]]
            for each in one(proxied, "NetworkPolicy", called)["spec"]["ingress"]
            if each.get("from") == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": caller}}}]
            for port in each["ports"]
        ]

        assert admitted == [goes_to]

    def test_settings_of_the_control_plane_are_those_of_the_documentation(
        self, table: Callable[..., list[list[str]]]
    ) -> None:
        documented = [(row[0], row[1]) for row in table("Running the control plane", "routing.md")]

        assert documented == [(f"--{each.name}", each.variable) for each in xds_settings._OPTIONS]

    def test_rights_of_the_control_plane_are_those_of_the_documentation(
        self, proxied: Objects, table: Callable[..., list[list[str]]]
    ) -> None:
        where = {"ClusterRole": "the cluster", "Role": "the namespace of the caches"}
        documented = {(row[0], row[1]) for row in table("Rights", "routing.md")}

        found = {
            (resource, where[each["kind"]])
            for each in proxied
            if each["kind"] in where and each["metadata"]["name"] == CONTROL_PLANE
            for rule in each["rules"]
            for resource in rule["resources"]
            if rule["verbs"] == ["list", "watch"]
        }
        assert found == documented

    def test_policies_know_their_pods(self, proxied: Objects) -> None:
        """Of pods in their node's network they know nothing."""
        for each in workloads(proxied):
            name = each["metadata"]["name"]
            policy = one(proxied, "NetworkPolicy", name)["spec"]

            assert selects(policy["podSelector"]["matchLabels"], each)
            assert not each["spec"]["template"]["spec"].get("hostNetwork")

    def test_everybody_reaches_the_proxies_and_nothing_else(self, proxied: Objects) -> None:
        open_to_all = {
            (policy["metadata"]["name"], port["port"])
            for policy in proxied
            if policy["kind"] == "NetworkPolicy"
            for rule in policy["spec"]["ingress"]
            if "from" not in rule
            for port in rule["ports"]
        }

        assert open_to_all == {(PROXIES, "http")}

    def test_monitoring_reaches_the_metrics_of_each(self, proxied: Objects) -> None:
        for each in workloads(proxied):
            name = each["metadata"]["name"]
            annotations = each["spec"]["template"]["metadata"]["annotations"]
            [metrics] = [
                rule
                for rule in one(proxied, "NetworkPolicy", name)["spec"]["ingress"]
                if rule["ports"][0]["port"] == "metrics"
            ]

            assert annotations["prometheus.io/port"] == str(ports_of(proxied, name)["metrics"])
            assert metrics["from"] == [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ]

    def test_proxies_run_wherever_readers_may(self, proxied: Objects) -> None:
        pod = one(proxied, "DaemonSet", PROXIES)["spec"]["template"]["spec"]

        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
        assert pod["tolerations"] == [{"operator": "Exists"}]

    def test_a_drain_takes_one_control_plane_at_a_time(self, proxied: Objects) -> None:
        budget = one(proxied, "PodDisruptionBudget")["spec"]
        deployment = one(proxied, "Deployment", CONTROL_PLANE)["spec"]

        assert budget["selector"] == deployment["selector"]
        assert budget["maxUnavailable"] < deployment["replicas"]

    def test_a_proxy_hands_over_before_it_ends(self, proxied: Objects) -> None:
        daemonset = one(proxied, "DaemonSet", PROXIES)["spec"]
        pod = daemonset["template"]["spec"]
        [container] = pod["containers"]

        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] < pod["terminationGracePeriodSeconds"]
        assert daemonset["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 0

    def test_in_another_namespace_each_finds_the_other(
        self, build: Callable[[Path], Objects], folder: Path, tmp_path: Path
    ) -> None:
        kustomization = {
            "namespace": "elsewhere",
            "resources": [os.path.relpath(folder / "overlays" / "envoy", tmp_path)],
            "images": [{"name": "envoyproxy/envoy", "newName": "mirror.example/envoy"}],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

        built = build(tmp_path)

        bootstrap = yaml.safe_load(one(built, "ConfigMap")["data"]["bootstrap.yaml"])
        known = [each for each in bootstrap["static_resources"]["clusters"] if each["name"] == CONTROL_PLANE]
        [container] = one(built, "DaemonSet", PROXIES)["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith("mirror.example/envoy:")
        assert "tasuki-system" not in json.dumps(known)
        assert one(built, "Service", CONTROL_PLANE)["metadata"]["namespace"] == "elsewhere"
        assert "tasuki-system" not in json.dumps([each for each in built if each["kind"] != "ConfigMap"])

    def test_the_documented_kustomization_brings_the_images_from_where_it_says(
        self, build: Callable[[Path], Objects], repository: Path, tmp_path: Path
    ) -> None:
        page = (repository / "docs/object-cache.md").read_text()
        [block] = [each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: Kustomization" in each]
        kustomization = yaml.safe_load(block)
        kustomization["resources"] = [
            os.path.relpath(repository / each.removeprefix("tasuki/"), tmp_path) for each in kustomization["resources"]
        ]
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

        built = build(tmp_path)

        images = {
            container["image"]
            for each in workloads(built)
            for container in containers(each["spec"]["template"]["spec"])
        }
        assert {each["metadata"]["name"] for each in workloads(built)} == {CACHES, PROXIES, CONTROL_PLANE}
        assert all(image.startswith("registry.example/") for image in images)

    def test_the_registry_mirror_goes_with_them(
        self, build: Callable[[Path], Objects], folder: Path, tmp_path: Path
    ) -> None:
        sources = ["overlays/envoy", "registry"]
        kustomization = {"resources": [os.path.relpath(folder / each, tmp_path) for each in sources]}
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

        built = build(tmp_path)

        mirror = one(built, "DaemonSet", "tasuki-registry")["spec"]["template"]["spec"]
        [container] = mirror["containers"]
        [url] = [each["value"] for each in container["env"] if each["name"] == "TASUKI_CACHE_URL"]
        [token] = [
            source["serviceAccountToken"]
            for volume in mirror["volumes"]
            for source in volume.get("projected", {}).get("sources", ())
        ]
        service = one(built, "Service", CACHES)
        [port] = service["spec"]["ports"]
        # In the same namespace, whichever that is.
        assert url.split("/")[2].removesuffix(f":{port['port']}") == CACHES
        assert url.endswith(f":{port['port']}")
        assert token["audience"] == Cache(url=url).audience


def containers(pod: Object) -> Objects:
    return [*pod.get("initContainers", ()), *pod["containers"]]


class TestPrivileges:
    def test_all_but_the_hosts_folder_and_who_gives_it_away_meets_the_restricted_level(self, pod: Object) -> None:
        assert not {"hostPID", "hostIPC", "hostNetwork"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert [each["name"] for each in pod["volumes"] if "hostPath" in each] == ["cache"]
        for each in containers(pod):
            context = each["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert not any("hostPort" in port for port in each.get("ports", ()))
        [main] = pod["containers"]
        assert main["securityContext"].keys() == {
            "allowPrivilegeEscalation",
            "readOnlyRootFilesystem",
            "capabilities",
        }

    def test_root_gives_a_folder_away_and_nothing_else(self, base: Objects) -> None:
        [giver] = the_pod(base)["initContainers"]

        assert giver["securityContext"]["runAsUser"] == 0
        assert giver["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
        assert [each["mountPath"] for each in giver["volumeMounts"]] == [FOLDER]
        assert "env" not in giver

    def test_what_gives_the_folder_away_does_so_once(self, base: Objects, tmp_path: Path) -> None:
        [giver] = the_pod(base)["initContainers"]
        user = the_pod(base)["securityContext"]["runAsUser"]
        interpreter, flag, program = giver["command"]
        assert (interpreter, flag) == ("python", "-c")
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")

        for _ in range(2):
            exec(compile(program.replace(FOLDER, str(tmp_path)), "folder", "exec"), {})
            found = tmp_path.stat()
            assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (user, user, 0o700)

    def test_a_folder_that_was_made_before_takes_no_root(self, composed: Callable[..., Objects]) -> None:
        pod = the_pod(composed("base", ("prepared-folder",)))

        assert "initContainers" not in pod
        assert pod["volumes"][0]["hostPath"] == {"path": FOLDER, "type": "Directory"}
        assert not any("runAsUser" in each["securityContext"] for each in containers(pod))

    def test_rights_are_those_of_the_documentation(
        self, objects: Objects, table: Callable[..., list[list[str]]]
    ) -> None:
        documented = {(row[0], verb) for row in table("Rights", "object-cache.md") for verb in row[1].split(", ")}

        found = {
            ("/".join(filter(None, (group, resource))), verb)
            for rule in one(objects, "ClusterRole", "tasuki-cache")["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        assert found == documented

    def test_only_the_cache_gets_the_token(self, objects: Objects, pod: Object) -> None:
        account = one(objects, "ServiceAccount", "tasuki-cache")

        assert account["automountServiceAccountToken"] is False
        assert pod["automountServiceAccountToken"] is True
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert pod["enableServiceLinks"] is False


class TestNodeRestriction:
    @pytest.fixture
    def refusals(
        self, base: Objects, evaluate: Callable[[str, Mapping[str, Any]], Any]
    ) -> Callable[..., list[str] | None]:
        """Why a request is refused; None if the policy is not asked."""
        spec = one(base, "ValidatingAdmissionPolicy")["spec"]

        def run(new: Object, user: str = CACHE, node: str | None = NODE) -> list[str] | None:
            extra = {} if node is None else {"extra": {"authentication.kubernetes.io/node-name": [node]}}
            known: dict[str, Any] = {"object": new, "request": {"userInfo": {"username": user, **extra}}}
            if not all(evaluate(each["expression"], known) for each in spec["matchConditions"]):
                return None
            known["variables"] = {}
            for each in spec["variables"]:
                known["variables"][each["name"]] = evaluate(each["expression"], known)
            return [
                each.get("message") or evaluate(each["messageExpression"], known)
                for each in spec["validations"]
                if not evaluate(each["expression"], known)
            ]

        return run

    def owned(self, node: str = NODE, **owner: str) -> Object:
        reference = {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "u", **owner}
        return {"metadata": {"name": node, "ownerReferences": [reference]}}

    def test_a_cache_writes_its_own_nodes_object(self, refusals: Callable[..., list[str] | None]) -> None:
        assert refusals(self.owned()) == []
        assert refusals({"metadata": {"name": NODE}}) == []

    @pytest.mark.parametrize(
        ("node", "owner", "said"),
        [
            pytest.param("worker-2", {}, "the cache of node worker-1 may not write cachenodes worker-2", id="another"),
            pytest.param(NODE, {"name": "worker-2"}, "owned by its own node only", id="another owner"),
            pytest.param(NODE, {"kind": "Pod"}, "owned by its own node only", id="an owner that is no node"),
        ],
    )
    def test_and_nothing_else(
        self, refusals: Callable[..., list[str] | None], node: str, owner: dict[str, str], said: str
    ) -> None:
        [reason] = refusals(self.owned(node, **owner)) or []

        assert said in reason

    def test_nobody_keeps_it_from_being_deleted(self, refusals: Callable[..., list[str] | None]) -> None:
        assert refusals({"metadata": {"name": NODE, "finalizers": ["a/b"]}}) == ["a CacheNode has no finalizers"]

    def test_a_token_without_a_node_writes_nothing(self, refusals: Callable[..., list[str] | None]) -> None:
        assert "Kubernetes 1.30 or newer" in (refusals(self.owned(), node=None) or [])[0]

    def test_others_are_not_asked(self, refusals: Callable[..., list[str] | None]) -> None:
        assert refusals(self.owned("worker-2"), user="admin") is None

    def test_it_is_asked_for_all_that_the_cache_may_write(self, base: Objects) -> None:
        [rule] = one(base, "ValidatingAdmissionPolicy")["spec"]["matchConstraints"]["resourceRules"]
        [binding] = [each for each in base if each["kind"] == "ValidatingAdmissionPolicyBinding"]

        assert rule["resources"] == [names.CACHE_NODE_PLURAL, f"{names.CACHE_NODE_PLURAL}/status"]
        assert rule["apiGroups"] == [names.API_GROUP]
        assert binding["spec"] == {"policyName": "tasuki-cache", "validationActions": ["Deny"]}


def quantities() -> list[Any]:
    """The part of Kubernetes' quantity library that we use, with our own reader of quantities."""

    def is_quantity(text: str) -> bool:
        try:
            parse(text)
        except QuantityError:
            return False
        return True

    text, number = cel.Type.STRING, cel.Type.DOUBLE
    return [
        cel.FunctionDecl("isQuantity", [cel.Overload("is_quantity", cel.Type.BOOL, [text], False, is_quantity)]),
        cel.FunctionDecl(
            "quantity", [cel.Overload("quantity", number, [text], False, lambda each: float(parse(each)))]
        ),
        cel.FunctionDecl(
            "compareTo",
            [cel.Overload("compare_to", cel.Type.INT, [number, number], True, lambda a, b: (a > b) - (a < b))],
        ),
    ]


class Kind:
    """A CRD's schema, with its rules, as the API server holds objects to them."""

    def __init__(self, schema: Object) -> None:
        self._schema = schema
        self._environment = cel.NewEnv(variables={"self": cel.Type.DYN}, functions=quantities())

    def problems(self, written: Object) -> list[str]:
        """What is wrong with an object; empty if nothing is. Rules are looked at where the schema is met."""
        found = [error.message for error in jsonschema.Draft202012Validator(self._schema).iter_errors(written)]
        return found or list(self._broken(self._schema, written))

    def _broken(self, schema: Object, value: Any) -> Iterator[str]:
        for rule in schema.get("x-kubernetes-validations", ()):
            result = self._environment.compile(rule["rule"]).eval(data={"self": value})
            # The API server refuses what it cannot evaluate.
            if result.type() == cel.Type.ERROR or not result.plain_value():
                yield rule["message"]
        for name, below in schema.get("properties", {}).items():
            if isinstance(value, dict) and name in value:
                yield from self._broken(below, value[name])
        if "items" in schema:
            for each in value:
                yield from self._broken(schema["items"], each)


def bucket(name: str = "imagenet", **spec: Any) -> Object:
    return {
        "apiVersion": "tasuki.dev/v1alpha1",
        "kind": "CacheBucket",
        "metadata": {"name": name},
        "spec": {"bucketQuota": "100Gi", **spec},
    }


def as_read(written: Object) -> Bucket | None:
    """What the cache makes of it; None if it refuses it."""
    try:
        return read_cache_bucket(written["metadata"]["name"], msgspec.json.encode(written["spec"]))
    except ConfigError:
        return None


def test_the_mirror_says_which_of_the_hosts_ports_it_takes(folder: Path) -> None:
    """The API server warns of a hostIP without a hostPort, which it fills in for pods but not for their templates."""
    daemonset = yaml.safe_load((folder / "registry" / "daemonset.yaml").read_text())
    pod = daemonset["spec"]["template"]["spec"]
    [container] = pod["containers"]

    assert pod["hostNetwork"]
    assert all(each["hostPort"] == each["containerPort"] for each in container["ports"])


SELECTED: Final = {"matchExpressions": [{"key": "team", "operator": "In", "values": ["vision"]}]}


class TestCacheBucket:
    @pytest.fixture
    def crd(self, repository: Path) -> Any:
        return yaml.safe_load((repository / "manifests/crd/cachebuckets.yaml").read_text())

    @pytest.fixture
    def version(self, crd: Any) -> Any:
        [only] = crd["spec"]["versions"]
        return only

    @pytest.fixture
    def kind(self, version: Any) -> Kind:
        return Kind(version["schema"]["openAPIV3Schema"])

    def test_the_crd_is_what_kubernetes_accepts(self, crd: Any) -> None:
        kubernetes_validate.validate(crd, "1.33", strict=True)

    def test_the_crd_is_named_as_the_code_names_it(self, crd: Any, version: Any) -> None:
        assert crd["metadata"]["name"] == f"{names.CACHE_BUCKET_PLURAL}.{names.API_GROUP}"
        assert crd["spec"]["names"]["kind"] == names.CACHE_BUCKET_KIND
        assert (version["name"], crd["spec"]["scope"]) == (names.API_VERSION, "Cluster")

    def test_the_kinds_are_applied_together_and_share_no_name(
        self, build: Callable[[Path], Objects], repository: Path
    ) -> None:
        crds = build(repository / "manifests/crd")
        spelt = [each["spec"]["names"] for each in crds]
        words = [word for each in spelt for word in (each["plural"], each["singular"], *each["shortNames"])]

        assert f"{names.CACHE_BUCKET_PLURAL}.{names.API_GROUP}" in {each["metadata"]["name"] for each in crds}
        assert len(words) == len(set(words))

    def test_columns_show_what_is_there(self, version: Any) -> None:
        fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        shown = {each["jsonPath"].removeprefix(".spec.") for each in version["additionalPrinterColumns"]}

        assert shown - {".metadata.creationTimestamp"} <= fields.keys()

    def test_lists_and_texts_are_bounded(self, version: Any) -> None:
        """What is not is refused by the API server where a rule's cost is estimated, and is anybody's to fill."""

        def check(schema: Object) -> None:
            if schema.get("type") == "array":
                assert "maxItems" in schema
                check(schema["items"])
            if isinstance(schema.get("additionalProperties"), dict):
                assert "maxProperties" in schema
                check(schema["additionalProperties"])
            if schema.get("type") == "string":
                assert {"maxLength", "enum"} & schema.keys()
            for below in schema.get("properties", {}).values():
                check(below)

        check(version["schema"]["openAPIV3Schema"]["properties"]["spec"])

    def test_no_bound_is_a_fraction(self, version: Any) -> None:
        """The API server drops it before it compares a whole number: a weight of 0 was none too small for 0.01."""

        def check(schema: Object) -> None:
            bounds = [schema[each] for each in ("minimum", "maximum", "multipleOf") if each in schema]
            assert all(bound == int(bound) for bound in bounds), schema
            for below in schema.get("properties", {}).values():
                check(below)

        check(version["schema"]["openAPIV3Schema"])

    @pytest.mark.parametrize(
        "written",
        [
            pytest.param(bucket(), id="a quota alone"),
            pytest.param(bucket(bucketQuota=10**12), id="a quota in bytes"),
            pytest.param(bucket(bucketQuota="1"), id="one byte"),
            pytest.param(bucket("a.b-c", bucketQuota="1.5Ti", public=True), id="public"),
            pytest.param(bucket(bucketQuota="1e12", pinnedQuota="10Gi", weight=2.5), id="pinned and weighted"),
            pytest.param(bucket(bucketQuota="1Gi", pinnedQuota="1024Mi"), id="all of it may be pinned"),
            pytest.param(bucket(pinnedQuota=0), id="nothing may be pinned"),
            pytest.param(bucket(allowNamespaces=["vision", "team-2"]), id="namespaces"),
            pytest.param(bucket(namespaceSelector={"matchLabels": {"team": "vision"}}), id="labels"),
            pytest.param(bucket(namespaceSelector=SELECTED), id="expressions"),
            pytest.param(bucket(namespaceSelector={}), id="every namespace"),
            pytest.param(
                bucket(namespaceSelector={"matchExpressions": [{"key": "x", "operator": "Exists"}]}), id="exists"
            ),
            pytest.param(bucket("a" * 63), id="a long name"),
        ],
    )
    def test_what_is_accepted_can_be_read(self, kind: Kind, written: Object) -> None:
        assert kind.problems(written) == []
        assert as_read(written) is not None

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            pytest.param(bucket(bucketQuota=0), "at least one byte", id="no quota"),
            pytest.param(bucket(bucketQuota="-1Gi"), "at least one byte", id="a negative quota"),
            pytest.param(bucket(bucketQuota="500m"), "at least one byte", id="half a byte"),
            pytest.param(bucket(bucketQuota="lots"), "does not match", id="a quota in words"),
            pytest.param(bucket(bucketQuota=None), "not valid under any", id="null"),
            pytest.param(bucket(pinnedQuota="101Gi"), "no more can be pinned than bucketQuota", id="pinned beyond"),
            pytest.param(bucket(bucketQuota=10, pinnedQuota="11"), "no more can be pinned", id="by a byte"),
            pytest.param(bucket(pinnedQuota="-1"), "a quantity is needed", id="pinned less than nothing"),
            pytest.param(bucket(weight=0), "a weight from 0.01 to 100 is needed", id="no weight"),
            pytest.param(bucket(weight=0.001), "a weight from 0.01 to 100 is needed", id="too little weight"),
            pytest.param(bucket(weight=1000), "greater than the maximum", id="too much weight"),
            pytest.param(bucket(weight="1"), "not of type 'number'", id="weight as text"),
            pytest.param(bucket(public="yes"), "not of type 'boolean'", id="public in words"),
            pytest.param(bucket(allowNamespaces=["Vision"]), "does not match", id="no namespace's name"),
            pytest.param(bucket(allowNamespaces=["a" * 64]), "too long", id="a namespace too long"),
            pytest.param(
                bucket(namespaceSelector={"matchExpressions": [{"key": "x", "operator": "In"}]}),
                "In and NotIn take at least one value",
                id="in nothing",
            ),
            pytest.param(
                bucket(namespaceSelector={"matchExpressions": [{"key": "x", "operator": "Exists", "values": ["y"]}]}),
                "Exists and DoesNotExist none",
                id="exists with a value",
            ),
            pytest.param(
                bucket(namespaceSelector={"matchExpressions": [{"key": "x", "operator": "Gt", "values": ["y"]}]}),
                "is not one of",
                id="no operator",
            ),
            pytest.param(bucket("a" * 64), "at most 63", id="a name too long"),
        ],
    )
    def test_what_the_cache_would_refuse_is_refused_at_once(self, kind: Kind, written: Object, said: str) -> None:
        [problem] = kind.problems(written)

        assert said in problem
        assert as_read(written) is None

    def test_a_bucket_needs_a_quota(self, kind: Kind) -> None:
        written = bucket()
        del written["spec"]["bucketQuota"]

        assert kind.problems(written) == ["'bucketQuota' is a required property"]

    def test_the_schema_has_exactly_the_fields_that_are_read(self, version: Any) -> None:
        fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        everything = bucket(
            public=True,
            allowNamespaces=["a"],
            namespaceSelector=SELECTED,
            weight=2,
            pinnedQuota="1Gi",
        )

        assert fields.keys() == everything["spec"].keys()
        found = as_read(everything)
        assert found is not None
        assert (found.public, found.namespaces, found.weight, found.pinned_bytes) == (True, ("a",), 2.0, 2**30)
        with pytest.raises(ConfigError, match="quota"):
            read_cache_bucket("imagenet", msgspec.json.encode({**everything["spec"], "quota": 1}))
