"""Regions of FPGAs, which several resources offer and only one of them can have."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from deviceplugin.config.model import FpgaFunction
from deviceplugin.config.values import canonical_id
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of
from deviceplugin.fpga import Region
from deviceplugin.programming.programmer import ProgrammingError
from deviceplugin.programming.readback import Readback
from deviceplugin.resources import Resource
from tasuki.devices.model import DeviceKind
from tasuki.sandbox.pods import Pod
from tasuki.sandbox.scheduling import Shortage


@dataclass(frozen=True, slots=True)
class Holding:
    """A pod that holds a part of a region under a resource."""

    pod: Pod
    resource: str
    region: str


@dataclass(frozen=True, slots=True)
class Regions:
    """Which regions could serve which resource if nobody held them.

    Attributes:
        channels: How many slices a region would have, by resource and region.
        regions: By resource and slice, the region that it is of.
    """

    channels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    regions: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Self:
        channels: dict[str, dict[str, int]] = {}
        regions: dict[tuple[str, str], str] = {}
        for resource in resources:
            for each in resource.slices:
                if each.device.kind is DeviceKind.FPGA:
                    regions[resource.name, each.id] = each.device.id
                    channels.setdefault(resource.name, {})[each.device.id] = each.replicas
        return cls(channels, regions)

    def of_devices(self, resource: str, devices: Iterable[str]) -> tuple[str, ...]:
        """The regions that slices of a resource are of; none for other kinds of accelerators."""
        found = {region for device in devices if (region := self.regions.get((resource, device))) is not None}
        return tuple(sorted(found))

    def in_the_way(self, missing: Sequence[Shortage], holdings: Sequence[Holding]) -> tuple[Holding, ...]:
        """Who holds, under another resource, a region that could serve one that is missing; the oldest pod first."""
        return tuple(
            holding
            for holding in holdings
            if any(
                holding.region in self.channels.get(shortage.resource, {}) and holding.resource != shortage.resource
                for shortage in missing
            )
        )

    def must_end_first(self, missing: Sequence[Shortage], holdings: Sequence[Holding]) -> tuple[Pod, ...]:
        """The Jobs' pods whose end frees enough regions, older ones rather than younger; empty if none do.

        Nothing runs in the sandbox, so a Job's pod is done as soon as its place is needed.
        """
        jobs = list({holding.pod.uid: holding.pod for holding in holdings if holding.pod.job}.values())
        if not self._enough(missing, holdings, jobs):
            return ()
        for pod in reversed(jobs):
            others = [other for other in jobs if other is not pod]
            if self._enough(missing, holdings, others):
                jobs = others
        return tuple(jobs)

    def _enough(self, missing: Sequence[Shortage], holdings: Sequence[Holding], ended: Sequence[Pod]) -> bool:
        gone = {pod.uid for pod in ended}
        held = {holding.region for holding in holdings if holding.pod.uid not in gone}
        freed = {holding.region for holding in holdings} - held
        for shortage in missing:
            channels = self.channels.get(shortage.resource, {})
            if sum(channels.get(region, 0) for region in freed) < shortage.wanted - shortage.free:
                return False
            freed -= channels.keys()
        return True


def told(holdings: Collection[Holding]) -> tuple[str, ...]:
    """One sentence for each region that is held."""
    pods: dict[tuple[str, str], list[str]] = {}
    for holding in holdings:
        names = pods.setdefault((holding.region, holding.resource), [])
        if str(holding.pod) not in names:
            names.append(str(holding.pod))
    return tuple(
        f"region {region} is held under {resource} by {', '.join(names)}" for (region, resource), names in pods.items()
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A region that a container was given, before and after PreStartContainer.

    Attributes:
        before: The function that it held, or the id of what the catalogue does not know; empty for nothing.
        after: The same, when the container started, or could not.
        seconds: How long the kubelet waited for the plugin.
    """

    container: str
    resource: str
    region: str
    before: str
    after: str
    seconds: float

    @property
    def programmed(self) -> bool:
        return self.before != self.after

    def __str__(self) -> str:
        if not self.programmed:
            return f"starts at once, as region {self.region} holds {self.after or 'nothing'} already"
        return (
            f"waited {self.seconds:.1f} s for region {self.region} to be programmed: {self.after or 'nothing'} "
            f"in place of {self.before or 'nothing'}"
        )


class Tree:
    """What a simulated machine's regions hold, read from its files as they are at the moment.

    Args:
        sys: The tree that the plugin has laid out.
        functions: The catalogue.
    """

    def __init__(self, sys: Path, functions: Iterable[FpgaFunction]) -> None:
        self._readback: Final = Readback(sys)
        self._source: Final = FpgaSource(sys, dev_of(sys))
        self._names: Final = {i.id: function.name for function in functions for i in function.implementations}

    def loaded(self) -> dict[str, str]:
        """By region: the function's name, or the id of what the catalogue does not know; empty for nothing. Blocks."""
        return {region.device.id: self._held(region) for region in self._source.scan().regions}

    def _held(self, region: Region) -> str:
        try:
            # As the plugin itself makes sure of what it has written, and so of regions that are unhealthy, too.
            held = self._readback.loaded(region, region.loaded)
        except ProgrammingError:
            return "something that cannot be read"
        return self._names.get(canonical_id(held), held)
