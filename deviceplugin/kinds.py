"""Each kind of accelerator, put together from the settings."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from deviceplugin.config.kinds import FPGA, GPU, VACCEL
from deviceplugin.discovery import source_for
from deviceplugin.gpu_kind import GpuKind
from deviceplugin.granting import Preparation
from deviceplugin.kind_loop import KindLoop, Later, Outlets, Spawner
from deviceplugin.publisher import HolderListener
from deviceplugin.settings import Settings


@dataclass(frozen=True, slots=True)
class Kinds:
    """The loops of a node's kinds.

    Attributes:
        listeners: Those that must know what the kubelet says of its pods.
        stopping: To be called as soon as the daemon is told to stop.
    """

    loops: tuple[KindLoop[Any], ...]
    listeners: tuple[HolderListener, ...]
    stopping: tuple[Callable[[], None], ...]


def build(settings: Settings, outlets: Outlets, stack: ExitStack, spawn: Spawner) -> Kinds:
    """The kinds that the settings enable, in the order in which they are named.

    What a kind stands on is imported only where it is enabled: a node of GPUs need not hold FPGAs in its memory.

    Args:
        settings: Which kinds, and their own.
        outlets: Where their loops tell what they find.
        stack: Ends what a simulation lays out.
        spawn: Starts tasks that last as long as the daemon.

    Raises:
        DescriptionError: There is nothing of the name that is to be simulated.
    """
    loops: list[KindLoop[Any]] = []
    listeners: list[HolderListener] = []
    stopping: list[Callable[[], None]] = []
    for name in settings.kinds:
        if name == GPU:
            loops.append(KindLoop(_gpu(settings), outlets))
        elif name == FPGA:
            from deviceplugin.fpga_parts import fpga_tree, put_together  # noqa: PLC0415 - see above

            fpga, loop = put_together(settings.bitstreams, fpga_tree(settings, stack), outlets, spawn)
            stopping.append(fpga.stop)
            loops.append(loop)
            listeners.append(fpga)
        elif name == VACCEL:
            loops.append(_vaccel(outlets))
    return Kinds(tuple(loops), tuple(listeners), tuple(stopping))


def _gpu(settings: Settings) -> GpuKind:
    source = source_for(settings.simulate, node=settings.node_name)
    simulated = settings.simulate is not None
    return GpuKind(source, Preparation(settings.cdi_root, settings.cdi_disabled_hooks, simulated=simulated))


def _vaccel(outlets: Outlets) -> KindLoop[Any]:
    from deviceplugin.vaccel_kind import VaccelKind  # noqa: PLC0415 - see `build`

    running: Final = asyncio.get_running_loop()
    later = Later()
    loop = KindLoop(VaccelKind(later), outlets)
    # Asked for from a worker thread.
    later.call = lambda: running.call_soon_threadsafe(loop.rescan)
    return loop
