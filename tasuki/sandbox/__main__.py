"""`tasuki sandbox`: pods on the GPUs of one machine, without a cluster; read `_sandbox` first."""

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

from tasuki.sandbox.events import Event
from tasuki.sandbox.expectation import Expectation, UnusableError, driver_answers, expect
from tasuki.sandbox.kubelet import SOCKET_NAME, Kubelet
from tasuki.sandbox.node import Node
from tasuki.sandbox.outcomes import all_satisfied
from tasuki.sandbox.plugin_process import PluginFailedError, PluginProcess
from tasuki.sandbox.pod_resources import PodResourcesServer
from tasuki.sandbox.pods import Pod
from tasuki.sandbox.reading import ManifestError, read_all
from tasuki.sandbox.report import Report, as_json, printable
from tasuki.sandbox.settings import Settings, Surroundings, read
from tasuki.sandbox.views import ResourceView

SATISFIED, UNSATISFIED, BAD_INPUT, PLUGIN_FAILED = 0, 1, 2, 3
# What a shell reports of a process that a signal ended.
_SIGNALLED: Final = 128
# A socket's path has 107 bytes at most; the longest one here adds /device-plugins/ and a file name to the folder.
_FOLDER_BYTES: Final = 47
_NODE_NAME: Final = "sandbox"


def main(argv: Sequence[str]) -> int:
    """Run the sandbox; see `tasuki sandbox --help` for the exit status."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    settings = read(argv, Surroundings(driver_answers, colour))
    try:
        pods = read_all(settings.pods)
        with _private_folder() as folder:
            paths = _Paths(folder)
            expected = expect(_plugin_argv(settings, paths), os.environ)
            return asyncio.run(_until_signalled(settings, pods, paths, expected))
    except (ManifestError, UnusableError) as error:
        sys.stderr.write(f"tasuki sandbox: {printable(str(error))}\n")
        return BAD_INPUT
    except PluginFailedError as error:
        sys.stderr.write(f"tasuki sandbox: {error}\n")
        return PLUGIN_FAILED
    except BrokenPipeError:
        # Whoever reads our output has seen enough; keep the interpreter from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGNALLED + signal.SIGPIPE


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
    def log(self) -> Path:
        return self.folder / "deviceplugin.log"


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    base = Path(tempfile.gettempdir())
    short = len(os.fsencode(base)) + len("/tasuki-") + 8 <= _FOLDER_BYTES
    folder = Path(tempfile.mkdtemp(prefix="tasuki-", dir=base if short else "/tmp"))  # noqa: S108 - sockets need it short
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _plugin_argv(settings: Settings, paths: _Paths) -> list[str]:
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
    if settings.simulated:
        arguments["--simulate"] = settings.machine
    if settings.strategy:
        arguments["--device-list-strategy"] = settings.strategy
    return [f"{name}={value}" for name, value in arguments.items()]


async def _until_signalled(settings: Settings, pods: Sequence[Pod], paths: _Paths, expected: Expectation) -> int:
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
        return await _sandbox(settings, pods, paths, expected)
    except asyncio.CancelledError:
        if not received:
            raise
        return _SIGNALLED + received[0]


async def _sandbox(settings: Settings, pods: Sequence[Pod], paths: _Paths, expected: Expectation) -> int:
    """Start the kubelet and the plugin, place the pods, and say what they got."""
    for_people = settings.output == "table"
    report = Report(sys.stdout if for_people else sys.stderr, expected.slices, colour=settings.colour and for_people)
    _introduce(settings, paths, expected, report)
    ending = asyncio.Event()

    def observe(event: Event) -> None:
        if not ending.is_set():
            report.event(event)

    async with (
        Kubelet(paths.device_plugins, observe=observe) as kubelet,
        PodResourcesServer(paths.pod_resources, kubelet) as pod_resources,
        PluginProcess(_plugin_argv(settings, paths), paths.log) as plugin,
    ):
        try:
            await plugin.while_running(kubelet.wait_for(_all_listed(expected.counts), settings.timeout_seconds))
        except TimeoutError as error:
            raise plugin.failed(f"the device plugin does not list {_counted(expected.counts)}: {error}") from error
        node = Node(kubelet, report)
        await plugin.while_running(node.place_all(pods))
        if for_people:
            sys.stdout.write(f"\n{report.summary(node.outcomes, kubelet.resources())}\n")
        else:
            sys.stdout.write(f"{as_json(settings.machine, node.outcomes, kubelet.resources())}\n")
        sys.stdout.flush()
        if settings.keep:
            report.say(f"\nkubelet's socket        {kubelet.socket}")
            report.say(f"pod resources' socket   {pod_resources.socket}")
            report.say(f"device plugin's log     {plugin.log}\nCtrl-C ends it.")
            await _kept(plugin)
        ending.set()
        return SATISFIED if all_satisfied(node.outcomes) else UNSATISFIED


async def _kept(plugin: PluginProcess) -> None:
    """Wait for the signal that is the ordinary end of a sandbox that was to be kept."""
    try:
        await plugin.while_running(asyncio.Event().wait())
    except asyncio.CancelledError:
        work = asyncio.current_task()
        if work is not None:
            work.uncancel()


def _introduce(settings: Settings, paths: _Paths, expected: Expectation, report: Report) -> None:
    models = Counter(gpu.device.model for gpu in expected.machine.gpus)
    gpus = ", ".join(f"{count} x {model}" for model, count in models.items()) or "no GPU"
    kind = "simulated" if settings.simulated else "the GPUs of this machine"
    report.say(f"machine    {settings.machine}: {printable(gpus)} ({kind})")
    report.say(f"config     {expected.config or 'none: the device plugin has its defaults'}")
    report.say(f"sockets    {paths.folder}")
    for note in expected.notes:
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
