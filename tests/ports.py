"""Ports for processes that have to be told one before they listen on it, and whether there are those of IPv6."""

import socket
from collections import deque
from typing import Final

# Many more than one test has at once; a worker of pytest has a thousand files at least.
_AT_ONCE: Final = 256
_reserved: Final[deque[socket.socket]] = deque(maxlen=_AT_ONCE)


def free_port() -> int:
    """One of 127.0.0.1 that nobody gets but who asks for it by number.

    A socket stays bound to it and never listens. Linux then gives the port to no process that leaves the choice to it,
    while one that sets SO_REUSEADDR, as servers do, may listen there, again and again (socket(7)). Until it does,
    connections are refused.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _reserved.append(reserved)
    return int(reserved.getsockname()[1])


def has_ipv6() -> bool:
    """Whether anybody can listen on ::1; sockets of IPv6 there are also where it has no address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
