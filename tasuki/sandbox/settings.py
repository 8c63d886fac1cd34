"""The command line of the sandbox."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from deviceplugin.discovery.description import shipped

Output = Literal["table", "json"]

EXAMPLES: Final = Path(__file__).parent / "examples"
NVML: Final = "nvml"
DEFAULT_MACHINE: Final = "dgx-a100"

# Per shipped machine: the sharing configuration and the pods that show what it can do.
_SHOWN: Final = {
    "dgx-a100": ("sharing.yaml", ("whole-gpus.yaml", "timeshared.yaml")),
    "dgx-h100": ("sharing.yaml", ("whole-gpus.yaml", "timeshared.yaml")),
    "a100-mig": ("sharing-mig.yaml", ("mig.yaml",)),
}
_SHOWN_ELSEWHERE: Final = ("sharing-all.yaml", ("timeshared.yaml",))


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run on which machine.

    Attributes:
        machine: A shipped description's name, a description's file, or `nvml` for this machine's own GPUs.
        strategy: What `--device-list-strategy` of the plugin is to be; empty to leave it to the configuration.
        timeout_seconds: How long the plugin may take until all of its devices are listed.
        colour: Whether to mark words with terminal colours.
    """

    machine: str
    config: Path
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
    """

    driver_answers: Callable[[], bool]
    colour: bool


def read(argv: Sequence[str], surroundings: Surroundings) -> Settings:
    """Settings from arguments; ends the process with 2 and a sentence if they make none."""
    given = _parser().parse_args(argv)
    machine = given.machine or (NVML if surroundings.driver_answers() else DEFAULT_MACHINE)
    config, pods = _SHOWN.get(machine, _SHOWN_ELSEWHERE)
    return Settings(
        machine=machine,
        config=given.config or EXAMPLES / config,
        pods=tuple(given.pods) or tuple(EXAMPLES / file for file in pods),
        strategy=given.strategy,
        keep=given.keep,
        timeout_seconds=given.timeout,
        output=given.output,
        colour=surroundings.colour,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tasuki sandbox",
        description="Run pods on the GPUs of a described machine, or of this one, without a cluster: the real device "
        "plugin, and a kubelet's device manager that keeps the real one's rules. No container is started; you see "
        "what each would get.",
        epilog="exit status: 0 all pods got what they asked for; 1 some did not fit or were rejected; 2 the pods, the "
        "configuration or the machine cannot be used; 3 the device plugin failed.",
    )
    parser.add_argument(
        "pods",
        nargs="*",
        type=Path,
        metavar="pods.yaml",
        help="manifests with Pods, Deployments, StatefulSets, DaemonSets, Jobs or Lists of them, admitted in this "
        f"order (default: examples from {EXAMPLES})",
    )
    parser.add_argument(
        "--machine",
        metavar="NAME|FILE|nvml",
        help=f"whose GPUs: {', '.join(shipped())}, a machine description's file, or nvml for this machine's own "
        f"(default: nvml if a driver answers, {DEFAULT_MACHINE} otherwise)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="sharing configuration in the NVIDIA device plugin's format (default: an example that suits the machine)",
    )
    parser.add_argument(
        "--strategy",
        default="",
        metavar="STRATEGY",
        help="how devices reach the container, as the plugin's --device-list-strategy: envvar, volume-mounts, "
        "cdi-annotations, cdi-cri, or several with commas between (default: what the configuration says)",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running, with its sockets shown, until Ctrl-C")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long the plugin may take to list its devices (default: %(default)g)",
    )
    parser.add_argument(
        "--output",
        choices=get_args(Output),
        default="table",
        help="the summary's form; with json, what happens on the way goes to standard error (default: %(default)s)",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds
