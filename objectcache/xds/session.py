"""One Envoy's stream as a protocol without I/O; read `Session.responses` first.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Final, Literal

from objectcache.xds.snapshot import CLUSTERS, ENDPOINTS, LISTENERS, ORDER, ROUTES, Resource, Snapshot

WILDCARD: Final = "*"

# Without names at first, a client of these wants all there are.
_LEGACY_WILDCARD: Final = frozenset({CLUSTERS, LISTENERS})
# Of what the first refers to, Envoy waits for the second before it uses what has changed ("resource warming").
_WARMED_BY: Final = {CLUSTERS: ENDPOINTS, LISTENERS: ROUTES}
_ABOVE: Final = frozenset({LISTENERS, ROUTES})
# Of one type. There is one of each here; what a client names beyond is kept as well.
_MOST_NAMES: Final = 1_000


class ProtocolError(Exception):
    """A request that no client of the protocol sends."""


@dataclass(frozen=True, slots=True)
class Request:
    """A DiscoveryRequest.

    Attributes:
        nonce: Of the response that it answers; empty for none.
        error: Why that was refused; None if it was not.
    """

    type_url: str
    names: tuple[str, ...] = ()
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """A DeltaDiscoveryRequest.

    Attributes:
        known: Versions by name that the client has from an earlier stream.
        nonce: As of `Request`; so is `error`.
    """

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent; `removed` is of the delta variant."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What a client made of a response.

    Attributes:
        outcome: `stale` for one that is not the last; that is passed over.
        version: Of the response; empty if it is stale.
        reason: The client's, if it refuses.
    """

    outcome: Literal["accepted", "refused", "stale"]
    version: str = ""
    reason: str = ""


@dataclass(slots=True)
class _Subscription:
    """What a client wants of one type, and what it was told.

    Attributes:
        sent: By name; of the delta variant with what the client brought along, whose bodies are unknown.
        due: Names to send although they are sent; WILDCARD to answer even without any.
        nonce: Of the last response; empty before the first.
        in_flight: Whether that is unanswered.
        refused: Whether the client refused it.
    """

    type_url: str
    wildcard: bool
    names: set[str] = field(default_factory=set)
    named_once: bool = False
    sent: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, Resource] = field(default_factory=dict)
    due: set[str] = field(default_factory=set)
    nonce: str = ""
    version: str = ""
    in_flight: bool = False
    refused: bool = False

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def check_size(self) -> None:
        if len(self.names | self.sent.keys()) > _MOST_NAMES:
            raise ProtocolError(f"more than {_MOST_NAMES} names of {self.type_url}; there are never so many here")

    def answered(self, error: str | None) -> Answered:
        self.in_flight, self.refused = False, error is not None
        if error is None:
            return Answered("accepted", self.version)
        return Answered("refused", self.version, error or "no reason given")


@dataclass(frozen=True, slots=True)
class _News:
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


class Session(ABC):
    """What is common to both variants of the protocol.

    One response of a type is in flight at a time, so that an Envoy that is slow is sent the last state and not every
    one before it.
    """

    def __init__(self) -> None:
        self._subscriptions: Final[dict[str, _Subscription]] = {}
        self._responses = 0

    def responses(self, snapshot: Snapshot) -> list[Response]:
        """What may be sent now, in its order; it counts as sent.

        Make before break: what is new goes down the ORDER, nothing before what it refers to. What is gone goes the
        other way, once everything new is accepted.
        """
        found: list[Response] = []
        held = False
        for each in self._in_order():
            news = self._news(each, snapshot)
            if news is None:
                continue
            # Not for endpoints, nor for a first answer: Envoy may be waiting for them before it answers what is above.
            if each.in_flight or (held and each.type_url in _ABOVE and each.nonce):
                held = True
                continue
            found.append(self._send(each, news))
            if news.resources:
                self._warm(each)
        if held or any(each.in_flight or each.refused for each in self._subscriptions.values()):
            return found
        for each in reversed(self._in_order()):
            gone = self._gone(each, snapshot)
            if gone:
                found.append(self._unmake(each, gone))
                break
        return found

    def _in_order(self) -> list[_Subscription]:
        return [self._subscriptions[each] for each in ORDER if each in self._subscriptions]

    def _warm(self, sent: _Subscription) -> None:
        below = self._subscriptions.get(_WARMED_BY.get(sent.type_url, ""))
        if below is not None:
            below.due |= below.names | set(below.sent)

    def _send(self, to: _Subscription, news: _News) -> Response:
        self._responses += 1
        to.nonce, to.in_flight, to.due = str(self._responses), True, set()
        for name in news.removed:
            to.sent.pop(name, None)
            to.bodies.pop(name, None)
        to.sent.update((each.name, each.version) for each in news.resources)
        to.bodies.update((each.name, each) for each in news.resources)
        to.version = _version_of(to.sent)
        return Response(to.type_url, to.version, to.nonce, news.resources, news.removed)

    @abstractmethod
    def _news(self, to: _Subscription, snapshot: Snapshot) -> _News | None:
        """What to send without taking anything away that the client has; None for no response."""

    @abstractmethod
    def _gone(self, to: _Subscription, snapshot: Snapshot) -> frozenset[str]:
        """What the client still has and is no more."""

    @abstractmethod
    def _unmake(self, to: _Subscription, gone: frozenset[str]) -> Response: ...


class StateOfTheWorld(Session):
    """Each response has all that the client wants of a type."""

    def take(self, request: Request) -> Answered | None:
        """What the client answered; None if it did not answer.

        Raises:
            ProtocolError: The request has no type, or names more than any client of ours wants.
        """
        known = self._subscriptions.get(request.type_url)
        if known is None:
            known = self._subscriptions[request.type_url] = _subscribed(request.type_url)
        elif request.nonce and request.nonce != known.nonce:
            return Answered("stale")
        answer = known.answered(request.error) if request.nonce and known.in_flight else None
        if not request.nonce:
            # The first, or one that begins anew.
            known.in_flight = False
            known.due.add(WILDCARD)
        self._want(known, request.names)
        known.check_size()
        return answer

    @staticmethod
    def _want(known: _Subscription, names: tuple[str, ...]) -> None:
        wanted = set(names) - {WILDCARD}
        known.named_once = known.named_once or bool(names)
        legacy = not known.named_once and known.type_url in _LEGACY_WILDCARD
        wildcard = WILDCARD in names or legacy
        known.due |= wanted - known.names
        if wildcard and not known.wildcard:
            known.due.add(WILDCARD)
        known.wildcard, known.names = wildcard, wanted
        for name in [each for each in known.sent if not known.wants(each)]:
            del known.sent[name], known.bodies[name]

    def _news(self, to: _Subscription, snapshot: Snapshot) -> _News | None:
        current = {name: each for name, each in snapshot.of(to.type_url).items() if to.wants(name)}
        # Of clusters and listeners, absence takes away; of the others it says nothing.
        kept = to.bodies if to.type_url in _LEGACY_WILDCARD else {}
        resources = {**kept, **current}
        unchanged = all(to.sent.get(name) == each.version for name, each in resources.items())
        if unchanged and not to.due:
            return None
        return _News(_sorted(resources.values()))

    def _gone(self, to: _Subscription, snapshot: Snapshot) -> frozenset[str]:
        if to.type_url not in _LEGACY_WILDCARD:
            return frozenset()
        return frozenset(to.sent) - frozenset(snapshot.of(to.type_url))

    def _unmake(self, to: _Subscription, gone: frozenset[str]) -> Response:
        kept = _sorted(each for name, each in to.bodies.items() if name not in gone)
        return replace(self._send(to, _News(kept, tuple(gone))), removed=())


class Delta(Session):
    """Each response has what changed."""

    def take(self, request: DeltaRequest) -> Answered | None:
        """As of `StateOfTheWorld`; what a request subscribes to counts even where its nonce is old."""
        known = self._subscriptions.get(request.type_url)
        answer: Answered | None = None
        if known is None:
            known = self._begun(request)
        elif request.nonce:
            answered = request.nonce == known.nonce and known.in_flight
            answer = known.answered(request.error) if answered else Answered("stale")
        self._subscribe(known, request)
        known.check_size()
        return answer

    def _begun(self, request: DeltaRequest) -> _Subscription:
        known = self._subscriptions[request.type_url] = _subscribed(request.type_url)
        known.wildcard = not request.subscribe and request.type_url in _LEGACY_WILDCARD
        known.sent.update(request.known)
        if known.wildcard:
            known.due.add(WILDCARD)
        return known

    @staticmethod
    def _subscribe(known: _Subscription, request: DeltaRequest) -> None:
        for name in request.unsubscribe:
            if name == WILDCARD:
                known.wildcard = False
                continue
            known.names.discard(name)
            if known.wildcard:
                # It cannot know whether it still has it.
                known.due.add(name)
        for name in request.subscribe:
            # What it has from before is not sent again, but for what it may be waiting for.
            if name not in request.known or known.type_url not in _LEGACY_WILDCARD:
                known.due.add(name)
            if name == WILDCARD:
                known.wildcard = True
            else:
                known.names.add(name)
        if request.unsubscribe:
            for name in [each for each in known.sent if not known.wants(each)]:
                del known.sent[name]
                known.bodies.pop(name, None)

    def _news(self, to: _Subscription, snapshot: Snapshot) -> _News | None:
        current = snapshot.of(to.type_url)
        found = _sorted(
            each
            for name, each in current.items()
            if to.wants(name) and (name in to.due or to.sent.get(name) != each.version)
        )
        # Asked for and not there: it need not wait.
        absent = tuple(sorted(to.due - {WILDCARD} - current.keys() - to.sent.keys()))
        return _News(found, absent) if found or absent or WILDCARD in to.due else None

    def _gone(self, to: _Subscription, snapshot: Snapshot) -> frozenset[str]:
        return frozenset(filter(to.wants, to.sent)) - frozenset(snapshot.of(to.type_url))

    def _unmake(self, to: _Subscription, gone: frozenset[str]) -> Response:
        return self._send(to, _News((), tuple(sorted(gone))))


def _subscribed(type_url: str) -> _Subscription:
    if not type_url:
        raise ProtocolError("the request has no type_url; each request of an aggregated stream must have one")
    return _Subscription(type_url, wildcard=False)


def _sorted(resources: Iterable[Resource]) -> tuple[Resource, ...]:
    return tuple(sorted(resources, key=lambda each: each.name))


def _version_of(sent: Mapping[str, str]) -> str:
    """Of all that a client has of a type: same content, same version, from any replica."""
    digest = blake2b(digest_size=8)
    for name, version in sorted(sent.items()):
        digest.update(f"{len(name)}:{name}={version};".encode())
    return digest.hexdigest()
