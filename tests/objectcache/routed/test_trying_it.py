"""The walk-through of docs/object-cache.md, typed in as it stands there."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.objectcache.xds.envoys import envoy_binary
from tests.ports import free_port

REPOSITORY: Final = Path(__file__).parents[3]
HEADING: Final = "## Trying it on one machine"
SECONDS: Final = 60.0
# Between two steps of the output.
MARK: Final = "-- next --"


def steps() -> list[tuple[str, str]]:
    """What is typed, and what it prints."""
    page = (REPOSITORY / "docs/object-cache.md").read_text()
    section = page.split(f"{HEADING}\n")[1].split("\n## ")[0]
    found: list[tuple[str, str]] = []
    for kind, content in re.findall(r"^```(sh|text)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        if kind == "sh":
            found.append((content, ""))
        else:
            found[-1] = found[-1][0], content
    return found


def moved(text: str, ports: dict[str, str]) -> str:
    """With other ports, since those of the page may be taken."""
    return re.sub(r"\b\d{4}\b", lambda found: ports.get(found[0], found[0]), text)


@pytest.fixture
def ports() -> dict[str, str]:
    typed = "".join(script for script, _ in steps())
    return {port: str(free_port()) for port in sorted(set(re.findall(r"\b[89]\d{3}\b", typed)))}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With the commands that the page takes for given."""
    programs = tmp_path / "bin"
    programs.mkdir()
    python = shlex.quote(sys.executable)
    commands = {"tasuki": f"{python} -m tasuki.cli", "python": python, "envoy": shlex.quote(str(envoy_binary()))}
    for name, command in commands.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    known = {name: each for name, each in os.environ.items() if not name.startswith(("TASUKI_", "KUBE"))}
    return {**known, "PATH": f"{programs}:{known['PATH']}", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def bash(tmp_path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    folder = tmp_path / "empty"
    folder.mkdir()
    with subprocess.Popen(
        ["bash", "-e", "-o", "pipefail"],
        cwd=folder, env=environment, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            # What a step that failed has left behind.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for log in sorted(folder.glob("*.log")):
                print(f"{log.name}: {log.read_text()}")


def test_what_the_page_says_is_typed_and_printed(bash: subprocess.Popen[str], ports: dict[str, str]) -> None:
    typed = f"echo {shlex.quote(MARK)}\n".join(moved(script, ports) for script, _ in steps())

    said, _ = bash.communicate(typed, timeout=SECONDS)

    assert said.split(f"{MARK}\n") == [moved(printed, ports) for _, printed in steps()]
    assert bash.returncode == 0


def test_the_page_has_steps() -> None:
    assert len(steps()) >= 6
    assert sum(bool(printed) for _, printed in steps()) >= 4
