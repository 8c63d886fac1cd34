"""What reading its buckets costs a pod, by where it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from schedext.costs import Costs, Way
from schedext.owners import NO_READS, Reads
from schedext.residency import Residency, Share


@dataclass(frozen=True, slots=True)
class DataSeconds:
    """Seconds lost in an hour: `by_node.get(name)`, else `by_zone.get(zone, default)`.

    Attributes:
        by_node: Of nodes that hold some of the buckets themselves.
        by_zone: Of every other node of a zone that holds some of them.
        default: Of nodes anywhere else.
    """

    by_node: Mapping[str, float] = field(default_factory=dict)
    by_zone: Mapping[str, float] = field(default_factory=dict)
    default: float = 0.0

    def at(self, node: str, zone: str) -> float:
        return self.by_node.get(node, self.by_zone.get(zone, self.default))


@dataclass(frozen=True, slots=True)
class _Prices:
    """Seconds for a byte, by who has it."""

    node: float
    zone: float
    elsewhere: float


# Of nodes and buckets that they hold, each of which takes a fraction of a microsecond: anybody may name 256 buckets,
# and all of 5,000 nodes may hold each of them.
_MOST_STEPS: Final = 50_000

# Whether nobody holds anything or nothing is read: it makes no difference where.
_NONE: Final = DataSeconds()


def data_seconds(
    buckets: Sequence[str], residency: Residency, costs: Costs, reads: Mapping[str, Reads] = NO_READS
) -> DataSeconds:
    """For reading every bucket, or the objects in it that the pod names, once an hour, object after object.

    Of a bucket, the node's own bytes come from its disk, the rest of what its zone has from another disk of the zone
    over the network, and what the zone lacks from another zone or from the origin, whichever is sooner. A disk and the
    network behind it work at the same time, so that the slower of the two counts, but their latencies add up.

    An estimate, which does not know:

    * how large a bucket is. A zone holds at most all of it, so the largest zone's bytes are taken for the whole. What
      no zone holds comes from the origin wherever the pod runs, and so says nothing about where it should; a bucket
      that nobody holds costs nothing.
    * which objects the pod will read, unless it names them. A node's own share is then what the node reports, as if
      each byte were read equally often.
    * how large a named object is: all are taken to be as large as the bucket's mean, and its zone to have the same
      part of them as of the bucket. Whose they are is known: the node whose share of them is largest saves most, also
      before it has any of them, since the first reader brings them there.
    * on which node of a zone the bytes of the smaller buckets are, where there are very many buckets and nodes: then
      they count as spread over other nodes of the zone.
    * how many reads the pod keeps in flight: with k at a time, latencies count up to k times too much.
    """
    held = [
        _named(shares, reads[bucket]) if bucket in reads else shares
        for bucket in buckets
        if (shares := residency.shares(bucket))
    ]
    if not held:
        return _NONE
    default = 0.0
    by_zone = dict.fromkeys(sorted({zone for shares in held for zone in shares}), 0.0)
    prices = []
    for shares in held:
        whole = _whole(shares)
        price = _prices(whole, costs)
        prices.append(price)
        default += whole.size_bytes * price.elsewhere
        for zone in by_zone:
            present = shares[zone].size_bytes if zone in shares else 0
            by_zone[zone] += present * price.zone + (whole.size_bytes - present) * price.elsewhere
    return DataSeconds(_by_node(held, prices, by_zone), by_zone, default)


def _whole(shares: Mapping[str, Share]) -> Share:
    """A zone holds at most all of a bucket, so that the largest zone's part counts for all of it."""
    return max(shares.values(), key=lambda share: (share.size_bytes, -share.objects))


def _named(shares: Mapping[str, Share], reads: Reads) -> Mapping[str, Share]:
    """What the zones hold of the objects that are read, each on its owner; as reported where owners are unknown."""
    part = min(reads.objects / _whole(shares).objects, 1.0)
    return {zone: _part(share, part, reads, zone) for zone, share in shares.items()}


def _part(share: Share, part: float, reads: Reads, zone: str) -> Share:
    # At least one byte, so that a zone that holds some of a bucket never holds none of it.
    size_bytes = max(1, round(share.size_bytes * part))
    owned = reads.owned.get(zone)
    if owned is None:
        by_node = {node: round(held * part) for node, held in share.by_node.items()}
    else:
        by_node = {node: size_bytes * count // reads.objects for node, count in owned.items()}
    return Share(size_bytes, max(1, round(share.objects * part)), by_node)


def _prices(whole: Share, costs: Costs) -> _Prices:
    objects_per_byte = whole.objects / whole.size_bytes
    return _Prices(
        node=costs.local_disk.seconds(1.0, objects_per_byte),
        zone=_through(costs.zone, costs.local_disk).seconds(1.0, objects_per_byte),
        elsewhere=min(
            way.seconds(1.0, objects_per_byte) for way in (_through(costs.other_zone, costs.local_disk), costs.origin)
        ),
    )


def _through(network: Way, disk: Way) -> Way:
    return Way(min(network.bytes_per_second, disk.bytes_per_second), network.latency_seconds + disk.latency_seconds)


def _by_node(
    held: Sequence[Mapping[str, Share]], prices: Sequence[_Prices], by_zone: Mapping[str, float]
) -> dict[str, float]:
    """A node is as its zone, less what its own bytes save; one step for each node and bucket that it holds."""
    seconds: dict[str, float] = {}
    steps = 0
    for shares, price in sorted(zip(held, prices, strict=True), key=_held_bytes, reverse=True):
        steps += sum(len(share.by_node) for share in shares.values())
        if steps > _MOST_STEPS and seconds:
            break
        saved = price.zone - price.node
        for zone, share in shares.items():
            start = by_zone[zone]
            if seconds:
                for node, own in share.by_node.items():
                    seconds[node] = seconds.get(node, start) - own * saved
            else:
                seconds = {node: start - own * saved for node, own in share.by_node.items()}
    return seconds


def _held_bytes(bucket: tuple[Mapping[str, Share], _Prices]) -> int:
    return sum(share.size_bytes for share in bucket[0].values())
