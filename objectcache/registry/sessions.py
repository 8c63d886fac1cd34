"""Connections to registries: to those that the operator names, and to wherever these send us."""

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from objectcache.registry.origins import is_public

_MOST_CONNECTIONS: Final = 128
# Several times what a chunk of a socket brings, so that a fast link takes few turns of the loop a megabyte.
_BUFFER_BYTES: Final = 512 * 2**10


@dataclass(frozen=True, slots=True)
class Sessions:
    """What requests are sent with.

    Attributes:
        named: To origins that the operator names, wherever they are.
        public: To public addresses only, whatever a name resolves to.
    """

    named: aiohttp.ClientSession
    public: aiohttp.ClientSession


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for a registry.

    Attributes:
        connect_seconds: For a connection, with its TLS handshake.
        silent_seconds: While it sends nothing.
    """

    connect_seconds: float = 10.0
    silent_seconds: float = 30.0


@asynccontextmanager
async def opened_sessions(patience: Patience) -> AsyncIterator[Sessions]:
    resolver = aiohttp.ThreadedResolver()
    async with _session(resolver, patience) as named, _session(_PublicResolver(resolver), patience) as public:
        yield Sessions(named, public)


def _session(resolver: AbstractResolver, patience: Patience) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_MOST_CONNECTIONS, resolver=resolver, ttl_dns_cache=30),
        # A registry's cookies would go from one of our clients to another.
        cookie_jar=aiohttp.DummyCookieJar(),
        # Digests are those of the bytes as sent.
        auto_decompress=False,
        read_bufsize=_BUFFER_BYTES,
        headers={"User-Agent": "tasuki-registry", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(
            total=None,
            connect=None,
            sock_connect=patience.connect_seconds,
            sock_read=patience.silent_seconds,
        ),
    )


class _PublicResolver(AbstractResolver):
    """Checked where the address is used, so that no second answer of a name server comes between."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver: Final = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if is_public(each["host"])]
        if not public:
            raise OSError(
                errno.EACCES,
                f"{host} has no public address; if images are really there, name its origin in redirectOrigins",
            )
        return public

    async def close(self) -> None:
        """The inner one is the other session's too."""
