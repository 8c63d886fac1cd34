from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Objects = list[dict[str, Any]]
Variant = tuple[str, tuple[str, ...]]
Table = Callable[[str], list[list[str]]]


def test_privileged_is_what_opens_device_files_itself(container: dict[str, Any], variant: Variant) -> None:
    expected = variant[0] == "plain-runc" or "fpga-programming" in variant[1]

    assert container["securityContext"].get("privileged", False) == expected


def test_the_api_server_accepts_the_security_context(container: dict[str, Any]) -> None:
    """Its rule that the schemas do not know (pkg/apis/core/validation): no privilege without escalation."""
    security = container["securityContext"]

    assert security["allowPrivilegeEscalation"] == security.get("privileged", False)


def test_capabilities_are_dropped_but_for_mig(container: dict[str, Any], variant: Variant) -> None:
    capabilities = container["securityContext"]["capabilities"]

    assert capabilities["drop"] == ["ALL"]
    assert capabilities.get("add", []) == (["SYS_ADMIN"] if "mig" in variant[1] else [])


def test_the_root_file_system_is_read_only(container: dict[str, Any]) -> None:
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_hosts_namespaces_stay_closed(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
    assert not any("hostPort" in port for port in container["ports"])
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_services_do_not_reach_the_environment(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False


def test_a_token_is_there_only_for_the_api(pod: dict[str, Any], objects: Objects, variant: Variant) -> None:
    accounts = [each for each in objects if each["kind"] == "ServiceAccount"]

    assert pod["automountServiceAccountToken"] == ("without-api" not in variant[1])
    assert [each["automountServiceAccountToken"] for each in accounts] == [False]


def test_rights_are_those_of_the_documentation(objects: Objects, variant: Variant, table: Table) -> None:
    """Each row of the table is one right: resource, verbs, where, call."""
    where = {"everywhere", "without node-feature-api"}
    if "node-feature-api" in variant[1]:
        where = {"everywhere", "node-feature-api"}
    if "without-api" in variant[1]:
        where = set()
    documented = {(row[0], verb) for row in table("Rights") if row[2] in where for verb in row[1].split(", ")}

    granted = {
        ("/".join(filter(None, (group, resource))), verb)
        for role in objects
        if role["kind"] in {"ClusterRole", "Role"}
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    assert granted == documented


def test_mounts_of_the_host_are_those_of_the_documentation(
    pod: dict[str, Any], container: dict[str, Any], variant: Variant, table: Table
) -> None:
    """Each row of the table is one mount: path, access, where, reason."""
    where = {"everywhere", variant[0], *variant[1]}
    documented = {(row[0], row[1]) for row in table("Mounts of the host") if row[2] in where}

    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    mounted = {
        (paths[mount["name"]], "read" if mount.get("readOnly") else "write")
        for mount in container["volumeMounts"]
        if mount["name"] in paths
    }

    assert mounted == documented


@pytest.mark.parametrize("variant", [("base", ())], ids=["base"], scope="session")
def test_every_mount_of_the_host_has_its_reason_beside_it(objects: Objects, deviceplugin: Path) -> None:
    found = [place for path in sorted(deviceplugin.rglob("*.yaml")) for place in _host_paths(path)]

    assert len(found) >= 6
    assert [where for where, reason in found if len(reason) < 40] == []


def _host_paths(path: Path) -> Iterator[tuple[str, str]]:
    """Each hostPath volume of a file, with the comment above its entry in the list."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip() != "hostPath:":
            continue
        entry = max(n for n in range(number) if lines[n].lstrip().startswith("- name:"))
        above = entry
        while lines[above - 1].lstrip().startswith("#"):
            above -= 1
        yield f"{path.name}:{number + 1}", " ".join(each.strip(" #") for each in lines[above:entry])


def test_privileged_files_say_why(deviceplugin: Path) -> None:
    privileged = [path for path in sorted(deviceplugin.rglob("*.yaml")) if "privileged: true" in path.read_text()]

    assert [path.parent.name for path in privileged] == ["fpga-programming", "nvml-from-host"]
    assert all("# Why privileged." in path.read_text() for path in privileged)


def test_added_capabilities_say_why(deviceplugin: Path) -> None:
    adding = [path for path in sorted(deviceplugin.rglob("*.yaml")) if "add: [" in path.read_text()]

    assert [path.parent.name for path in adding] == ["mig"]
    assert "# Why SYS_ADMIN." in adding[0].read_text()


def test_pods_with_mounts_of_the_host_are_admitted_into_the_namespace(objects: Objects) -> None:
    [namespace] = [each for each in objects if each["kind"] == "Namespace"]

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_a_quota_admits_the_priority_class(objects: Objects, pod: dict[str, Any]) -> None:
    [quota] = [each for each in objects if each["kind"] == "ResourceQuota"]
    [scope] = quota["spec"]["scopeSelector"]["matchExpressions"]

    assert pod["priorityClassName"] in scope["values"]


def test_manifests_name_no_place_to_fetch_from(deviceplugin: Path) -> None:
    """Where images come from is the cluster's own choice, made in its own kustomization."""
    images = [
        yaml.safe_load(line)
        for path in sorted(deviceplugin.rglob("*.yaml"))
        for line in path.read_text().splitlines()
        if line.strip().startswith("image:")
    ]

    assert {image["image"] for image in images} == {"tasuki", "vaccel-rpc-agent"}
