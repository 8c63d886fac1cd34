"""One GPU read through NVML, with its MIG devices and NVLink lanes."""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pynvml

from deviceplugin.discovery import sysfs
from deviceplugin.discovery.mig_profiles import Profile, rounded_gigabytes
from deviceplugin.discovery.nvlink import Lanes
from deviceplugin.discovery.probing import Condition
from deviceplugin.machine import Gpu, MigAttributes, MigInstance
from tasuki.devices.model import Device, DeviceKind

# A question that this GPU or this driver does not know.
UNKNOWN_QUESTION: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    }
)

# What a GPU instance profile adds to `<slices>g.<memory>gb` (go-nvlib, pkg/nvlib/device/mig_profile.go).
_SUFFIXES: Final = {
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME: "+me.all",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME: "+me.all",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_3_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME: "-me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME: "-me",
}

# NVML counts power in milliwatts.
_MILLI: Final = 1000


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """What the kernel's files say in one scan.

    Attributes:
        sys: Where sysfs is mounted.
        mig_minors: As sysfs.mig_minors reads them.
    """

    sys: Path
    mig_minors: dict[str, int]


def read_gpu(handle: Any, index: int, kernel: KernelFiles) -> Gpu:
    """Everything about one GPU but its links.

    Raises:
        NVMLError: It does not answer.
    """
    device = Device(
        id=pynvml.nvmlDeviceGetUUID(handle),
        kind=DeviceKind.GPU,
        index=str(index),
        model=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        place=sysfs.place(kernel.sys, sysfs.pci_address(_text(pynvml.nvmlDeviceGetPciInfo(handle).busId))),
        power_limit_watts=_power_limit_watts(handle),
    )
    minor = pynvml.nvmlDeviceGetMinorNumber(handle)
    mode = _known(pynvml.nvmlDeviceGetMigMode, handle)
    enabled = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    return Gpu(
        device=device,
        minor=minor,
        compute_capability=pynvml.nvmlDeviceGetCudaComputeCapability(handle),
        mig_capable=mode is not None,
        mig_enabled=enabled,
        mig=tuple(_mig_instances(handle, device, minor, kernel)) if enabled else (),
        fabric_clique=_fabric_clique(handle),
    )


def read_lanes(handle: Any, by_address: Mapping[str, str]) -> Lanes:
    """The GPU's active NVLink lanes; `by_address` are the machine's GPU ids by PCI address.

    Raises:
        NVMLError: It does not answer.
    """
    to_switches = 0
    to_gpus: Counter[str] = Counter()
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state = _known(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        if state is None:
            break  # no NVLink at all, or no more links on this model
        if state != pynvml.NVML_FEATURE_ENABLED:
            continue
        if _known(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link) == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            to_switches += 1
            continue
        remote = _known(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        gpu = by_address.get(sysfs.pci_address(_text(remote.busId))) if remote is not None else None
        if gpu is not None:
            to_gpus[gpu] += 1
    return Lanes(to_switches, dict(to_gpus))


def read_condition(handle: Any) -> Condition:
    """What the driver says about the GPU's fitness.

    Raises:
        NVMLError: It does not answer.
    """
    pynvml.nvmlDeviceGetMemoryInfo(handle)
    rows = _known(pynvml.nvmlDeviceGetRemappedRows, handle)
    retirement = _known(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
    return Condition(
        recovery_action=_recovery_action(handle),
        remapping_pending=rows is not None and bool(rows[2]),
        remapping_failed=rows is not None and bool(rows[3]),
        retirement_pending=retirement == pynvml.NVML_FEATURE_ENABLED,
        uncorrected_errors=uncorrected_errors(handle),
    )


def uncorrected_errors(handle: Any) -> int | None:
    """Uncorrected memory errors since the driver was loaded; None without ECC."""
    errors: int | None = _known(
        pynvml.nvmlDeviceGetTotalEccErrors,
        handle,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    return errors


def _recovery_action(handle: Any) -> int | None:
    values = _known(pynvml.nvmlDeviceGetFieldValues, handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    if values is None or values[0].nvmlReturn in UNKNOWN_QUESTION:
        return None
    if values[0].nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(values[0].nvmlReturn)
    return int(values[0].value.uiVal)


def _mig_instances(gpu_handle: Any, gpu: Device, minor: int, kernel: KernelFiles) -> Iterator[MigInstance]:
    suffixes = _profile_suffixes(gpu_handle)
    for n in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu_handle)):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu_handle, n)
        except pynvml.NVMLError_NotFound:
            continue  # the numbers may have holes
        try:
            yield _mig_instance(
                gpu_handle, handle, gpu, f"{gpu.index}:{n}", minor=minor, kernel=kernel, suffixes=suffixes
            )
        except (pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
            continue  # taken apart while we looked: the next scan sees what it became


def _mig_instance(  # noqa: PLR0913 - a MIG device is spread over as many questions
    gpu_handle: Any,
    handle: Any,
    gpu: Device,
    index: str,
    *,
    minor: int,
    kernel: KernelFiles,
    suffixes: dict[int, str],
) -> MigInstance:
    gi = pynvml.nvmlDeviceGetGpuInstanceId(handle)
    ci = pynvml.nvmlDeviceGetComputeInstanceId(handle)
    attributes = pynvml.nvmlDeviceGetAttributes(handle)
    profile_id = pynvml.nvmlGpuInstanceGetInfo(pynvml.nvmlDeviceGetGpuInstanceById(gpu_handle, gi)).profileId
    profile = Profile(
        attributes.computeInstanceSliceCount,
        attributes.gpuInstanceSliceCount,
        rounded_gigabytes(attributes.memorySizeMB, gpu.memory_bytes),
        suffixes.get(profile_id, ""),
    )
    device = Device(
        id=pynvml.nvmlDeviceGetUUID(handle),
        kind=DeviceKind.MIG,
        index=index,
        model=gpu.model,
        memory_bytes=attributes.memorySizeMB * 2**20,
        place=gpu.place,
        parent=gpu.id,
        profile=str(profile),
    )
    minors = sysfs.mig_capability_minors(kernel.mig_minors, minor, gi, ci)
    return MigInstance(device, gi, ci, minors, _attributes(attributes))


def _attributes(attributes: Any) -> MigAttributes:
    return MigAttributes(
        multiprocessors=attributes.multiprocessorCount,
        gpu_instance_slices=attributes.gpuInstanceSliceCount,
        compute_instance_slices=attributes.computeInstanceSliceCount,
        copy_engines=attributes.sharedCopyEngineCount,
        decoders=attributes.sharedDecoderCount,
        encoders=attributes.sharedEncoderCount,
        jpeg_engines=attributes.sharedJpegCount,
        ofa_engines=attributes.sharedOfaCount,
    )


def _profile_suffixes(handle: Any) -> dict[int, str]:
    """By the id that a GPU instance names its profile with, which differs from model to model."""
    return {
        profile.id: suffix
        for number, suffix in _SUFFIXES.items()
        if (profile := _known(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, number, 1)) is not None
    }


def _power_limit_watts(handle: Any) -> float:
    """What the driver enforces; 0 where it does not say, for which no GPU is worse."""
    try:
        return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / _MILLI
    except pynvml.NVMLError:
        # A GPU that is lost does not answer the other questions either.
        return 0.0


def _fabric_clique(handle: Any) -> str:
    """The NVLink fabric's name for the group of GPUs that reach each other; empty outside one."""
    fabric = pynvml.c_nvmlGpuFabricInfo_v2_t()
    if _known(pynvml.nvmlDeviceGetGpuFabricInfoV, handle, pynvml.byref(fabric)) is None:
        return ""
    cluster = bytes(fabric.clusterUuid)
    if (
        fabric.state != pynvml.NVML_GPU_FABRIC_STATE_COMPLETED
        or fabric.status != pynvml.NVML_SUCCESS
        or not any(cluster)
    ):
        return ""
    return f"{uuid.UUID(bytes=cluster)}.{fabric.cliqueId}"


def _known(question: Any, *arguments: Any) -> Any:
    """NVML's answer, or None where the GPU or the driver does not know the question."""
    try:
        return question(*arguments)
    except pynvml.NVMLError as error:
        if error.value in UNKNOWN_QUESTION:
            return None
        raise


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
