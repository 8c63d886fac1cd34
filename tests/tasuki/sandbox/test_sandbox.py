"""The whole sandbox, with the real device plugin as its child."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tasuki.sandbox.__main__ import BAD_INPUT, PLUGIN_FAILED, SATISFIED, UNSATISFIED, main
from tasuki.sandbox.plugin_process import PluginFailedError, PluginProcess
from tasuki.sandbox.settings import CONFIGS, NVML, PODS, Surroundings, read

SOON_SECONDS = 20.0


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> None:
    """Nothing of the caller's, and temporary files where the test can see them."""
    for name in list(os.environ):
        if name.startswith(("TASUKI_", "NVIDIA_", "CONFIG_FILE", "MIG_STRATEGY", "DEVICE_")):
            monkeypatch.delenv(name)
    tmp_path_factory.getbasetemp()  # is made where temporary files are then
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    status = main(["--output", "json", *argv])
    return status, json.loads(capsys.readouterr().out)


def test_the_examples_of_a_dgx_a100_all_run(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, summary = run_json(capsys, "--machine", "dgx-a100")

    assert status == SATISFIED
    names = {resource for pod in summary["pods"] for c in pod["containers"] for resource in c["devices"]}
    assert names == {"nvidia.com/gpu", "nvidia.com/gpu.shared"}
    assert [pod["name"] for pod in summary["pods"] if pod["ended"]] == ["evaluation-0"]
    assert all(c["env"]["NVIDIA_VISIBLE_DEVICES"] for pod in summary["pods"] for c in pod["containers"])
    assert list(folder.iterdir()) == [], "nothing is left behind"


def test_the_examples_of_a_machine_with_mig_all_run(capsys: pytest.CaptureFixture[str]) -> None:
    status, summary = run_json(capsys, "--machine", "a100-mig")

    assert status == SATISFIED
    held = {r: ids for pod in summary["pods"] for c in pod["containers"] for r, ids in c["devices"].items()}
    assert sorted(held) == ["nvidia.com/mig-1g.5gb", "nvidia.com/mig-1g.5gb.shared", "nvidia.com/mig-3g.20gb"]
    assert all(ids[0].startswith("MIG-") for ids in held.values())


def test_the_table_shows_what_each_container_gets(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--machine", "t4", "--strategy", "envvar,cdi-cri"])

    shown = capsys.readouterr().out
    assert status == SATISFIED
    assert "container  default/notebook-0 jupyter gets nvidia.com/gpu.shared: GPU 0 slice 1 of 4" in shown
    assert "GPU 0 slice 3 of 4 Tesla T4" in shown
    assert "CDI k8s.device-plugin.nvidia.com/gpu=GPU-" in shown
    assert "nvidia.com/gpu.shared: 3 of 4 in use" in shown
    assert "\x1b[" not in shown


def test_pods_that_do_not_fit_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    status, summary = run_json(capsys, "--machine", "dgx-a100", str(PODS / "too-much.yaml"))

    reasons = {pod["name"]: pod["reasons"][0] for pod in summary["pods"]}
    assert status == UNSATISFIED
    assert reasons["six-gpus"] == "wants 6 nvidia.com/gpu, 4 free of 4"
    assert "which this node does not offer" in reasons["another-kind"]
    assert reasons["two-shares"].startswith("UnexpectedAdmissionError: ")


def test_all_examples_together_are_pods(capsys: pytest.CaptureFixture[str]) -> None:
    status, summary = run_json(capsys, "--machine", "dgx-a100", *(str(file) for file in sorted(PODS.glob("*.yaml"))))

    running = {pod["name"]: pod["running"] for pod in summary["pods"]}
    assert status == UNSATISFIED
    assert (running["training"], running["notebook-0"], running["fine-tuning"], running["six-gpus"]) == (
        True,
        True,
        False,
        False,
    )


@pytest.mark.parametrize("machine", ["t4", "l40s-4", "dgx-a100"])
def test_ones_own_pods_find_the_gpus_as_the_plugin_offers_them_by_default(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, machine: str
) -> None:
    pods = tmp_path / "pods.yaml"
    pods.write_text(
        "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, resources: {limits: {nvidia.com/gpu: 1}}}]}}"
    )

    status, summary = run_json(capsys, "--machine", machine, str(pods))

    assert status == SATISFIED
    assert list(summary["resources"]) == ["nvidia.com/gpu"]


def test_nothing_of_a_manifest_reaches_the_terminal_raw(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pods = tmp_path / "pods.yaml"
    pods.write_text(
        r'{kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, env: [{name: A, value: "\e[31m"}], '
        "resources: {limits: {nvidia.com/gpu: 1}}}]}}"
    )

    status = main(["--machine", "t4", str(pods)])

    shown = capsys.readouterr().out
    assert status == SATISFIED
    assert r"A=\x1b[31m" in shown
    assert "\x1b" not in shown
    assert "config     none: the device plugin has its defaults" in shown


def test_a_pods_own_configuration_is_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("version: v1\n")
    pods = tmp_path / "pods.yaml"
    pods.write_text(
        dedent("""
        kind: Pod
        metadata: {name: all}
        spec: {containers: [{name: main, resources: {limits: {nvidia.com/gpu: 8}}}]}
        """)
    )

    status, summary = run_json(capsys, "--machine", "dgx-a100", "--config", str(config), str(pods))

    assert status == SATISFIED
    assert len(summary["pods"][0]["containers"][0]["devices"]["nvidia.com/gpu"]) == 8


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        pytest.param(["--strategy", "foo"], "--strategy: 'foo' is not a strategy; it must be envvar,", id="strategy"),
        pytest.param(["--config", ""], "--config: the file's name is empty", id="no name of a configuration"),
        pytest.param([""], "the file's name is empty", id="no name of a manifest"),
    ],
)
def test_bad_arguments_are_told_under_our_own_name(
    capsys: pytest.CaptureFixture[str], argv: list[str], told: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv)

    said = capsys.readouterr().err
    assert said.startswith("usage: tasuki sandbox")
    assert told in said


def test_a_folder_of_configurations_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIG_FILE_SRCDIR", "/configs")

    status = main(["--machine", "t4"])

    assert status == BAD_INPUT
    assert "CONFIG_FILE_SRCDIR is /configs, but no node label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        pytest.param(["--machine", "pdp-11"], "no machine description 'pdp-11'", id="no such machine"),
        pytest.param(["--machine", "t4", "/nowhere.yaml"], "/nowhere.yaml: cannot be read", id="no such pods"),
        pytest.param(
            ["--machine", "t4", "--config", "/nowhere.yaml"],
            "/nowhere.yaml: cannot be read",
            id="no such configuration",
        ),
        pytest.param(
            ["--machine", "t4", "--config", str(PODS / "mig.yaml")], "mig.yaml: ", id="pods for a configuration"
        ),
    ],
)
def test_bad_input_is_told(capsys: pytest.CaptureFixture[str], argv: list[str], told: str, folder: Path) -> None:
    status = main(argv)

    assert status == BAD_INPUT
    assert told in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_plugin_that_lists_nothing_in_time_has_failed(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status = main(["--machine", "t4", "--timeout", "0.001"])

    assert status == PLUGIN_FAILED
    assert "does not list 4 nvidia.com/gpu.shared" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


async def test_a_plugin_that_ends_is_reported_with_its_last_words(folder: Path) -> None:
    async with PluginProcess(["--no-such-flag"], folder / "log") as plugin:
        with pytest.raises(PluginFailedError, match=r"(?s)status 2.*no-such-flag"):
            await plugin.while_running(asyncio.Event().wait())


@pytest.fixture
def kept(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """A sandbox that is kept running, and what it has said so far."""
    command = [sys.executable, "-m", "tasuki.cli", "sandbox", "--machine", "t4", "--keep"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        try:
            yield process, said
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_kept_sandbox_ends_with_the_signal_and_leaves_nothing(
    kept: tuple["subprocess.Popen[str]", list[str]], number: signal.Signals, folder: Path
) -> None:
    process, said = kept
    sockets = [Path(line.split()[-1]) for line in said if "socket  " in line]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    listening = [socket.is_socket() for socket in sockets]

    process.send_signal(number)
    status = process.wait(SOON_SECONDS)

    assert listening == [True, True]
    assert len(children) == 1
    assert status == SATISFIED
    assert not Path(f"/proc/{children[0]}").exists()
    assert list(folder.iterdir()) == []


def test_a_kept_sandbox_whose_plugin_dies_has_failed(
    kept: tuple["subprocess.Popen[str]", list[str]], folder: Path
) -> None:
    process, _ = kept
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    os.kill(int(child), signal.SIGKILL)

    assert process.wait(SOON_SECONDS) == PLUGIN_FAILED
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "answers", "machine", "config"),
    [
        pytest.param([], False, "dgx-a100", CONFIGS / "sharing.yaml", id="no driver"),
        pytest.param([], True, NVML, CONFIGS / "sharing-all.yaml", id="a driver answers"),
        pytest.param(["--machine", "a100-mig"], True, "a100-mig", CONFIGS / "sharing-mig.yaml", id="named"),
        pytest.param(["--machine", "./mine.yaml"], False, "./mine.yaml", CONFIGS / "sharing-all.yaml", id="a file"),
        pytest.param(
            ["examples/gpu/too-much.yaml"], False, "dgx-a100", CONFIGS / "sharing.yaml", id="an example by its name"
        ),
        pytest.param(["mine.yaml"], False, "dgx-a100", None, id="own pods"),
        pytest.param(["examples/gpu/mig.yaml", "mine.yaml"], False, "dgx-a100", None, id="own pods beside examples"),
        pytest.param(["mine.yaml", "--config", "c.yaml"], False, "dgx-a100", Path("c.yaml"), id="both one's own"),
    ],
)
def test_machine_and_pods_decide_the_defaults(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], answers: bool, machine: str, config: Path | None
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])

    settings = read(argv, Surroundings(driver_answers=lambda: answers, colour=False))

    assert (settings.machine, settings.config) == (machine, config)


@pytest.mark.parametrize("timeout", ["0", "-1", "inf", "soon"])
def test_a_timeout_that_is_no_time_is_refused(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(["--timeout", timeout], Surroundings(driver_answers=lambda: False, colour=False))

    assert "is not a positive number of seconds" in capsys.readouterr().err
