from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deviceplugin.discovery import nvml_faults
from deviceplugin.discovery.description import MachineDescription, decode
from deviceplugin.discovery.nvml import NvmlSource
from tests.nvml_mock.build import ENVIRONMENT, build, describe, preload, write_kernel_files

TWO_GPUS = """
name: two
product: Two
driverVersion: "535.161.08"
cudaVersion: "12.2"
gpuDefaults: {model: NVIDIA A100-SXM4-40GB, memoryMib: 40960, computeCapability: "8.0"}
nvlinks: [{gpus: [0, 1], lanes: 4}]
gpus:
  - pciePath: pci0000:00/0000:00:01.1/0000:01:00.0
    mig: {MIG0}
    fault: {FAULT0}
  - pciePath: pci0000:40/0000:40:01.1/0000:41:00.0
    fault: {FAULT1}
"""


def two_gpus_yaml(*, fault0: str = "{}", fault1: str = "{}", mig0: str = "{}") -> str:
    return TWO_GPUS.replace("{FAULT0}", fault0).replace("{FAULT1}", fault1).replace("{MIG0}", mig0)


def two_gpus(*, fault0: str = "{}", fault1: str = "{}", mig0: str = "{}") -> MachineDescription:
    return decode(two_gpus_yaml(fault0=fault0, fault1=fault1, mig0=mig0))


@dataclass(frozen=True)
class Node:
    """A node with the mock driver and the kernel's files."""

    root: Path

    @property
    def answers(self) -> Path:
        return self.root / "nvml"

    def becomes(
        self,
        machine: str | MachineDescription,
        *,
        loaded: bool = True,
        reports_events: bool = True,
        wait_result: int = 0,
        events: tuple[str, ...] = (),
    ) -> None:
        describe(
            machine,
            self.answers,
            loaded=loaded,
            reports_events=reports_events,
            wait_result=wait_result,
            events=events,
        )
        write_kernel_files(machine, self.root)


@pytest.fixture(scope="session")
def mock_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = build(tmp_path_factory.mktemp("nvml"))
    preload(library)
    return library


@pytest.fixture
def node(mock_nvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, str(node.answers))
    monkeypatch.setattr(nvml_faults, "_PAUSE_SECONDS", 0.05)
    return node


@pytest.fixture
def source(node: Node) -> Iterator[NvmlSource]:
    source = NvmlSource(
        sys=node.root / "sys",
        proc=node.root / "proc",
        product_file=node.root / "sys/class/dmi/id/product_name",
    )
    yield source
    source.close()
