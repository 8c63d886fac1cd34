"""The environment modules that users may load."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

# What the tools print besides modules: the path of the modules that follow, which Lmod ends with a colon and
# environment-modules 4 draws a line around.
_HEADING: Final = re.compile(r"(?:/.*|\S+):|-{2,} .+ -{2,}|-{3,}")

# A module with its marks, as in `gcc/12.3(default)`, `gcc/stable(@gcc/12.3)`, `gcc/12.3 (L,D)` or `gcc/ <aL>`.
_MODULE: Final = re.compile(r"(?P<name>[^\s()<>:/][^\s()<>:]*)(?:\s*[(<][^()<>]*[)>])*")

# Where a version may end so that it stands for all that begin with it: `gcc/12` for gcc/12.3, but not for gcc/120.
# As in Lmod's collectionFileA.lua, LMOD_EXTENDED_DEFAULT being on unless a site turns it off.
_BOUNDARY: Final = "-+_.="


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What `module -t avail` or `module -t spider` listed.

    Attributes:
        versions: By module name, its versions in the order of the listing; empty for a module without versions.
    """

    versions: Mapping[str, Sequence[str]]


def read_catalogue(text: str) -> Catalogue:
    """Read the output of `module -t avail` or `module -t spider`, of Lmod or environment-modules.

    Raises:
        ValueError: A line is no module, or there is none at all.
    """
    listed = list(_modules(text))
    if not listed:
        raise ValueError("the module catalogue lists no module; Lmod prints to stderr: `module -t spider 2> catalogue`")
    # Lmod names a module on a line of its own, `numlib/FFTW/`, before its versions, which may have slashes, too.
    versions: dict[str, list[str]] = {line.removesuffix("/"): [] for line in listed if line.endswith("/")}
    for line in listed:
        if line.endswith("/"):
            continue
        name, version = _split(line, versions)
        there = versions.setdefault(name, [])
        if version and version not in there:
            there.append(version)
    return Catalogue(versions={name: tuple(found) for name, found in versions.items()})


def _modules(text: str) -> Iterator[str]:
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or _HEADING.fullmatch(line):
            continue
        module = _MODULE.fullmatch(line)
        if module is None:
            told = f"line {number} of the module catalogue, {line[:80]!r}, is no module"
            raise ValueError(f"{told}; write it with `module -t spider`, which prints one on each line")
        yield module["name"]


def _split(line: str, names: Mapping[str, object]) -> tuple[str, str]:
    """At the longest name that the listing has on a line of its own, or else at the last slash."""
    name = _known_part(names, line)
    if name:
        return name, line[len(name) + 1 :]
    name, _, version = line.rpartition("/")
    return (name, version) if name else (version, "")


def _known_part(names: Mapping[str, object], path: str) -> str:
    """The longest of the names that `path` begins with, before a slash; empty if there is none."""
    known = path.rpartition("/")[0]
    while known and known not in names:
        known = known.rpartition("/")[0]
    return known


def find(catalogue: Catalogue, name: str) -> bool:
    """Whether `module load <name>` finds something: a name alone means its default version, `gcc/12` any 12.x."""
    if name in catalogue.versions:
        return True
    known = _known_part(catalogue.versions, name)
    if not known:
        return False
    wanted = name[len(known) + 1 :]
    return wanted == "default" or any(_stands_for(wanted, version) for version in catalogue.versions[known])


def _stands_for(wanted: str, version: str) -> bool:
    if not wanted or not version.startswith(wanted):
        return False
    rest = version[len(wanted) :]
    return not rest or rest[0] in _BOUNDARY or wanted[-1] in _BOUNDARY or wanted[-1].isalpha()


def nearest(catalogue: Catalogue, name: str, at_most: int = 3) -> Sequence[str]:
    """What a user who wrote `name`, which is not there, may have meant: the likeliest first."""
    known = _known_part(catalogue.versions, name)
    if known:
        versions = catalogue.versions[known]
        close = get_close_matches(name[len(known) + 1 :], versions, at_most, cutoff=0.3) or versions[:at_most]
        return [f"{known}/{version}" for version in close] or [known]
    # PyTorch is the name that EasyBuild gives, pytorch the one that people write; FFTW may be listed as numlib/FFTW.
    # What follows the first slash may be a version, which would only make the names less alike.
    names = sorted(catalogue.versions, reverse=True)
    spelling = {each.rpartition("/")[2].lower(): each for each in names} | {each.lower(): each for each in names}
    close = [
        *get_close_matches(name.lower(), spelling, at_most),
        *get_close_matches(name.partition("/")[0].lower(), spelling, at_most),
    ]
    return [spelling[each] for each in dict.fromkeys(close)][:at_most]
