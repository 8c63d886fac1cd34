"""A cache that starts: it can be told to end meanwhile, and says what keeps it from serving."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.objectcache.service.nodes import Node, node, until

BIG = bytes(range(256)) * 2**14


@pytest.mark.parametrize("line", ["starting version", "serving metrics", "the store is open"])
def test_it_can_be_told_to_end_while_it_starts(tmp_path: Path, line: str) -> None:
    with node(tmp_path, wait=False, options=["--drain-seconds", "60"]) as cache:
        until(lambda: line in cache.output.read_text())
        cache.process.terminate()

        assert cache.process.wait(30) in {0, -signal.SIGTERM}, cache.output.read_text()


def test_without_buckets_it_can_be_told_to_end(tmp_path: Path) -> None:
    options = ["--drain-seconds", "60", "--buckets", str(tmp_path / "none.json")]
    with node(tmp_path, wait=False, buckets=(), options=options) as cache:
        until(lambda: "the store is open" in cache.output.read_text())
        until(lambda: "[-]buckets" in cache.page("/readyz"))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", cache.direct_port))
        cache.process.terminate()

        assert cache.process.wait(30) == 0


def test_two_caches_do_not_share_a_port(tmp_path: Path) -> None:
    with node(tmp_path / "first") as first, node(tmp_path / "second", port=first.direct_port, wait=False) as second:
        assert second.process.wait(30) == 1
        assert f"cannot serve objects on 127.0.0.1 port {first.direct_port}" in second.output.read_text()


def test_a_folder_that_another_cache_has_is_waited_for(tmp_path: Path) -> None:
    with node(tmp_path / "first") as first:
        first.request("PUT", "/v1/objects/bk/kept", b"kept")
        options = ["--data-dir", str(tmp_path / "first" / "data")]
        with node(tmp_path / "second", options=options, wait=False) as second:
            until(lambda: "Errno" not in page(second) and "used by another cache" in page(second))
            assert first.stop() == 0
            second.wait_ready()

            assert second.request("GET", "/v1/objects/bk/kept")[2] == b"kept"


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    with node(tmp_path, wait=False) as cache:
        until(lambda: "thesis.tex" in page(cache))

        assert cache.process.poll() is None
        assert [each.name for each in (tmp_path / "data").iterdir()] == ["thesis.tex"]


def page(cache: Node) -> str:
    try:
        return cache.page("/readyz")
    except OSError:
        return ""


def test_bad_settings_end_it(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "objectcache", "--auth", "static"], capture_output=True, text=True, check=False
    )

    assert found.returncode == 2
    assert "--tokens" in found.stderr
