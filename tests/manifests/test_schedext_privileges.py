"""What the scheduler extender may do in the cluster and on the node."""

from collections.abc import Callable
from typing import Any, Final

import pytest

Objects = list[dict[str, Any]]
Pod = dict[str, Any]
Rights = set[tuple[str, str]]

# What the level `restricted` allows (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
VOLUMES: Final = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "projected", "secret"}


def containers(pod: Pod) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def rights(objects: Objects, *names: str) -> Rights:
    """Each as resource and verb, of all roles or of those that are named."""
    return {
        ("/".join(filter(None, (group, resource))), verb)
        for role in objects
        if role["kind"] in {"ClusterRole", "Role"} and (not names or role["metadata"]["name"] in names)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    "holds",
    [
        pytest.param(lambda pod, _: not {"hostPID", "hostIPC"} & pod.keys(), id="no host processes"),
        pytest.param(lambda pod, _: all(VOLUMES & each.keys() for each in pod.get("volumes", ())), id="volume types"),
        pytest.param(lambda _, each: not any("hostPort" in port for port in each["ports"]), id="no host ports"),
        pytest.param(lambda _, each: "privileged" not in each["securityContext"], id="not privileged"),
        pytest.param(lambda _, each: each["securityContext"]["capabilities"] == {"drop": ["ALL"]}, id="capabilities"),
        pytest.param(lambda _, each: each["securityContext"]["allowPrivilegeEscalation"] is False, id="no escalation"),
        pytest.param(lambda pod, _: pod["securityContext"]["runAsNonRoot"] is True, id="not as root"),
        pytest.param(lambda pod, _: pod["securityContext"]["runAsUser"] > 0, id="another user than root"),
        pytest.param(
            lambda pod, _: pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, id="seccomp"
        ),
        pytest.param(
            lambda _, each: {"procMount", "seLinuxOptions"}.isdisjoint(each["securityContext"]), id="defaults"
        ),
        pytest.param(lambda pod, _: not pod["securityContext"].keys() & {"sysctls", "seLinuxOptions"}, id="no sysctls"),
    ],
)
def test_every_container_meets_the_restricted_level(
    extender_pod: Pod, holds: Callable[[Pod, dict[str, Any]], bool]
) -> None:
    assert all(holds(extender_pod, each) for each in containers(extender_pod))


def test_only_beside_the_clusters_own_scheduler_is_it_in_the_hosts_network(extender_pod: Pod, way: str) -> None:
    assert extender_pod.get("hostNetwork", False) == (way == "default-scheduler")


@pytest.mark.parametrize("way", ["default-scheduler"], indirect=True)
def test_the_hosts_network_is_the_control_planes(extender_pod: Pod) -> None:
    assert extender_pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}


def test_nothing_can_be_written_in_the_containers(extender_pod: Pod) -> None:
    for each in containers(extender_pod):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert all(mount["readOnly"] for mount in each.get("volumeMounts", ()))


def test_services_do_not_reach_the_environment(extender_pod: Pod) -> None:
    assert extender_pod["enableServiceLinks"] is False


def test_only_the_pods_get_the_token(extender_pod: Pod, extender: Objects) -> None:
    [account] = [each for each in extender if each["kind"] == "ServiceAccount"]

    assert account["automountServiceAccountToken"] is False
    assert extender_pod["automountServiceAccountToken"] is True
    assert extender_pod["serviceAccountName"] == account["metadata"]["name"]


def test_rights_are_those_of_the_documentation(
    extender: Objects, way: str, table: Callable[..., list[list[str]]]
) -> None:
    """Each row of the table is one right: resource, verbs, whose, call."""
    rows = table("Rights", "scheduling.md")
    whose = {"extender": ("tasuki-schedext",), "device plugin": ("tasuki-deviceplugin-pods",)}
    if way == "second-scheduler":
        whose["second scheduler"] = ("tasuki-scheduler",)

    for owner, roles in whose.items():
        documented = {(row[0], verb) for row in rows if row[2] == owner for verb in row[1].split(", ")}
        assert rights(extender, *roles) == documented
    named = rights(extender, *(role for roles in whose.values() for role in roles))
    assert named == rights(extender)


def test_nothing_of_the_clusters_is_written_but_what_is_needed(extender: Objects) -> None:
    written = {right for right in rights(extender) if right[1] not in {"get", "list", "watch"}}

    assert written == {
        ("pods/binding", "create"),
        ("nodes", "patch"),
        ("coordination.k8s.io/leases", "create"),
        ("coordination.k8s.io/leases", "update"),
    }


def test_leases_are_those_of_one_namespace(extender: Objects) -> None:
    cluster_wide = rights([each for each in extender if each["kind"] == "ClusterRole"])

    assert not any(resource == "coordination.k8s.io/leases" for resource, _ in cluster_wide)


def test_the_clusters_own_roles_are_the_second_schedulers(extender: Objects, way: str) -> None:
    bound = {each["roleRef"]["name"] for each in extender if each["kind"].endswith("RoleBinding")}
    expected = {"tasuki-schedext", "tasuki-deviceplugin-pods"}
    if way == "second-scheduler":
        expected |= {
            "tasuki-scheduler",
            "system:kube-scheduler",
            "system:volume-scheduler",
            "extension-apiserver-authentication-reader",
        }

    assert bound == expected
