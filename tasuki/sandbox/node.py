"""A node with one kubelet, on which pods are placed in their order."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tasuki.sandbox.admission import Admission
from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.outcomes import Outcome
from tasuki.sandbox.pods import Pod
from tasuki.sandbox.regions import Holding, Prepared, Regions, Tree, told
from tasuki.sandbox.report import Report
from tasuki.sandbox.scheduling import Shortage, must_end_first, shortages
from tasuki.sandbox.views import ResourceView

# The plugin takes milliseconds to offer a region that was taken for nothing else any more.
_SETTLE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Fabric:
    """The FPGAs of a node.

    Attributes:
        tree: Where to read what they hold; None if there are none.
        patience_seconds: How long a pod waits for a region once those that held it have ended.
    """

    regions: Regions = field(default_factory=Regions)
    tree: Tree | None = None
    patience_seconds: float = 30.0


class Node:
    """Places pods, and remembers what became of each."""

    def __init__(self, kubelet: Kubelet, report: Report, fabric: Fabric | None = None) -> None:
        self._kubelet = kubelet
        self._report = report
        self._fabric = fabric or Fabric()
        self._outcomes: dict[str, Outcome] = {}

    @property
    def outcomes(self) -> Sequence[Outcome]:
        return tuple(self._outcomes.values())

    async def place_all(self, pods: Sequence[Pod]) -> None:
        for pod in pods:
            await self.place(pod)

    async def place(self, pod: Pod) -> None:
        """Admit the pod if it fits, ending pods of Jobs that are in its way."""
        for other in self._kubelet.pods():
            if other.job and (other.namespace, other.name) == (pod.namespace, pod.follows):
                self._end(other)
        for other in must_end_first(pod, self._kubelet.pods(), self._kubelet.resources()):
            self._end(other)
        waited = await self._waited(pod)
        missing = self._missing(pod)
        if missing:
            outcome = Outcome(pod, shortages=missing, waited=waited)
        else:
            admission, prepared = await self._admitted(pod)
            outcome = Outcome(pod, admission, waited=waited, prepared=prepared)
        self._outcomes[pod.uid] = outcome
        self._report.outcome(outcome)
        if outcome.satisfied:
            await self._settled(pod)

    def _missing(self, pod: Pod) -> tuple[Shortage, ...]:
        return shortages(pod, self._kubelet.pods(), self._kubelet.resources())

    async def _waited(self, pod: Pod) -> tuple[str, ...]:
        """Wait for regions that pods of Jobs hold under other resources.

        Returns:
            What is missing and who has it; empty if regions are not what is missing.
        """
        missing = self._missing(pod)
        in_the_way = self._fabric.regions.in_the_way(missing, self._holdings())
        if not in_the_way:
            return ()
        reasons = (*(str(shortage) for shortage in missing), *told(in_the_way))
        ending = self._fabric.regions.must_end_first(missing, in_the_way)
        if not ending:
            return reasons
        self._report.waits(pod, reasons)
        for other in ending:
            self._end(other)
        self._report.waits_for_release(pod, self._fabric.patience_seconds)
        with contextlib.suppress(TimeoutError):
            await self._kubelet.wait_for(lambda _: not self._missing(pod), self._fabric.patience_seconds)
        return reasons

    def _holdings(self) -> tuple[Holding, ...]:
        """Who holds which region, the oldest pod first."""
        return tuple(
            Holding(pod, resource, region) for pod in self._kubelet.pods() for resource, region in self._held_by(pod)
        )

    def _held_by(self, pod: Pod) -> tuple[tuple[str, str], ...]:
        """Each resource and region of which a pod holds a part."""
        found = [
            (resource, region)
            for container in pod.containers
            for resource, held in self._kubelet.held(pod.uid, container.name).items()
            for region in self._fabric.regions.of_devices(resource, held.devices)
        ]
        return tuple(dict.fromkeys(found))

    async def _admitted(self, pod: Pod) -> tuple[Admission, tuple[Prepared, ...]]:
        """Admit the pod, and see what that did to its regions."""
        before = await self._loaded()
        admission = await self._kubelet.admit(pod)
        after = await self._loaded()
        prepared: dict[str, Prepared] = {}
        for container in admission.containers:
            for resource, seconds in container.prepared_seconds.items():
                for region in self._fabric.regions.of_devices(resource, container.devices[resource]):
                    was, now = before.get(region, ""), after.get(region, "")
                    if was != now or not container.not_started:
                        found = Prepared(container.container.name, resource, region, was, now, seconds)
                        prepared.setdefault(region, found)
        return admission, tuple(prepared.values())

    async def _loaded(self) -> Mapping[str, str]:
        return await asyncio.to_thread(self._fabric.tree.loaded) if self._fabric.tree else {}

    async def _settled(self, pod: Pod) -> None:
        """Wait until the pod's regions are offered for nothing else, so that no later pod is sent to one of them."""
        taken = {region: resource for resource, region in self._held_by(pod)}
        if not taken:
            return

        def settled(views: Mapping[str, ResourceView]) -> bool:
            return all(
                taken.get(region, view.name) == view.name
                for view in views.values()
                for region in self._fabric.regions.of_devices(view.name, view.healthy)
            )

        with contextlib.suppress(TimeoutError):
            await self._kubelet.wait_for(settled, _SETTLE_SECONDS)

    def _end(self, pod: Pod) -> None:
        self._kubelet.end(pod.uid)
        self._outcomes[pod.uid] = replace(self._outcomes[pod.uid], ended=True)
        self._report.ended(str(pod))
