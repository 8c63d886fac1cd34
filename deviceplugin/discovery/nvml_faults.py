"""Waiting for the errors that NVIDIA's driver reports."""

import ctypes
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import pynvml

from deviceplugin.discovery.nvml_driver import DRIVER_GONE, NvmlDriver, unavailable
from deviceplugin.discovery.nvml_reading import UNKNOWN_QUESTION
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault

# How long one call into NVML lasts at most, so that GPUs found by a scan are watched soon and closing is quick.
_STEP_SECONDS: Final = 1.0
# After a failure to wait: NVML fails again at once, as long as the cause is there.
_PAUSE_SECONDS: Final = 5.0
_AT_ONCE: Final = 256
_NO_INSTANCE: Final = 0xFFFFFFFF
_MASK: Final = pynvml.nvmlEventTypeXidCriticalError


class FaultWaiter:
    """An event set with all GPUs that can report errors. Used by one thread at a time."""

    def __init__(self, driver: NvmlDriver) -> None:
        self._driver: Final = driver
        self._closed: Final = threading.Event()
        self._wanted: tuple[str, ...] = ()
        self._generation = 0
        self._events: Any = None
        self._watched: set[str] = set()
        # By the handle's address: a GPU that is lost no longer tells its name, and its last event is why.
        self._names: dict[int, str] = {}
        self._mute: set[str] = set()
        self._failed: set[str] = set()
        self._followed: tuple[str, ...] = ()
        self._not_before = 0.0

    def watch(self, gpus: Sequence[str]) -> None:
        """From now on, wait for faults of these GPUs: those that answered the last scan."""
        self._wanted = tuple(gpus)

    def close(self) -> None:
        """End the current wait and all later ones."""
        self._closed.set()

    def wait(self, timeout_seconds: float) -> list[Fault]:
        """Faults as soon as there are any; none after the timeout.

        Raises:
            DriverUnavailableError: The driver does not let us wait.
        """
        until = time.monotonic() + timeout_seconds
        while not self._closed.is_set():
            left = until - time.monotonic()
            pause = self._not_before - time.monotonic()
            if pause > 0 and left > 0:
                self._closed.wait(min(pause, left))
                continue
            step = max(0.0, min(left, _STEP_SECONDS))
            try:
                with self._driver.use() as generation:
                    faults = self._follow(generation) or self._events_within(step)
            except DriverUnavailableError:
                self._not_before = time.monotonic() + _PAUSE_SECONDS
                raise
            if faults or left <= 0:
                return faults
            if not self._watched:
                self._closed.wait(step)
        return []

    def _follow(self, generation: int) -> list[Fault]:
        """Register what is not yet registered; a GPU that cannot be is a fault of its own."""
        if generation != self._generation:
            # The former event set ended with its initialisation of NVML.
            self._generation, self._events = generation, None
            self._watched, self._mute, self._failed, self._names = set(), set(), set(), {}
        wanted = self._wanted
        if wanted is not self._followed:  # a new scan: what failed may have come back
            self._followed = wanted
            self._watched &= set(wanted)
            self._failed = set()
        faults = []
        for gpu in wanted:
            if gpu in self._watched | self._mute | self._failed:
                continue
            try:
                (self._watched if self._register(gpu) else self._mute).add(gpu)
            except pynvml.NVMLError as error:
                if error.value in DRIVER_GONE:
                    raise
                self._failed.add(gpu)
                faults.append(Fault(gpu, f"its errors cannot be watched: {error}"))
        return faults

    def _register(self, gpu: str) -> bool:
        """False for a GPU that does not report errors."""
        if self._events is None:
            self._events = pynvml.nvmlEventSetCreate()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu)
        self._names[_address(handle)] = gpu
        try:
            mask = pynvml.nvmlDeviceGetSupportedEventTypes(handle) & _MASK
            if mask:
                pynvml.nvmlDeviceRegisterEvents(handle, mask, self._events)
        except pynvml.NVMLError as error:
            if error.value in UNKNOWN_QUESTION:
                return False
            raise
        return bool(mask)

    def _events_within(self, seconds: float) -> list[Fault]:
        faults: list[Fault] = []
        if not self._watched:
            return faults
        milliseconds = int(seconds * 1000)
        while len(faults) < _AT_ONCE and not self._driver.gone:
            try:
                event = pynvml.nvmlEventSetWait(self._events, milliseconds)
            except pynvml.NVMLError_Timeout:
                break
            except pynvml.NVMLError as error:
                return faults + self._after_failure(error)
            if event.eventType & _MASK:
                faults += self._faults_of(event)
            milliseconds = 0  # take what else is there, without waiting for more
        return faults

    def _faults_of(self, event: Any) -> list[Fault]:
        xid = int(event.eventData)
        gi, ci = _instance(event.gpuInstanceId), _instance(event.computeInstanceId)
        try:
            return [Fault(pynvml.nvmlDeviceGetUUID(event.device), f"XID {xid}", xid, gi, ci)]
        except pynvml.NVMLError as error:
            known = self._names.get(_address(event.device))
            if known is not None:
                return [Fault(known, f"XID {xid}", xid, gi, ci)]
            reason = f"XID {xid} on a GPU that does not tell its name: {error}"
        # One of those that do not answer; where all answer, it may be any.
        lost = [Fault(gpu, reason, xid) for gpu in sorted(self._watched) if not _answers(gpu)]
        return lost or [Fault(None, reason, xid)]

    def _after_failure(self, error: pynvml.NVMLError) -> list[Fault]:
        """Waiting failed for the whole set: go on without the GPUs that are the cause."""
        if error.value in DRIVER_GONE:
            raise error
        lost = [gpu for gpu in sorted(self._watched) if not _answers(gpu)]
        pynvml.nvmlEventSetFree(self._events)
        self._events, self._watched = None, set()
        self._failed |= set(lost)
        if not lost:
            raise unavailable(error)
        return [Fault(gpu, f"it does not answer: {error}") for gpu in lost]


def _answers(gpu: str) -> bool:
    try:
        pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(gpu))
    except pynvml.NVMLError:
        return False
    return True


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _instance(number: int) -> int | None:
    return None if number == _NO_INSTANCE else int(number)
