"""CacheNode: what one node's object cache publishes of what it holds, read by whoever places work near its data."""

from typing import Final

import msgspec

from tasuki.kube.names import API_GROUP, API_VERSION, CACHE_NODE_KIND
from tasuki.kube.objects import ObjectMeta

# A cache writes its status at least so often, also if nothing has changed: by this it is known to be there still.
HEARTBEAT_SECONDS: Final = 600.0


class BucketResidency(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How much of a bucket lies on the node's disks."""

    name: str
    bytes: int
    objects: int


class CacheNodeStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that a node's cache publishes; each field is written each time, even if empty.

    Attributes:
        zone: The failure domain within which keys are spread over the caches (`topology.kubernetes.io/zone`); empty
            if nodes have none.
        serving: Whether the cache answers; what it holds counts for nothing while it does not.
        buckets: Sorted by name; those of which it holds nothing are absent.
        observed_time: RFC 3339; when the cache counted, never more than `HEARTBEAT_SECONDS` before the next time.
    """

    zone: str
    serving: bool
    capacity_bytes: int
    used_bytes: int
    buckets: tuple[BucketResidency, ...]
    observed_time: str


class CacheNode(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The object; its name is its node's."""

    api_version: str = f"{API_GROUP}/{API_VERSION}"
    kind: str = CACHE_NODE_KIND
    metadata: ObjectMeta
    status: CacheNodeStatus | msgspec.UnsetType = msgspec.UNSET
