"""What warming a cache takes and how it goes; no I/O."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Final, Literal, TypeVar

import xxhash

from objectcache.client.errors import CacheError, RefusedError
from tasuki.routing.maglev import Maglev

T = TypeVar("T")
Outcome = Literal["put", "there", "missing", "failed"]

_MOST_SHARDS: Final = 10_000
# One that is refused says the same to all others.
_HOPELESS: Final = frozenset({401, 403})
_FAILURES_IN_A_ROW: Final = 10
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` jobs that share the work, counted from 0 as JOB_COMPLETION_INDEX is."""

    index: int = 0
    count: int = 1

    def has(self, url: str) -> bool:
        """Whether a file is this job's; every file is exactly one's, whatever else there is."""
        return xxhash.xxh64_intdigest(url.encode(errors="surrogateescape")) % self.count == self.index


def shard(text: str) -> Shard:
    """Read `i/n`.

    Raises:
        ValueError: With what it must be.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not int(match[1]) < int(match[2]) <= _MOST_SHARDS:
        raise ValueError(f"i/n with i from 0 to n - 1 and n up to {_MOST_SHARDS}, such as 0/4")
    return Shard(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Tally:
    """How far it is.

    Attributes:
        objects: By outcome.
        size_bytes: By outcome.
        total_objects: Of this job.
        unkept_files: That are too large to be kept, or no plain files.
        in_a_row: Failures without anything else between them.
        hopeless: What the cache will say to all others too; empty if there is hope.
    """

    total_objects: int
    total_bytes: int
    unkept_files: int = 0
    objects: Counter[Outcome] = field(default_factory=Counter)
    size_bytes: Counter[Outcome] = field(default_factory=Counter)
    in_a_row: int = 0
    hopeless: str = ""

    @property
    def done_bytes(self) -> int:
        return self.size_bytes.total()

    def after(self, outcome: Outcome, size_bytes: int, error: Exception | None = None) -> "Tally":
        """With one object more."""
        in_a_row = self.in_a_row + 1 if outcome == "failed" else 0
        return replace(
            self,
            objects=self.objects + Counter({outcome: 1}),
            size_bytes=self.size_bytes + Counter({outcome: size_bytes}),
            in_a_row=in_a_row,
            hopeless=self.hopeless or _hopeless(error, in_a_row),
        )


def _hopeless(error: Exception | None, in_a_row: int) -> str:
    if isinstance(error, RefusedError) and error.status in _HOPELESS:
        return str(error)
    if isinstance(error, CacheError) and in_a_row >= _FAILURES_IN_A_ROW:
        return f"{in_a_row} objects failed in a row, the last one so: {error}"
    return ""


def progress(tally: Tally, seconds: float) -> str:
    """One line: how far, how fast, how much longer."""
    done = tally.objects.total()
    rate = tally.done_bytes / seconds if seconds > 0 else 0.0
    left = tally.total_bytes - tally.done_bytes
    eta = f"{_duration(left / rate)} left" if rate and left else "nothing left" if not left else "no end in sight yet"
    return (
        f"{done}/{tally.total_objects} objects, {bytes_text(tally.done_bytes)} of {bytes_text(tally.total_bytes)}, "
        f"{bytes_text(rate)}/s, {eta}{_counted(tally, ('failed',))}"
    )


def summary(tally: Tally, seconds: float, *, is_dry: bool) -> str:
    """The last line."""
    what = "would be put" if is_dry else "put"
    count = tally.objects["missing" if is_dry else "put"]
    size = tally.size_bytes["missing" if is_dry else "put"]
    untouched = tally.total_objects - tally.objects.total()
    parts = [
        f"{count} objects ({bytes_text(size)}) {what}",
        f"{tally.objects['there']} ({bytes_text(tally.size_bytes['there'])}) were there",
        *([f"{tally.objects['failed']} failed"] if tally.objects["failed"] else []),
        *([f"{untouched} not tried"] if untouched else []),
        *([f"{tally.unkept_files} files are not kept"] if tally.unkept_files else []),
    ]
    return f"{', '.join(parts)}; {_duration(seconds)}"


def _counted(tally: Tally, outcomes: Iterable[Outcome]) -> str:
    return "".join(f", {tally.objects[each]} {each}" for each in outcomes if tally.objects[each])


def bytes_text(size: float) -> str:
    """`1.5 GiB`."""
    for unit in _UNITS[:-1]:
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole >= 7200 else f"{whole // 60} min {whole % 60} s"


def own_files(urls: Iterable[tuple[str, str]], mine: Shard) -> Iterator[str]:
    """Paths, in order, of this job's among pairs of a path and its URL."""
    return (path for path, url in sorted(urls) if mine.has(url))


@dataclass(frozen=True, slots=True)
class Owners:
    """On whose disks objects will lie, as far as that is known.

    Attributes:
        nodes: Whose caches serve where this runs: those of the zone, as the Envoys of it see them; empty if unknown.
        only: The one whose objects are to be brought; empty for all.
    """

    nodes: tuple[str, ...] = ()
    only: str = ""

    def part(self, work: Sequence[T], key: Callable[[T], str]) -> list[T]:
        """What is to be brought, so ordered that all disks are written to at once.

        Args:
            work: In any order.
            key: What Envoy hashes of an object's requests.
        """
        if not self.nodes:
            return list(work)
        table = Maglev(self.nodes)
        owned: Counter[int] = Counter()
        turns: list[tuple[int, T]] = []
        for each, owner in zip(work, table.owners([key(each) for each in work]).tolist(), strict=True):
            if not self.only or table.keys[owner] == self.only:
                turns.append((owned[owner], each))
                owned[owner] += 1
        return [each for _, each in sorted(turns, key=itemgetter(0))]


def node_names(text: str) -> tuple[str, ...]:
    """Names of nodes, with commas or white space between.

    Raises:
        ValueError: There is none, or one twice.
    """
    names = tuple(text.replace(",", " ").split())
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if not names or repeated is not None:
        raise ValueError(
            f"names of nodes, each once, and {repeated!r} is there twice" if repeated else "names of nodes with commas"
        )
    return names
