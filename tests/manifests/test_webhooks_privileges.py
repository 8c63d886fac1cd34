"""What the webhooks may do in the cluster and on the node."""

from collections.abc import Callable
from typing import Any, Final

import pytest

Objects = list[dict[str, Any]]
Components = tuple[str, ...]
Pod = dict[str, Any]
Rights = set[tuple[str, str, tuple[str, ...]]]

# What the level `restricted` allows (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
VOLUMES: Final = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


@pytest.fixture
def pod(webhooks: Objects) -> Pod:
    [deployment] = [each for each in webhooks if each["kind"] == "Deployment"]
    spec: Pod = deployment["spec"]["template"]["spec"]
    return spec


def rights(objects: Objects) -> Rights:
    """Each as resource, verb and the names that it is limited to."""
    return {
        ("/".join(filter(None, (group, resource))), verb, tuple(rule.get("resourceNames", ())))
        for role in objects
        if role["kind"] in {"ClusterRole", "Role"}
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    "holds",
    [
        pytest.param(lambda pod, _: not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), id="no host namespaces"),
        pytest.param(lambda pod, _: all(VOLUMES & each.keys() for each in pod["volumes"]), id="volume types"),
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
def test_the_pod_meets_the_restricted_level(pod: Pod, holds: Callable[[Pod, dict[str, Any]], bool]) -> None:
    [container] = pod["containers"]

    assert holds(pod, container)
    assert "initContainers" not in pod


def test_nothing_can_be_written_in_the_container(pod: Pod) -> None:
    [container] = pod["containers"]

    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_services_do_not_reach_the_environment(pod: Pod) -> None:
    assert pod["enableServiceLinks"] is False


def test_only_the_deployment_gets_the_token(pod: Pod, webhooks: Objects) -> None:
    [account] = [each for each in webhooks if each["kind"] == "ServiceAccount"]

    assert account["automountServiceAccountToken"] is False
    assert pod["automountServiceAccountToken"] is True
    assert pod["serviceAccountName"] == account["metadata"]["name"]


def test_rights_are_those_of_the_documentation(
    webhooks: Objects, chosen: Components, table: Callable[..., list[list[str]]]
) -> None:
    """Each row of the table is one right: resource, verbs, where, call."""
    where = {"everywhere"} if "cert-manager" in chosen else {"everywhere", "without cert-manager"}
    documented = {
        (row[0], verb) for row in table("Rights", "admission.md") if row[2] in where for verb in row[1].split(", ")
    }

    assert {(resource, verb) for resource, verb, _ in rights(webhooks)} == documented


def test_what_is_written_is_limited_to_names(webhooks: Objects, chosen: Components) -> None:
    written = {(resource, names) for resource, verb, names in rights(webhooks) if verb not in {"list", "watch"}}

    ours = {
        ("secrets", ("tasuki-webhooks-tls",)),
        ("admissionregistration.k8s.io/mutatingwebhookconfigurations", ("tasuki-webhooks",)),
        ("admissionregistration.k8s.io/validatingwebhookconfigurations", ("tasuki-webhooks",)),
    }
    assert written == (set() if "cert-manager" in chosen else ours)


def test_secrets_are_those_of_one_namespace(webhooks: Objects) -> None:
    cluster_wide = rights([each for each in webhooks if each["kind"] == "ClusterRole"])

    assert not any(resource == "secrets" for resource, _, _ in cluster_wide)
