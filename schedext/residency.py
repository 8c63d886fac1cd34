"""Where the bytes of the object cache's buckets lie, by what the nodes' caches report."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tasuki.kube.cache_node import BucketResidency, CacheNodeStatus

# Of one node and bucket; far beyond any disk's, and a sum over all nodes still has 64 bits.
_MOST_OBJECTS: Final = 2**40


@dataclass(slots=True, eq=False)
class Share:
    """What one zone holds of one bucket; to be read only, and not beyond the next report.

    Attributes:
        size_bytes: Of all its nodes together.
        by_node: Bytes; only of nodes with any.
    """

    size_bytes: int = 0
    objects: int = 0
    by_node: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Report:
    """What must be taken back when a node reports anew; its bytes are in the shares.

    Attributes:
        objects: In the order of `buckets`.
    """

    zone: str
    buckets: tuple[str, ...]
    objects: "array[int]"


_NOWHERE: Final[Mapping[str, Share]] = MappingProxyType({})


class Residency:
    """Changed in place by the one event loop, report by report: a snapshot of 5,000 nodes would cost each reader."""

    def __init__(self) -> None:
        self._shares: dict[str, dict[str, Share]] = {}
        self._reports: dict[str, _Report] = {}

    def apply(self, node: str, status: CacheNodeStatus | None) -> None:
        """Let a node's report replace its former one; None if there is none any more.

        What a cache holds that does not serve counts for nothing.
        """
        if (former := self._reports.pop(node, None)) is not None:
            self._take_back(node, former)
        if status is not None and status.serving:
            self._take(node, status.zone, status.buckets)

    def shares(self, bucket: str) -> Mapping[str, Share]:
        """By zone, which is empty for nodes without one; only zones that hold some of the bucket."""
        return self._shares.get(bucket, _NOWHERE)

    def _take(self, node: str, zone: str, buckets: Iterable[BucketResidency]) -> None:
        held = {each.name: each for each in buckets if each.bytes > 0}
        if not held:
            return
        objects = array("q", (min(max(each.objects, 1), _MOST_OBJECTS) for each in held.values()))
        names = []
        for (bucket, each), count in zip(held.items(), objects, strict=True):
            zones = self._shares.setdefault(bucket, {})
            share = zones.get(zone)
            if share is None:
                share = zones[zone] = Share()
            share.size_bytes += each.bytes
            share.objects += count
            share.by_node[node] = each.bytes
            names.append(bucket)
        self._reports[node] = _Report(zone, tuple(names), objects)

    def _take_back(self, node: str, report: _Report) -> None:
        for bucket, count in zip(report.buckets, report.objects, strict=True):
            zones = self._shares[bucket]
            share = zones[report.zone]
            share.size_bytes -= share.by_node.pop(node)
            share.objects -= count
            if not share.by_node:
                del zones[report.zone]
            if not zones:
                del self._shares[bucket]
