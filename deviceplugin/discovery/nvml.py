"""Devices as NVIDIA's driver knows them; read `scan` first."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pynvml

from deviceplugin.discovery import nvlink, sysfs
from deviceplugin.discovery.nvml_driver import DRIVER_GONE, NvmlDriver
from deviceplugin.discovery.nvml_faults import FaultWaiter
from deviceplugin.discovery.nvml_reading import (
    KernelFiles,
    read_condition,
    read_gpu,
    read_lanes,
    uncorrected_errors,
)
from deviceplugin.discovery.probing import reasons
from deviceplugin.discovery.remembering import SeenGpus
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.health import Fault
from deviceplugin.machine import Gpu, Machine
from tasuki.devices.topology import Topology

log: Final = logging.getLogger(__name__)


class NvmlSource:
    """A DeviceSource over NVML, whose calls other than `wait_for_faults` come from one thread at a time."""

    def __init__(
        self,
        *,
        sys: Path = Path("/sys"),
        proc: Path = Path("/proc"),
        product_file: Path = Path("/sys/class/dmi/id/product_name"),
    ) -> None:
        self._sys: Final = sys
        self._proc: Final = proc
        self._product_file: Final = product_file
        self._driver: Final = NvmlDriver()
        self._faults: Final = FaultWaiter(self._driver)
        self._seen: Final = SeenGpus()
        self._uncorrected: dict[str, int | None] = {}
        self._linked: frozenset[str] = frozenset()
        self._topology: Topology = Topology()

    def scan(self) -> Machine:
        with self._driver.use():
            driver_version = pynvml.nvmlSystemGetDriverVersion()
            cuda_version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
            found, failed = self._read_gpus()
            topology = self._linked_topology(found)
        gpus, unreadable = self._seen.update(list(found), failed)
        self._faults.watch([gpu.device.id for gpu in found])
        return Machine(
            driver_version=driver_version,
            cuda_version=(cuda_version // 1000, cuda_version % 1000 // 10),
            gpus=gpus,
            topology=topology,
            product=sysfs.product_name(self._product_file),
            unreadable=unreadable,
        )

    def wait_for_faults(self, timeout_seconds: float) -> list[Fault]:
        return self._faults.wait(timeout_seconds)

    def probe(self, gpu: str) -> str:
        try:
            with self._driver.use():
                try:
                    condition = read_condition(pynvml.nvmlDeviceGetHandleByUUID(gpu))
                except pynvml.NVMLError as error:
                    if error.value in DRIVER_GONE:
                        raise
                    return f"it does not answer: {error}"
        except DriverUnavailableError as error:
            return str(error)
        before = self._uncorrected.get(gpu)
        self._uncorrected[gpu] = condition.uncorrected_errors
        return reasons(condition, before)

    def close(self) -> None:
        self._faults.close()
        try:
            self._driver.close()
        except DriverUnavailableError as error:
            log.warning("NVML is left open error=%s", error)

    def _read_gpus(self) -> tuple[dict[Gpu, Any], dict[int, str]]:
        """The GPUs that answer with their handles, and why others do not by NVML's index."""
        kernel = KernelFiles(self._sys, sysfs.mig_minors(self._proc))
        found: dict[Gpu, Any] = {}
        failed = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                gpu = read_gpu(handle, index, kernel)
                if gpu.device.id not in self._uncorrected:
                    self._uncorrected[gpu.device.id] = uncorrected_errors(handle)
            except pynvml.NVMLError as error:
                if error.value in DRIVER_GONE:
                    raise
                failed[index] = str(error)
            else:
                found[gpu] = handle
        return found, failed

    def _linked_topology(self, found: Mapping[Gpu, Any]) -> Topology:
        """NVLink between the GPUs, read again only when there are others: each link takes NVML milliseconds.

        A user measured 600 ms for each pair of GPUs (NVIDIA/k8s-device-plugin#774).
        """
        ids = frozenset(gpu.device.id for gpu in found)
        if ids == self._linked:
            return self._topology
        gpus: Sequence[Gpu] = list(found)
        by_address = {gpu.device.place.pci_address: gpu.device.id for gpu in gpus}
        lanes = {}
        for gpu, handle in found.items():
            try:
                lanes[gpu.device.id] = read_lanes(handle, by_address)
            except pynvml.NVMLError as error:
                if error.value in DRIVER_GONE:
                    raise
                log.warning("NVLink cannot be read, taken as absent gpu=%s error=%s", gpu.device.id, error)
        topology = nvlink.topology(gpus, lanes)
        if len(lanes) == len(gpus):
            self._linked, self._topology = ids, topology
        return topology
