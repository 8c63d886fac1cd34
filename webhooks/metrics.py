"""What the webhooks count for Prometheus."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# A review takes a fraction of a millisecond; the API server's own histogram begins at 5 ms.
_LATENCY_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)

WEBHOOKS: Final = ("mutate", "validate")
OUTCOMES: Final = ("patched", "untouched", "refused", "exempt", "passed", "bad-request", "too-large", "error")


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.reviews = Counter(
            "tasuki_webhooks_reviews", "AdmissionReviews by outcome.", ["webhook", "outcome"], registry=registry
        )
        self.mutations = Counter(
            "tasuki_webhooks_mutations", "Pods that a mutation changed or refused.", ["mutation", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "tasuki_webhooks_review_seconds",
            "From the last byte of a request to the first of its answer.",
            ["webhook"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.policy_good = Gauge(
            "tasuki_webhooks_policy_loaded",
            "1 if the newest policy is in force, 0 if an older one or none is.",
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "tasuki_webhooks_certificate_expiry_timestamp_seconds",
            "When the certificate that is served ends, as a Unix time; 0 if there is none.",
            registry=registry,
        )
        self.watch_connected = Gauge(
            "tasuki_webhooks_watch_connected",
            "Whether a watch of the API server is in contact.",
            ["watch"],
            registry=registry,
        )
        # Every one from the start, so that a rate can be taken of the first. Looking one up by its labels takes longer
        # than counting.
        self._reviewed = {
            (each, outcome): self.reviews.labels(each, outcome) for each in WEBHOOKS for outcome in OUTCOMES
        }
        self._took = {each: self.seconds.labels(each) for each in WEBHOOKS}
        self._mutated: dict[tuple[str, str], Counter] = {}

    def reviewed(self, webhook: str, outcome: str) -> None:
        self._reviewed[webhook, outcome].inc()

    def took(self, webhook: str, seconds: float) -> None:
        self._took[webhook].observe(seconds)

    def mutated(self, mutation: str, outcome: str) -> None:
        counter = self._mutated.get((mutation, outcome))
        if counter is None:
            counter = self._mutated[mutation, outcome] = self.mutations.labels(mutation, outcome)
        counter.inc()
