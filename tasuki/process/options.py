"""Settings from a command line and an environment, where a flag goes before its variable."""

import argparse
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from tasuki.process.logging import LEVELS, LogFormat
from tasuki.process.sentences import alternatives, nearest, shown

# What the kubelet adds for each Service whose name begins with `tasuki` (Kubernetes: environment variables).
_SERVICE_LINK: Final = re.compile(
    r"TASUKI_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_LINK_URL: Final = re.compile(r"(tcp|udp|sctp)://")
_NEAR: Final = 0.6

_Settings = TypeVar("_Settings")

# Of both families, wherever the system can do that: the API server and the kubelet call from outside the pod.
EVERY_ADDRESS: Final = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104


class OptionError(ValueError):
    """What is given is no setting, or not a possible one."""


@dataclass(frozen=True, slots=True)
class Option:
    """A setting that a flag and an environment variable can give.

    Attributes:
        field: Of the service's settings.
        name: Of the flag, without its dashes.
        read: Makes the value of a text that is not empty; raises ValueError with what it must be.
        help: With the default.
        empty: What an empty text means; None if it means the default.
        is_list: May be repeated on the command line.
    """

    field: str
    name: str
    variable: str
    read: Callable[[str], Any]
    help: str
    empty: tuple[Any] | None = None
    is_list: bool = False

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            f"--{self.name}",
            action="append" if self.is_list else "store",
            help=f"{self.help} [{self.variable}]".replace("%", "%%"),
            metavar="VALUE",
        )


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Mapping[str, str]:
    """What is on the command line, by the name of its flag; a repeated list joined with commas.

    Raises:
        SystemExit: With 2 and the nearest flag on standard error if one is unknown, with 0 after `--help`.
    """
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [name for name in parser._option_string_actions if name.startswith("--")]  # noqa: SLF001 - no other way
        near = nearest(unknown[0].partition("=")[0], known, alike=_NEAR)
        parser.error(f"unknown argument {unknown[0] or shown('')}" + (f"; did you mean {near}?" if near else ""))
    return {
        name.replace("_", "-"): ",".join(value) if isinstance(value, list) else value
        for name, value in vars(namespace).items()
        if value is not None
    }


def fields(options: Iterable[Option], given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that flags and variables give.

    Raises:
        OptionError: Naming the flag or variable, its value and what it must be.
    """
    found: dict[str, Any] = {}
    for option in options:
        name, text = option.variable, environ.get(option.variable)
        if option.name in given:
            name, text = f"--{option.name}", given[option.name]
        if text is None:
            continue
        if words(text) if option.is_list else text:
            try:
                found[option.field] = option.read(text)
            except ValueError as error:
                raise OptionError(f"{name} is {shown(text)}; it must be {error}") from None
        elif option.empty is not None:
            found[option.field] = option.empty[0]
    return found


def settled(
    parser: argparse.ArgumentParser,
    options: Sequence[Option],
    argv: Sequence[str],
    environ: Mapping[str, str],
    make: Callable[[dict[str, Any]], _Settings],
) -> _Settings:
    """A service's settings, from its flags and variables.

    Args:
        parser: Without the flags, which are added to it.
        options: All that there are.
        argv: Without the program's name.
        environ: A variable that begins like ours and is none of the options' is refused.
        make: Makes the settings of fields and values, and raises OptionError for what no single one shows.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    group = parser.add_argument_group("settings")
    for option in options:
        option.add_to(group)
    given = arguments(parser, argv)
    try:
        found = fields(options, given, environ)
        check_variables(environ, [option.variable for option in options], lambda _: False)
        return make(found)
    except OptionError as error:
        parser.error(str(error))


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_variables(environ: Mapping[str, str], known: Sequence[str], passed_over: Callable[[str], bool]) -> None:
    """Refuse a variable that begins like ours and is not, as it is most likely a slip.

    Raises:
        OptionError: Naming it and the nearest one.
    """
    for name in sorted(environ):
        if not name.startswith("TASUKI_") or name in known or passed_over(name):
            continue
        if not _is_service_link(name, environ[name]):
            raise OptionError(f"{name} is not a known environment variable; the nearest is {nearest(name, known)}")


def _is_service_link(name: str, value: str) -> bool:
    """Links named just `_PORT` are told from slips by their value."""
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and _SERVICE_LINK_URL.match(value) is not None


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def one_of(values: Iterable[str]) -> Callable[[str], str]:
    """Reads one of the words, in lower case whatever the case it is written in."""
    known = tuple(values)

    def read(text: str) -> str:
        if text.lower() not in known:
            raise ValueError(alternatives(known))
        return text.lower()

    return read


def path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path")
    return Path(text)


def address(
    example: str,
    without: str,
    every: str = "0.0.0.0",  # noqa: S104 - the operator asks for it
) -> Callable[[str], tuple[str, int]]:
    """Reads host and port; `:9422` is every address.

    Args:
        example: A port, for the sentence that refuses.
        without: What an empty text is said to mean.
        every: The host of `:9422`.
    """

    def read(text: str) -> tuple[str, int]:
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]*)):([0-9]{1,5})", text)
        if match is None or int(match[3]) > 65535 or not _is_encodable(match[2] or ""):
            raise ValueError(f"host:port, such as 0.0.0.0:{example} or [::]:{example}{without}")
        return match[1] or match[2] or every, int(match[3])

    return read


def _is_encodable(host: str) -> bool:
    """Whether a socket takes such a host; for another it raises TypeError or UnicodeError, and no OSError."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


# What every service that logs can be told.
LOG_OPTIONS: Final = (
    Option("log_level", "log-level", "TASUKI_LOG_LEVEL", one_of(LEVELS), f"{alternatives(LEVELS)} (info)"),
    Option(
        "log_format", "log-format", "TASUKI_LOG_FORMAT", one_of(get_args(LogFormat)),
        f"{alternatives(get_args(LogFormat))} (text)",
    ),
)  # fmt: skip
