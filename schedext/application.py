"""The application that answers the scheduler; what it is asked and answers is in `schedext.wire`.

The scheduler throws the body of any status but 200 away, and with it the reason (pkg/scheduler/extender.go, `send`).
So every question of its own is answered with 200, and whatever went wrong is in the answer's Error, if it has one.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol

from schedext import wire
from schedext.explain_page import PATH as EXPLAIN_PATH
from schedext.metrics import ANSWERED, BAD_REQUEST, BIND, ERROR, FILTER, NOT_READY, PREEMPT, PRIORITIZE, Metrics
from schedext.pod import Pod
from schedext.wire import FilterResult, Victims
from tasuki.process.asgi import (
    Asgi,
    AsgiScope,
    Bodies,
    Receive,
    RequestError,
    Send,
    refuse,
    reply,
    reply_and_close,
)

log: Final = logging.getLogger(__name__)

# What is held of bodies for all requests together.
_MOST_HELD_BYTES: Final = 64 * 2**20


class Decisions(Protocol):
    """What is decided at once, from what is known."""

    def filter(self, pod: Pod, names: Sequence[str], /) -> FilterResult: ...

    def prioritize(self, pod: Pod, names: Sequence[str], /) -> Sequence[bytes]:
        """One encoded HostPriority for each name, in their order."""
        ...

    def preempt(self, pod: Pod, victims: Mapping[str, Victims], /) -> Mapping[str, Victims]: ...


class Binds(Protocol):
    async def bind(self, namespace: str, name: str, uid: str, node: str, /) -> str:
        """Why the pod could not be bound; empty if it is."""
        ...


class Waits(Protocol):
    """Remembers who waits for room, so that they can be woken when there is some."""

    def refused(self, uid: str, /) -> None:
        """There was not enough room for the pod now, on all nodes or on some."""
        ...

    def fitted(self, uid: str, /) -> None:
        """The pod was refused nowhere for want of room."""
        ...

    def gone(self, uid: str, /) -> None:
        """The pod has a node."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """What answers come from.

    Attributes:
        decisions: Takes milliseconds, between two turns of the loop.
        binds: Waits for the API server.
        waits: Is told what became of each filter.
        ready: Why nothing can be decided yet; empty if it can.
    """

    decisions: Decisions
    binds: Binds
    waits: Waits
    ready: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    outcome: str = ANSWERED


@dataclass(frozen=True, slots=True)
class _Verb:
    """A verb of the API.

    Attributes:
        answer: Makes the answer of a body.
        failure: Makes the answer that says why there is no other.
    """

    name: str
    answer: Callable[[bytes], Awaitable[_Answer]]
    failure: Callable[[str, bytes], bytes]


class Application:
    """An ASGI application for the scheduler's verbs.

    Args:
        service: What answers come from.
        explain: What answers /explain.
    """

    def __init__(self, service: Service, explain: Asgi, metrics: Metrics) -> None:
        self._decisions: Final = service.decisions
        self._binds: Final = service.binds
        self._waits: Final = service.waits
        self._ready: Final = service.ready
        self._explain: Final = explain
        self._metrics: Final = metrics
        self._bodies: Final = Bodies(
            "what the scheduler sends an extender",
            wire.MOST_BYTES,
            _MOST_HELD_BYTES,
            advice=f"if it holds whole nodes, {wire.REMEDY}",
        )
        self._verbs: Final = {
            "/filter": _Verb(FILTER, self._filter, _filter_failure),
            "/prioritize": _Verb(PRIORITIZE, self._prioritize, _prioritize_failure),
            "/bind": _Verb(BIND, self._bind, _bind_failure),
            "/preempt": _Verb(PREEMPT, self._preempt, _preempt_failure),
        }

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        verb = self._verbs.get(scope["path"])
        if verb is not None:
            await self._answer(verb, scope, receive, send)
        elif scope["path"] == EXPLAIN_PATH:
            await self._explain(scope, receive, send)
        else:
            text = f"there is nothing here; try {', '.join(self._verbs)} or {EXPLAIN_PATH}"
            await refuse(scope, receive, send, RequestError(404, text, unread=True))

    async def _answer(self, verb: _Verb, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            content = await self._bodies.read(scope, receive)
        except RequestError as error:
            self._metrics.requested(verb.name, error.outcome)
            if error.status == 405:
                await refuse(scope, receive, send, error)
                return
            log.warning("request refused verb=%s reason=%r", verb.name, str(error))
            unread = receive if error.unread else None
            await reply_and_close(send, verb.failure(str(error), b""), unread=unread)
            return
        started = perf_counter()
        answer = await self._answered(verb, content)
        self._metrics.took(verb.name, perf_counter() - started)
        self._metrics.requested(verb.name, answer.outcome)
        await reply(send, answer.body)

    async def _answered(self, verb: _Verb, content: bytes) -> _Answer:
        try:
            if reason := self._ready():
                return _Answer(verb.failure(f"not ready: {reason}", content), NOT_READY)
            return await verb.answer(content)
        except wire.WireError as error:
            log.warning("bad request verb=%s reason=%r", verb.name, str(error))
            return _Answer(verb.failure(str(error), content), BAD_REQUEST)
        except Exception as error:
            log.exception("a defect keeps a request from its answer verb=%s", verb.name)
            text = f"this is a defect of Tasuki: {type(error).__name__}; the scheduler extender's log says more"
            return _Answer(verb.failure(text, content), ERROR)

    async def _filter(self, content: bytes) -> _Answer:
        asked = wire.extender_args(content)
        self._metrics.named(FILTER, len(asked.names))
        result = self._decisions.filter(asked.pod, asked.names)
        self._metrics.refused(len(result.unresolvable), len(result.failed))
        waits = bool(result.failed) or not result.names
        (self._waits.refused if waits else self._waits.fitted)(asked.pod.metadata.uid)
        return _Answer(wire.filter_result(result))

    async def _prioritize(self, content: bytes) -> _Answer:
        asked = wire.extender_args(content)
        self._metrics.named(PRIORITIZE, len(asked.names))
        return _Answer(wire.priorities(self._decisions.prioritize(asked.pod, asked.names)))

    async def _bind(self, content: bytes) -> _Answer:
        asked = wire.binding_args(content)
        error = await self._binds.bind(asked.namespace, asked.name, asked.uid, asked.node)
        if not error:
            self._waits.gone(asked.uid)
        return _Answer(wire.binding_result(error))

    async def _preempt(self, content: bytes) -> _Answer:
        asked = wire.preemption_args(content)
        self._metrics.named(PREEMPT, len(asked.victims))
        return _Answer(wire.preemption_result(self._decisions.preempt(asked.pod, asked.victims)))


def _filter_failure(text: str, _: bytes) -> bytes:
    return wire.filter_result(FilterResult(error=text))


def _prioritize_failure(_: str, content: bytes) -> bytes:
    """The answer has no Error, and one that cannot be read is passed over as this one is."""
    return wire.equal_priorities(wire.names_in(content))


def _bind_failure(text: str, _: bytes) -> bytes:
    return wire.binding_result(text)


def _preempt_failure(_: str, __: bytes) -> bytes:
    """The answer has no Error; that no node is left costs a retry, where a pod killed in vain would cost its work."""
    return wire.preemption_result({})
