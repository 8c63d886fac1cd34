"""An API server that reviews tokens, over real HTTP."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tasuki.kube.watching import WatchTimes
from tasuki.process.file_source import Pace
from tests.tasuki.kube.api_server import ApiServer, Kind

CACHE_BUCKETS = "/apis/tasuki.dev/v1alpha1/cachebuckets"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
AUDIENCE = "cache.tasuki.dev"

# Long enough that only a noticed change ends a wait.
QUICK = Pace(poll_seconds=60.0, settle_seconds=0.01)
HASTY = WatchTimes(lasts_seconds=60, silence_seconds=60, first_pause_seconds=0.01, most_pause_seconds=0.05)


def jwt(name: str, expires_at: float | None = None) -> str:
    """A token that says when it expires; its signature is its name."""
    claims = {"sub": name} if expires_at is None else {"sub": name, "exp": expires_at}
    header, payload = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({"alg": "none"}, claims))
    return ".".join((header.rstrip(b"=").decode(), payload.rstrip(b"=").decode(), name))


def of_pod(pod: str, uid: str = "", namespace: str = "research") -> dict[str, Any]:
    """A TokenReview's status for a pod's token."""
    extra = {
        "authentication.kubernetes.io/pod-name": [pod],
        "authentication.kubernetes.io/pod-uid": [uid or f"uid-of-{pod}"],
        "authentication.kubernetes.io/node-name": ["node-1"],
    }
    user = {"username": f"system:serviceaccount:{namespace}:trainer", "uid": "1", "groups": [], "extra": extra}
    return {"authenticated": True, "user": user, "audiences": [AUDIENCE]}


class ReviewingServer(ApiServer):
    """Knows some tokens.

    Attributes:
        accepted: The status of the TokenReview of each.
        reviewed: Tokens, in the order in which they were asked about.
        raw: Answered to every review instead, if not empty.
        echoes: Whether its errors repeat what it was sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds[CACHE_BUCKETS] = Kind()
        self.accepted: dict[str, Mapping[str, Any]] = {}
        self.reviewed: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.raw = b""
        self.echoes = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def _failure(self, error: Any) -> web.Response:
        if self.echoes:
            return web.Response(body=f"cannot review {self.bodies[-1]}".encode(), status=error.code)
        return super()._failure(error)

    async def _route(self, request: web.Request, body: Any) -> web.StreamResponse:
        if request.path != TOKEN_REVIEWS:
            return await super()._route(request, body)
        assert request.method == "POST"
        assert (body["apiVersion"], body["kind"]) == ("authentication.k8s.io/v1", "TokenReview")
        token = body["spec"]["token"]
        self.reviewed.append(token)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self._announce()
        try:
            await self.may_answer.wait()
        finally:
            self.in_flight -= 1
        if self.raw:
            return web.Response(body=self.raw, content_type="application/json")
        status = self.accepted.get(token, {"authenticated": False, "error": "invalid bearer token"})
        return web.json_response({**body, "metadata": {}, "status": status}, status=201)


@dataclass
class Clock:
    """Stands still until it is told to go on; pauses are as long as they may be."""

    monotonic_seconds: float = 1_000.0
    seconds: float = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.monotonic_seconds

    def now(self) -> float:
        return self.seconds

    def uniform(self, _: float, most: float) -> float:
        return most

    def advance(self, seconds: float) -> None:
        self.monotonic_seconds += seconds
        self.seconds += seconds


@dataclass
class Told:
    """Keeps what it is told, and wakes whoever waits for something of it."""

    all: list[Any] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, *said: Any) -> None:
        self.all.append(said[0] if len(said) == 1 else said)
        self._news.set()

    async def until(self, condition: Callable[[list[Any]], object]) -> None:
        async with asyncio.timeout(30):
            while not condition(self.all):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(service: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(service)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
