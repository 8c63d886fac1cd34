"""The cache from asyncio; read `AsyncCacheClient` first."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from objectcache.client.address import bucket_address
from objectcache.client.answers import ListedObject, ObjectStat, Page, Span, content, page, refused, stat
from objectcache.client.client import DEFAULT_TIMEOUT_SECONDS, PAGE_LIMIT
from objectcache.client.connections import Answer
from objectcache.client.errors import UnreachableError
from objectcache.client.tokens import Token


class AsyncCacheClient:
    """One bucket of one cache, for the tasks of one event loop; `async with` opens and closes its connections.

    Methods are those of `CacheClient`, with the same answers and errors.
    """

    def __init__(  # noqa: PLR0913 - as `CacheClient`
        self,
        url: str,
        bucket: str,
        *,
        token_path: str | Path | None = None,
        token: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        connections: int = 64,
    ) -> None:
        """As `CacheClient`, and with at most so many connections at once; other requests wait.

        Raises:
            AddressError: The URL or the bucket cannot be one.
            TokenError: The token cannot be one.
            ValueError: The timeout is not positive.
        """
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {timeout_seconds}; it must be more than 0")
        self._address = bucket_address(url, bucket)
        self._token = Token(token_path, token)
        self._timeout = aiohttp.ClientTimeout(None, sock_connect=timeout_seconds, sock_read=timeout_seconds)
        self._most_connections = connections
        self._http: aiohttp.ClientSession | None = None
        self.bucket = bucket

    def __repr__(self) -> str:
        return f"AsyncCacheClient({self._address.base_url + self._address.path!r}, {self._token!r})"

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._most_connections)
        self._http = aiohttp.ClientSession(connector=connector, timeout=self._timeout, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def get(self, name: str | bytes, start: int = 0, end: int | None = None) -> bytes | None:
        span = Span(start, end)
        if span.is_empty:
            return b"" if await self.head(name) is not None else None
        headers = {} if span.is_whole else {"Range": span.header}
        answer = await self._ask("GET", self._address.object_target(name), headers)
        return content(answer.status, answer.headers, answer.body, span)

    async def head(self, name: str | bytes) -> ObjectStat | None:
        answer = await self._ask("HEAD", self._address.object_target(name))
        return stat(answer.status, answer.headers)

    async def put(self, name: str | bytes, content: bytes | bytearray | memoryview, *, pinned: bool = False) -> None:
        headers = {"Content-Type": "application/octet-stream", **({"Tasuki-Pinned": "true"} if pinned else {})}
        answer = await self._ask("PUT", self._address.object_target(name), headers, bytes(content))
        if answer.status != 201:
            raise refused("PUT", answer.status, answer.headers, answer.body)

    async def delete(self, name: str | bytes) -> bool:
        answer = await self._ask("DELETE", self._address.object_target(name))
        if answer.status not in {200, 204, 404}:
            raise refused("DELETE", answer.status, answer.headers, answer.body)
        return answer.status != 404

    async def list(self, prefix: str | bytes = b"") -> AsyncIterator[ListedObject]:
        after = b""
        while True:
            found = await self.list_page(prefix, after)
            for each in found.objects:
                yield each
            if not found.more or not found.objects:
                return
            after = found.objects[-1].sent_name

    async def list_page(self, prefix: str | bytes = b"", after: str | bytes = b"", limit: int = PAGE_LIMIT) -> Page:
        answer = await self._ask("GET", self._address.list_target(prefix, after, limit))
        return page(answer.status, answer.headers, answer.body)

    async def _ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        token = self._token.current()
        answer = await self._sent(method, target, headers or {}, body)
        if answer.status == 401 and token and self._token.changed_from(token):
            return await self._sent(method, target, headers or {}, body)
        return answer

    async def _sent(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        if self._http is None:
            raise RuntimeError("this client is not open; use it inside `async with`")
        # Encoded: a name's dots, slashes and escapes go as they are.
        url = URL(self._address.base_url + target, encoded=True)
        sent = {"Accept-Encoding": "identity", **self._token.header(), **headers}
        try:
            async with self._http.request(method, url, headers=sent, data=body, allow_redirects=False) as response:
                found = {name.lower(): value for name, value in response.headers.items()}
                if (
                    method != "HEAD"
                    and not found.keys() & {"content-length", "transfer-encoding"}
                    and response.status != 204
                ):
                    raise UnreachableError(f"{method}: the end of the answer cannot be told from a broken connection")
                return Answer(response.status, found, await response.read())
        except (aiohttp.ClientError, OSError) as error:
            said = str(error) or type(error).__name__
            raise UnreachableError(f"{method} at {self._address.base_url} brought no answer: {said}") from error
