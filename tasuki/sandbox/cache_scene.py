"""Three caches, a control plane and an Envoy on this machine, as processes; read `scene` first."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasuki.sandbox.plugin_process import last_words
from tasuki.sandbox.report import printable

NODES: Final = ("node-a", "node-b", "node-c")
ZONE: Final = "zone-1"
BUCKET: Final = "demo"
MEMBER: Final = "research"
STRANGER: Final = "others"

_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.05
_ASK_SECONDS: Final = 2.0


class SceneError(Exception):
    """A program ended or does not answer; the text ends in its last log lines."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long may be waited.

    Attributes:
        ends: In monotonic seconds.
        check: Called again and again meanwhile; raises to end it.
    """

    ends: float
    check: Callable[[], None]

    def met(self, condition: Callable[[], bool]) -> bool:
        """Whether something becomes true in time."""
        while not condition():
            self.check()
            if time.monotonic() > self.ends:
                return False
            time.sleep(_POLL_SECONDS)
        return True


class Program:
    """One process, whose output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        """Start it.

        Raises:
            SceneError: It cannot be started.
        """
        self.name: Final = name
        self._log: Final = folder / f"{name}.log"
        known = {name: value for name, value in os.environ.items() if not name.startswith(("TASUKI_", "KUBE"))}
        with self._log.open("wb") as output:
            try:
                # Ctrl-C is for the sandbox, which then stops all in order.
                self._process: Final = subprocess.Popen(  # noqa: S603 - ours, and the Envoy that the user names
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, env=known,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise SceneError(f"{name} cannot be started: {error.strerror}: {command[0]!r}") from error

    def wait_for(self, url: str, deadline: Deadline) -> None:
        """Until there is a good answer.

        Raises:
            SceneError: The program has ended, or it takes too long.
        """

        def answers_or_has_ended() -> bool:
            return _answers(url) or self._process.poll() is not None

        if not deadline.met(answers_or_has_ended):
            raise self._failed(f"{self.name} does not answer in time")
        if (status := self._process.poll()) is not None:
            raise self._failed(f"{self.name} ended with status {status}")

    def kill(self) -> None:
        """As a node does that loses its power."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """In order if it can be had."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def _failed(self, reason: str) -> SceneError:
        return SceneError(f"{reason}; its last words:\n{last_words(self._log)}")


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs.

    Attributes:
        url: The Envoy's, where pods of the first node ask.
        caches: By node, the URL of its cache itself.
        tokens: By namespace, a file with a token of it.
        endpoints: Whom the control plane tells of.
    """

    url: str
    caches: Mapping[str, str]
    tokens: Mapping[str, Path]
    endpoints: Path
    programs: Mapping[str, Program]

    def lose(self, node: str) -> None:
        """A cache ends without a word, at once."""
        self.programs[node].kill()

    def forget(self, lost: str) -> None:
        """The control plane is told that a node is gone."""
        _write_endpoints(self.endpoints, {node: url for node, url in self.caches.items() if node != lost})


def _write_endpoints(path: Path, caches: Mapping[str, str]) -> None:
    """As `tasuki xds --endpoints` reads them; whole or not at all."""
    members = [
        {"node": node, "zone": ZONE, "address": "127.0.0.1", "port": int(url.rpartition(":")[2])}
        for node, url in caches.items()
    ]
    new = path.with_suffix(".new")
    new.write_text(json.dumps(members))
    new.replace(path)


@contextmanager
def scene(folder: Path, envoy: str, deadline: Deadline) -> Iterator[Scene]:
    """All of it, ready; no process stays behind.

    Args:
        folder: Empty, and only ours.
        envoy: The program.
        deadline: For it to be ready.

    Raises:
        SceneError: It does not come about.
    """
    tokens = {name: secrets.token_hex(16) for name in (MEMBER, STRANGER)}
    _write_rules(folder, tokens)
    ports = _free_ports(2 * len(NODES) + 4)
    with ExitStack() as stack:
        programs: dict[str, Program] = {}

        def start(name: str, *command: str) -> Program:
            program = programs[name] = Program(name, command, folder)
            stack.callback(program.stop)
            return program

        caches, operators = {}, {}
        for node in NODES:
            port, operator = ports.pop(), ports.pop()
            caches[node], operators[node] = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{operator}"
            start(
                node, *_tasuki("cache"), "--auth", "static", "--tokens", "tokens.yaml", "--buckets", "buckets.yaml",
                "--capacity", "256Mi", "--free-bytes", "1Mi", "--workers", "1", "--drain-seconds", "0",
                "--data-dir", node, "--listen", f"127.0.0.1:{port}", "--metrics-address", f"127.0.0.1:{operator}",
            )  # fmt: skip
        endpoints = folder / "caches.yaml"
        _write_endpoints(endpoints, caches)
        plane, operator, port, admin = (ports.pop() for _ in range(4))
        start(
            "control-plane", *_tasuki("xds"), "--endpoints", "caches.yaml", "--listen", f"127.0.0.1:{plane}",
            "--metrics-address", f"127.0.0.1:{operator}", "--envoy-listen", f"127.0.0.1:{port}",
        )  # fmt: skip
        (folder / "envoy.yaml").write_bytes(_bootstrap(plane, admin))
        start(
            "envoy", envoy, "--config-path", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "warning",
        )  # fmt: skip
        for node in NODES:
            programs[node].wait_for(f"{operators[node]}/readyz", deadline)
        url = f"http://127.0.0.1:{port}"
        programs["envoy"].wait_for(f"{url}/ready", deadline)
        yield Scene(url, caches, {name: folder / f"{name}.token" for name in tokens}, endpoints, programs)


def _write_rules(folder: Path, tokens: Mapping[str, str]) -> None:
    known = [{"token": token, "namespace": name, "serviceAccount": "default"} for name, token in tokens.items()]
    bucket = {"Name": BUCKET, "BucketQuota": "64Mi", "AllowNamespaces": [MEMBER]}
    files = {"tokens.yaml": json.dumps({"tokens": known}), "buckets.yaml": json.dumps({"buckets": [bucket]})}
    for name, text in {**files, **{f"{name}.token": token for name, token in tokens.items()}}.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text)


def _tasuki(service: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tasuki.cli", service)


def _bootstrap(plane: int, admin: int) -> bytes:
    command = (*_tasuki("xds"), "bootstrap", "--xds", f"127.0.0.1:{plane}", "--node", NODES[0])
    made = subprocess.run(  # noqa: S603 - ours
        [*command, "--admin", f"127.0.0.1:{admin}", "--operator", ""], capture_output=True, check=False
    )
    if made.returncode:
        said = printable(made.stderr.decode("utf-8", "replace"))
        raise SceneError(f"Envoy's configuration cannot be made: {said}")
    return made.stdout


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(url: str) -> bool:
    """Whether there is a good answer."""
    with suppress(urllib.error.URLError, OSError), _DIRECT.open(url, timeout=_ASK_SECONDS) as answer:
        return bool(answer.status == 200)
    return False


# What is on this machine is asked by no proxy.
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
