"""The command line of the sandbox."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from deviceplugin.config.model import DeviceListStrategy
from deviceplugin.discovery import fpga_trees
from deviceplugin.discovery.description import shipped
from tasuki.process.sentences import alternatives, shown

Output = Literal["table", "json"]

_EXAMPLES: Final = Path(__file__).parent / "examples"
PODS: Final = _EXAMPLES / "gpu"
FPGA_PODS: Final = _EXAMPLES / "fpga"
VACCEL_PODS: Final = _EXAMPLES / "vaccel"
CONFIGS: Final = _EXAMPLES / "config"
NVML: Final = "nvml"
DEFAULT_MACHINE: Final = "dgx-a100"

# Per shipped machine: the configuration and the pods that show what it can do.
_GPUS: Final = (PODS / "whole-gpus.yaml", PODS / "timeshared.yaml")
_SHOWN: Final = {
    "dgx-a100": ("sharing.yaml", _GPUS),
    "dgx-h100": ("sharing.yaml", _GPUS),
    "a100-mig": ("sharing-mig.yaml", (PODS / "mig.yaml",)),
    "soc": ("fpga-sandbox.yaml", (FPGA_PODS / "one-region.yaml", VACCEL_PODS / "session.yaml")),
}
_SHOWN_ELSEWHERE: Final = ("sharing-all.yaml", (PODS / "timeshared.yaml",))
_SHOWN_ON_FPGAS: Final = (
    "fpga-sandbox.yaml",
    (
        FPGA_PODS / "resize.yaml",
        FPGA_PODS / "sharpen.yaml",
        VACCEL_PODS / "session.yaml",
        FPGA_PODS / "decode.yaml",
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run on which machine.

    Attributes:
        machine: A shipped description's name, a description's file, or `nvml` for this machine's own GPUs.
        fpgas: Whether the machine is a tree of FPGAs.
        config: None for the device plugin's defaults.
        strategy: What `--device-list-strategy` of the plugin is to be; empty to leave it to the configuration.
        timeout_seconds: How long the plugin may take until all of its devices are listed, and until it offers what
            an ended pod held.
        colour: Whether to mark words with terminal colours.
    """

    machine: str
    fpgas: bool
    config: Path | None
    pods: tuple[Path, ...]
    strategy: str
    keep: bool
    timeout_seconds: float
    output: Output
    colour: bool

    @property
    def simulated(self) -> bool:
        return self.machine != NVML


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the choice of defaults depends on.

    Attributes:
        driver_answers: Looks whether this machine has GPUs of its own; called only if that decides.
        colour: Whether the output is a terminal that wants colours.
        describes_fpgas: Looks whether a file is a tree of FPGAs.
    """

    driver_answers: Callable[[], bool]
    colour: bool
    describes_fpgas: Callable[[Path], bool] = lambda _: False


def read(argv: Sequence[str], surroundings: Surroundings) -> Settings:
    """Settings from arguments; ends the process with 2 and a sentence if they make none."""
    given = _parser().parse_args(argv)
    machine = given.machine or (NVML if surroundings.driver_answers() else DEFAULT_MACHINE)
    fpgas = machine in fpga_trees.shipped() or (
        machine not in (NVML, *shipped()) and surroundings.describes_fpgas(Path(machine))
    )
    shown_config, shown_pods = _SHOWN.get(machine, _SHOWN_ON_FPGAS if fpgas else _SHOWN_ELSEWHERE)
    pods = tuple(given.pods) or shown_pods
    # Somebody's own pods are for somebody's own configuration, which an example's would only hide the lack of.
    examples = all(_is_example(file) for file in pods)
    return Settings(
        machine=machine,
        fpgas=fpgas,
        config=given.config or (CONFIGS / shown_config if examples else None),
        pods=pods,
        strategy=given.strategy,
        keep=given.keep,
        timeout_seconds=given.timeout,
        output=given.output,
        colour=surroundings.colour,
    )


def _is_example(file: Path) -> bool:
    return any(file.resolve().is_relative_to(folder.resolve()) for folder in (PODS, FPGA_PODS, VACCEL_PODS))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tasuki sandbox",
        description="Run pods on the GPUs or FPGAs of a described machine, or on this one's GPUs, without a cluster: "
        "the real device plugin, and a kubelet's device manager that keeps the real one's rules. No container is "
        "started, and no FPGA is programmed but a simulated one; you see what each container would get.",
        epilog="exit status: 0 all pods got what they asked for; 1 some did not fit or were rejected; 2 the pods, the "
        "configuration or the machine cannot be used; 3 the device plugin failed. `tasuki sandbox cache` shows the "
        "object cache instead.",
    )
    parser.add_argument(
        "pods",
        nargs="*",
        type=_file,
        metavar="pods.yaml",
        help="manifests with Pods, Deployments, StatefulSets, DaemonSets, Jobs, CronJobs or Lists of them, admitted in "
        f"this order (default: examples from {_EXAMPLES} that suit the machine)",
    )
    parser.add_argument(
        "--machine",
        metavar="NAME|FILE|nvml",
        help=f"whose GPUs: {', '.join(shipped())}, a machine description's file, or nvml for this machine's own; or "
        f"whose FPGAs, with sessions of vAccel agents: {', '.join(fpga_trees.shipped())}, or a tree's file "
        f"(default: nvml if a driver answers, {DEFAULT_MACHINE} otherwise)",
    )
    parser.add_argument(
        "--config",
        type=_file,
        metavar="FILE",
        help="configuration of the device plugin; /sandbox in a vAccel agent's address stands for the sandbox's own "
        "folder, where it serves such an agent (default: with the example "
        "pods an example that suits the machine, with your own pods none, so that the plugin has its defaults)",
    )
    parser.add_argument(
        "--strategy",
        type=_strategies,
        default="",
        metavar="STRATEGY",
        help="how devices reach the container, as the plugin's --device-list-strategy: envvar, volume-mounts, "
        "cdi-annotations, cdi-cri, or several with commas between (default: what the configuration says)",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running, with its sockets shown, until Ctrl-C")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long the plugin may take to list its devices, or those that an ended pod held (default: %(default)g)",
    )
    parser.add_argument(
        "--output",
        choices=get_args(Output),
        default="table",
        help="the summary's form; with json, what happens on the way goes to standard error (default: %(default)s)",
    )
    return parser


def _file(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the file's name is empty")
    return Path(text)


def _strategies(text: str) -> str:
    known = [strategy.value for strategy in DeviceListStrategy]
    for word in text.split(",") if text else ():
        if word.strip() not in known:
            raise argparse.ArgumentTypeError(f"{shown(word)} is not a strategy; it must be {alternatives(known)}")
    return text


def seconds(text: str) -> float:
    """For argparse: a time that is not nothing and ends."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return found
