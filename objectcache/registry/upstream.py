"""Asking registries, with whatever they want to see first."""

import asyncio
import re
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from objectcache.registry.challenges import Challenge, read_challenges
from objectcache.registry.config import Credentials, Logins, Upstream
from objectcache.registry.errors import DENIED, NAME_UNKNOWN, TOO_MANY_REQUESTS, RegistryError, unavailable
from objectcache.registry.origins import Origin, is_address, is_public, origin_of
from objectcache.registry.sessions import Sessions
from objectcache.registry.single_flight import SingleFlight
from tasuki.process.sentences import shortened, shown

_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# With redirects and tokens, until the answer's headers are here.
_HEAD_SECONDS: Final = 60.0
# For the whole of a manifest or list; others may be waiting for the same.
_DOCUMENT_SECONDS: Final = 60.0

_MOST_TOKENS: Final = 4096
_MOST_TOKEN_BYTES: Final = 64 * 2**10
# Distribution's token specification: a token without a lifetime is good for 60 seconds, and none for less.
_LEAST_TOKEN_SECONDS: Final = 60.0
# Before its end, for what is still under way and for clocks that differ.
_TOKEN_MARGIN_SECONDS: Final = 10.0
_LONGEST_REASON: Final = 200
_RETRY_AFTER: Final = re.compile(r"[0-9]{1,6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Call:
    """A request for something in a repository.

    Attributes:
        path: Below the repository.
        query: Encoded; empty for none.
    """

    upstream: Upstream
    repository: str
    path: str
    method: str = "GET"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> URL:
        query = f"?{self.query}" if self.query else ""
        return URL(f"{self.upstream.api}/v2/{self.repository}/{self.path}{query}", encoded=True)


class _TokenAnswer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float = _LEAST_TOKEN_SECONDS

    def __repr__(self) -> str:
        return "_TokenAnswer(...)"


@dataclass(frozen=True, slots=True)
class _Pass:
    """What is sent as `Authorization`, until when."""

    value: str
    expires: float

    def __repr__(self) -> str:
        return f"_Pass(expires={self.expires})"


@dataclass(frozen=True, slots=True)
class _PassKey:
    """Whose a pass is: one that was had with other credentials, or under another configuration, is never shown.

    Attributes:
        login: None for asking anonymously.
    """

    upstream: Upstream
    login: Credentials | None
    repository: str


class UpstreamClient:
    """Tokens are kept for as long as they are good, each for reading one repository.

    Args:
        group: Owns requests for tokens that several wait for.
        monotonic: In seconds.
        count: Told host and status of each answer; 0 for none.
    """

    def __init__(
        self,
        sessions: Sessions,
        group: asyncio.TaskGroup,
        monotonic: Callable[[], float],
        count: Callable[[str, int], None],
    ) -> None:
        self._sessions: Final = sessions
        self._monotonic: Final = monotonic
        self._count: Final = count
        self._logins: Logins = MappingProxyType({})
        self._passes: OrderedDict[_PassKey, _Pass] = OrderedDict()
        self._token_flights: Final[SingleFlight[_PassKey, _Pass]] = SingleFlight(group)

    def use(self, logins: Logins) -> None:
        """Ask with these credentials from now on."""
        self._logins = logins

    @asynccontextmanager
    async def opened(self, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """A registry's answer of 200 or 206, whose body is still to be read.

        Raises:
            RegistryError: It answers anything else, or nothing, or sends us where we do not go.
        """
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                answer = await self._answer(call)
        except TimeoutError:
            self._count(call.upstream.host, 0)
            raise unavailable(504, f"{call.upstream.host} did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._count(call.upstream.host, 0)
            raise unavailable(502, f"{call.upstream.host} cannot be reached: {_reason(error)}") from error
        try:
            self._count(call.upstream.host, answer.status)
            if answer.status not in {200, 206}:
                raise refusal(call.upstream.host, answer.status, answer.headers.get("Retry-After", ""))
            yield answer
        finally:
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()

    async def _answer(self, call: Call) -> aiohttp.ClientResponse:
        key = _PassKey(call.upstream, self._login(call.upstream), call.repository)
        had = self._kept(key)
        answer = await self._followed(call, had.value if had else "")
        # Where a redirect led to may be anybody's: it is not to say who sees the registry's credentials.
        if answer.status != 401 or origin_of(answer.url) != call.upstream.api:
            return answer
        challenges = read_challenges(answer.headers.getall("WWW-Authenticate", []))
        answer.close()
        if had is not None and self._passes.get(key) is had:
            del self._passes[key]
        wanted = self._kept(key) or await self._token_flights.get(key, lambda: self._pass(key, challenges))
        return await self._followed(call, wanted.value)

    def _login(self, upstream: Upstream) -> Credentials | None:
        return self._logins.get(upstream.host) if upstream.shares_credentials else None

    def _kept(self, key: _PassKey) -> _Pass | None:
        found = self._passes.get(key)
        if found is None or found.expires <= self._monotonic():
            return None
        self._passes.move_to_end(key)
        return found

    async def _pass(self, key: _PassKey, challenges: tuple[Challenge, ...]) -> _Pass:
        """What to show for a repository, by what a registry asks for."""
        host, login = key.upstream.host, key.login
        if key.upstream.shares_credentials and login is None:
            text = f"the mirror is to ask {host} with credentials, and has none for it; add them to --logins"
            raise unavailable(503, text)
        by_scheme = {each.scheme: each for each in reversed(challenges)}
        if "bearer" in by_scheme:
            async with asyncio.timeout(_HEAD_SECONDS):
                wanted = await self._token(key, by_scheme["bearer"])
        elif "basic" in by_scheme and login is not None:
            wanted = _Pass(login.basic, float("inf"))
        else:
            raise refusal(host, 401)
        self._passes[key] = wanted
        while len(self._passes) > _MOST_TOKENS:
            self._passes.popitem(last=False)
        return wanted

    async def _token(self, key: _PassKey, challenge: Challenge) -> _Pass:
        """A token for reading one repository and nothing else, whatever the registry would have it for."""
        host = key.upstream.host
        realm = URL(challenge.parameters.get("realm", ""))
        scope = {"scope": f"repository:{key.repository}:pull"}
        service = {"service": challenge.parameters["service"]} if "service" in challenge.parameters else {}
        session = self._session(realm, key.upstream)
        asked = self._monotonic()
        async with session.get(
            realm.update_query({**service, **scope}),
            headers={"Authorization": key.login.basic} if key.login else {},
            allow_redirects=False,
            ssl=_context(realm, key.upstream),
        ) as answer:
            if answer.status != 200:
                raise refusal(host, answer.status, answer.headers.get("Retry-After", ""))
            content = await _bounded(answer, _MOST_TOKEN_BYTES)
        try:
            found = msgspec.json.decode(content or b"", type=_TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = _TokenAnswer()
        token = found.token or found.access_token
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise unavailable(502, f"{host} gives no token that could be used")
        lifetime = max(found.expires_in, _LEAST_TOKEN_SECONDS) - _TOKEN_MARGIN_SECONDS
        return _Pass(f"Bearer {token}", asked + lifetime)

    async def _followed(self, call: Call, authorization: str) -> aiohttp.ClientResponse:
        """The answer at the end of all redirects; the authorization goes to the registry itself alone."""
        url = call.url
        for _ in range(_MOST_REDIRECTS + 1):
            own = {"Authorization": authorization} if authorization and origin_of(url) == call.upstream.api else {}
            answer = await self._session(url, call.upstream).request(
                call.method,
                url,
                headers={**call.headers, **own},
                allow_redirects=False,
                ssl=_context(url, call.upstream),
            )
            if answer.status not in _REDIRECTS:
                return answer
            location = answer.headers.get("Location", "")
            answer.close()
            url = url.join(URL(location, encoded=True))
        raise unavailable(502, f"{call.upstream.host} redirects more than {_MOST_REDIRECTS} times")

    def _session(self, url: URL, upstream: Upstream) -> aiohttp.ClientSession:
        """What a URL may be asked with.

        Raises:
            RegistryError: It may not be asked at all.
        """
        origin = origin_of(url)
        if origin in upstream.trusted:
            return self._sessions.named
        if may_be_followed(origin):
            return self._sessions.public
        named = shown(str(origin)) if origin else "no URL of HTTP"
        text = f"{upstream.host} sends us to {named}, which is neither a public HTTPS origin nor in its redirectOrigins"
        raise unavailable(502, text)


def may_be_followed(origin: Origin | None) -> bool:
    """Whether a registry may send us there unless the operator says so; what a name resolves to is judged later."""
    if origin is None or origin.scheme != "https":
        return False
    return is_public(origin.host) if is_address(origin.host) else True


def refusal(host: str, status: int, retry_after: str = "") -> RegistryError:
    """What a client is told where a registry answers so.

    Not 429: containerd would ask the mirror five times more at once, and goes on to its next host after anything else
    (core/remotes/docker/resolver.go, retryRequest).
    """
    if status in {401, 403}:
        text = f"{host} does not let the mirror read that ({status}); ask {host} itself"
        return RegistryError(403, DENIED, text)
    if status in {404, 410}:
        return RegistryError(404, NAME_UNKNOWN, f"{host} has no such thing")
    if status == 429:
        after = {"Retry-After": retry_after} if _RETRY_AFTER.fullmatch(retry_after) else {}
        return RegistryError(503, TOO_MANY_REQUESTS, f"{host} wants fewer requests (429)", after)
    return unavailable(502, f"{host} answers with {status}")


async def read_bounded(answer: aiohttp.ClientResponse, host: str, most_bytes: int) -> bytes:
    """The whole of a small answer.

    Raises:
        RegistryError: It is too large, too slow, or ends before its end.
    """
    try:
        async with asyncio.timeout(_DOCUMENT_SECONDS):
            content = await _bounded(answer, most_bytes)
    except TimeoutError:
        raise unavailable(504, f"{host} ceased to send, or sends too slowly") from None
    except (aiohttp.ClientError, OSError) as error:
        raise unavailable(502, f"{host} broke off: {_reason(error)}") from error
    if content is None:
        raise unavailable(502, f"{host} sends more than {most_bytes} bytes")
    return content


async def _bounded(answer: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    pieces, size = [], 0
    while piece := await answer.content.readany():
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            return None
    return b"".join(pieces)


def _context(url: URL, upstream: Upstream) -> bool | ssl.SSLContext:
    """The authorities that the operator names are the registry's, and those of the origins beside it."""
    return upstream.context if upstream.context is not None and origin_of(url) in upstream.trusted else True


def _reason(error: Exception) -> str:
    # A URL with its query may be all that it takes to read a private layer.
    text = re.sub(r"\?[^\s'\"]*", "?…", str(error)) or type(error).__name__
    return shortened(text, _LONGEST_REASON)
