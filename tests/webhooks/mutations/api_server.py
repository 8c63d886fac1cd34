"""What the API server makes of a pod that one round of admission changed, before the next round sees it."""

import copy
from typing import Any

import msgspec

from webhooks.pod import Pod
from webhooks.scene import Change, Mutation, Scene

Json = dict[str, Any]


def again(mutation: Mutation, pod: Json, where: Scene) -> Change:
    """What the mutation wants of a pod that was defaulted after its first pass."""
    return mutation(msgspec.convert(defaulted(pod), Pod), where)


def defaulted(pod: Json) -> Json:
    """With the defaults of pkg/apis/core/v1/defaults.go, and what the in-tree admission plugins add."""
    whole = copy.deepcopy(pod)
    spec = whole["spec"]
    spec |= {"priority": 0, "preemptionPolicy": "PreemptLowerPriority", "enableServiceLinks": True}
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("securityContext", {})
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        _default_container(container)
    for volume in spec.get("volumes", []):
        _default_volume(volume)
    token = {"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": []}}
    spec["volumes"] = [*spec.get("volumes", []), token]
    return whole


def _default_container(container: Json) -> None:
    container |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
    container.setdefault("imagePullPolicy", "IfNotPresent")
    resources = container.setdefault("resources", {})
    if "limits" in resources:
        resources["requests"] = resources["limits"] | resources.get("requests", {})
    for variable in container.get("env", []):
        if "fieldRef" in variable.get("valueFrom", {}):
            variable["valueFrom"]["fieldRef"].setdefault("apiVersion", "v1")
    probe = container.get("startupProbe")
    if probe:
        container["startupProbe"] = {"timeoutSeconds": 1, "successThreshold": 1} | probe
    access = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    container["volumeMounts"] = [*container.get("volumeMounts", []), access | {"readOnly": True}]


def _default_volume(volume: Json) -> None:
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    if "projected" in volume:
        volume["projected"].setdefault("defaultMode", 420)
        for source in volume["projected"]["sources"]:
            source.get("serviceAccountToken", {"expirationSeconds": 0}).setdefault("expirationSeconds", 3600)
