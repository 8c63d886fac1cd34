"""The parts of Kubernetes' own objects that we read; what else they hold is passed over."""

import msgspec


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
