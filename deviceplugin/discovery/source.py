"""What every source of devices can do; NVML and a simulated machine are told apart nowhere else."""

from typing import Protocol

from deviceplugin.health import Fault
from deviceplugin.machine import Machine


class DriverUnavailableError(Exception):
    """There is no driver to ask, or it refuses to answer at all; asking again later may help."""


class DeviceSource(Protocol):
    """Blocking calls, each made from a worker thread, never two at once but for `wait_for_faults`."""

    def scan(self) -> Machine:
        """Look at every GPU afresh.

        A GPU that was seen by an earlier scan and no longer answers is still listed, as it was, unhealthy.

        Raises:
            DriverUnavailableError: Nothing could be read at all.
        """

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        """Faults since the last call, as soon as there is one; an empty list after the timeout.

        Raises:
            DriverUnavailableError: Faults cannot be waited for at present.
        """

    def probe(self, gpu: str) -> str:
        """Look for reasons why a physical GPU should still not be used; empty if there is none.

        It is not enough that the GPU answers: a driver that asks for a reset or a reboot, pending row remapping
        and new uncorrected memory errors are reasons too.
        """

    def close(self) -> None:
        """Let go of the driver."""
