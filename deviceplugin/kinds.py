"""Each kind of accelerator, put together from the settings."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from deviceplugin.config.kinds import FPGA, GPU, VACCEL
from deviceplugin.discovery import source_for
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from deviceplugin.discovery.simulated_fpga import SimulatedKernel
from deviceplugin.fpga_kind import FpgaKind, FpgaOutlets
from deviceplugin.gpu_kind import GpuKind
from deviceplugin.granting import Preparation
from deviceplugin.kind_loop import KindLoop, Outlets
from deviceplugin.programming.choosing import HostProgrammers, OneProgrammer
from deviceplugin.programming.readback import Readback
from deviceplugin.programming.simulated import SimulatedProgrammer
from deviceplugin.programming.workbench import Host, Programmed, Workbench
from deviceplugin.publisher import HolderListener
from deviceplugin.settings import Settings
from deviceplugin.vaccel_kind import VaccelKind

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Spawner:
    """Starts tasks that last as long as the daemon."""

    group: asyncio.TaskGroup

    def __call__(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        return self.group.create_task(work)


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


@dataclass(frozen=True, slots=True)
class FpgaTree:
    """Where FPGAs are looked for, and how they are programmed."""

    sys_root: Path
    dev_root: Path
    programmers: HostProgrammers | OneProgrammer


def fpga_tree(settings: Settings, stack: ExitStack) -> FpgaTree:
    """The host's own, or a simulated one that lasts as long as the stack.

    Raises:
        DescriptionError: There is no tree of that name to simulate.
    """
    if settings.simulate_fpga is None:
        dev_root = Path("/dev")
        return FpgaTree(settings.sysfs_root, dev_root, HostProgrammers(settings.sysfs_root, dev_root))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tasuki-fpga-")))
    sys_root = materialise(settings.simulate_fpga, folder)
    return FpgaTree(sys_root, dev_of(sys_root), OneProgrammer(SimulatedProgrammer(SimulatedKernel(sys_root))))


def build(settings: Settings, outlets: Outlets, tree: FpgaTree | None, spawn: Spawner) -> Kinds:
    """The kinds that the settings enable, in the order in which they are named."""
    loops: list[KindLoop[Any]] = []
    listeners: list[HolderListener] = []
    stopping: list[Callable[[], None]] = []
    for name in settings.kinds:
        if name == GPU:
            loops.append(KindLoop(_gpu(settings), outlets))
        elif name == FPGA and tree is not None:
            workbench = Workbench(Host(Readback(tree.sys_root), tree.programmers, settings.bitstreams), spawn)
            fpga, loop = _fpga(outlets, tree, workbench, spawn)
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


def _fpga(outlets: Outlets, tree: FpgaTree, workbench: Workbench, spawn: Spawner) -> tuple[FpgaKind, KindLoop[Any]]:
    def programmed(done: Programmed) -> None:
        outcome = "failed" if done.reason else "ok"
        outlets.metrics.programming.labels(done.function, outcome).observe(done.seconds)
        if done.reason:
            loop.rescan()  # what it left behind shows in the manager's state

    later = _Later()
    kind = FpgaKind(
        FpgaSource(tree.sys_root, tree.dev_root),
        workbench,
        FpgaOutlets(later, outlets.record, programmed, spawn),
    )
    loop = KindLoop(kind, outlets)
    later.call = loop.replan
    return kind, loop


def _vaccel(outlets: Outlets) -> KindLoop[Any]:
    running: Final = asyncio.get_running_loop()
    later = _Later()
    loop = KindLoop(VaccelKind(later), outlets)
    # Asked for from a worker thread.
    later.call = lambda: running.call_soon_threadsafe(loop.rescan)
    return loop


@dataclass(slots=True)
class _Later:
    """A callback to somebody who is made after whoever calls it."""

    call: Callable[[], object] = lambda: None

    def __call__(self) -> None:
        self.call()
