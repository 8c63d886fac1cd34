"""NVML, initialised when it is needed and again after the driver went away."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pynvml

from deviceplugin.discovery.source import DriverUnavailableError

_LEAVE_SECONDS: Final = 10.0

# After these nothing that was read before is of any use: handles and event sets belong to an initialisation.
DRIVER_GONE: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)

_REMEDIES: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "libnvidia-ml.so.1 is not found; install NVIDIA's driver on this node, or let its libraries into the container"
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's kernel module is not loaded; install or load the driver",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "NVIDIA's library and kernel module are of different versions; reload the module or reboot the node"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to use the driver; check access to /dev/nvidiactl",
}


def unavailable(error: pynvml.NVMLError) -> DriverUnavailableError:
    return DriverUnavailableError(_REMEDIES.get(error.value, f"NVML does not answer: {error}"))


class NvmlDriver:
    """The one place that initialises and shuts down NVML.

    Calls into NVML are made inside `use()` alone. NVML may be called by several threads at once, but not while one
    of them shuts it down: that waits until the last one has left.
    """

    def __init__(self) -> None:
        self._changed: Final = threading.Condition()
        self._open = False
        self._gone = False
        self._users = 0
        self._generation = 0

    @contextmanager
    def use(self) -> Iterator[int]:
        """Enter NVML; the number tells initialisations apart.

        Raises:
            DriverUnavailableError: NVML cannot be initialised, or a call inside failed with an NVMLError, so that
                the caller need not care what it was.
        """
        with self._changed:
            self._ensure_open()
            self._users += 1
            generation = self._generation
        try:
            yield generation
        except pynvml.NVMLError as error:
            if error.value in DRIVER_GONE:
                self._gone = True
            raise unavailable(error) from error
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @property
    def gone(self) -> bool:
        """Whether those inside should leave: the driver went away, or `close` was called."""
        return self._gone

    def close(self) -> None:
        """Shut NVML down, as soon as everybody has left it; a later `use` initialises it again."""
        with self._changed:
            self._gone = True
            self._shut_down()

    def _ensure_open(self) -> None:
        if self._gone:
            self._shut_down()
        if self._open:
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise unavailable(error) from error
        self._open = True
        self._generation += 1

    def _shut_down(self) -> None:
        until = time.monotonic() + _LEAVE_SECONDS
        while self._users:
            if not self._changed.wait(until - time.monotonic()):
                raise DriverUnavailableError(
                    f"a call into NVIDIA's driver has not come back for {_LEAVE_SECONDS:.0f} s, so that it cannot be "
                    "initialised again; if this lasts, reboot the node"
                )
        if self._open:
            with suppress(pynvml.NVMLError):  # it went away by itself
                pynvml.nvmlShutdown()
        self._open = self._gone = False
