"""What the mirror counts for Prometheus."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from objectcache.registry.cache import OUTCOMES as CACHE_OUTCOMES
from objectcache.registry.fetching import FETCH_OUTCOMES

VERSION: Final = "version"
BLOB: Final = "blob"
MANIFEST: Final = "manifest"
TAG: Final = "tag"
LIST: Final = "list"
UNKNOWN: Final = "unknown"
KINDS: Final = (VERSION, BLOB, MANIFEST, TAG, LIST, UNKNOWN)

# `hit`: of the cache, or of the mirror's own memory. `joined`: of a fetch that another client began. `passed`: straight
# from the registry, and not stored. `broken`: begun, and broken off.
HIT: Final = "hit"
FETCHED: Final = "fetched"
JOINED: Final = "joined"
PASSED: Final = "passed"
STALE: Final = "stale"
REFUSED: Final = "refused"
UNAVAILABLE: Final = "unavailable"
BROKEN: Final = "broken"
GONE: Final = "gone"
ERROR: Final = "error"
OUTCOMES: Final = (HIT, FETCHED, JOINED, PASSED, STALE, REFUSED, UNAVAILABLE, BROKEN, GONE, ERROR)

_SECONDS: Final = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tasuki_registry_requests", "Requests by what they ask for, and outcome.", ["kind", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.sent = Counter(
            "tasuki_registry_sent_bytes", "Bytes of bodies sent to clients, by outcome of their requests.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "tasuki_registry_request_seconds", "From a request to the last byte of its answer.", ["kind"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.upstream = Counter(
            "tasuki_registry_upstream_answers", "Answers of registries by status; 0 for none.", ["host", "status"],
            registry=registry,
        )  # fmt: skip
        self.received = Counter(
            "tasuki_registry_received_bytes", "Bytes of layers received from registries.", registry=registry
        )
        self.fetches = Counter(
            "tasuki_registry_fetches", "Layers fetched from registries, by outcome.", ["outcome"], registry=registry
        )
        self.cache = Counter(
            "tasuki_registry_cache_requests", "Requests to the object cache, by outcome.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.corrupt = Counter(
            "tasuki_registry_corrupt_hits", "Objects of the cache that were not what their names say; removed.",
            registry=registry,
        )  # fmt: skip
        self.spooled = Gauge("tasuki_registry_spool_bytes", "Room that layers under way take.", registry=registry)
        self.fetching = Gauge("tasuki_registry_fetching", "Layers that are being fetched.", registry=registry)
        # Every one from the start, so that a rate can be taken of the first.
        for kind in KINDS:
            self.seconds.labels(kind)
            for outcome in OUTCOMES:
                self.requests.labels(kind, outcome)
        for outcome in OUTCOMES:
            self.sent.labels(outcome)
        for outcome in FETCH_OUTCOMES:
            self.fetches.labels(outcome)
        for outcome in CACHE_OUTCOMES:
            self.cache.labels(outcome)

    def answered(self, kind: str, outcome: str, sent_bytes: int, seconds: float) -> None:
        self.requests.labels(kind, outcome).inc()
        self.sent.labels(outcome).inc(sent_bytes)
        self.seconds.labels(kind).observe(seconds)

    def upstream_answered(self, host: str, status: int) -> None:
        """Of hosts there are as many as the configuration names."""
        self.upstream.labels(host, str(status)).inc()

    def fetch_ended(self, outcome: str) -> None:
        self.fetches.labels(outcome).inc()

    def cache_answered(self, outcome: str) -> None:
        self.cache.labels(outcome).inc()

    def follow(self, spool_bytes: Callable[[], float], fetches: Callable[[], float]) -> None:
        """Ask for these whenever somebody collects metrics, from the collector's thread."""
        self.spooled.set_function(spool_bytes)
        self.fetching.set_function(fetches)
