"""What is not as a kernel would have it takes its own region out, and nothing else."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deviceplugin.discovery.fpga_sysfs import AttributeUnreadableError, Sysfs, pci_addresses
from deviceplugin.fpga import Fpgas, Region
from tests.deviceplugin.discovery.fpga.conftest import DFL, Node, lay_out

TREES = ("intel-dfl", "opae", "d5005", "alveo", "soc")


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, Node]]:
    folder = Path(tempfile.mkdtemp())
    yield {tree: lay_out(tree, folder / tree) for tree in TREES}
    shutil.rmtree(folder)


def files_of(node: Node) -> list[str]:
    return sorted(str(file.relative_to(node.sys)) for file in (node.sys / "devices").rglob("*") if file.is_file())


def of_other_cards(fpgas: Fpgas, path: str) -> list[Region]:
    """The regions of cards that a file does not belong to."""
    address = pci_addresses(path)[-1]
    return [region for region in fpgas.regions if not address.startswith(region.card.rpartition(".")[0] or region.card)]


@pytest.mark.parametrize("tree", TREES)
@given(choice=st.integers(min_value=0), content=st.binary(max_size=64) | st.text(max_size=40).map(str.encode))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_of_a_file_ends_the_scan(nodes: dict[str, Node], tree: str, choice: int, content: bytes) -> None:
    node = nodes[tree]
    paths = files_of(node)
    path = paths[choice % len(paths)]
    before = node.scan()
    kept = (node.sys / path).read_bytes()
    try:
        node.write(path, content)
        after = node.scan()
    finally:
        node.write(path, kept)

    # A port that changes its number is another port: the old one is listed as lost beside it.
    assert {region.device.id for region in before.regions} <= {region.device.id for region in after.regions}
    assert all(len(region.device.id) <= 48 for region in after.regions)
    if pci_addresses(path):
        assert of_other_cards(after, path) == of_other_cards(before, path)


def broken_link(file: Path) -> None:
    file.symlink_to(file.name)


def huge(file: Path) -> None:
    file.write_text("0" * 1_000_000)


def folder(file: Path) -> None:
    file.mkdir()


def input_output_error(file: Path) -> None:
    file.symlink_to("/proc/self/mem")  # its first bytes answer EIO


@pytest.mark.parametrize("damage", [broken_link, huge, folder, input_output_error])
@pytest.mark.parametrize("tree", TREES)
def test_a_file_that_cannot_be_read_leaves_other_cards_alone(
    tree: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    node = lay_out(tree, tmp_path)
    before = node.scan()
    for path in files_of(node):
        good, aside = node.sys / path, tmp_path / "aside"
        good.rename(aside)
        damage(good)
        after = node.scan()
        node.remove(path)
        aside.rename(good)

        assert [region.device.id for region in after.regions] == [region.device.id for region in before.regions]
        if pci_addresses(path):
            assert of_other_cards(after, path) == of_other_cards(before, path)


@pytest.mark.parametrize(
    "name",
    ["dfl-fme.0/errors/fme_errors", "dfl-port.0/afu_id", "dfl-fme.0/dfl-fme-mgr.0/fpga_manager/fpga0/state"],
)
def test_an_input_output_error_is_the_regions_reason(name: str, node: Node) -> None:
    node.remove(f"{DFL}/{name}")
    input_output_error(node.sys / DFL / name)

    assert node.reasons() == {"0000:04:00.0-port0": f"/sys/{DFL}/{name} cannot be read: Input/output error"}


class TestSysfs:
    def test_a_value_comes_without_white_space(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("  write init\n")

        assert Sysfs(tmp_path).text("state") == "write init"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            pytest.param(b"\x00\x01", "it is not text: ", id="control characters"),
            pytest.param(b"\xff\xfe", "it is not text: ", id="no ASCII"),
            pytest.param(b"x" * 4097, "it is longer than 4096 bytes", id="too long"),
        ],
    )
    def test_what_is_no_value_is_refused(self, content: bytes, reason: str, tmp_path: Path) -> None:
        (tmp_path / "state").write_bytes(content)

        with pytest.raises(AttributeUnreadableError, match=f"/sys/state cannot be read: {reason}"):
            Sysfs(tmp_path).text("state")

    def test_a_missing_value_is_none_if_it_may_be(self, tmp_path: Path) -> None:
        assert Sysfs(tmp_path).optional("state") is None
        assert Sysfs(tmp_path).number("state/of/nothing") is None
        with pytest.raises(AttributeUnreadableError, match="No such file"):
            Sysfs(tmp_path).text("state")

    @pytest.mark.parametrize(("text", "number"), [("0x10", 16), ("-1", -1), ("0", 0), (str(2**64 - 1), 2**64 - 1)])
    def test_a_number(self, text: str, number: int, tmp_path: Path) -> None:
        (tmp_path / "value").write_text(text)

        assert Sysfs(tmp_path).number("value") == number

    @pytest.mark.parametrize("text", ["", "many", "0x1g", str(2**64), "9" * 4000, "1.5"])
    def test_no_number(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "value").write_text(text)

        with pytest.raises(AttributeUnreadableError, match="is not a number of 64 bits"):
            Sysfs(tmp_path).number("value")
