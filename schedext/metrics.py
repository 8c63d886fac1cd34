"""What the extender counts for Prometheus."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# A verb takes a fraction of a millisecond for a few nodes; the scheduler's own timeout is 5 seconds where none is set.
_LATENCY_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
)  # fmt: skip
_NAMES_BUCKETS: Final = (1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 100_000)

FILTER: Final = "filter"
PRIORITIZE: Final = "prioritize"
BIND: Final = "bind"
PREEMPT: Final = "preempt"
EXPLAIN: Final = "explain"
VERBS: Final = (FILTER, PRIORITIZE, BIND, PREEMPT, EXPLAIN)

# `answered` may be a refusal too, for reasons of the pod or the node; `error` is a defect of ours.
ANSWERED: Final = "answered"
NOT_READY: Final = "not-ready"
BAD_REQUEST: Final = "bad-request"
ERROR: Final = "error"
OUTCOMES: Final = (ANSWERED, NOT_READY, BAD_REQUEST, "too-large", ERROR)

NEVER: Final = "never"
BUSY: Final = "busy"

# As `schedext.bind_outcome` and `schedext.waking` tell them.
BIND_OUTCOMES: Final = ("bound", "again", "refused", "conflict", "gone", "failed", "unknown")
WAKE_OUTCOMES: Final = ("touched", "failed")


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tasuki_schedext_requests", "Requests by verb and outcome.", ["verb", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "tasuki_schedext_request_seconds",
            "From the last byte of a request to the first of its answer; for bind with its call to the API server.",
            ["verb"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.names = Histogram(
            "tasuki_schedext_request_nodes", "Nodes that a request names.", ["verb"], buckets=_NAMES_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.refusals = Counter(
            "tasuki_schedext_filter_refusals",
            "Nodes that a pod was refused, by whether it would never fit there or does not fit now.",
            ["kind"],
            registry=registry,
        )
        self.binds = Counter("tasuki_schedext_binds", "Pods to bind, by outcome.", ["outcome"], registry=registry)
        self.wakes = Counter(
            "tasuki_schedext_wakes", "Attempts to annotate a node so that waiting pods are tried again, by outcome.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "tasuki_schedext_waiting_pods", "Pods that were refused for want of room and have no node yet.",
            registry=registry,
        )  # fmt: skip
        self.reservations = Gauge(
            "tasuki_schedext_reservations", "Pods whose devices are held until their binding is seen.",
            registry=registry,
        )  # fmt: skip
        self.lease_held = Gauge(
            "tasuki_schedext_lease_held", "1 if this replica may bind at the moment, else 0.",
            registry=registry,
        )  # fmt: skip
        self.watch_connected = Gauge(
            "tasuki_schedext_watch_connected", "Whether a watch of the API server is in contact.", ["watch"],
            registry=registry,
        )  # fmt: skip
        self.watch_age = Gauge(
            "tasuki_schedext_watch_age_seconds",
            "How long ago the API server last said something about a collection; NaN if it never has.",
            ["watch"],
            registry=registry,
        )
        self.synced = Gauge(
            "tasuki_schedext_synced", "1 once every collection that deciding takes was listed.", registry=registry
        )
        # Every one from the start, so that a rate can be taken of the first. Looking one up by its labels takes longer
        # than counting.
        self._requests = {
            (verb, outcome): self.requests.labels(verb, outcome) for verb in VERBS for outcome in OUTCOMES
        }
        self._seconds = {verb: self.seconds.labels(verb) for verb in VERBS}
        self._names = {verb: self.names.labels(verb) for verb in (FILTER, PRIORITIZE, PREEMPT)}
        self._refusals = {kind: self.refusals.labels(kind) for kind in (NEVER, BUSY)}
        self._wakes = {outcome: self.wakes.labels(outcome) for outcome in WAKE_OUTCOMES}
        self._binds = {outcome: self.binds.labels(outcome) for outcome in BIND_OUTCOMES}

    def requested(self, verb: str, outcome: str) -> None:
        self._requests[verb, outcome].inc()

    def took(self, verb: str, seconds: float) -> None:
        self._seconds[verb].observe(seconds)

    def named(self, verb: str, count: int) -> None:
        self._names[verb].observe(count)

    def refused(self, never: int, busy: int) -> None:
        self._refusals[NEVER].inc(never)
        self._refusals[BUSY].inc(busy)

    def bound(self, outcome: str) -> None:
        self._binds[outcome].inc()

    def woke(self, outcome: str) -> None:
        self._wakes[outcome].inc()

    def follow(self, watch: str, age_seconds: Callable[[], float]) -> None:
        """Ask for a watch's age whenever somebody collects metrics, from the collector's thread."""
        self.watch_age.labels(watch).set_function(age_seconds)
