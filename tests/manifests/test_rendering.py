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

Objects = list[dict[str, Any]]
Variant = tuple[str, tuple[str, ...]]

KUBERNETES: Final = "1.36"
CLUSTER_SCOPED: Final = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "Namespace",
    "RuntimeClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@functools.cache
def validated(text: str) -> str:
    """The version that an object, as JSON, is valid for; most are the same in many variants."""
    version: str = kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    return version


def test_every_object_is_valid_by_kubernetes_schema(objects: Objects) -> None:
    for each in objects:
        assert validated(json.dumps(each, sort_keys=True)) == KUBERNETES


def test_every_object_is_in_our_namespace_or_in_none(objects: Objects) -> None:
    for each in objects:
        expected = None if each["kind"] in CLUSTER_SCOPED else "tasuki-system"

        assert each["metadata"].get("namespace") == expected, each["metadata"]["name"]


def test_no_object_is_there_twice(objects: Objects) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]

    assert sorted(names) == sorted(set(names))


def test_the_kinds_are_what_the_variant_needs(objects: Objects, variant: Variant) -> None:
    overlay, components = variant
    expected = {"ConfigMap", "DaemonSet", "Namespace", "ResourceQuota", "ServiceAccount"}
    if "without-api" not in components:
        expected |= {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
        expected |= {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    if "node-feature-api" in components:
        expected |= {"Role", "RoleBinding"}
    if "runtime-class" in components or "kata-vaccel" in components:
        expected |= {"RuntimeClass"}
    if overlay == "vaccel-tcp":
        expected |= {"NetworkPolicy", "Service"}

    assert {each["kind"] for each in objects} == expected


def test_volumes_and_mounts_name_each_other(pod: dict[str, Any], container: dict[str, Any], objects: Objects) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = container["volumeMounts"]
    config_maps = {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}

    assert {mount["name"] for mount in mounts} == set(volumes)
    assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
    assert {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume} == config_maps


def test_bindings_name_the_role_and_account_that_are_there(objects: Objects) -> None:
    present = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for binding in (each for each in objects if each["kind"].endswith("RoleBinding")):
        [subject] = binding["subjects"]

        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in present
        assert (subject["kind"], subject["name"]) in present
        assert subject["namespace"] == "tasuki-system"


def test_two_daemons_are_never_on_one_node(daemonset: dict[str, Any]) -> None:
    assert daemonset["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"},
    }


@pytest.mark.parametrize("taint", ["nvidia.com/gpu", "CriticalAddonsOnly"])
@pytest.mark.parametrize("variant", [("base", ())], ids=["base"], scope="session")
def test_taints_of_accelerator_nodes_are_tolerated_whatever_their_effect(pod: dict[str, Any], taint: str) -> None:
    assert {"key": taint, "operator": "Exists"} in pod["tolerations"]


def test_simulated_gpus_keep_off_nodes_with_real_ones(render: Callable[[Variant], Objects]) -> None:
    [simulated] = [each for each in render(("simulated", ())) if each["kind"] == "DaemonSet"]
    affinity = simulated["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    assert {each["operator"] for each in term["matchExpressions"]} == {"NotIn", "DoesNotExist"}


def test_another_namespace_and_image_reach_every_object(
    build: Callable[[Path], Objects], deviceplugin: Path, tmp_path: Path
) -> None:
    overlay = deviceplugin / "overlays" / "nvidia-runtime"
    kustomization = {
        "namespace": "gpus",
        "resources": [os.path.relpath(overlay, tmp_path)],
        "images": [{"name": "tasuki", "newName": "mirror.example/tasuki", "newTag": "9"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    built = {each["kind"]: each for each in build(tmp_path)}

    assert built["Namespace"]["metadata"]["name"] == "gpus"
    assert built["DaemonSet"]["metadata"]["namespace"] == "gpus"
    assert built["ClusterRoleBinding"]["subjects"][0]["namespace"] == "gpus"
    [container] = built["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mirror.example/tasuki:9"


def test_the_kustomization_in_the_documentation_builds(
    build: Callable[[Path], Objects], repository: Path, tmp_path: Path
) -> None:
    """What docs/installing.md shows as a user's own folder, file by file."""
    page = (repository / "docs" / "installing.md").read_text()
    files = dict(re.findall(r"```yaml\n# my-cluster/(\S+)\n(.*?)```", page, re.DOTALL))
    folder = tmp_path / "my-cluster"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    (tmp_path / "tasuki").symlink_to(repository)

    built = {each["kind"]: each for each in build(folder)}

    assert set(files) == {"kustomization.yaml", "config.yaml"}
    assert built["ConfigMap"]["data"]["config.yaml"] == files["config.yaml"]
    [container] = built["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] != "tasuki:0.1.0"


def test_every_folder_is_rendered_by_some_variant(all_variants: Sequence[Variant], deviceplugin: Path) -> None:
    """A new overlay or component must be added to the variants, or nothing would test it."""
    overlays = {overlay for overlay, _ in all_variants}
    components = {component for _, chosen in all_variants for component in chosen}
    for overlay in (deviceplugin / "overlays").iterdir():
        kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
        components |= {Path(each).name for each in kustomization.get("components", ())}

    assert overlays == {"base"} | {each.name for each in (deviceplugin / "overlays").iterdir()}
    assert components == {each.name for each in (deviceplugin / "components").iterdir()}
