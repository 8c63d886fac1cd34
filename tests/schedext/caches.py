"""What the nodes' caches of a test report."""

from collections.abc import Mapping

from schedext.residency import Residency
from tasuki.kube.cache_node import BucketResidency, CacheNodeStatus


def holds(zone: str, *, serving: bool = True, objects: int = 1, **buckets: int) -> CacheNodeStatus:
    """A report of a cache: bytes by bucket."""
    return CacheNodeStatus(
        zone=zone,
        serving=serving,
        capacity_bytes=2 * sum(buckets.values()),
        used_bytes=sum(buckets.values()),
        buckets=tuple(BucketResidency(name=name, bytes=size, objects=objects) for name, size in buckets.items()),
        observed_time="2026-01-31T12:00:00Z",
    )


def residency(**reports: CacheNodeStatus) -> Residency:
    """By node."""
    return told(reports)


def told(reports: Mapping[str, CacheNodeStatus]) -> Residency:
    made = Residency()
    for node, status in reports.items():
        made.apply(node, status)
    return made
