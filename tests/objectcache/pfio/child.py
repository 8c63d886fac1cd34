"""Runs pfio, which lies in a folder of its own, in another process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

PFIO: Final = Path(sys.prefix) / "peers" / "pfio"


def run_pfio(code: str, *arguments: str, token_path: Path | None = None, seconds: float = 60) -> str:
    """What a program prints that uses pfio as it is, given `sys.argv[1:]`; what it logs is part of that.

    Raises:
        AssertionError: With all that it said, if it fails.
    """
    assert (PFIO / "pfio").is_dir(), f"{PFIO} has no pfio; `make` installs it"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TASUKI_", "PFIO_"))}
    environment["PYTHONPATH"] = str(PFIO)
    if token_path is not None:
        environment["PFIO_HTTP_BEARER_TOKEN_PATH"] = str(token_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout
