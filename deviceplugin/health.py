"""Which devices may be handed out, from the faults that the driver reports and the probes that follow."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One report of the driver.

    Attributes:
        gpu: The physical GPU's id; None where the driver could not say which, so that it may be any.
        gi: The GPU instance that it happened in; None if it is the whole GPU's.
        ci: The compute instance; None if it is the whole GPU instance's.
        xid: NVIDIA's error number; None for a fault that is none, such as a GPU that does not answer.
    """

    gpu: str | None
    reason: str
    xid: int | None = None
    gi: int | None = None
    ci: int | None = None
