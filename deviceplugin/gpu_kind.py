"""GPUs and MIG devices as a kind of accelerator."""

from dataclasses import dataclass

from deviceplugin.config.kinds import GPU
from deviceplugin.config.model import AllocationPolicy, Config
from deviceplugin.discovery.source import DeviceSource
from deviceplugin.granting import NotPreparedError, Preparation
from deviceplugin.health import Fault, HealthBook, all_unhealthy, judged, without_lost_parts
from deviceplugin.kind import Offered
from deviceplugin.machine import Machine
from deviceplugin.offers import refuse_all, too_large
from deviceplugin.resources import Resource, plan
from tasuki.devices.cost import distances
from tasuki.devices.model import Device, DeviceKind
from tasuki.devices.preference import POLICIES, Policy, nearest
from tasuki.devices.topology import Topology


@dataclass(frozen=True, slots=True)
class GpuKind:
    """The GPUs of one node; `kind.Kind` says what each method is for."""

    source: DeviceSource
    preparation: Preparation
    name: str = GPU

    def scan(self) -> Machine:
        return self.source.scan()

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        return self.source.wait_for_faults(timeout_seconds)

    def probe(self, device: str) -> str:
        return self.source.probe(device)

    def close(self) -> None:
        self.source.close()

    def settled(self, book: HealthBook, before: Machine, after: Machine) -> HealthBook:
        return without_lost_parts(book, before, after)

    def devices(self, found: Machine) -> tuple[Device, ...]:
        return _devices(found)

    def check(self, found: Machine, config: Config) -> tuple[str, ...]:
        made = plan(found, config)
        return made.misfits + too_large(made.resources)

    def plan(self, found: Machine, book: HealthBook, config: Config, trouble: str) -> Offered:
        machine = judged(found, book)
        try:
            grant = self.preparation.prepare(machine, config)
        except NotPreparedError as error:
            trouble = trouble or str(error)
            grant = refuse_all(trouble)
        if trouble:
            machine = all_unhealthy(machine, trouble)
        made = plan(machine, config)
        shared = config.flags.plugin.shared_devices_allocation_policy
        return Offered(
            devices=_devices(machine),
            resources=made.resources,
            grant=grant,
            policy=lambda resource: preferred(resource, machine.topology, shared),
            problems=made.problems,
            misfits=made.misfits,
            trouble=trouble,
            machine=machine,
        )


def preferred(resource: Resource, topology: Topology, shared: AllocationPolicy) -> Policy:
    """Whole GPUs are chosen by their links; slices and partitions, which work alone, by the policy for shared ones."""
    if all(s.replicas == 1 and s.device.kind is DeviceKind.GPU for s in resource.slices):
        return nearest(distances(topology, [s.device for s in resource.slices]))
    return POLICIES[shared.value]


def _devices(machine: Machine) -> tuple[Device, ...]:
    return tuple(device for gpu in machine.gpus for device in (gpu.device, *(i.device for i in gpu.mig)))
