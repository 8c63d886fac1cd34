"""The cache from Python, one call at a time; read `CacheClient` first."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from objectcache.client.address import bucket_address
from objectcache.client.answers import ListedObject, ObjectStat, Page, Span, content, page, refused, stat
from objectcache.client.connections import Answer, Connections, Request
from objectcache.client.names import escaped, routing_key
from objectcache.client.tokens import Token
from tasuki.routing.maglev import Host, Maglev

DEFAULT_TIMEOUT_SECONDS: Final = 5.0
PAGE_LIMIT: Final = 1000


class CacheClient:
    """One bucket of one cache, for any number of threads.

    It may be inherited by a fork and sent to another process; each opens connections of its own. A token that is given
    as a text is sent along, one in a file is not. No proxy is used, no redirection followed.

    Every method raises `CacheError`: `UnreachableError` without an answer, `RefusedError` with another than the one
    asked for, `TokenError` without a token. `ReadThrough` is for those who would rather go to the origin.

    Attributes:
        bucket: Its name.
    """

    def __init__(  # noqa: PLR0913 - each is its own fact, all but two have a default
        self,
        url: str,
        bucket: str,
        *,
        token_path: str | Path | None = None,
        token: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        nodes: Mapping[str, int] | None = None,
    ) -> None:
        """Nothing is sent or read yet.

        Args:
            url: The cache's, with or without `/v1/objects`.
            bucket: Its name.
            token_path: Of a file that holds a token, read again as it changes.
            token: Instead of a file.
            timeout_seconds: For each step: connecting, and each wait for more bytes.
            nodes: By the name of each node that serves, its weight; only `owner` asks.

        Raises:
            AddressError: The URL or the bucket cannot be one.
            TokenError: The token cannot be one.
            ValueError: The timeout is not positive.
        """
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {timeout_seconds}; it must be more than 0")
        self._address = bucket_address(url, bucket)
        self._token = Token(token_path, token)
        self._timeout_seconds = timeout_seconds
        self._nodes = dict(nodes or {})
        self._connections = Connections(self._address, timeout_seconds)
        self.bucket = bucket

    def __repr__(self) -> str:
        return f"CacheClient({self._address.base_url + self._address.path!r}, {self._token!r})"

    def __getstate__(self) -> dict[str, object]:
        return {
            "_address": self._address,
            "_token": self._token,
            "_timeout_seconds": self._timeout_seconds,
            "_nodes": self._nodes,
            "bucket": self.bucket,
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._connections = Connections(self._address, self._timeout_seconds)

    def get(self, name: str | bytes, start: int = 0, end: int | None = None) -> bytes | None:
        """An object, or bytes `start` to `end` of it; None if it is not there.

        Args:
            name: Escaped here.
            start: Negative for so many bytes at the end.
            end: Exclusive; behind the object's end it means its end.
        """
        span = Span(start, end)
        if span.is_empty:
            return b"" if self.head(name) is not None else None
        headers = {} if span.is_whole else {"Range": span.header}
        answer = self._ask("GET", self._address.object_target(name), headers)
        return content(answer.status, answer.headers, answer.body, span)

    def head(self, name: str | bytes) -> ObjectStat | None:
        answer = self._ask("HEAD", self._address.object_target(name))
        return stat(answer.status, answer.headers)

    def put(self, name: str | bytes, content: bytes | bytearray | memoryview, *, pinned: bool = False) -> None:
        """Keep an object; whoever puts last, wins.

        Args:
            name: Escaped here.
            content: All of it.
            pinned: Whether it stays until it is deleted, for which the bucket has a quota of its own.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if pinned:
            headers["Tasuki-Pinned"] = "true"
        answer = self._ask("PUT", self._address.object_target(name), headers, content)
        if answer.status != 201:
            raise refused("PUT", answer.status, answer.headers, answer.body)

    def delete(self, name: str | bytes) -> bool:
        """Whether it was there."""
        answer = self._ask("DELETE", self._address.object_target(name))
        if answer.status not in {200, 204, 404}:
            raise refused("DELETE", answer.status, answer.headers, answer.body)
        return answer.status != 404

    def list(self, prefix: str | bytes = b"") -> Iterator[ListedObject]:
        """Every object of this bucket on the node that answers, page by page.

        Args:
            prefix: Of the name as it was sent, so escaped.
        """
        after = b""
        while True:
            found = self.list_page(prefix, after)
            yield from found.objects
            if not found.more or not found.objects:
                return
            after = found.objects[-1].sent_name

    def list_page(self, prefix: str | bytes = b"", after: str | bytes = b"", limit: int = PAGE_LIMIT) -> Page:
        """Objects whose names begin with `prefix` and come after `after`, bytewise."""
        answer = self._ask("GET", self._address.list_target(prefix, after, limit))
        return page(answer.status, answer.headers, answer.body)

    def owner(self, name: str | bytes) -> str:
        """The node that Envoy sends requests for this object to.

        Raises:
            MaglevError: No nodes were given.
        """
        return _table(frozenset(self._nodes.items())).owner(routing_key(self.bucket, escaped(name)))

    def close(self) -> None:
        """Close idle connections; the client can still be used."""
        self._connections.close()

    def _ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | bytearray | memoryview | None = None,
    ) -> Answer:
        token = self._token.current()
        request = Request(method, target, {"Accept-Encoding": "identity", **(headers or {})}, body)
        answer = self._connections.exchange(_authorized(request, token))
        # It may have been renewed since its file was read.
        if answer.status == 401 and token and self._token.changed_from(token):
            return self._connections.exchange(_authorized(request, self._token.current()))
        return answer


def _authorized(request: Request, token: str) -> Request:
    if not token:
        return request
    return replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})


@functools.lru_cache(maxsize=8)
def _table(nodes: frozenset[tuple[str, int]]) -> Maglev:
    """Tens of milliseconds, so once for the same nodes."""
    return Maglev(Host(name, weight) for name, weight in nodes)
