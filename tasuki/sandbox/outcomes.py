"""What became of the pods."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasuki.sandbox.admission import Admission
from tasuki.sandbox.pods import Pod
from tasuki.sandbox.regions import Prepared
from tasuki.sandbox.scheduling import Shortage


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pod's end.

    Attributes:
        admission: The kubelet's answer; None if the pod did not get that far.
        shortages: What the node lacks for it; empty if it fits.
        waited: What it waited for, or waits for still, one sentence each; empty if there was a place at once.
        prepared: The regions of FPGAs that its containers were given.
        ended: Whether its devices have been freed again, because its Job is done.
    """

    pod: Pod
    admission: Admission | None = None
    shortages: tuple[Shortage, ...] = ()
    waited: tuple[str, ...] = ()
    prepared: tuple[Prepared, ...] = ()
    ended: bool = False

    @property
    def satisfied(self) -> bool:
        return self.admission is not None and self.admission.started

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the pod did not get what it asked for."""
        if self.admission is None:
            return self.waited or tuple(str(shortage) for shortage in self.shortages)
        if not self.admission.admitted:
            return (f"{self.admission.reason}: {self.admission.message}",)
        return tuple(
            f"container {c.container.name} cannot start: {c.not_started}"
            for c in self.admission.containers
            if c.not_started
        )


def all_satisfied(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome.satisfied for outcome in outcomes)
