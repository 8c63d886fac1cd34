"""What the device plugin counts for Prometheus."""

from collections import Counter as Tally
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from deviceplugin.machine import Machine
from deviceplugin.resources import Resource
from tasuki.devices.model import Health

# Allocate is answered within a millisecond or two; what takes longer than a second is broken.
_LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """Every metric of the process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.driver_up = Gauge(
            "tasuki_driver_up", "Whether the driver could be asked at the last scan.", registry=registry
        )
        self.devices = Gauge(
            "tasuki_devices", "Devices by resource and health.", ["resource", "health"], registry=registry
        )
        self.slices = Gauge(
            "tasuki_slices", "Slices by resource and health.", ["resource", "health"], registry=registry
        )
        self.unreadable = Gauge(
            "tasuki_devices_unreadable", "Devices that the driver counts but that never answered.", registry=registry
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
        self.registrations = Counter(
            "tasuki_registrations",
            "Registrations with the kubelet by outcome.",
            ["resource", "outcome"],
            registry=registry,
        )
        self.list_bytes = Gauge(
            "tasuki_list_bytes",
            "Size of the list that the kubelet gets; it refuses 4 MiB.",
            ["resource"],
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
        self.crashes = Counter(
            "tasuki_internal_errors", "Errors of our own that the process survived.", ["where"], registry=registry
        )

    def machine_scanned(self, machine: Machine) -> None:
        self.driver_up.set(1)
        self.unreadable.set(len(machine.unreadable))

    def resources_offered(self, resources: Iterable[Resource]) -> None:
        """Set the gauges to what is offered now; resources that are gone leave no series behind."""
        self.devices.clear()
        self.slices.clear()
        for resource in resources:
            slices = Tally(_word(s.device.health) for s in resource.slices)
            devices = Tally(
                _word(health) for health in {s.device.id: s.device.health for s in resource.slices}.values()
            )
            for word in ("healthy", "unhealthy"):
                self.slices.labels(resource.name, word).set(slices[word])
                self.devices.labels(resource.name, word).set(devices[word])


def _word(health: Health) -> str:
    return "healthy" if health.healthy else "unhealthy"
