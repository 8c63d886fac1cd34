"""FPGAs as a kind, put together from the settings."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from deviceplugin.discovery.simulated_fpga import SimulatedKernel
from deviceplugin.fpga import Fpgas
from deviceplugin.fpga_kind import FpgaKind, FpgaOutlets
from deviceplugin.kind_loop import KindLoop, Later, Outlets, Spawner
from deviceplugin.programming.choosing import HostProgrammers, OneProgrammer
from deviceplugin.programming.readback import Readback
from deviceplugin.programming.simulated import SimulatedProgrammer
from deviceplugin.programming.workbench import Host, Programmed, Workbench
from deviceplugin.settings import Settings


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


def put_together(
    bitstreams: Path, tree: FpgaTree, outlets: Outlets, spawn: Spawner
) -> tuple[FpgaKind, KindLoop[Fpgas]]:
    """The kind, and the loop that it lives in."""

    def programmed(done: Programmed) -> None:
        outcome = "failed" if done.reason else "ok"
        outlets.metrics.programming.labels(done.function, outcome).observe(done.seconds)
        if done.reason:
            loop.rescan()  # what it left behind shows in the manager's state

    later = Later()
    kind = FpgaKind(
        FpgaSource(tree.sys_root, tree.dev_root),
        Workbench(Host(Readback(tree.sys_root), tree.programmers, bitstreams), spawn),
        FpgaOutlets(later, outlets.record, programmed, spawn),
    )
    loop = KindLoop(kind, outlets)
    later.call = loop.replan
    return kind, loop
