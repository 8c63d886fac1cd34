"""FPGA functions and vAccel sessions in the sandbox, with the real device plugin as its child."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tasuki.sandbox.__main__ import BAD_INPUT, SATISFIED, UNSATISFIED, main
from tasuki.sandbox.expectation import describes_fpgas
from tasuki.sandbox.settings import CONFIGS, FPGA_PODS, VACCEL_PODS, Surroundings, read

TREES = Path(__file__).parents[3] / "deviceplugin/machines/fpga"
RUN_SECONDS = 100.0


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    ours = ("TASUKI_", "NVIDIA_", "CONFIG_FILE", "MIG_STRATEGY", "DEVICE_")
    return {name: value for name, value in environ.items() if not name.startswith(ours)}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> None:
    for name in os.environ.keys() - clean(os.environ).keys():
        monkeypatch.delenv(name)
    tmp_path_factory.getbasetemp()  # is made where temporary files are then
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    status = main(["--output", "json", *argv])
    return status, json.loads(capsys.readouterr().out)


@dataclass(frozen=True)
class Run:
    """What a whole run said and left."""

    status: int
    summary: Mapping[str, Any]
    live: str
    left: list[Path]

    def pod(self, name: str) -> Mapping[str, Any]:
        (found,) = (pod for pod in self.summary["pods"] if pod["name"] == name)
        return dict(found)


@pytest.fixture(scope="module")
def runs() -> Iterator[Mapping[str, Run]]:
    """The examples of every FPGA tree, all at once: they mostly wait for the plugin to ask who holds what."""
    with tempfile.TemporaryDirectory(prefix="tasuki-test-") as made:
        processes = {}
        for machine in ("intel-dfl", "alveo", "soc"):
            home = Path(made) / machine
            home.mkdir()
            processes[machine] = subprocess.Popen(
                [sys.executable, "-m", "tasuki.cli", "sandbox", "--machine", machine, "--output", "json"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**clean(os.environ), "TMPDIR": str(home)},
            )
        try:
            found = {}
            for machine, process in processes.items():
                out, live = process.communicate(timeout=RUN_SECONDS)
                left = list((Path(made) / machine).iterdir())
                found[machine] = Run(process.returncode, json.loads(out or "{}"), live, left)
            yield found
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()


@pytest.mark.parametrize("machine", ["intel-dfl", "alveo", "soc"])
class TestEveryTree:
    def test_all_examples_run_and_nothing_is_left_behind(self, runs: Mapping[str, Run], machine: str) -> None:
        run = runs[machine]

        assert run.status == SATISFIED, run.live
        assert all(pod["running"] or pod["ended"] for pod in run.summary["pods"])
        assert run.left == []

    def test_a_function_that_is_loaded_needs_no_programming(self, runs: Mapping[str, Run], machine: str) -> None:
        name = "thumbnails-0" if machine == "soc" else "thumbnails"

        (region,) = runs[machine].pod(name)["regions"]

        assert (region["before"], region["after"], region["programmed"]) == ("resize", "resize", False)
        assert f"starts at once, as region {region['region']} holds resize already" in runs[machine].live

    def test_a_session_brings_its_agents_address_and_folder(self, runs: Mapping[str, Run], machine: str) -> None:
        (container,) = runs[machine].pod("classifier")["containers"]

        (mount,) = container["mounts"]
        assert container["devices"] == {"vaccel.tasuki.dev/session": ["vaccel-local::0"]}
        assert container["env"]["VACCEL_RPC_ADDRESS"] == f"unix://{mount['hostPath']}/local.sock"
        assert (mount["containerPath"], mount["readOnly"]) == (mount["hostPath"], True)


@pytest.mark.parametrize(
    ("machine", "region", "held_before", "device"),
    [
        pytest.param("intel-dfl", "0000:81:00.0-port0", "decode", "/dev/dfl-port.1", id="intel"),
        pytest.param("alveo", "0000:b3:00-user1", "", "/dev/dri/renderD129", id="alveo"),
    ],
)
class TestTwoCards:
    def test_a_function_that_is_not_loaded_is_programmed(
        self, runs: Mapping[str, Run], machine: str, region: str, held_before: str, device: str
    ) -> None:
        pod = runs[machine].pod("sharpening-0")

        (programmed,) = pod["regions"]
        (container,) = pod["containers"]
        assert (programmed["region"], programmed["before"], programmed["after"]) == (region, held_before, "sharpen")
        assert programmed["programmed"]
        assert programmed["seconds"] > 0
        assert container["env"]["TASUKI_FPGA_REGION"] == region
        assert device in [node["hostPath"] for node in container["deviceNodes"]]
        instead = f"sharpen in place of {held_before or 'nothing'}"
        assert f"s for region {region} to be programmed: {instead}" in runs[machine].live

    def test_a_pod_waits_for_a_region_that_a_job_holds(
        self, runs: Mapping[str, Run], machine: str, region: str, held_before: str, device: str
    ) -> None:
        run = runs[machine]

        pod = run.pod("player")
        assert pod["waited"][0] == "wants 1 fpga.tasuki.dev/decode, 0 free of 0"
        assert f"region {region} is held under fpga.tasuki.dev/sharpen by default/sharpening-0" in pod["waited"]
        assert run.pod("sharpening-0")["ended"]
        assert pod["regions"][0]["before"] == "sharpen"
        assert pod["regions"][0]["after"] == "decode"
        assert run.live.index("default/player waits") < run.live.index("default/sharpening-0 ended")


def test_the_only_region_is_waited_for_and_programmed(runs: Mapping[str, Run]) -> None:
    pod = runs["soc"].pod("sharpening")

    (programmed,) = pod["regions"]
    assert pod["waited"][1].endswith("is held under fpga.tasuki.dev/resize by default/thumbnails-0")
    assert (programmed["before"], programmed["after"]) == ("resize", "sharpen")
    assert pod["containers"][0]["deviceNodes"] == [
        {"hostPath": "/dev/uio0", "containerPath": "/dev/uio0", "permissions": "rw"}
    ]


def test_a_pod_that_no_job_makes_room_for_says_who_holds_the_regions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocker = tmp_path / "blocker.yaml"
    blocker.write_text(
        (FPGA_PODS / "sharpen.yaml").read_text().split("apiVersion")[0]
        + "{kind: Pod, metadata: {name: sharpening}, spec: {containers: [{name: a, resources: {limits: "
        "{fpga.tasuki.dev/sharpen: 1}}}]}}"
    )
    pods = [str(FPGA_PODS / "resize.yaml"), str(blocker), str(FPGA_PODS / "decode.yaml")]

    status, summary = run_json(capsys, "--machine", "intel-dfl", "--config", str(CONFIGS / "fpga-sandbox.yaml"), *pods)

    assert status == UNSATISFIED
    assert summary["pods"][-1]["reasons"] == [
        "wants 1 fpga.tasuki.dev/decode, 0 free of 0",
        "region 0000:04:00.0-port0 is held under fpga.tasuki.dev/resize by default/thumbnails",
        "region 0000:81:00.0-port0 is held under fpga.tasuki.dev/sharpen by default/sharpening",
    ]


def test_a_tree_of_ones_own_is_told_from_a_description_of_gpus(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    tree = tmp_path / "mine.yaml"
    tree.write_text((TREES / "soc.yaml").read_text())

    status, summary = run_json(capsys, "--machine", str(tree), str(FPGA_PODS / "resize.yaml"))

    assert status == SATISFIED
    assert sorted(summary["resources"]) == [
        "fpga.tasuki.dev/resize",
        "fpga.tasuki.dev/sharpen",
        "vaccel.tasuki.dev/session",
    ]
    assert list(folder.iterdir()) == []


def test_a_table_tells_what_was_programmed(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--machine", "intel-dfl", str(FPGA_PODS / "sharpen.yaml"), str(VACCEL_PODS / "session.yaml")])

    shown = capsys.readouterr().out
    assert status == SATISFIED
    assert "machine    intel-dfl: 2 x Intel PAC with Arria 10 GX FPGA, 1 x vAccel agent 0.5.0 (simulated)" in shown
    assert "gets vaccel.tasuki.dev/session: agent 0 session 1 of 4" in shown
    assert "\nProgrammed\n  default/sharpening-0 sharpen waited " in shown
    assert "VACCEL_PLUGINS=libvaccel-rpc.so" in shown
    assert "/vaccel (read-only)" in shown


def test_what_is_programmed_beforehand_is_waited_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        dedent("""
        tasuki:
          fpga:
            functions:
              compress:
                implementations:
                - {family: fpga-region, id: compress.bin, bitstream: compress.bin, programmingSeconds: 40}
            prewarm: [{function: compress}]
        """)
    )
    pods = tmp_path / "pods.yaml"
    pods.write_text(
        "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, resources: {limits: "
        "{fpga.tasuki.dev/compress: 1}}}]}}"
    )

    status, summary = run_json(capsys, "--machine", "soc", "--config", str(config), str(pods))

    assert status == SATISFIED
    assert summary["pods"][0]["regions"][0]["before"] == "compress"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("sys: [a]\n", "FPGA tree", id="a tree that is none"),
        pytest.param("a: b\n", "description", id="neither a tree nor GPUs"),
    ],
)
def test_a_bad_machine_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, told: str, folder: Path
) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text(text)

    status = main(["--machine", str(machine)])

    assert status == BAD_INPUT
    assert told in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_mistake_in_a_configuration_with_an_agent_here_is_told_by_the_files_own_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("tasuki: {vaccel: {agents: [{name: a, address: 'unix:///sandbox/a/a.sock', session: 1}]}}\n")

    status = main(["--machine", "soc", "--config", str(config)])

    assert status == BAD_INPUT
    assert f"{config}: " in capsys.readouterr().err


def test_fpgas_of_this_machine_are_left_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASUKI_KINDS", "gpu,fpga")

    status = main(["--machine", "t4"])

    assert status == BAD_INPUT
    assert "the sandbox programs no FPGAs of this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "fpgas", "config"),
    [
        pytest.param(["--machine", "intel-dfl"], True, "fpga-sandbox.yaml", id="a shipped tree"),
        pytest.param(["--machine", "./tree.yaml"], True, "fpga-sandbox.yaml", id="a tree's file"),
        pytest.param(["--machine", "./gpus.yaml"], False, "sharing-all.yaml", id="a file of GPUs"),
        pytest.param(["--machine", "t4"], False, "sharing-all.yaml", id="a shipped machine with GPUs"),
        pytest.param(["--machine", "soc", "mine.yaml"], True, None, id="own pods"),
    ],
)
def test_the_machine_decides_what_is_shown(argv: list[str], fpgas: bool, config: str | None) -> None:
    is_tree: Callable[[Path], bool] = lambda file: file.name == "tree.yaml"  # noqa: E731

    settings = read(argv, Surroundings(driver_answers=lambda: True, colour=False, describes_fpgas=is_tree))

    assert settings.fpgas is fpgas
    assert settings.config == (CONFIGS / config if config else None)


@pytest.mark.parametrize("name", ["intel-dfl", "alveo", "soc"])
def test_shipped_trees_are_trees_as_files_too(name: str) -> None:
    assert describes_fpgas(TREES / f"{name}.yaml")


@pytest.mark.parametrize(
    "content", [pytest.param(None, id="no file"), pytest.param(b"\xff", id="no text"), pytest.param(b"{", id="no YAML")]
)
def test_what_cannot_be_read_is_no_tree(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "machine.yaml"
    if content is not None:
        file.write_bytes(content)

    assert not describes_fpgas(file)
