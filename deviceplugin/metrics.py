"""What the device plugin counts for Prometheus."""

from collections import Counter as Tally
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from deviceplugin.offers import Offer

# Allocate is answered within a millisecond or two; what takes longer than a second is broken.
_LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

# An FPGA's region takes from half a second to minutes.
_PROGRAMMING_BUCKETS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 60.0, 300.0)


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.offering = _Offering()
        registry.register(self.offering)
        self.driver_up = Gauge(
            "tasuki_driver_up", "Whether the driver could be asked at the last scan.", ["kind"], registry=registry
        )
        self.problems = Gauge(
            "tasuki_problems", "Devices, or parts of the configuration, that are left out.", ["kind"], registry=registry
        )
        self.requests = Counter(
            "tasuki_requests", "Calls of the kubelet by outcome.", ["resource", "method", "outcome"], registry=registry
        )
        self.latency = Histogram(
            "tasuki_request_duration_seconds",
            "How long the kubelet's calls took.",
            ["method"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.allocated = Counter(
            "tasuki_slices_allocated", "Slices handed out to containers.", ["resource"], registry=registry
        )
        self.preferred_followed = Counter(
            "tasuki_deviceplugin_preferred_followed",
            "Preferences by how they came about: a choice made by the scheduler was followed, or none was (ordinary).",
            ["outcome"],
            registry=registry,
        )
        self.registrations = Counter(
            "tasuki_registrations",
            "Registrations with the kubelet by outcome.",
            ["resource", "outcome"],
            registry=registry,
        )
        self.reloads = Counter(
            "tasuki_config_reloads", "Configurations read by outcome.", ["outcome"], registry=registry
        )
        self.config_good = Gauge(
            "tasuki_config_good", "1 if the newest configuration is in force, 0 if an older one is.", registry=registry
        )
        self.last_xid = Gauge(
            "tasuki_last_xid", "The last XID that a GPU reported, critical or not.", ["device"], registry=registry
        )
        self.faults = Counter(
            "tasuki_faults", "Faults that the driver reported.", ["device", "critical"], registry=registry
        )
        self.programming = Histogram(
            "tasuki_fpga_programming_seconds",
            "How long FPGA regions took to be programmed.",
            ["function", "outcome"],
            buckets=_PROGRAMMING_BUCKETS,
            registry=registry,
        )
        self.published = Gauge(
            "tasuki_published", "Whether the node's labels and AcceleratorNode are up to date.", registry=registry
        )
        self.publish_failures = Gauge(
            "tasuki_publish_failures", "Attempts to publish that failed, since the start.", registry=registry
        )
        self.crashes = Counter(
            "tasuki_internal_errors", "Errors of our own that the process survived.", ["where"], registry=registry
        )


class _Offering(Collector):
    """What is offered at present, as gauges; resources that are gone leave no series behind.

    Attributes:
        offers: Replaced as a whole, so that a scrape sees all of one moment.
    """

    def __init__(self) -> None:
        self.offers: tuple[Offer, ...] = ()

    def collect(self) -> Iterator[Metric]:
        devices = GaugeMetricFamily("tasuki_devices", "Devices by resource and health.", labels=["resource", "health"])
        slices = GaugeMetricFamily("tasuki_slices", "Slices by resource and health.", labels=["resource", "health"])
        sizes = GaugeMetricFamily(
            "tasuki_list_bytes", "Size of the list that the kubelet gets; it refuses 4 MiB.", labels=["resource"]
        )
        for offer in self.offers:
            of_slices = Tally(s.device.health.healthy for s in offer.resource.slices)
            healths = {s.device.id: s.device.health.healthy for s in offer.resource.slices}
            of_devices = Tally(healths.values())
            for word, healthy in (("healthy", True), ("unhealthy", False)):
                slices.add_metric([offer.name, word], of_slices[healthy])
                devices.add_metric([offer.name, word], of_devices[healthy])
            sizes.add_metric([offer.name], len(offer.listed))
        yield from (devices, slices, sizes)
