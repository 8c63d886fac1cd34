"""GET /explain?pod=namespace/name: why a pod goes where it goes."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol
from urllib.parse import parse_qsl

from schedext.explanation import Explanation, as_json, as_text
from schedext.metrics import ANSWERED, BAD_REQUEST, ERROR, EXPLAIN, NOT_READY, Metrics
from schedext.pod import Pod
from tasuki.kube.errors import KubeError, NotFoundError
from tasuki.process.asgi import JSON, TEXT, AsgiScope, Receive, Send, reply, reply_and_close
from tasuki.process.sentences import alternatives, shown

log: Final = logging.getLogger(__name__)

PATH: Final = "/explain"
FORMATS: Final = ("text", "json")
DEFAULT_LIMIT: Final = 20
DEFAULT_NAMESPACE: Final = "default"

_PARAMETERS: Final = ("pod", "format", "limit")
_USAGE: Final = "ask for /explain?pod=namespace/name, and if you like &format=json and &limit=20"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

# An explanation is made for a person, and looks at every node: who asks for many must not hold the scheduler up. One is
# made, the others wait.
_MOST_AT_ONCE: Final = 4

# Longer than the turns between, so that explaining takes a fourth of the time, whoever asks.
_REST_SECONDS: Final = 0.01

Find = Callable[[str, str], Awaitable[Pod]]


class Explains(Protocol):
    async def explain(self, pod: Pod, rest: Callable[[], Awaitable[None]], /) -> Explanation:
        """Rests every few milliseconds."""
        ...


class QuestionError(ValueError):
    """What is asked is no question about a pod."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about which pod.

    Attributes:
        as_json: Rather than as text.
        limit: Of nodes and reasons; 0 for all.
    """

    namespace: str
    name: str
    as_json: bool = False
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class _Page:
    status: int
    body: bytes
    kind: bytes = TEXT
    outcome: str = ANSWERED


class ExplainPage:
    """An ASGI application that only reads.

    Args:
        explains: Makes the explanation of a pod.
        find: The pod of a namespace and a name, from the API server; raises KubeError.
        ready: Why nothing can be explained yet; empty if it can.
    """

    def __init__(self, explains: Explains, find: Find, ready: Callable[[], str], metrics: Metrics) -> None:
        self._explains: Final = explains
        self._find: Final = find
        self._ready: Final = ready
        self._metrics: Final = metrics
        self._answering = 0
        self._one_at_a_time: Final = asyncio.Lock()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["path"] != PATH:
            await reply_and_close(send, f"there is nothing here; {_USAGE}\n".encode(), TEXT, 404, receive)
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await reply_and_close(send, f"{scope['method']} is not answered; {_USAGE}\n".encode(), TEXT, 405, receive)
            return
        page = await self._page(scope["query_string"])
        self._metrics.requested(EXPLAIN, page.outcome)
        await reply(send, page.body, page.kind, page.status)

    async def _page(self, query: bytes) -> _Page:
        if self._answering >= _MOST_AT_ONCE:
            return _said(503, "too many explanations at once; try again", NOT_READY)
        self._answering += 1
        try:
            return await self._explained(question(query))
        except QuestionError as error:
            return _said(400, f"{error}; {_USAGE}", BAD_REQUEST)
        finally:
            self._answering -= 1

    async def _explained(self, asked: Question) -> _Page:
        if reason := self._ready():
            return _said(503, f"not ready: {reason}", NOT_READY)
        try:
            pod = await self._find(asked.namespace, asked.name)
        except NotFoundError:
            return _said(404, f"there is no pod {asked.name} in the namespace {asked.namespace}")
        except KubeError as error:
            return _said(503, f"the pod {asked.namespace}/{asked.name} could not be looked up: {error}", NOT_READY)
        started = perf_counter()
        try:
            async with self._one_at_a_time:
                explanation = await self._explains.explain(pod, _rest)
            write, kind = (as_json, JSON) if asked.as_json else (_as_text, TEXT)
            # Of thousands of nodes it takes a while, and nothing in it changes any more.
            body = await asyncio.to_thread(write, explanation, asked.limit)
        except Exception as error:
            log.exception("explaining failed pod=%s/%s", asked.namespace, asked.name)
            return _said(500, f"this is a defect of Tasuki: {type(error).__name__}; its log says more", ERROR)
        self._metrics.took(EXPLAIN, perf_counter() - started)
        return _Page(200, body, kind)


async def _rest() -> None:
    await asyncio.sleep(_REST_SECONDS)


def _as_text(explanation: Explanation, limit: int) -> bytes:
    return as_text(explanation, limit).encode()


def _said(status: int, text: str, outcome: str = ANSWERED) -> _Page:
    return _Page(status, f"{text}\n".encode(), outcome=outcome)


def question(query: bytes) -> Question:
    """What a query string asks.

    Raises:
        QuestionError: It asks for something else, or it cannot be read.
    """
    try:
        given = dict(parse_qsl(query.decode(), keep_blank_values=True, max_num_fields=8, errors="strict"))
    except ValueError as error:
        raise QuestionError("the query cannot be read") from error
    for key in given:
        if key not in _PARAMETERS:
            raise QuestionError(f"{shown(key)} is no parameter; there are {alternatives(_PARAMETERS)}")
    namespace, name = pod_name(given.get("pod", ""))
    return Question(namespace, name, as_json=_format(given) == "json", limit=_limit(given))


def pod_name(text: str, namespace: str = DEFAULT_NAMESPACE) -> tuple[str, str]:
    """Namespace and name of `namespace/name`, or of `name` in the given namespace.

    Raises:
        QuestionError: It is neither.
    """
    before, slash, after = text.partition("/")
    found = (before, after) if slash else (namespace, before)
    if not all(map(_NAME.fullmatch, found)):
        raise QuestionError(f"the pod is {shown(text)}; it must be namespace/name")
    return found


def _format(given: Mapping[str, str]) -> str:
    text = given.get("format", "text")
    if text not in FORMATS:
        raise QuestionError(f"format is {shown(text)}; it must be {alternatives(FORMATS)}")
    return text


def _limit(given: Mapping[str, str]) -> int:
    text = given.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise QuestionError(f"limit is {shown(text)}; it must be a number of nodes, or 0 for all")
    return int(text)
