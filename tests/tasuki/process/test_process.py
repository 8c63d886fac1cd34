"""How a process reports, is watched, and stops."""

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tasuki.process import logging as process_logging
from tasuki.process.http import OperatorServer
from tasuki.process.readiness import Readiness
from tasuki.process.running import run_until_stopped
from tasuki.process.watching import FolderWatch
from tests.ports import has_ipv6


def page(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def operator_server(readiness: Readiness, *, alive: bool = True, host: str = "127.0.0.1") -> OperatorServer:
    registry = CollectorRegistry()
    Counter("made", "Something.", registry=registry).inc()
    return OperatorServer((host, 0), registry, readiness, lambda: alive)


def test_readiness_is_all_conditions_with_their_reasons() -> None:
    readiness = Readiness("driver", "plan")
    readiness.met("driver")
    readiness.unmet("plan", "no devices")
    readiness.note("left out", "GPU 3")

    assert not readiness.ready
    assert readiness.report() == "[+]driver ok\n[-]plan no devices\n[!]left out GPU 3\nnot ready\n"
    readiness.forget("plan")
    readiness.note("left out", "")
    assert readiness.report() == "[+]driver ok\nready\n"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="there is no ::1 here"))]
)
def test_the_operators_pages(host: str) -> None:
    readiness = Readiness("driver")
    with operator_server(readiness, host=host) as server:
        where = f"[{host}]" if ":" in host else host
        assert page(server.port, "/readyz", where)[0] == 503
        readiness.met("driver")
        assert page(server.port, "/readyz?verbose", where) == (200, "[+]driver ok\nready\n")
        assert page(server.port, "/healthz", where) == (200, "ok\n")
        assert "made_total 1.0" in page(server.port, "/metrics", where)[1]
        status, body = page(server.port, "/else", where)
        assert (status, "/metrics" in body) == (404, True)


def test_a_stuck_loop_is_not_healthy() -> None:
    with operator_server(Readiness(), alive=False) as server:
        assert page(server.port, "/healthz")[0] == 503


def test_a_client_that_hangs_up_is_worth_no_traceback(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with operator_server(Readiness()) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET /readyz HTTP/1.1\r\n")
        # Closed by a reset, as a probe's client does that has given up.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

        record = logged(caplog, "hung up")

    assert (record.levelno, record.exc_info) == (logging.DEBUG, None)
    assert capsys.readouterr() == ("", "")


def test_a_page_that_fails_is_logged_once_with_its_traceback(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Collector):
        def collect(self) -> Iterator[Metric]:
            raise RuntimeError("no such gauge")

    registry = CollectorRegistry()
    registry.register(Broken())
    with OperatorServer(("127.0.0.1", 0), registry, Readiness(), lambda: True) as server:
        with pytest.raises(ConnectionError):
            page(server.port, "/metrics")
        logged(caplog, "request failed")
        still_served = page(server.port, "/healthz")

    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.exc_info
    assert str(record.exc_info[1]) == "no such gauge"
    assert still_served == (200, "ok\n")
    assert capsys.readouterr() == ("", "")


def logged(caplog: pytest.LogCaptureFixture, text: str) -> logging.LogRecord:
    """The first record that says so, as soon as there is one."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if found := [record for record in caplog.records if text in record.getMessage()]:
            return found[0]
        time.sleep(0.01)
    raise AssertionError(caplog.text)


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1 port {port}"):
            OperatorServer(("127.0.0.1", port), CollectorRegistry(), Readiness(), lambda: True)


def test_json_logs_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.root.handlers[:], logging.root.level
    try:
        process_logging.configure("info", "json")
        logging.getLogger("x").info('a "b"\nc=%d', 1)
        logging.getLogger("x").debug("not this")
        (line,) = capsys.readouterr().err.splitlines()
    finally:
        logging.root.handlers, logging.root.level = before

    assert json.loads(line)["message"] == 'a "b"\nc=1'


async def test_a_watch_wakes_for_a_change_and_after_the_time(tmp_path: Path) -> None:
    with FolderWatch([tmp_path]) as watch:
        waiting = asyncio.create_task(watch.wait(30))
        await asyncio.sleep(0.05)
        (tmp_path / "new").touch()

        assert await asyncio.wait_for(waiting, 10)
        while await watch.wait(0.2):  # creating and closing are two changes
            pass
        assert not await watch.wait(0.01)


async def test_a_watch_finds_a_folder_that_comes_later(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with FolderWatch([folder]) as watch:
        assert not await watch.wait(0.01)
        folder.mkdir()
        assert not await watch.wait(0.01)
        (folder / "file").touch()

        assert await watch.wait(10)


def test_a_signal_stops_and_a_second_one_stops_at_once() -> None:
    seen: list[str] = []

    async def service(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        seen.append("told")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(30)
        seen.append("never")

    with pytest.raises(asyncio.CancelledError):
        run_until_stopped(service)

    assert seen == ["told"]


def test_a_process_may_open_as_many_files_as_the_system_lets_it() -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096));"
        "from tasuki.process.running import raise_open_files; raise_open_files();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert said.strip() == "(4096, 4096)"
