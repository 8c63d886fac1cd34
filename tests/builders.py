"""Builders that every test may use: devices and machines in one line each."""

from deviceplugin.machine import Gpu, Machine, MigAttributes, MigInstance
from tasuki.devices.model import HEALTHY, Device, DeviceKind, Health, Place, Slice, slices_of

A100_BYTES = 40 * 2**30


def a_device(index: int | str = 0, *, health: Health = HEALTHY, place: Place | None = None) -> Device:
    """A GPU named after its index."""
    return Device(
        id=f"GPU-{index}",
        kind=DeviceKind.GPU,
        index=str(index),
        model="NVIDIA A100-SXM4-40GB",
        memory_bytes=A100_BYTES,
        health=health,
        place=place or Place(numa_node=0),
    )


def a_mig_instance(gpu: int, n: int, profile: str = "1g.5gb", *, health: Health = HEALTHY) -> MigInstance:
    slices = int(profile.split("g.", maxsplit=1)[0].rsplit(".", maxsplit=1)[-1])
    device = Device(
        id=f"MIG-{gpu}-{n}",
        kind=DeviceKind.MIG,
        index=f"{gpu}:{n}",
        model="NVIDIA A100-SXM4-40GB",
        memory_bytes=A100_BYTES * slices // 8,
        health=health,
        place=Place(numa_node=0),
        parent=f"GPU-{gpu}",
        profile=profile,
    )
    return MigInstance(
        device=device,
        gi=n + 1,
        ci=0,
        capability_minors=(9 * (n + 1) + 3, 9 * (n + 1) + 4),
        attributes=MigAttributes(14 * slices, slices, slices, slices, 0, 0, 0, 0),
    )


def a_gpu(index: int, *, mig: tuple[MigInstance, ...] | None = None, health: Health = HEALTHY) -> Gpu:
    """A GPU; in MIG mode if `mig` is given, even when empty."""
    return Gpu(
        device=a_device(index, health=health),
        minor=index,
        compute_capability=(8, 0),
        mig_capable=True,
        mig_enabled=mig is not None,
        mig=mig or (),
    )


def a_machine(*gpus: Gpu, count: int = 0) -> Machine:
    """A machine of these GPUs, or of so many alike."""
    return Machine(
        driver_version="580.95.05",
        cuda_version=(13, 0),
        gpus=gpus or tuple(a_gpu(i) for i in range(count)),
        product="DGXA100",
    )


def some_slices(replicas: int, *, devices: int = 1) -> tuple[Slice, ...]:
    return tuple(s for i in range(devices) for s in slices_of(a_device(i), replicas))
