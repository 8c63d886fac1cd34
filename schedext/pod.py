"""The parts of a Pod that placing it takes, as the scheduler and the API server send them."""

from typing import Final

import msgspec

from tasuki.kube import collection

TERMINAL_PHASES: Final = frozenset({"Succeeded", "Failed"})
SIDECAR: Final = "Always"

# Go writes an empty slice or map that is not omitted as null.
Texts = dict[str, str] | None
Amounts = dict[str, str | int | float] | None


class Metadata(collection.Metadata, frozen=True, kw_only=True, rename="camel"):
    """`deletion_timestamp` is when the pod is to be gone (RFC 3339); empty while nobody deletes it."""

    uid: str = ""
    labels: Texts = None
    annotations: Texts = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    limits: Amounts = None
    requests: Amounts = None


class Container(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    resources: Resources = Resources()
    restart_policy: str | None = None


class PodSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    node_name: str = ""
    scheduler_name: str = ""
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None


class PodStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    phase: str = ""


class Pod(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


def annotation(pod: Pod, name: str) -> str:
    """Without the white space around it; empty if it is absent."""
    return (pod.metadata.annotations or {}).get(name, "").strip()


def label(pod: Pod, name: str) -> str:
    return (pod.metadata.labels or {}).get(name, "")
