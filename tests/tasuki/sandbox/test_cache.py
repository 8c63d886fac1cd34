"""`tasuki sandbox cache`, with a real Envoy."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tasuki.sandbox.__main__ import main
from tasuki.sandbox.cache import steps
from tasuki.sandbox.cache_scene import BUCKET, MEMBER, NODES, STRANGER, Deadline, Scene
from tests.objectcache.service.nodes import node
from tests.objectcache.xds.envoys import envoy_binary
from tests.ports import free_port

SECONDS: Final = 90.0
COMMAND: Final = (sys.executable, "-m", "tasuki.cli", "sandbox", "cache")


def environment(tmp_path: Path) -> dict[str, str]:
    """A folder for temporary files that is looked at afterwards."""
    (tmp_path / "temp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "temp")}


def processes(of: Path) -> list[int]:
    """Whoever works in a folder."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                if (each / "cwd").readlink().is_relative_to(of):
                    found.append(int(each.name))
            except OSError:
                continue
    return found


def test_it_shows_owners_a_read_through_a_refusal_and_a_loss_and_leaves_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--envoy", str(envoy_binary()), "--output", "json"],
        env=environment(tmp_path), capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip

    assert (ended.returncode, ended.stderr) == (0, "")
    steps = json.loads(ended.stdout)
    assert all(step["good"] for step in steps), steps
    told = "\n".join(f"{step['done']}: {step['seen']}" for step in steps)
    for said in (
        "each where its owner was computed",
        "it is read again: 20000 bytes from a cache",
        "the cache answers 403",
        "is killed; the file is read: 20000 bytes from the origin",
        "has it now",
        "are where they were",
    ):
        assert said in told
    assert list((tmp_path / "temp").iterdir()) == []
    assert processes(tmp_path) == []


def test_what_is_kept_ends_with_a_signal(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--envoy", str(envoy_binary()), "--keep"],
        env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = process.stderr.readline()
        there = processes(tmp_path)
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)

    assert "Ctrl-C ends it" in said
    assert len(there) >= 4
    assert process.returncode == 128 + signal.SIGTERM
    assert processes(tmp_path) == []
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_signal_at_the_start_ends_it_too(tmp_path: Path) -> None:
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\nexec sleep 60\n")
    envoy.chmod(0o755)
    with subprocess.Popen(
        [*COMMAND, "--envoy", str(envoy)],
        env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        ends = time.monotonic() + SECONDS
        while not processes(tmp_path):
            assert time.monotonic() < ends
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)

    assert (process.returncode, said) == (128 + signal.SIGINT, "")
    assert processes(tmp_path) == []
    assert list((tmp_path / "temp").iterdir()) == []


def test_without_an_envoy_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--envoy", "no-such-program"]) == 2

    assert "there is no program 'no-such-program'; install Envoy" in capsys.readouterr().err


def test_a_program_that_ends_is_told_of_with_its_last_words(tmp_path: Path) -> None:
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 7\n")
    envoy.chmod(0o755)

    ended = subprocess.run(
        [*COMMAND, "--envoy", str(envoy)],
        env=environment(tmp_path), capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip

    assert ended.returncode == 3
    assert "envoy ended with status 7; its last words:\n  no such option" in ended.stderr
    assert processes(tmp_path) == []


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Those of the tests' process come back."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
def test_a_cache_that_does_not_answer_in_the_middle_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    @contextmanager
    def dead(*_: object) -> Iterator[Scene]:
        yield scene_of(url, tmp_path)

    monkeypatch.setattr("tasuki.sandbox.cache.scene", dead)

    assert main(["cache", "--envoy", "true"]) == 3
    assert "tasuki sandbox cache: no cache answers as it should: " in capsys.readouterr().err


def test_a_file_that_no_cache_keeps_ends_it_with_what_was_seen(tmp_path: Path) -> None:
    buckets = ({"Name": BUCKET, "BucketQuota": "10Ki", "AllowNamespaces": [MEMBER]},)
    with node(tmp_path / "node", buckets=buckets, tokens={MEMBER: MEMBER, STRANGER: STRANGER}) as cache:
        deadline = Deadline(time.monotonic() + SECONDS, lambda: None)
        seen = [*steps(scene_of(cache.url, tmp_path), tmp_path, deadline)]

    assert [each.good for each in seen if "the file" in each.done or "a file" in each.done] == [False, True]
    assert seen[-1].done.startswith(f"namespace {STRANGER!r} reads the file")


def scene_of(url: str, folder: Path) -> Scene:
    """One cache in all places."""
    tokens = {name: folder / f"{name}.token" for name in (MEMBER, STRANGER)}
    for name, path in tokens.items():
        path.write_text(name)
    return Scene(url, dict.fromkeys(NODES, url), tokens, folder / "endpoints", {})


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "many"])
def test_a_time_that_is_none(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cache", "--timeout", seconds])

    assert ended.value.code == 2
    assert "is not a positive number of seconds" in capsys.readouterr().err


def test_whoever_has_seen_enough_ends_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--envoy", str(envoy_binary())],
        env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (128 + signal.SIGPIPE, "")
    assert processes(tmp_path) == []
