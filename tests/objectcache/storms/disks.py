"""A small disk that nobody else sees: a tmpfs in a mount namespace of its own, gone with the test."""

import errno
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

SECONDS: Final = 20.0
_PAGE_BYTES: Final = 4096
# Ends when nobody writes to it any more, and the mount with it.
_HOLD: Final = 'mount -t tmpfs -o "$2" cache "$1" && echo mounted && exec cat'
# Becomes the interpreter, so that its process is the one that was started.
_INSIDE: Final = '#!/bin/sh\nexec nsenter --target {holder} --mount -- {python} "$@"\n'


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """One that is mounted.

    Attributes:
        path: Of its root, as processes outside of the namespace reach it.
        mounted_at: As those inside do; outside it stays an empty folder.
        holder: The process whose namespace it is.
        python: Starts the interpreter inside of it.
    """

    path: Path
    mounted_at: Path
    holder: int
    python: Path

    @contextmanager
    def running_inside(self) -> Iterator[None]:
        """What `sys.executable` starts meanwhile, runs inside."""
        before, sys.executable = sys.executable, str(self.python)
        try:
            yield
        finally:
            sys.executable = before

    def remount(self, options: str) -> None:
        """As `mount -o remount` does, which refuses `ro` while anybody has a file open for writing."""
        inside = ("nsenter", "--target", str(self.holder), "--mount")
        subprocess.run([*inside, "mount", "-o", f"remount,{options}", str(self.mounted_at)], check=True)

    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def free_inodes(self) -> int:
        return os.statvfs(self.path).f_favail

    def fill(self) -> None:
        """With a foreign file, which grows to all that is free."""
        with (self.path / "foreign").open("ab") as file:
            more = self.free_bytes()
            while more >= _PAGE_BYTES:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    # Somebody else writes, too.
                    more = min(more // 2, self.free_bytes())
                else:
                    more = self.free_bytes()

    def relieve(self) -> None:
        """Remove the foreign file."""
        (self.path / "foreign").unlink()


@contextmanager
def small_disk(mounted_at: Path, options: str) -> Iterator[SmallDisk]:
    """Mount one; skips the test where nobody may.

    Args:
        mounted_at: A folder, which stays empty for all others.
        options: Of tmpfs, such as `size=64m`.
    """
    if not all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        pytest.skip("a tmpfs of its own takes unshare, nsenter and mount of util-linux")
    mounted_at.mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLD, "sh", str(mounted_at), options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != b"mounted\n":
                pytest.skip(f"a tmpfs of its own takes the right to mount: {holder.stderr.read().decode().strip()}")
            python = mounted_at.with_name("python-inside")
            python.write_text(_INSIDE.format(holder=holder.pid, python=shlex.quote(sys.executable)))
            python.chmod(0o700)
            yield SmallDisk(Path(f"/proc/{holder.pid}/root{mounted_at}"), mounted_at, holder.pid, python)
        finally:
            holder.stdin.close()
            try:
                holder.wait(SECONDS)
            except subprocess.TimeoutExpired:
                holder.kill()
