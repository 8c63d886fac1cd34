"""How a registry says what it wants to see before it answers (RFC 9110, section 11.6.1)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_PARAMETER: Final = re.compile(r'[\s,]*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))', re.ASCII)
_SCHEME: Final = re.compile(r"[\s,]*([\w-]+)(?=[\s,]|$)", re.ASCII)
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Challenge:
    """One of them.

    Attributes:
        scheme: In lower case.
        parameters: By name in lower case.
    """

    scheme: str
    parameters: Mapping[str, str]


def read_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All that can be read of some `WWW-Authenticate` headers."""
    return tuple(each for header in headers if len(header) <= _LONGEST for each in _challenges(header))


def _challenges(header: str) -> Iterator[Challenge]:
    at, scheme, parameters = 0, "", dict[str, str]()
    while at < len(header):
        if match := _PARAMETER.match(header, at):
            parameters[match[1].lower()] = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        elif match := _SCHEME.match(header, at):
            if scheme:
                yield Challenge(scheme, parameters)
            scheme, parameters = match[1].lower(), {}
        else:
            break
        at = match.end()
    if scheme:
        yield Challenge(scheme, parameters)
