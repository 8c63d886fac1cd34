"""Which of several replicas may bind; read `HeldLease` first."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol
from urllib.parse import quote

import msgspec

from tasuki.kube.client import Kube
from tasuki.kube.errors import ConflictError, ForbiddenError, KubeError, NotFoundError
from tasuki.process.sentences import shown

log: Final = logging.getLogger(__name__)

LEASE_NAME: Final = "tasuki-schedext"

_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
# A holder that claims more than this is not believed.
_LONGEST_LEASE_SECONDS: Final = 60.0


class Lease(Protocol):
    """The right to choose devices, which at most one replica has at any moment."""

    async def held(self) -> str:
        """Get the right if it can be had soon; the reason why not, empty if we have it."""

    def keep(self, seconds: float) -> None:
        """Do not hand the right on before so long."""


class AlwaysHeld:
    """The right of a single replica."""

    async def held(self) -> str:
        return ""

    def keep(self, seconds: float) -> None:
        """It is never handed on."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long things last.

    What we bind reaches the API server within `ours_seconds` and the time that one request may take, which together
    must be less than `lease_seconds`: nothing of ours may come after somebody else took over.

    Attributes:
        lease_seconds: Without a renewal for so long, anybody may take it.
        ours_seconds: Without a renewal for so long, we do not consider it ours any more.
        renew_seconds: Between two renewals.
        idle_seconds: After the last bind, until it is handed back.
        settle_seconds: From taking it over until the watches have surely brought what the former holder bound.
        wait_seconds: The most that a bind waits for it.
        retry_seconds: Between attempts while it is wanted, and how long one request may take.
    """

    lease_seconds: float = 15.0
    ours_seconds: float = 10.0
    renew_seconds: float = 5.0
    idle_seconds: float = 10.0
    settle_seconds: float = 2.0
    wait_seconds: float = 2.5
    retry_seconds: float = 1.0


DEFAULT_LEASE_TIMES: Final = LeaseTimes()


class HeldLease:
    """A Lease of the API server that is taken when a bind wants it, and handed back when none has for a while.

    So the scheduler decides who binds by whom it asks, and the other replica can take over at once. Whether another's
    lease has lapsed is judged by our clock alone, from when we last saw it change, as client-go does
    (tools/leaderelection): no two clocks are ever compared.
    """

    def __init__(
        self,
        kube: Kube,
        identity: str,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        times: LeaseTimes = DEFAULT_LEASE_TIMES,
    ) -> None:
        """Prepare; nothing is held before `run`.

        Args:
            kube: The connection; the Lease is in its namespace.
            identity: Of this process, never used by another one, not even by its successor in the same pod.
            clock: `time.monotonic`.
            now: What is written as the time of day, for people.
            times: How long things last.
        """
        self._kube: Final = kube
        self._identity: Final = identity
        self._clock: Final = clock
        self._now: Final = now
        self._times: Final = times
        self._path: Final = _LEASES.format(quote(kube.namespace))
        self._wake: Final = asyncio.Event()
        self._turned: Final = asyncio.Condition()
        self._turns = 0
        self._taken: Callable[[], None] = lambda: None
        self._is_turning = False
        self._stopped = False
        self._wanted_until = self._kept_until = float("-inf")
        # The Lease as we last saw or wrote it, since when it has looked so, and which of its terms was our last.
        self._found: _Lease | None = None
        self._found_at = 0.0
        self._our_term: tuple[str, int] | None = None
        self._acquired_at = ""
        # Before the request that last made or kept it ours.
        self._renewed_at: float | None = None
        self._settled_at = 0.0
        self._reason = "the lease has not been asked for yet"

    @property
    def is_ours(self) -> bool:
        """Whether what we send now arrives before anybody else may take over, and all that others sent has arrived."""
        return self._is_renewed and self._clock() >= self._settled_at

    @property
    def _is_renewed(self) -> bool:
        return self._renewed_at is not None and self._clock() < self._renewed_at + self._times.ours_seconds

    async def held(self) -> str:
        """Get the lease if it can be had soon; the reason why not, empty if we have it."""
        if self._stopped:
            return "this replica is stopping"
        self._wanted_until = max(self._wanted_until, self._clock() + self._times.idle_seconds)
        if not self.is_ours:
            self._wake.set()
            await self._wait()
        return "" if self.is_ours else self._reason

    def keep(self, seconds: float) -> None:
        """Do not hand the lease back before so long, not even when we stop."""
        self._kept_until = max(self._kept_until, self._clock() + seconds)
        self._wanted_until = max(self._wanted_until, self._kept_until)

    def stop(self) -> None:
        """Let `run` hand the lease back and end."""
        self._stopped = True
        self._wake.set()

    async def run(self, taken: Callable[[], None]) -> None:
        """Take, renew and hand back, until `stop`. The only task that writes the Lease.

        Args:
            taken: Told when the lease becomes ours and others may have bound since it last was.
        """
        self._taken = taken
        while not self._stopped:
            self._wake.clear()
            self._is_turning = True
            pause = await self._turn()
            async with self._turned:
                self._is_turning = False
                self._turns += 1
                self._turned.notify_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
        if self._clock() >= self._kept_until:
            await self._hand_back()

    async def _wait(self) -> None:
        """Until the lease is ours, or it is known that waiting is no use."""
        # A turn that has begun already may not know that the lease is wanted.
        enough = self._turns + (2 if self._is_turning else 1)
        deadline = self._clock() + self._times.wait_seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(self._times.wait_seconds), self._turned:
                await self._turned.wait_for(
                    lambda: self.is_ours or (self._turns >= enough and self._ours_at() > deadline)
                )

    async def _turn(self) -> float | None:
        """What has to be done now; in how many seconds to come again, None if only when woken."""
        is_wanted = self._clock() < self._wanted_until
        try:
            if not is_wanted:
                await self._hand_back()
                return None
            async with asyncio.timeout(self._times.retry_seconds):
                return await (self._renew() if self._is_renewed else self._acquire())
        except TimeoutError:
            self._reason = f"the API server does not answer about the lease {shown(LEASE_NAME)}"
        except KubeError as error:
            self._reason = self._reason_of(error)
        return min(self._times.retry_seconds, self._until_settled())

    async def _renew(self) -> float:
        since = self._clock() - (self._renewed_at or 0.0)
        if since >= self._times.renew_seconds and self._found is not None:
            try:
                await self._write(self._found, self._identity, self._found.spec.lease_transitions or 0)
            except (ConflictError, NotFoundError):
                # Somebody else's, or our own renewal whose answer was lost: look, and until then do not bind.
                self._renewed_at = None
                return await self._acquire()
            since = 0.0
        until_idle = self._wanted_until - self._clock()
        return max(0.0, min(self._times.renew_seconds - since, until_idle, self._until_settled()))

    async def _acquire(self) -> float:
        found = await self._look()
        if found is not None and (wait := self._lapses_in(found)) > 0:
            self._reason = (
                f"{shown(found.spec.holder_identity)} binds at the moment; it holds the lease {shown(LEASE_NAME)} for "
                f"{wait:.0f} more seconds unless it renews it"
            )
            return min(wait, self._times.retry_seconds)
        term = (found.spec.lease_transitions or 0) if found is not None else 0
        is_next_of_ours = found is not None and (found.metadata.uid, term) == self._our_term
        self._acquired_at = _micro_time(self._now())
        try:
            written = await self._write(found, self._identity, term + 1)
        except ConflictError:
            return 0.0
        self._our_term = (written.metadata.uid, term + 1)
        self._settled_at = self._clock() + (0.0 if is_next_of_ours else self._times.settle_seconds)
        if not is_next_of_ours:
            self._taken()
        self._reason = "we hold the lease only since a moment ago, and wait for what the former holder bound"
        log.info("the lease is ours lease=%s identity=%s", LEASE_NAME, self._identity)
        return self._until_settled()

    async def _look(self) -> "_Lease | None":
        try:
            found = await self._kube.call("GET", f"{self._path}/{LEASE_NAME}", _Lease)
        except NotFoundError:
            self._found = None
            return None
        if self._found is None or found.metadata.resource_version != self._found.metadata.resource_version:
            self._found, self._found_at = found, self._clock()
        return found

    async def _write(self, found: "_Lease | None", holder: str, term: int) -> "_Lease":
        """Ours from before the request was sent: it may have taken effect at any moment after that.

        Raises:
            ConflictError: Somebody else wrote since `found`.
        """
        sent_at = self._clock()
        wanted = _Lease(
            metadata=_Metadata(
                name=LEASE_NAME,
                namespace=self._kube.namespace,
                uid=found.metadata.uid if found is not None else "",
                resource_version=found.metadata.resource_version if found is not None else "",
            ),
            spec=_Spec(
                holder_identity=holder,
                # As client-go: the field must be positive, and an old client that looks at nothing else waits a second.
                lease_duration_seconds=max(1, round(self._times.lease_seconds)) if holder else 1,
                acquire_time=self._acquired_at or None,
                renew_time=_micro_time(self._now()),
                lease_transitions=term,
            ),
        )
        method, path = ("POST", self._path) if found is None else ("PUT", f"{self._path}/{LEASE_NAME}")
        self._found = await self._kube.call(method, path, _Lease, msgspec.to_builtins(wanted))
        self._found_at = self._clock()
        self._renewed_at = sent_at if holder else None
        return self._found

    async def _hand_back(self) -> None:
        """At once if the API server answers; else it lapses by itself."""
        if self._renewed_at is None or self._found is None:
            return
        self._renewed_at = None
        try:
            async with asyncio.timeout(self._times.retry_seconds):
                await self._write(self._found, "", self._found.spec.lease_transitions or 0)
            log.info("the lease is handed back lease=%s identity=%s", LEASE_NAME, self._identity)
        except (TimeoutError, KubeError) as error:
            log.warning("the lease was not handed back, it lapses lease=%s error=%s", LEASE_NAME, error)

    def _ours_at(self) -> float:
        """When a bind may have it at the soonest, as far as we know."""
        if self._is_renewed:
            return self._settled_at
        wait = self._lapses_in(self._found) if self._found is not None else 0.0
        return self._clock() + wait + self._times.settle_seconds

    def _lapses_in(self, found: "_Lease") -> float:
        if found.spec.holder_identity in {None, "", self._identity}:
            return 0.0
        claimed = found.spec.lease_duration_seconds or self._times.lease_seconds
        return self._found_at + min(claimed, _LONGEST_LEASE_SECONDS) - self._clock()

    def _until_settled(self) -> float:
        """Whoever waits is told when the time has come."""
        rest = self._settled_at - self._clock()
        return rest if rest > 0 else self._times.renew_seconds

    def _reason_of(self, error: KubeError) -> str:
        if isinstance(error, ForbiddenError) and error.status == 403:
            wanted = "the verbs get, create and update on leases of the API group coordination.k8s.io"
            return f"{error}; grant our service account {wanted} in the namespace {self._kube.namespace}"
        return str(error)


class _Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`lease_transitions` is the number of the term: one more each time that somebody takes the lease."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: _Metadata = _Metadata()
    spec: _Spec = _Spec()


def _micro_time(time: datetime) -> str:
    """As Kubernetes spells a MicroTime."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
