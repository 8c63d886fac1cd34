"""Timing calls and printing what was measured."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Sample:
    """Durations of one kind of call, in seconds."""

    seconds: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], object]) -> None:
        started = time.perf_counter()
        call()
        self.seconds.append(time.perf_counter() - started)

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    @property
    def median_ms(self) -> float:
        return 1000 * statistics.median(self.seconds)


def alternate(rounds: int, *pairs: tuple[Sample, Callable[[], object]]) -> None:
    """Time the calls in turn, so that a noisy moment meets all of them."""
    for _ in range(rounds):
        for sample, call in pairs:
            sample.time(call)


def resident_mib(pid: int) -> float:
    """A process's resident memory (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS; has it ended?")


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    aim: str
    met: bool

    def cells(self) -> tuple[str, ...]:
        return self.what, self.measured, self.aim, "yes" if self.met else "NO"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    cells = [("measured", "result", "aim", "met"), *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """What it was measured on: processors and their model, memory."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "?")
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, Python {'.'.join(map(str, sys.version_info[:3]))}"
