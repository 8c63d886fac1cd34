"""Rounds of wrk, the client."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_UNITS_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Load:
    """What wrk saw in one round."""

    per_second: float
    p50_ms: float
    p99_ms: float
    requests: int


def wrk(
    url: str,
    seconds: float,
    connections: int,
    script: Path | None = None,
    headers: Sequence[str] = (),
    *,
    timeout_seconds: int = 30,
) -> Load:
    """One round; every answer must be a good one, and come in time.

    Raises:
        RuntimeError: One was not.
    """
    timeout = f"{timeout_seconds}s"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", "--timeout", timeout]
    for header in headers:
        command += ["-H", header]
    if script is not None:
        command += ["-s", str(script)]
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    bad = re.search(r"(Non-2xx.*|Socket errors: .*)", text)
    if bad:
        raise RuntimeError(f"{url}: {bad[1]}")
    per_second = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    requests = re.search(r"([0-9]+) requests in", text)
    assert per_second is not None
    assert requests is not None
    return Load(float(per_second[1]), _milliseconds(text, "50%"), _milliseconds(text, "99%"), int(requests[1]))


def _milliseconds(text: str, percentile: str) -> float:
    match = re.search(rf"{percentile}\s+([0-9.]+)(us|ms|s)\b", text)
    assert match is not None
    return float(match[1]) * _UNITS_MS[match[2]]
