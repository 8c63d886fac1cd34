"""The committed protobuf modules are what their .proto files say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = sorted(p.relative_to(ROOT) for p in (ROOT / "protos").rglob("*.proto"))


def test_there_are_protos() -> None:
    assert PROTOS


@pytest.mark.parametrize("proto", PROTOS, ids=str)
def test_generating_again_changes_nothing(proto: Path, tmp_path: Path) -> None:
    # The stub plugins stand beside the interpreter, which need not be on the PATH.
    bin_folder = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            *("-m", "grpc_tools.protoc", f"-I{ROOT}"),
            f"--plugin=protoc-gen-mypy={bin_folder / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={bin_folder / 'protoc-gen-mypy_grpc'}",
            f"--python_out={tmp_path}",
            f"--grpc_python_out={tmp_path}",
            f"--mypy_out=quiet:{tmp_path}",
            f"--mypy_grpc_out=quiet:{tmp_path}",
            str(ROOT / proto),
        ],
        check=True,
        timeout=60,
    )

    made = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert len(made) == 4
    assert made == {path: (ROOT / path).read_text() for path in made}
