"""Where a registry may send us."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from yarl import URL

_PORTS: Final = {"http": 80, "https": 443}
# All unicast addresses that IANA gives out: `is_global` is true of much that is none of them, such as site-local
# addresses and those that carry an IPv4 address in an older way.
_INTERNET: Final = IPv6Network("2000::/3")
# IPv6 addresses that carry an IPv4 address which is reached in the end (RFC 6052, RFC 3056).
_NAT64: Final = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Origin:
    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")


def read_origin(text: str) -> Origin:
    """Scheme, host and port of a URL that is nothing else.

    Raises:
        ValueError: With what it must be.
    """
    try:
        url = URL(text)
        found = origin_of(url)
    except ValueError:
        found = None
    if found is None or url.user or url.password or url.path not in {"", "/"} or url.query_string or url.fragment:
        raise ValueError("a URL of scheme, host and port, such as https://registry.example:5000")
    return found


def origin_of(url: URL) -> Origin | None:
    """None if it is no URL of HTTP."""
    if url.scheme not in _PORTS or not url.host or not url.port:
        return None
    return Origin(url.scheme, url.host.lower().rstrip("."), url.port)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, and none within a cluster, a cloud's node or this host."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        inner = _carried(found)
        return is_public(str(inner)) if inner is not None else found in _INTERNET and found.is_global
    return found.is_global and not found.is_multicast


def _carried(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def is_address(host: str) -> bool:
    """Whether aiohttp asks no name server for it (its helpers.is_ip_address), so that it is judged here or nowhere.

    `127.1` and `2130706433` are such too, which the system takes for 127.0.0.1.
    """
    return ":" in host or host.replace(".", "").isdigit()
