"""What the control plane counts for Prometheus."""

from collections import Counter as Count
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from objectcache.xds.member import Member
from objectcache.xds.snapshot import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES

# The types by the names that Envoy's documentation has for their services.
KINDS: Final = {CLUSTERS: "cds", ENDPOINTS: "eds", LISTENERS: "lds", ROUTES: "rds"}
VARIANTS: Final = ("sotw", "delta")
OUTCOMES: Final = ("accepted", "refused", "stale")
SERVING: Final = "serving"
LEAVING: Final = "leaving"


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.envoys = Gauge(
            "tasuki_xds_envoys", "Envoys that are connected, by variant of the protocol.", ["variant"],
            registry=registry,
        )  # fmt: skip
        self.pushes = Counter("tasuki_xds_pushes", "Responses that were sent, by type.", ["type"], registry=registry)
        self.answers = Counter(
            "tasuki_xds_answers", "What Envoys made of responses, by type and outcome; stale is passed over.",
            ["type", "outcome"], registry=registry,
        )  # fmt: skip
        self.refusing = Gauge(
            "tasuki_xds_refusing_envoys", "Connected Envoys that refuse what they were sent last.", registry=registry
        )
        self.unknown_zone = Gauge(
            "tasuki_xds_envoys_without_zone", "Connected Envoys whose zone nobody knows, where caches have one.",
            registry=registry,
        )  # fmt: skip
        self.members = Gauge(
            "tasuki_xds_members", "Caches that Envoys are told of, by zone and state.", ["zone", "state"],
            registry=registry,
        )  # fmt: skip
        self.snapshot_age = Gauge(
            "tasuki_xds_snapshot_age_seconds", "Since what Envoys are told changed last; NaN before they are told "
            "anything.", registry=registry,
        )  # fmt: skip
        self.watch_connected = Gauge(
            "tasuki_xds_watch_connected", "Whether a watch of the API server is in contact.", ["watch"],
            registry=registry,
        )  # fmt: skip
        for variant in VARIANTS:
            self.envoys.labels(variant)
        for kind in KINDS.values():
            self.pushes.labels(kind)
            for outcome in OUTCOMES:
                self.answers.labels(kind, outcome)

    def pushed(self, type_url: str) -> None:
        self.pushes.labels(KINDS[type_url]).inc()

    def answered(self, type_url: str, outcome: str) -> None:
        self.answers.labels(KINDS[type_url], outcome).inc()

    def told(self, members: Iterable[Member]) -> None:
        """Count the members; zones that have none any more are dropped."""
        counts = Count((member.zone, LEAVING if member.leaving else SERVING) for member in members)
        self.members.clear()
        for zone in sorted({zone for zone, _ in counts}):
            for state in (SERVING, LEAVING):
                self.members.labels(zone, state).set(counts[zone, state])

    def follow_age(self, age_seconds: Callable[[], float]) -> None:
        """Ask for the snapshot's age whenever somebody collects metrics, from the collector's thread."""
        self.snapshot_age.set_function(age_seconds)
