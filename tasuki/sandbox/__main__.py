"""`tasuki sandbox`: pods on the accelerators of one machine, without a cluster; read `_sandbox` first."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deviceplugin.config.kinds import FPGA, VACCEL
from tasuki.sandbox import cache
from tasuki.sandbox.events import Event
from tasuki.sandbox.expectation import (
    Configured,
    Expectation,
    UnusableError,
    configured,
    describes_fpgas,
    driver_answers,
    expect,
)
from tasuki.sandbox.kubelet import SOCKET_NAME, Kubelet
from tasuki.sandbox.node import Fabric, Node
from tasuki.sandbox.outcomes import all_satisfied
from tasuki.sandbox.plugin_process import PluginFailedError, PluginProcess
from tasuki.sandbox.pod_resources import PodResourcesServer
from tasuki.sandbox.pods import Pod
from tasuki.sandbox.reading import ManifestError, read_all
from tasuki.sandbox.regions import Regions, Tree
from tasuki.sandbox.report import Report, as_json, printable
from tasuki.sandbox.settings import Settings, Surroundings, read
from tasuki.sandbox.simulated_images import write_images
from tasuki.sandbox.vaccel_agent import VaccelAgent
from tasuki.sandbox.views import ResourceView

SATISFIED, UNSATISFIED, BAD_INPUT, PLUGIN_FAILED = 0, 1, 2, 3
# What a shell reports of a process that a signal ended.
_SIGNALLED: Final = 128
# A socket's path has 107 bytes at most; the longest one here adds /device-plugins/ and a file name to the folder.
_FOLDER_BYTES: Final = 47
_NODE_NAME: Final = "sandbox"
_BITSTREAMS: Final = "TASUKI_BITSTREAMS"


def main(argv: Sequence[str]) -> int:
    """Run the sandbox; see `tasuki sandbox --help` for the exit status."""
    try:
        return cache.main(argv[1:]) if argv[:1] == ["cache"] else _pods(argv)
    except BrokenPipeError:
        # Whoever reads our output has seen enough; keep the interpreter from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGNALLED + signal.SIGPIPE


def _pods(argv: Sequence[str]) -> int:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    settings = read(argv, Surroundings(driver_answers, colour, describes_fpgas))
    try:
        pods = read_all(settings.pods)
        with _private_folder() as folder:
            stage = _prepared(settings, _Paths(folder), os.environ)
            return asyncio.run(_until_signalled(settings, pods, stage))
    except (ManifestError, UnusableError) as error:
        sys.stderr.write(f"tasuki sandbox: {printable(str(error))}\n")
        return BAD_INPUT
    except PluginFailedError as error:
        sys.stderr.write(f"tasuki sandbox: {error}\n")
        return PLUGIN_FAILED


@dataclass(frozen=True, slots=True)
class _Paths:
    """Where everything is, in one folder that only we can enter."""

    folder: Path

    @property
    def device_plugins(self) -> Path:
        return self.folder / "device-plugins"

    @property
    def pod_resources(self) -> Path:
        return self.folder / "pod-resources"

    @property
    def cdi(self) -> Path:
        return self.folder / "cdi"

    @property
    def bitstreams(self) -> Path:
        return self.folder / "bitstreams"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "deviceplugin.log"

    @property
    def tree(self) -> Path | None:
        """Where the plugin has laid FPGAs out; None if it has not."""
        return next(iter(sorted(self.folder.glob("tasuki-fpga-*/sys"))), None)


@dataclass(frozen=True, slots=True)
class _Stage:
    """All that is there before the plugin starts.

    Attributes:
        argv: The plugin's arguments.
        chosen: What they come to.
        expected: What the plugin is going to offer.
    """

    paths: _Paths
    argv: Sequence[str]
    chosen: Configured
    expected: Expectation


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    base = Path(tempfile.gettempdir())
    short = len(os.fsencode(base)) + len("/tasuki-") + 8 <= _FOLDER_BYTES
    folder = Path(tempfile.mkdtemp(prefix="tasuki-", dir=base if short else "/tmp"))  # noqa: S108 - sockets need it short
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _prepared(settings: Settings, paths: _Paths, environ: Mapping[str, str]) -> _Stage:
    """Write the files that the plugin needs, and work out what it will do with them.

    Raises:
        UnusableError: The machine or the configuration cannot be used.
    """
    arguments = _arguments(settings, paths, environ)
    chosen = configured(_argv(arguments), environ, paths.folder)
    if chosen.rewritten is not None:
        paths.config.write_bytes(chosen.rewritten)
        arguments["--config-file"] = f"{paths.config}"
    if "--bitstreams" in arguments:
        write_images(chosen.config.tasuki.fpga.functions, paths.bitstreams)
    return _Stage(paths, _argv(arguments), chosen, expect(chosen))


def _arguments(settings: Settings, paths: _Paths, environ: Mapping[str, str]) -> dict[str, str]:
    arguments = {
        "--kubelet-socket": f"{paths.device_plugins / SOCKET_NAME}",
        "--pod-resources-socket": f"{paths.pod_resources / SOCKET_NAME}",
        "--cdi-root": f"{paths.cdi}",
        "--node-name": _NODE_NAME,
        "--kube-api": "off",
        "--metrics-address": "",
    }
    if settings.config is not None:
        arguments["--config-file"] = f"{settings.config}"
    if settings.fpgas:
        arguments["--kinds"] = f"{FPGA},{VACCEL}"
        arguments["--simulate-fpga"] = settings.machine
        # Simulated images are for simulated FPGAs alone.
        if not environ.get(_BITSTREAMS):
            arguments["--bitstreams"] = f"{paths.bitstreams}"
    elif settings.simulated:
        arguments["--simulate"] = settings.machine
    if settings.strategy:
        arguments["--device-list-strategy"] = settings.strategy
    return arguments


def _argv(arguments: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in arguments.items()]


async def _until_signalled(settings: Settings, pods: Sequence[Pod], stage: _Stage) -> int:
    """Run the sandbox; the first SIGINT or SIGTERM ends it in order, further ones change nothing."""
    loop = asyncio.get_running_loop()
    work = asyncio.current_task()
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        if len(received) == 1 and work is not None:
            work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await _sandbox(settings, pods, stage)
    except asyncio.CancelledError:
        if not received:
            raise
        return _SIGNALLED + received[0]


async def _sandbox(settings: Settings, pods: Sequence[Pod], stage: _Stage) -> int:
    """Start the kubelet and the plugin, place the pods, and say what they got."""
    for_people = settings.output == "table"
    paths, expected = stage.paths, stage.expected
    report = Report(sys.stdout if for_people else sys.stderr, expected.slices, colour=settings.colour and for_people)
    _introduce(settings, stage, report)
    ending = asyncio.Event()

    def observe(event: Event) -> None:
        if not ending.is_set():
            report.event(event)

    async with contextlib.AsyncExitStack() as running:
        for socket in stage.chosen.sockets:
            await running.enter_async_context(VaccelAgent(socket))
        kubelet = await running.enter_async_context(Kubelet(paths.device_plugins, observe=observe))
        await running.enter_async_context(PodResourcesServer(paths.pod_resources, kubelet))
        plugin = await running.enter_async_context(PluginProcess(stage.argv, paths.log))
        try:
            await plugin.while_running(kubelet.wait_for(_all_listed(expected.counts), settings.timeout_seconds))
        except TimeoutError as error:
            raise plugin.failed(f"the device plugin does not list {_counted(expected.counts)}: {error}") from error
        node = Node(kubelet, report, _fabric(settings, stage))
        await plugin.while_running(node.place_all(pods))
        if for_people:
            sys.stdout.write(f"\n{report.summary(node.outcomes, kubelet.resources())}\n")
        else:
            sys.stdout.write(f"{as_json(settings.machine, node.outcomes, kubelet.resources())}\n")
        sys.stdout.flush()
        if settings.keep:
            _say_where(stage, kubelet, report)
            await _kept(plugin)
        ending.set()
        return SATISFIED if all_satisfied(node.outcomes) else UNSATISFIED


def _fabric(settings: Settings, stage: _Stage) -> Fabric:
    tree = stage.paths.tree
    functions = stage.chosen.config.tasuki.fpga.functions
    return Fabric(
        Regions.of(stage.expected.resources),
        Tree(tree, functions) if tree is not None else None,
        settings.timeout_seconds,
    )


def _say_where(stage: _Stage, kubelet: Kubelet, report: Report) -> None:
    report.say(f"\nkubelet's socket        {kubelet.socket}")
    report.say(f"pod resources' socket   {stage.paths.pod_resources / SOCKET_NAME}")
    for agent in stage.chosen.sockets:
        report.say(f"vAccel agent's socket   {agent}")
    if stage.paths.tree is not None:
        report.say(f"FPGA tree               {stage.paths.tree}")
    report.say(f"device plugin's log     {stage.paths.log}\nCtrl-C ends it.")


async def _kept(plugin: PluginProcess) -> None:
    """Wait for the signal that is the ordinary end of a sandbox that was to be kept."""
    try:
        await plugin.while_running(asyncio.Event().wait())
    except asyncio.CancelledError:
        work = asyncio.current_task()
        if work is not None:
            work.uncancel()


def _introduce(settings: Settings, stage: _Stage, report: Report) -> None:
    models = Counter(device.model for device in stage.expected.devices)
    devices = ", ".join(f"{count} x {model}" for model, count in models.items()) or "no accelerator"
    kind = "simulated" if settings.simulated else "the GPUs of this machine"
    report.say(f"machine    {settings.machine}: {printable(devices)} ({kind})")
    report.say(f"config     {stage.chosen.file or 'none: the device plugin has its defaults'}")
    report.say(f"sockets    {stage.paths.folder}")
    if stage.paths.bitstreams.is_dir():
        report.say(f"images     simulated, in {stage.paths.bitstreams}: headers, and no bitstreams behind them")
    for note in stage.expected.notes:
        report.say(f"note       {printable(note)}")


def _all_listed(counts: Mapping[str, int]) -> Callable[[Mapping[str, ResourceView]], bool]:
    def listed(now: Mapping[str, ResourceView]) -> bool:
        views = {name: now.get(name, ResourceView(name)) for name in counts}
        return all(views[name].connected and views[name].capacity == count for name, count in counts.items())

    return listed


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
