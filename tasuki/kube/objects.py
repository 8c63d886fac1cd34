"""The parts of others' objects that we read and write; what else they hold is passed over."""

from typing import Final

import msgspec

from tasuki.kube.names import NFD_API_GROUP, NFD_API_VERSION

# What msgspec raises for bytes that are not what was asked for: text that is no UTF-8, and JSON nested too deep, have
# exceptions of Python's own.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class OwnerReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str
    kind: str
    name: str
    uid: str


class ObjectMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class ListMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    resource_version: str = ""


class Node(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    metadata: ObjectMeta


class NodeList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    metadata: ListMeta = ListMeta()
    items: tuple[Node, ...] = ()


class Features(msgspec.Struct, frozen=True):
    """Raw features for NFD's own rules, of which we give none; its schema wants all three kinds."""

    flags: dict[str, object] = {}
    attributes: dict[str, object] = {}
    instances: dict[str, object] = {}


class NodeFeatureSpec(msgspec.Struct, frozen=True):
    labels: dict[str, str]
    features: Features = Features()


class NodeFeature(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Node Feature Discovery's object; the labels of its spec are what its node is labelled with."""

    api_version: str = f"{NFD_API_GROUP}/{NFD_API_VERSION}"
    kind: str = "NodeFeature"
    metadata: ObjectMeta
    spec: NodeFeatureSpec


class StatusDetails(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The body of an answer that is an error."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None


class WatchEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One line of a watch; what `object` is depends on `type`."""

    type: str
    object: msgspec.Raw
