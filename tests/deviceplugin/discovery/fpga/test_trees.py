from pathlib import Path

import pytest

from deviceplugin.discovery.description import DescriptionError
from deviceplugin.discovery.fpga_trees import load, materialise, shipped


def described(text: str, folder: Path) -> str:
    file = folder / "tree.yaml"
    file.write_text(text)
    return str(file)


def test_the_shipped_trees() -> None:
    assert shipped() == ["alveo", "intel-dfl", "soc"]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_tree_leaves_no_link_dangling(name: str, tmp_path: Path) -> None:
    sys = materialise(name, tmp_path)

    links = [path for path in sys.rglob("*") if path.is_symlink()]
    assert links
    assert [link for link in links if not link.exists()] == []


def test_a_tree_becomes_files_folders_and_links(tmp_path: Path) -> None:
    text = """
    sys:
      devices/pci0000:00/0000:00:01.0:
        vendor: "0x8086"
        empty: ""
        raw: !!binary AAE=
        left_out: null
        fpga_manager: {fpga0: {}}
    links: {bus/pci/drivers/one/0000:00:01.0: devices/pci0000:00/0000:00:01.0}
    dev: [dri/renderD128]
    """
    sys = materialise(described(text, tmp_path), tmp_path / "node")

    device = sys / "devices/pci0000:00/0000:00:01.0"
    assert sorted(path.name for path in device.iterdir()) == ["empty", "fpga_manager", "raw", "vendor"]
    assert (device / "vendor").read_bytes() == b"0x8086\n"
    assert (device / "empty").read_bytes() == b""
    assert (device / "raw").read_bytes() == b"\x00\x01"
    assert (sys / "bus/pci/devices/0000:00:01.0").readlink() == Path("../../../devices/pci0000:00/0000:00:01.0")
    assert (sys / "bus/pci/drivers/one/0000:00:01.0/vendor").exists()
    assert (sys / "class/fpga_manager/fpga0").resolve() == (device / "fpga_manager/fpga0").resolve()
    assert (tmp_path / "node/dev/dri/renderD128").exists()


def test_laying_out_again_undoes_what_was_changed(tmp_path: Path) -> None:
    sys = materialise("soc", tmp_path)
    state = sys / "class/fpga_manager/fpga0/state"
    state.write_text("write error\n")
    materialise("soc", tmp_path)

    assert state.read_text() == "operating\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("sys: {../up: x}", "'../up' is not a path below the tree's root", id="out of the tree"),
        pytest.param("sys: {a: {/etc/passwd: x}}", "'a//etc/passwd' is not a path", id="absolute"),
        pytest.param("sys: {}\nlinks: {a: /etc}", "'/etc' is not a path", id="link out of the tree"),
        pytest.param("sys: {}\ndev: [../x]", "'../x' is not a path", id="device file out of the tree"),
        pytest.param("sys: {a: 1}", "a is 1; write a text in quotes, or a mapping", id="number"),
        pytest.param(
            "sys: {devices: {0000:17:00.1: {}}}", "is no text; write it in quotes", id="address without quotes"
        ),
        pytest.param("sys: [a]", "Expected `object`, got `array`", id="list"),
        pytest.param("sys: {}\nsis: {}", "unknown field `sis`", id="unknown key"),
        pytest.param("sys: {", "expected", id="no YAML"),
    ],
)
def test_a_wrong_tree_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DescriptionError) as error:
        materialise(described(text, tmp_path), tmp_path / "node")

    assert message in str(error.value)
    assert not (tmp_path / "node").exists()


def test_an_unknown_name_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(DescriptionError, match="'alveos'; shipped are alveo, intel-dfl, soc"):
        load("alveos")


def test_a_missing_file_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="No such file"):
        load(str(tmp_path / "none.yaml"))


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "sys").write_text("a file")

    with pytest.raises(DescriptionError, match="cannot be laid out"):
        materialise("soc", tmp_path)
