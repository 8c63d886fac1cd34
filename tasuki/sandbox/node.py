"""A node with one kubelet, on which pods are placed in their order."""

from collections.abc import Sequence
from dataclasses import replace

from tasuki.sandbox.kubelet import Kubelet
from tasuki.sandbox.outcomes import Outcome
from tasuki.sandbox.pods import Pod
from tasuki.sandbox.report import Report
from tasuki.sandbox.scheduling import must_end_first, shortages


class Node:
    """Places pods, and remembers what became of each."""

    def __init__(self, kubelet: Kubelet, report: Report) -> None:
        self._kubelet = kubelet
        self._report = report
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
        missing = shortages(pod, self._kubelet.pods(), self._kubelet.resources())
        admission = None if missing else await self._kubelet.admit(pod)
        outcome = Outcome(pod, admission, missing)
        self._outcomes[pod.uid] = outcome
        self._report.outcome(outcome)

    def _end(self, pod: Pod) -> None:
        self._kubelet.end(pod.uid)
        self._outcomes[pod.uid] = replace(self._outcomes[pod.uid], ended=True)
        self._report.ended(str(pod))
