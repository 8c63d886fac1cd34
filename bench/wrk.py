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


def wrk(url: str, seconds: float, connections: int, script: Path | None = None, headers: Sequence[str] = ()) -> Load:
    """One round; every answer must be a good one."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", "--timeout", "30s"]
    for header in headers:
        command += ["-H", header]
    if script is not None:
        command += ["-s", str(script)]
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    bad = re.search(r"(Non-2xx.*|Socket errors: .*)", text)
    if bad:
        raise SystemExit(f"{url}: {bad[1]}")
    per_second = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    found = {name: _milliseconds(text, name) for name in ("50%", "99%")}
    assert per_second is not None
    return Load(float(per_second[1]), found["50%"], found["99%"])


def _milliseconds(text: str, percentile: str) -> float:
    match = re.search(rf"{percentile}\s+([0-9.]+)(us|ms|s)\b", text)
    assert match is not None
    return float(match[1]) * _UNITS_MS[match[2]]
