"""GPUs that were seen once stay listed, so that losing one is seen as such and never as a smaller machine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deviceplugin.machine import Gpu
from tasuki.devices.model import index_order, unhealthy


class SeenGpus:
    """Every GPU that a source has ever read, as it was last."""

    def __init__(self) -> None:
        self._gpus: dict[str, Gpu] = {}

    def update(self, found: Sequence[Gpu], failed: Mapping[int, str]) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
        """Add one scan's result to what is known.

        Args:
            found: The GPUs that were read.
            failed: Why a GPU could not be read, by the index under which the driver counts it.

        Returns:
            All GPUs in the driver's order, those that were not read marked unhealthy; and one sentence for each
            index behind which no GPU was ever seen.
        """
        present = {gpu.device.id for gpu in found}
        # Two may have had one index, when the driver moved the others up after a loss.
        missing: dict[str, list[Gpu]] = {}
        for gpu in self._gpus.values():
            if gpu.device.id not in present:
                missing.setdefault(gpu.device.index, []).append(gpu)
        gpus = list(found)
        unreadable = []
        for index, reason in sorted(failed.items()):
            known = missing.pop(str(index), [])
            gpus += [_lost(gpu, reason) for gpu in known]
            if not known:
                unreadable.append(f"GPU {index} cannot be read and is left out: {reason}")
        gpus += [_lost(gpu, "the driver no longer lists it") for same in missing.values() for gpu in same]
        self._gpus = {gpu.device.id: gpu for gpu in gpus}
        gpus.sort(key=lambda gpu: (index_order(gpu.device), gpu.device.id))
        return tuple(gpus), tuple(unreadable)


def _lost(gpu: Gpu, reason: str) -> Gpu:
    health = unhealthy(reason)
    return replace(
        gpu,
        device=replace(gpu.device, health=health),
        mig=tuple(replace(m, device=replace(m.device, health=health)) for m in gpu.mig),
    )
