"""Devices of a machine that is only described, for trying things out without GPUs."""

import threading
import time
from dataclasses import dataclass
from typing import Final

from deviceplugin.discovery.described import machine_of
from deviceplugin.discovery.description import (
    DescriptionError,
    FaultDescription,
    MachineDescription,
    decode,
    path_of,
    read,
)
from deviceplugin.discovery.probing import RECOVERY_ACTIONS, Condition, reasons
from deviceplugin.discovery.remembering import SeenGpus
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault
from deviceplugin.machine import Gpu, Machine

_LOOK_SECONDS: Final = 0.25
_ACTION_NUMBERS: Final = {name: number for number, name in RECOVERY_ACTIONS.items()}


@dataclass(frozen=True, slots=True)
class _Described:
    """One reading of the file; `faults` by GPU id."""

    text: str
    machine: Machine
    faults: dict[str, FaultDescription]


class SimulatedSource:
    """A DeviceSource over one YAML file, which is read again at every call: edit it to simulate faults."""

    def __init__(self, name_or_path: str, *, node: str = "") -> None:
        """Take a shipped description's name or a file's path; `node` makes ids differ between nodes.

        Raises:
            DescriptionError: There is no shipped description of that name.
        """
        self._path: Final = path_of(name_or_path)
        self._node: Final = node
        self._last: _Described | None = None
        self._seen: Final = SeenGpus()
        self._uncorrected: dict[str, int] = {}
        self._reported: dict[str, Fault] = {}
        self._closed: Final = threading.Event()

    def scan(self) -> Machine:
        described = self._read()
        found, failed = [], {}
        for gpu in described.machine.gpus:
            fault = described.faults[gpu.device.id]
            if fault.lost:
                failed[int(gpu.device.index)] = "GPU is lost"
            else:
                found.append(gpu)
                self._uncorrected.setdefault(gpu.device.id, fault.uncorrected_errors)
        gpus, unreadable = self._seen.update(found, failed)
        machine = described.machine
        return Machine(
            driver_version=machine.driver_version,
            cuda_version=machine.cuda_version,
            gpus=gpus,
            topology=machine.topology,
            product=machine.product,
            unreadable=unreadable,
        )

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        until = time.monotonic() + timeout_seconds
        while True:
            if new := self._new_faults():
                return new
            left = until - time.monotonic()
            if left <= 0 or self._closed.wait(min(left, _LOOK_SECONDS)):
                return []

    def probe(self, gpu: str) -> str:
        try:
            described = self._read()
        except DriverUnavailableError as error:
            return str(error)
        fault = described.faults.get(gpu)
        if fault is None:
            return "the driver no longer lists it"
        if fault.lost:
            return "GPU is lost"
        before = self._uncorrected.get(gpu)
        self._uncorrected[gpu] = fault.uncorrected_errors
        return reasons(condition_of(fault), before)

    def close(self) -> None:
        self._closed.set()

    def _new_faults(self) -> list[Fault]:
        """XIDs and losses that were not in the file when it was last looked at."""
        described = self._read()
        current = {
            gpu.device.id: _fault(gpu, fault)
            for gpu in described.machine.gpus
            if (fault := described.faults[gpu.device.id]).xid is not None or fault.lost
        }
        new = [fault for gpu, fault in current.items() if self._reported.get(gpu) != fault]
        self._reported = current
        return new

    def _read(self) -> _Described:
        try:
            text = read(self._path)
            last = self._last
            if last is None or last.text != text:
                description = decode(text)
                machine = machine_of(description, self._node)
                self._last = last = _Described(text, machine, faults_of(description, machine))
        except DescriptionError as error:
            raise DriverUnavailableError(f"machine description {self._path}: {error}") from error
        return last


def faults_of(description: MachineDescription, machine: Machine) -> dict[str, FaultDescription]:
    """What is wrong with each GPU, by its id."""
    return {
        gpu.device.id: entry.fault or FaultDescription()
        for gpu, entry in zip(machine.gpus, description.gpus, strict=True)
    }


def condition_of(fault: FaultDescription) -> Condition:
    return Condition(
        recovery_action=_ACTION_NUMBERS.get(fault.recovery_action),
        remapping_pending=fault.row_remapping == "pending",
        remapping_failed=fault.row_remapping == "failed",
        retirement_pending=fault.page_retirement_pending,
        uncorrected_errors=fault.uncorrected_errors,
    )


def _fault(gpu: Gpu, fault: FaultDescription) -> Fault:
    if fault.lost:
        return Fault(gpu.device.id, "GPU is lost")
    return Fault(gpu.device.id, f"XID {fault.xid}", fault.xid, fault.gi, fault.ci)
