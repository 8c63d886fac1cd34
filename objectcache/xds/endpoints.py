"""A file that lists the caches, for where there is no cluster to ask."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

from objectcache.xds.member import MOST_WEIGHT, Member
from tasuki.process.document import ConfigError, Node, read
from tasuki.process.keys import Key, Table, described, each, fail, fields, mapping


def read_endpoints(text: bytes | None) -> tuple[Member, ...]:
    """The members that a YAML list names.

    Raises:
        ConfigError: There is no file, or something in it cannot be used; with all of what is wrong.
    """
    if text is None:
        raise ConfigError("there is no such file; write one, `[]` for no caches")
    root = read(text)
    found: tuple[Member, ...] = each(root, "endpoints", _member)
    _check_unique(root, found)
    return tuple(sorted(found))


def _check_unique(root: Node, found: tuple[Member, ...]) -> None:
    assert isinstance(root.value, tuple)
    problems: list[str] = []
    nodes: set[str] = set()
    addresses: set[tuple[str, int]] = set()
    for node, member in zip(root.value, found, strict=True):
        if member.node in nodes:
            problems += fail(node, "node", f"{member.node!r} is here twice; keys find a cache by it").problems
        if (member.address, member.port) in addresses:
            problems += fail(node, "address", f"{member.address} port {member.port} is here twice").problems
        nodes.add(member.node)
        addresses.add((member.address, member.port))
    if problems:
        raise ConfigError(*problems)


def _member(node: Node, path: str) -> Member:
    mapping(node, path)
    return Member(**fields(_MEMBER, _MEMBER, node, path))


def _text(node: Node, path: str) -> str:
    if not isinstance(node.value, str) or not node.value or len(node.value) > 253:
        raise fail(node, path, f"{described(node)}; it must be a name of at most 253 characters")
    return node.value


def _address(node: Node, path: str) -> str:
    try:
        return str(ip_address(node.value if isinstance(node.value, str) else ""))
    except ValueError:
        raise fail(node, path, f"{described(node)}; it must be an IP address, Envoy looks up no names here") from None


def _whole(least: int, most: int) -> Any:
    def convert(node: Node, path: str) -> int:
        value = node.value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise fail(node, path, f"{described(node)}; it must be a whole number from {least} to {most}")
        return value

    return convert


def _leaving(node: Node, path: str) -> bool:
    if not isinstance(node.value, bool):
        raise fail(node, path, f"{described(node)}; it must be true or false")
    return node.value


_KEYS: Final[Mapping[str, Key]] = {
    "node": Key("node", _text),
    "zone": Key("zone", _text),
    "address": Key("address", _address),
    "port": Key("port", _whole(1, 65_535)),
    "weight": Key("weight", _whole(1, MOST_WEIGHT)),
    "leaving": Key("leaving", _leaving),
}
_MEMBER: Final = Table(_KEYS, required=("node", "address", "port"))
