import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.fpga_trees import dev_of, materialise
from deviceplugin.discovery.simulated_fpga import SimulatedKernel
from deviceplugin.fpga import Fpgas, Region

HERE = Path(__file__).parent
DFL = "devices/pci0000:00/0000:00:03.0/0000:04:00.0/fpga_region/region0"
ALVEO = "devices/pci0000:16/0000:16:00.0/0000:17:00"
SOC = "devices/soc0/axi/f8007000.devcfg/fpga_manager/fpga0"


@dataclass
class Node:
    """A laid-out tree, and the source that reads it."""

    sys: Path
    source: FpgaSource = field(init=False)
    kernel: SimulatedKernel = field(init=False)

    def __post_init__(self) -> None:
        self.source = FpgaSource(self.sys, dev_of(self.sys))
        self.kernel = SimulatedKernel(self.sys, seconds=0)

    @property
    def dev(self) -> Path:
        return dev_of(self.sys)

    def write(self, path: str, content: str | bytes) -> None:
        self.kernel.write(path, content)

    def remove(self, path: str) -> None:
        whole = self.sys / path
        if whole.is_dir() and not whole.is_symlink():
            shutil.rmtree(whole)
        else:
            whole.unlink()

    def scan(self) -> Fpgas:
        return self.source.scan()

    def regions(self) -> dict[str, Region]:
        return {region.device.id: region for region in self.scan().regions}

    def reasons(self) -> dict[str, str]:
        """Of the unhealthy regions."""
        return {
            name: region.device.health.reason
            for name, region in self.regions().items()
            if not region.device.health.healthy
        }


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    """Of the tree that the test is parametrized with, indirectly; `intel-dfl` if with none."""
    return lay_out(getattr(request, "param", "intel-dfl"), tmp_path)


def lay_out(tree: str, folder: Path) -> Node:
    beside = HERE / f"{tree}.yaml"
    return Node(materialise(str(beside) if beside.exists() else tree, folder))
