"""Whose disk a named object lies on once its zone has it: the answer of the zone's Envoys, by their Maglev table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from schedext.demand import NamedObjects
from tasuki.kube.cache_node import CacheNodeStatus
from tasuki.routing.maglev import Maglev

# Of pods whose annotations differ. Each may name a thousand objects, in each of ten zones.
_MOST_REMEMBERED: Final = 32


@dataclass(frozen=True, slots=True)
class Reads:
    """What a pod reads of one bucket.

    Attributes:
        objects: How many that it names.
        owned: By zone and node, how many of those are the node's; without zones whose owners are not known yet.
    """

    objects: int
    owned: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


NO_READS: Final[Mapping[str, Reads]] = MappingProxyType({})


class Owners:
    """Changed in place by the one event loop, report by report.

    Making a table takes tens of milliseconds (35 for 400 nodes), so that others do that elsewhere, for the zones that
    `stale` names, and bring it by `put`. Until then the former table answers.

    As Envoy is configured: an object's hash key is `bucket/object` as sent, without the query; a cache's is its node's
    name, and all weigh 1 (docs/routing.md).
    """

    def __init__(self) -> None:
        self._zones: Final[dict[str, str]] = {}
        self._members: Final[dict[str, set[str]]] = {}
        self._tables: Final[dict[str, Maglev]] = {}
        self._touched: Final[set[str]] = set()
        self._remembered: Final[dict[tuple[NamedObjects, ...], Mapping[str, Reads]]] = {}

    def apply(self, node: str, status: CacheNodeStatus | None) -> None:
        """Let a node's report replace its former one; None if there is none any more."""
        before = self._zones.get(node)
        zone = status.zone if status is not None and status.serving else None
        if zone == before:
            return
        if before is not None:
            del self._zones[node]
            self._members[before].remove(node)
            if not self._members[before]:
                del self._members[before]
            self._touched.add(before)
        if zone is not None:
            self._zones[node] = zone
            self._members.setdefault(zone, set()).add(node)
            self._touched.add(zone)

    def stale(self) -> Mapping[str, Sequence[str]]:
        """By zone whose caches are not those of its table: the caches, sorted."""
        found = {}
        for zone in sorted(self._touched):
            members = sorted(self._members.get(zone, ()))
            table = self._tables.get(zone)
            if list(table.keys if table is not None else ()) != members:
                found[zone] = members
        self._touched.intersection_update(found)
        return found

    def put(self, zone: str, table: Maglev) -> None:
        """Answer by this table; it may have been overtaken while it was made, and then the zone remains stale."""
        self._remembered.clear()
        if table.keys:
            self._tables[zone] = table
        else:
            self._tables.pop(zone, None)

    def reads(self, objects: tuple[NamedObjects, ...]) -> Mapping[str, Reads]:
        """By bucket; equal objects are looked up once for as long as the tables stay what they are."""
        if not objects:
            return NO_READS
        found = self._remembered.get(objects)
        if found is None:
            if len(self._remembered) >= _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            found = self._remembered[objects] = self._reads(objects)
        return found

    def _reads(self, objects: tuple[NamedObjects, ...]) -> Mapping[str, Reads]:
        hashes = np.array([each for named in objects for each in named.hashes], dtype=np.uint64)
        owned: dict[str, dict[str, Mapping[str, int]]] = {named.bucket: {} for named in objects}
        for zone, table in sorted(self._tables.items()):
            owners = table.slots[(hashes % np.uint64(table.table_size)).astype(np.int64)].tolist()
            begin = 0
            for named in objects:
                end = begin + len(named.hashes)
                counts = Counter(owners[begin:end])
                owned[named.bucket][zone] = {table.keys[owner]: count for owner, count in counts.items()}
                begin = end
        return {named.bucket: Reads(len(named.hashes), owned[named.bucket]) for named in objects}
