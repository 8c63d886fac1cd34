"""What tokens are worth, as the API server says by TokenReviews: https://kubernetes.io/docs/reference/kubernetes-api/."""

import asyncio
import base64
import binascii
import logging
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from objectcache.access.reviewing import INVALID_SECONDS, Verdict, malformed
from objectcache.access.verdicts import Known, Verdicts
from objectcache.link import Identity
from tasuki.kube.backoff import Backoff
from tasuki.kube.client import Kube
from tasuki.kube.errors import ForbiddenError, InvalidError, KubeError
from tasuki.kube.objects import UNREADABLE
from tasuki.process.sentences import alternatives

log: Final = logging.getLogger(__name__)

_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_USERNAME: Final = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"

# By so many characters a token is known where it is repeated.
_TELLING: Final = 8

_AWAY: Final = "the API server reviews none"
_GRANT: Final = "grant our service account the verb create on tokenreviews (ClusterRole system:auth-delegator)"


@dataclass(frozen=True, slots=True)
class ReviewLimits:
    """How much is asked of the API server, and for how long its answers are believed.

    Attributes:
        valid_seconds: A valid token is reviewed again after so long; sooner if it expires.
        outage_seconds: For how long after a review its verdict stands while there can be no other.
        outage_step_seconds: For how long a verdict that is only known from before is passed on.
        timeout_seconds: For one review; pfio waits for three seconds in all.
        queue_seconds: For a review's turn.
        at_once: Reviews in flight.
        per_second: Reviews, on average: of 10,000 pods that read from a cache, each is reviewed once a minute.
        at_first: Reviews that need not wait for their second, as after a start.
        most: Verdicts that are remembered.
        first_pause_seconds: While the API server does not answer, it is asked again after so long.
        most_pause_seconds: The longest of such pauses, each of which is twice the one before.
    """

    valid_seconds: float = 60.0
    outage_seconds: float = 300.0
    outage_step_seconds: float = 5.0
    timeout_seconds: float = 2.0
    queue_seconds: float = 0.5
    at_once: int = 32
    per_second: float = 200.0
    at_first: int = 1_000
    most: int = 20_000
    first_pause_seconds: float = 0.5
    most_pause_seconds: float = 10.0


DEFAULT_LIMITS: Final = ReviewLimits()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time and chance.

    Attributes:
        monotonic: Seconds.
        now: Seconds since 1970; only compared with when tokens expire.
        uniform: Of two bounds.
    """

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    uniform: Callable[[float, float], float] = random.uniform


REAL: Final = Surroundings()


class TokenReviewer:
    """Asks about each token once, however many want to know, and remembers the answer for a while.

    While the API server does not answer, one review at a time finds out whether it does again; all others are answered
    at once, with what was known before or with 503.

    Attributes:
        verdicts: What it remembers; whoever watches pods drops some.
    """

    def __init__(
        self,
        kube: Kube,
        audiences: Sequence[str],
        report: Callable[[str], None],
        limits: ReviewLimits = DEFAULT_LIMITS,
        surroundings: Surroundings = REAL,
    ) -> None:
        """Nothing is asked before the first review.

        Args:
            kube: The connection.
            audiences: A token must be meant for one of these; at least one, as any token of the cluster would do else.
            report: Told why tokens cannot be reviewed, and "" when they can; only when that changes.
            limits: How much is asked.
            surroundings: Time and chance.

        Raises:
            ValueError: There is no audience.
        """
        if not audiences or not all(audiences):
            raise ValueError(f"the audiences are {list(audiences)!r}; name at least one, such as cache.tasuki.dev")
        self._kube: Final = kube
        self._audiences: Final = tuple(sorted(set(audiences)))
        self.verdicts: Final = Verdicts(limits.most)
        self._report: Final = report
        self._limits: Final = limits
        self._around: Final = surroundings
        self._asked: Final[dict[bytes, asyncio.Future[Verdict]]] = {}
        self._turns: Final = asyncio.Semaphore(limits.at_once)
        self._backoff: Final = Backoff(limits.first_pause_seconds, limits.most_pause_seconds, surroundings.uniform)
        self._problem = ""
        self._ask_again_at = 0.0
        self._is_probing = False
        self._asks_left = float(limits.at_first)
        self._asked_at = surroundings.monotonic()

    async def review(self, token: str) -> Verdict:
        refused = malformed(token)
        if refused is not None:
            return refused
        key = self.verdicts.key_of(token)
        while True:
            now = self._around.monotonic()
            known = self.verdicts.find(key)
            if known is not None and now < known.fresh_until:
                return _as_verdict(known, known.fresh_until - now)
            asked = self._asked.get(key)
            if asked is None:
                break
            await asyncio.wait([asked])
            if not asked.cancelled():
                return asked.result()
        return await self._ask_for_all(key, token)

    async def _ask_for_all(self, key: bytes, token: str) -> Verdict:
        """If whoever asks goes away, another of those who wait for the answer asks."""
        asked = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            verdict = await self._ask(key, token)
            asked.set_result(verdict)
            return verdict
        finally:
            asked.cancel()
            del self._asked[key]

    async def _ask(self, key: bytes, token: str) -> Verdict:
        if not self._may_ask():
            return self._from_before(key, "too many tokens are being reviewed")
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._turns.acquire()
        except TimeoutError:
            return self._from_before(key, "too many tokens are being reviewed")
        try:
            if not self._problem:
                return await self._call(key, token)
            if self._is_probing or self._around.monotonic() < self._ask_again_at:
                return self._from_before(key, _AWAY)
            self._is_probing = True
            try:
                return await self._call(key, token)
            finally:
                self._is_probing = False
        finally:
            self._turns.release()

    def _may_ask(self) -> bool:
        """Whether the API server can be asked about one more: whoever makes tokens up must not wear it out."""
        now = self._around.monotonic()
        left = self._asks_left + (now - self._asked_at) * self._limits.per_second
        self._asks_left, self._asked_at = min(left, self._limits.at_first), now
        if self._asks_left < 1:
            return False
        self._asks_left -= 1
        return True

    async def _call(self, key: bytes, token: str) -> Verdict:
        spec = {"token": token, "audiences": list(self._audiences)}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                answer = await self._kube.call("POST", _PATH, _TokenReview, body)
        except InvalidError as error:
            # Whoever sends such a token must not make it look as if the server were away.
            log.warning("the API server refuses a review status=%d reason=%s", error.status, error.reason)
            self._tell("")
            return self._keep(key, token, "the API server refuses to review the token")
        except KubeError as error:
            remedy = f"; {_GRANT}" if isinstance(error, ForbiddenError) else ""
            return self._without_answer(key, f"{_without(token, str(error))}{remedy}", error.retry_after_seconds)
        except TimeoutError:
            return self._without_answer(key, f"POST {_PATH}: no answer within {self._limits.timeout_seconds:g} s", 0.0)
        self._backoff.reset()
        self._tell("")
        return self._keep(key, token, _identity(answer.status, self._audiences))

    def _keep(self, key: bytes, token: str, found: Identity | str) -> Verdict:
        now = self._around.monotonic()
        if isinstance(found, str):
            known = Known(None, found, now + INVALID_SECONDS, now + self._limits.outage_seconds)
        else:
            # That it has expired by our clock is no reason to refuse what the API server accepts, only to keep it.
            left = max(0.0, expires_at(token) - self._around.now())
            fresh, stands = min(left, self._limits.valid_seconds), min(left, self._limits.outage_seconds)
            known = Known(found, "", now + fresh, now + stands)
        kept = self.verdicts.keep(key, known)
        return _as_verdict(known, known.fresh_until - now if kept else 0.0)

    def _without_answer(self, key: bytes, problem: str, retry_after_seconds: float) -> Verdict:
        now = self._around.monotonic()
        # The thirty others that were in flight are part of the same failure.
        if now >= self._ask_again_at:
            asked_for = min(retry_after_seconds, self._limits.most_pause_seconds)
            self._ask_again_at = now + max(self._backoff.next_seconds(), asked_for)
        self._tell(problem)
        return self._from_before(key, _AWAY)

    def _from_before(self, key: bytes, why: str) -> Verdict:
        now = self._around.monotonic()
        known = self.verdicts.find(key)
        if known is not None and now < known.known_until:
            return _as_verdict(known, min(known.known_until - now, self._limits.outage_step_seconds))
        reason = f"whether the token is valid cannot be said now, as {why}; try again"
        return Verdict(None, 503, reason, self._limits.first_pause_seconds)

    def _tell(self, problem: str) -> None:
        if bool(problem) != bool(self._problem):
            if problem:
                log.warning("tokens cannot be reviewed error=%s", problem)
            else:
                log.info("tokens can be reviewed again")
        if problem != self._problem:
            self._problem = problem
            self._report(problem)


def expires_at(token: str) -> float:
    """Seconds since 1970, as a JWT says itself; infinite if it does not, as only its issuer can say what it means."""
    parts = token.split(".")
    if len(parts) != 3:
        return math.inf
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        found = msgspec.json.decode(payload, type=_Claims).exp
    except (binascii.Error, *UNREADABLE):
        return math.inf
    return math.inf if found is None else found


class _Claims(msgspec.Struct, frozen=True):
    exp: float | None = None


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    # Of each an empty list may be written as null, as Go does.
    extra: dict[str, tuple[str, ...] | None] | None = None


class _ReviewStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] | None = None


class _TokenReview(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


def _identity(status: _ReviewStatus, audiences: Sequence[str]) -> Identity | str:
    """Whom the token names, or why it is worth nothing."""
    wanted = alternatives(audiences)
    if not status.authenticated:
        # Why is not told: the server's text may say more of it than its sender should know.
        return f"the API server does not accept the token; use one for the audience {wanted} that has not expired"
    # An authenticator that knows nothing of audiences names none: the token is for the API server then.
    if not set(audiences).intersection(status.audiences or ()):
        return f"the token is for another audience; use one for the audience {wanted}"
    match = _USERNAME.fullmatch(status.user.username)
    if match is None:
        return "the token is no service account's; use the one that is mounted into the pod"
    extra = status.user.extra or {}
    name, uid = (next(iter(extra.get(key) or ()), "") for key in (_POD_NAME, _POD_UID))
    return Identity(match[1], match[2], name, uid)


def _as_verdict(known: Known, lasts_seconds: float) -> Verdict:
    if known.identity is None:
        return Verdict(None, 401, known.reason, lasts_seconds)
    return Verdict(known.identity, 200, "", lasts_seconds)


def _without(token: str, text: str) -> str:
    """An error may tell what was sent, also cut off; whatever follows the token is left out with it."""
    before, found, _ = text.partition(token[:_TELLING])
    return f"{before}[token]" if found else text
