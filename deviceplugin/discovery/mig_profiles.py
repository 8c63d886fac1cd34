"""NVIDIA's MIG profiles: how they are spelled, and what each holds on the GPUs that we can describe."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from deviceplugin.machine import MigAttributes

_PROFILE: Final = re.compile(r"(?:(?P<c>\d+)c\.)?(?P<g>\d+)g\.(?P<gb>\d+)gb(?P<suffix>[+-][a-z.,]+)?")


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile, taken apart: `1c.2g.10gb+me` is 1 compute slice of 2, in 10 GB, with `+me`."""

    compute_slices: int
    slices: int
    gigabytes: int
    suffix: str = ""

    @property
    def gpu_instance(self) -> str:
        """The profile of the GPU instance around it."""
        return f"{self.slices}g.{self.gigabytes}gb{self.suffix}"

    def __str__(self) -> str:
        if self.compute_slices == self.slices:
            return self.gpu_instance
        return f"{self.compute_slices}c.{self.gpu_instance}"


def parse(text: str) -> Profile | None:
    match = _PROFILE.fullmatch(text)
    if match is None:
        return None
    slices = int(match["g"])
    return Profile(int(match["c"] or slices), slices, int(match["gb"]), match["suffix"] or "")


def rounded_gigabytes(mig_memory_mib: int, gpu_memory_bytes: int) -> int:
    """The memory in a profile's name: the GPU's, rounded up to whole GiB, times eighths of it, rounded up.

    This is how NVIDIA's tools name a profile (go-nvlib, pkg/nvlib/device/mig_profile.go).
    """
    eighths = ceil(mig_memory_mib * 2**20 / gpu_memory_bytes * 8)
    return (eighths * ceil(gpu_memory_bytes / 2**30) + 4) // 8


@dataclass(frozen=True, slots=True)
class Published:
    """What one GPU instance profile holds; the attributes are those of an undivided GPU instance."""

    memory_mib: int
    attributes: MigAttributes


def _gpu_instance(slices: int, gib: float, multiprocessors: int, engines: tuple[int, int, int, int]) -> Published:
    """One row of `nvidia-smi mig -lgip`; engines: copy, decoders, JPEG, OFA. No MIG GPU here has encoders."""
    copy, decoders, jpeg, ofa = engines
    attributes = MigAttributes(
        multiprocessors=multiprocessors,
        gpu_instance_slices=slices,
        compute_instance_slices=slices,
        copy_engines=copy,
        decoders=decoders,
        encoders=0,
        jpeg_engines=jpeg,
        ofa_engines=ofa,
    )
    return Published(int(gib * 1024), attributes)


@dataclass(frozen=True, slots=True)
class MigGpu:
    """A GPU that can be partitioned.

    Attributes:
        multiprocessors_per_slice: Of a compute instance that is smaller than its GPU instance.
    """

    multiprocessors_per_slice: int
    profiles: Mapping[str, Published]


# `nvidia-smi mig -lgip`, as printed in NVIDIA's Multi-Instance GPU User Guide, "Supported MIG Profiles", and in
# gpu-operator's and mig-parted's issues. Keyed by the word in the model's name and the GPU's memory in whole GiB.
MIG_GPUS: Final[Mapping[tuple[str, int], MigGpu]] = {
    ("A100", 40): MigGpu(
        14,
        {
            "1g.5gb": _gpu_instance(1, 4.75, 14, (1, 0, 0, 0)),
            "1g.5gb+me": _gpu_instance(1, 4.75, 14, (1, 1, 1, 1)),
            "1g.10gb": _gpu_instance(1, 9.625, 14, (1, 1, 0, 0)),
            "2g.10gb": _gpu_instance(2, 9.625, 28, (2, 1, 0, 0)),
            "3g.20gb": _gpu_instance(3, 19.5, 42, (3, 2, 0, 0)),
            "4g.20gb": _gpu_instance(4, 19.5, 56, (4, 2, 0, 0)),
            "7g.40gb": _gpu_instance(7, 39.25, 98, (7, 5, 1, 1)),
        },
    ),
    ("A100", 80): MigGpu(
        14,
        {
            "1g.10gb": _gpu_instance(1, 9.5, 14, (1, 0, 0, 0)),
            "1g.10gb+me": _gpu_instance(1, 9.5, 14, (1, 1, 1, 1)),
            "1g.20gb": _gpu_instance(1, 19.5, 14, (1, 1, 0, 0)),
            "2g.20gb": _gpu_instance(2, 19.5, 28, (2, 1, 0, 0)),
            "3g.40gb": _gpu_instance(3, 39.25, 42, (3, 2, 0, 0)),
            "4g.40gb": _gpu_instance(4, 39.25, 56, (4, 2, 0, 0)),
            "7g.80gb": _gpu_instance(7, 79.0, 98, (7, 5, 1, 1)),
        },
    ),
    ("H100", 80): MigGpu(
        16,
        {
            "1g.10gb": _gpu_instance(1, 9.75, 16, (1, 1, 1, 0)),
            "1g.10gb+me": _gpu_instance(1, 9.75, 16, (1, 1, 1, 1)),
            "1g.20gb": _gpu_instance(1, 19.625, 26, (1, 1, 1, 0)),
            "2g.20gb": _gpu_instance(2, 19.625, 32, (2, 2, 2, 0)),
            "3g.40gb": _gpu_instance(3, 39.5, 60, (3, 3, 3, 0)),
            "4g.40gb": _gpu_instance(4, 39.5, 64, (4, 4, 4, 0)),
            "7g.80gb": _gpu_instance(7, 79.25, 132, (8, 7, 7, 1)),
        },
    ),
}


def mig_gpu(model: str, memory_mib: int) -> MigGpu | None:
    """What is published on a GPU, by its product name and size."""
    gib = ceil(memory_mib / 1024)
    return next((gpu for (word, size), gpu in MIG_GPUS.items() if word in model and size == gib), None)


def compute_instance(gpu: MigGpu, profile: Profile) -> Published | None:
    """What a profile holds on a GPU; None if the GPU has no such profile."""
    whole = gpu.profiles.get(profile.gpu_instance)
    if whole is None or not 1 <= profile.compute_slices <= profile.slices:
        return None
    if profile.compute_slices == profile.slices:
        return whole
    attributes = replace(
        whole.attributes,
        multiprocessors=gpu.multiprocessors_per_slice * profile.compute_slices,
        compute_instance_slices=profile.compute_slices,
    )
    return Published(whole.memory_mib, attributes)
