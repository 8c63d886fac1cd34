import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from deviceplugin.config.model import VaccelTransport
from deviceplugin.discovery import vaccel
from deviceplugin.discovery.vaccel import Prober, finding, reason_of
from tests.deviceplugin.discovery.vaccel.agents import (
    ASYNC,
    SYNC,
    FakeAgent,
    an_agent,
    frame,
    hanging_up,
    response,
    serving,
    silent,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because a socket's path has 107 bytes at most."""
    with TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
def socket_path(folder: Path) -> Path:
    return folder / "vaccel.sock"


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_an_agent_that_answers_is_well(socket_path: Path, transport: str) -> None:
    with FakeAgent.unix(socket_path) if transport == "unix" else FakeAgent.tcp() as fake:
        assert finding(an_agent(fake.address)) == ""

    assert fake.requests == [(SYNC, "GetProfiler")]


def test_an_agent_of_the_other_build_is_asked_again(socket_path: Path) -> None:
    with FakeAgent.unix(socket_path, serving(ASYNC, is_async=True)) as fake:
        assert finding(an_agent(fake.address)) == ""

    assert fake.requests == [(SYNC, "GetProfiler"), (ASYNC, "GetProfiler")]


def test_a_method_that_fails_is_there(socket_path: Path) -> None:
    with FakeAgent.unix(socket_path, lambda stream, _: frame(stream, response(5, "Unknown session"))) as fake:
        assert finding(an_agent(fake.address)) == ""


def test_a_host_name_is_resolved() -> None:
    with FakeAgent.tcp(host="localhost") as fake:
        assert finding(an_agent(fake.address)) == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(silent, "it takes connections, but does not answer", id="accepts and never answers"),
        pytest.param(hanging_up, "it closes connections without an answer", id="hangs up"),
        pytest.param(lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n", "no answer in ttrpc", id="another protocol"),
        pytest.param(lambda *_: b"\0\0", "does not answer", id="half a header"),
        pytest.param(lambda s, _: frame(s, response(3, "x" * 40))[:-9], "does not answer", id="half an answer"),
        pytest.param(lambda s, _: frame(s + 2, response()), "no answer in ttrpc", id="an answer to another call"),
        pytest.param(serving("grpc.Health"), "/vaccel.asynchronous.agent.AgentService/GetProfiler does", id="not ours"),
        pytest.param(serving("x", is_async=True), "AgentService service does not exist", id="not ours, async"),
        pytest.param(
            lambda s, _: frame(s, response(12, "GetProfiler method")),
            "one older than 0.5.0",
            id="ours without the method",
        ),
    ],
)
def test_what_is_wrong_is_told(socket_path: Path, answer: Any, reason: str) -> None:
    with FakeAgent.unix(socket_path, answer) as fake:
        found = finding(an_agent(fake.address), timeout_seconds=1.0)

    assert found.startswith(f"{fake.address}: ")
    assert reason in found


def test_a_missing_socket_is_told(socket_path: Path) -> None:
    assert finding(an_agent(f"unix://{socket_path}")) == (
        f"unix://{socket_path}: there is no such socket; is the agent running, and its folder mounted here?"
    )


def test_a_socket_left_behind_is_told(socket_path: Path) -> None:
    with FakeAgent.unix(socket_path) as fake:
        pass

    assert socket_path.is_socket()
    assert "no agent listens at it" in finding(an_agent(fake.address))


def test_a_file_that_is_no_socket_is_told(socket_path: Path) -> None:
    socket_path.write_text("")

    assert "no agent listens at it" in finding(an_agent(f"unix://{socket_path}"))


def test_an_agent_too_busy_to_take_connections_is_told(socket_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as waiting,
    ):
        listener.bind(str(socket_path))
        listener.listen(0)
        waiting.connect(str(socket_path))

        found = finding(an_agent(f"unix://{socket_path}"), timeout_seconds=0.3)

    assert "its queue of them is full" in found


def test_a_full_queue_is_waited_for(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as waiting:
        fake = FakeAgent.unix(socket_path)
        fake._listener.listen(0)
        waiting.connect(str(socket_path))
        later = threading.Timer(0.2, fake.__enter__)
        later.start()

        found = finding(an_agent(fake.address), timeout_seconds=10)

        later.join()
        fake.__exit__()
    assert found == ""


def test_a_closed_port_is_told() -> None:
    with FakeAgent.tcp() as fake:
        pass

    assert finding(an_agent(fake.address)) == f"{fake.address}: nothing listens there"


def test_a_name_without_an_address_is_told() -> None:
    assert "the name cannot be resolved" in finding(an_agent("tcp://nobody.invalid:65500"), timeout_seconds=10)


def test_a_socket_of_somebody_else_is_told(socket_path: Path) -> None:
    with FakeAgent.unix(socket_path) as fake:
        socket_path.chmod(0)
        with nobody():
            found = finding(an_agent(fake.address))

    assert "mode keeps this daemon out" in found


@contextmanager
def nobody() -> Iterator[None]:
    """No longer root, whom no mode keeps out."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_kernel_without_vsock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # A family that no kernel has in its place.
    monkeypatch.setattr(socket, "AF_VSOCK", 63)

    assert finding(an_agent("vsock://2:2048")) == "vsock://2:2048: the kernel has no vsock; load the module vsock"


@pytest.mark.skipif(not Path("/sys/module/vsock_loopback").exists(), reason="needs the module vsock_loopback")
def test_an_agent_at_vsock_is_asked() -> None:
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    with FakeAgent(listener, f"vsock://1:{listener.getsockname()[1]}", serving(SYNC)) as fake:
        assert finding(an_agent(fake.address)) == ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(errno.EPERM, "seccomp", id="forbidden by seccomp"),
        pytest.param(errno.ENODEV, "vsock_loopback", id="no transport"),
        pytest.param(errno.ECONNRESET, "closes connections", id="reset"),
        pytest.param(errno.EHOSTUNREACH, "No route to host", id="something else"),
    ],
)
def test_errors_of_vsock_are_explained(error: int, reason: str) -> None:
    assert reason in reason_of(VaccelTransport.VSOCK, OSError(error, os.strerror(error)))


def test_no_connection_is_left_open(socket_path: Path) -> None:
    with FakeAgent.unix(socket_path) as fake:
        for _ in range(20):
            assert finding(an_agent(fake.address)) == ""
        until = time.monotonic() + 5
        while fake.connections and time.monotonic() < until:
            time.sleep(0.01)

        assert fake.connections == 0


def test_agents_are_asked_at_the_same_time_and_told_apart(folder: Path) -> None:
    with FakeAgent.unix(folder / "a") as a, FakeAgent.unix(folder / "b", silent) as b, FakeAgent.tcp() as c:
        agents = [an_agent(fake.address, name) for fake, name in ((a, "a"), (b, "b"), (c, "c"))]

        found = Prober(1.0).findings(agents)

    assert found == {
        a.address: "",
        b.address: f"{b.address}: it takes connections, but does not answer",
        c.address: "",
    }


def test_a_thread_that_hangs_is_not_waited_for_and_stays_the_only_one(
    monkeypatch: pytest.MonkeyPatch, socket_path: Path
) -> None:
    """Such as one that asks a name server for longer than any timeout of ours."""
    release, started = threading.Event(), []

    def stuck(_agent: object, _timeout_seconds: float) -> str:
        started.append(threading.current_thread())
        release.wait(20)
        return ""

    monkeypatch.setattr(vaccel, "finding", stuck)
    prober, agent = Prober(0.05), an_agent(f"unix://{socket_path}")

    found = [prober.findings([agent]) for _ in range(3)]

    assert found == [{agent.address: f"{agent.address}: no answer within 0.05 s"}] * 3
    assert len(started) == 1
    release.set()
    started[0].join(5)
    assert prober.findings([agent]) == {agent.address: ""}


def test_closing_ends_the_wait(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    release = threading.Event()
    monkeypatch.setattr(vaccel, "finding", lambda *_: str(release.wait(20)))
    prober, agent = Prober(60), an_agent(f"unix://{socket_path}")
    threading.Timer(0.1, prober.close).start()

    found = prober.findings([agent])

    assert "no answer" in found[agent.address]
    release.set()
