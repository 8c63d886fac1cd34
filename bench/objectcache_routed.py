"""Through Envoy."""
from collections.abc import Iterator
from pathlib import Path

from bench.measuring import Row


def routed(folder: Path, rounds: int, seconds: float) -> Iterator[Row]:
    yield from ()
