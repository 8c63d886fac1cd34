"""`tasuki.vaccel`: the vAccel agents whose sessions a node offers."""

import re
from typing import Final

from deviceplugin.config import values
from deviceplugin.config.model import VaccelAgent, VaccelOptions
from tasuki.process.document import Node
from tasuki.process.keys import Key, Table, described, each, fail, fields, items
from tasuki.process.unix_sockets import LONGEST_PATH_BYTES

_MOST_SESSIONS: Final = values.MOST_REPLICAS

# A context id is 32 bits, of which the largest means "any" (vsock(7)); ports are 32 bits too.
_LARGEST_CID: Final = 2**32 - 2
_LARGEST_VSOCK_PORT: Final = 2**32 - 2

_HOST_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+):([0-9]{1,10})")

_EXAMPLES: Final = "unix:///run/vaccel/vaccel.sock, tcp://10.0.0.1:65500 or vsock://2:2048"


def options(node: Node, path: str) -> VaccelOptions:
    return VaccelOptions(**fields(TABLE, ROOT, node, path))


def _agents(node: Node, path: str) -> tuple[VaccelAgent, ...]:
    found: tuple[VaccelAgent, ...] = each(node, path, _agent)
    for i, (item, here) in enumerate(items(node, path)):
        for earlier in found[:i]:
            if earlier.name == found[i].name:
                raise fail(item, f"{here}.name", f"is {found[i].name!r}, as an agent above it; give each its own")
            if earlier.address == found[i].address:
                raise fail(
                    item,
                    f"{here}.address",
                    f"is {found[i].address!r}, which is {earlier.name!r} already; raise its `sessions` instead",
                )
    return found


def _agent(node: Node, path: str) -> VaccelAgent:
    return VaccelAgent(**fields(_AGENT, ROOT, node, path))


def _address(node: Node, path: str) -> str:
    text = values.string(node, path)
    scheme, separator, rest = text.partition("://")
    problem = _PROBLEMS[scheme](rest) if separator and scheme in _PROBLEMS else f"it must be such as {_EXAMPLES}"
    if problem:
        raise fail(node, path, f"{described(node)}; {problem}")
    return text


def _unix_problem(socket: str) -> str:
    if not socket.startswith("/") or not socket.isprintable() or socket.endswith("/"):
        return "after unix:// must come an absolute path, so three slashes in all"
    if any(part in ("", ".", "..") for part in socket.split("/")[1:]):
        return "its path must be without '.', '..' and doubled slashes"
    if socket.count("/") < 2:
        return "its socket must be in a folder of its own, which containers get"
    if (size := len(socket.encode())) > LONGEST_PATH_BYTES:
        return f"its path has {size} bytes, and a socket's has at most {LONGEST_PATH_BYTES}"
    return ""


def _tcp_problem(rest: str) -> str:
    match = _HOST_AND_PORT.fullmatch(rest)
    if match is None or not 1 <= int(match[2]) <= 65_535:
        return "after tcp:// must come host:port, an IPv6 address in brackets"
    return ""


def _vsock_problem(rest: str) -> str:
    match = _HOST_AND_PORT.fullmatch(rest)
    if (
        match is None
        or re.fullmatch(r"[0-9]{1,10}", match[1]) is None
        or int(match[1]) > _LARGEST_CID
        or not 1 <= int(match[2]) <= _LARGEST_VSOCK_PORT
    ):
        return "after vsock:// must come the context id and the port, such as 2:2048"
    return ""


_PROBLEMS: Final = {"unix": _unix_problem, "tcp": _tcp_problem, "vsock": _vsock_problem}


def _plugins(node: Node, path: str) -> tuple[str, ...]:
    found: tuple[str, ...] = each(node, path, values.dns_label)
    return tuple(dict.fromkeys(found))


_AGENT: Final = Table(
    {
        "name": Key("name", values.dns_label, nullable=False),
        "address": Key("address", _address, nullable=False),
        "sessions": Key("sessions", values.count(_MOST_SESSIONS), nullable=False),
        "plugins": Key("plugins", _plugins),
        "version": Key("version", values.label_value),
    },
    required=("name", "address", "sessions"),
)

TABLE: Final = Table({"agents": Key("agents", _agents, table=_AGENT)})

# For the full paths of misplaced keys.
ROOT: Final = Table({"tasuki": Key("tasuki", options, table=Table({"vaccel": Key("vaccel", options, table=TABLE)}))})
