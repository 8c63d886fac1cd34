"""The frameworks' own settings that keep a container within its share of a GPU's memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from tasuki.devices.model import Slice

# Which framework reads which, since when, and how that was checked: docs/container.md.
BYTES: Final = "TASUKI_GPU_MEMORY_BYTES"
TENSORFLOW: Final = "TF_FORCE_GPU_ALLOW_GROWTH"
# The old name: jaxlib 0.4.13 does not know the new one, and 0.4.33 and later refuse to start with both.
JAX: Final = "XLA_PYTHON_CLIENT_MEM_FRACTION"
# PyTorch before 2.10 refuses to start with this option in PYTORCH_CUDA_ALLOC_CONF; in this variable it ignores it.
PYTORCH: Final = "PYTORCH_ALLOC_CONF"

_STEPS: Final = 10_000
"""A fraction has four decimals."""


def caps(granted: Sequence[Slice]) -> Mapping[str, str]:
    """Environment for the smallest share among the granted devices; nothing if all of them are held whole.

    The variables know one value for all devices of a process, hence the smallest. Everything is rounded down, so
    that the shares of all slices of a device never add up to more than the device. Below one step, a fraction
    would be 0, which frameworks take for "no limit": then none is given.
    """
    held = Counter(s.device.id for s in granted)
    shares = {s.device.id: (held[s.device.id], s.replicas, s.device.memory_bytes) for s in granted}.values()
    if all(count >= replicas for count, replicas, _ in shares):
        return {}
    envs = {
        BYTES: str(min(memory * count // replicas for count, replicas, memory in shares)),
        TENSORFLOW: "true",
    }
    steps = min(_STEPS * count // replicas for count, replicas, _ in shares)
    if steps > 0:
        fraction = _decimal(steps)
        envs[JAX] = fraction
        envs[PYTORCH] = f"per_process_memory_fraction:{fraction}"
    return envs


def _decimal(steps: int) -> str:
    """`2500` → `0.25`."""
    return f"{steps // _STEPS}.{steps % _STEPS:04d}".rstrip("0").rstrip(".")
