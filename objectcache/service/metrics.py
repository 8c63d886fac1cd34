"""What a node's cache counts for Prometheus: most of it in memory that its workers share."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from objectcache.counters import (
    ACCEPTED,
    BOUNDS,
    BROKEN,
    BUCKET_FIELDS,
    COLD_READS,
    DAMAGED,
    DEFECTS,
    OPEN,
    TIMED_OUT,
    TURNED_AWAY,
    VERBS,
    Counters,
)  # fmt: skip
from objectcache.service.scrubbing import Scrubber

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

_PER_BUCKET: Final = {
    "hits": ("tasuki_cache_hits", "Reads that found their object, by bucket."),
    "misses": ("tasuki_cache_misses", "Reads that did not find their object, by bucket."),
    "sent_bytes": ("tasuki_cache_sent_bytes", "Bytes of objects sent, by bucket."),
    "puts": ("tasuki_cache_puts", "Objects put, by bucket."),
    "received_bytes": ("tasuki_cache_received_bytes", "Bytes of objects received and kept, by bucket."),
    "removals": ("tasuki_cache_removals", "Objects deleted by clients, by bucket."),
}
_TOTALS: Final = {
    ACCEPTED: ("tasuki_cache_connections", "Connections accepted."),
    TURNED_AWAY: ("tasuki_cache_connections_turned_away", "Connections closed at once, since there were too many."),
    BROKEN: ("tasuki_cache_connections_broken", "Connections that ended within a request or its answer."),
    TIMED_OUT: ("tasuki_cache_connections_timed_out", "Connections closed since the client was too slow."),
    COLD_READS: ("tasuki_cache_cold_reads", "Pieces of objects that had to be read from the disk."),
    DAMAGED: ("tasuki_cache_damaged", "Reads that found their object damaged."),
    DEFECTS: ("tasuki_cache_defects", "Connections that were ended by a defect of the cache; the log has it."),
}


@dataclass(frozen=True, slots=True)
class BucketState:
    """What lies in a bucket, and went from it.

    Attributes:
        evicted: Objects by reason.
    """

    number: int
    bytes: int
    objects: int
    pinned_bytes: int
    quota_bytes: int
    evicted: dict[str, int]


@dataclass(frozen=True, slots=True)
class State:
    """What the store tells of itself.

    Attributes:
        disk: Empty if it takes new objects, else why not.
        buckets: By name.
        evicted_ages: For each of `put` and `read`: counts by bound and beyond the last, not cumulated, and the sum of
            seconds.
    """

    capacity_bytes: int
    used_bytes: int
    usable_bytes: int
    disk: str
    damaged: int
    buckets: dict[str, BucketState]
    age_bounds: tuple[float, ...]
    evicted_ages: dict[str, tuple[tuple[int, ...], int]]


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.reviews = Counter(
            "tasuki_cache_token_reviews", "Questions to the API server about tokens, by outcome.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.sources = Gauge(
            "tasuki_cache_source_in_force",
            "1 if what a source of buckets or tokens says is in force, 0 if not; /readyz says why.",
            ["source"],
            registry=registry,
        )
        self.worker_restarts = Gauge(
            "tasuki_cache_worker_restarts", "Workers that ended and were started again.", registry=registry
        )

    def follow_scrubber(self, scrubber: Scrubber) -> None:
        """Collect what the verification of all objects found, from the collector's thread."""
        for name, text, value in (
            ("verified_objects", "Objects that were verified since the start.", lambda: scrubber.verified),
            ("verified_bytes", "Bytes of these.", lambda: scrubber.verified_bytes),
            ("verified_damaged", "How many of them were damaged.", lambda: scrubber.damaged),
            ("verification_began_seconds", "When all were begun to be verified, since 1970.",
             lambda: scrubber.round_began),
            ("verification_ended_seconds", "When all had been verified, since 1970.", lambda: scrubber.round_ended),
        ):  # fmt: skip
            Gauge(f"tasuki_cache_{name}", text, registry=self.registry).set_function(value)

    def follow(self, counters: Counters, state: Callable[[], State | None]) -> None:
        """Collect these, too; from the collector's thread."""
        self.registry.register(_Collector(counters, state))


class _Collector(Collector):
    def __init__(self, counters: Counters, state: Callable[[], State | None]) -> None:
        self._counters: Final = counters
        self._state: Final = state

    def describe(self) -> Iterable[Family]:
        """Nothing beforehand: registering would collect otherwise."""
        return ()

    def collect(self) -> Iterator[Family]:
        yield from self._of_workers()
        state = self._state()
        if state is not None:
            yield from self._of_buckets(state)
            yield from _of_store(state)

    def _of_workers(self) -> Iterator[Family]:
        requests = CounterMetricFamily(
            "tasuki_cache_requests", "Requests by verb and status.", labels=["verb", "status"]
        )
        for verb, status, count in self._counters.requests():
            requests.add_metric([verb, str(status or "other")], count)
        yield requests
        seconds = HistogramMetricFamily(
            "tasuki_cache_request_seconds",
            "From the last byte of a request's head to the last of its answer.",
            labels=["verb"],
        )
        for at, verb in enumerate(VERBS):
            counts, total = self._counters.seconds(at)
            seconds.add_metric([verb], _cumulated(BOUNDS, counts), total)
        yield seconds
        yield GaugeMetricFamily(
            "tasuki_cache_open_connections", "Connections that are open.", self._counters.field(OPEN)
        )
        for field, (name, text) in _TOTALS.items():
            yield CounterMetricFamily(name, text, self._counters.field(field))

    def _of_buckets(self, state: State) -> Iterator[Family]:
        families = {
            field: CounterMetricFamily(name, text, labels=["bucket"]) for field, (name, text) in _PER_BUCKET.items()
        }
        for bucket, each in sorted(state.buckets.items()):
            for field, count in zip(BUCKET_FIELDS, self._counters.bucket(each.number), strict=True):
                families[field].add_metric([bucket], count)
        yield from families.values()


def _of_store(state: State) -> Iterator[Family]:
    size = GaugeMetricFamily("tasuki_cache_bucket_bytes", "What lies in a bucket.", labels=["bucket"])
    objects = GaugeMetricFamily("tasuki_cache_bucket_objects", "Objects in a bucket.", labels=["bucket"])
    pinned = GaugeMetricFamily("tasuki_cache_bucket_pinned_bytes", "Pinned in a bucket.", labels=["bucket"])
    quota = GaugeMetricFamily("tasuki_cache_bucket_quota_bytes", "What a bucket may hold.", labels=["bucket"])
    evicted = CounterMetricFamily(
        "tasuki_cache_evictions", "Objects evicted, by bucket and reason.", labels=["bucket", "reason"]
    )
    for bucket, each in sorted(state.buckets.items()):
        size.add_metric([bucket], each.bytes)
        objects.add_metric([bucket], each.objects)
        pinned.add_metric([bucket], each.pinned_bytes)
        quota.add_metric([bucket], each.quota_bytes)
        for reason, count in sorted(each.evicted.items()):
            evicted.add_metric([bucket, reason], count)
    yield from (size, objects, pinned, quota, evicted)
    ages = HistogramMetricFamily(
        "tasuki_cache_evicted_age_seconds",
        "How long ago an evicted object was put, and how long ago it was last read.",
        labels=["since"],
    )
    for since, (counts, total) in sorted(state.evicted_ages.items()):
        ages.add_metric([since], _cumulated(state.age_bounds, counts), total)
    yield ages
    yield GaugeMetricFamily("tasuki_cache_capacity_bytes", "What the cache may hold.", state.capacity_bytes)
    yield GaugeMetricFamily("tasuki_cache_used_bytes", "What it holds, and has promised to uploads.", state.used_bytes)
    text = "Of the capacity, less than all where others leave less on the file system."
    yield GaugeMetricFamily("tasuki_cache_usable_bytes", text, state.usable_bytes)
    yield GaugeMetricFamily("tasuki_cache_writable", "1 if the disk takes new objects.", 0 if state.disk else 1)
    yield CounterMetricFamily("tasuki_cache_damaged_objects", "Damaged objects that were removed.", state.damaged)


def _cumulated(bounds: tuple[float, ...], counts: tuple[int, ...]) -> list[tuple[str, float]]:
    """As Prometheus counts: each bucket with all below it."""
    total, found = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
