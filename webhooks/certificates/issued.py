"""A certificate that the replicas issue to themselves, and make the API server trust."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from tasuki.kube.backoff import Backoff
from tasuki.kube.client import Kube
from tasuki.kube.errors import ConflictError, ForbiddenError, KubeError
from tasuki.process.tls.live import CertificateError, LiveContext, NotLoadedError, utc_now
from tasuki.process.tls.outlets import Outlets
from webhooks.certificates import bundle
from webhooks.certificates.bundle import Configuration, WebhookConfiguration
from webhooks.certificates.chain import BrokenChainError, Chain
from webhooks.certificates.issuing import DEFAULT_TIMES, Known, Step, Times, next_step
from webhooks.certificates.minting import Mint, carried_out
from webhooks.certificates.restraint import RestrainedError, Restraint
from webhooks.certificates.secret import ChainSecret, Secret

log: Final = logging.getLogger(__name__)

# Renewed, prepared, promoted, retired; more in one round would be a circle.
_MOST_STEPS: Final = 5
# While replicas overrule each other, each does so at every look, then ever more rarely.
_MOST_RESTRAINT_SECONDS: Final = 3600.0
_PEACE_SECONDS: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Order:
    """What certificate is wanted.

    Attributes:
        secret: Its name, in our own namespace; an empty Secret is filled.
        names: Host names and addresses that clients call us by.
        configurations: Whose webhooks are to trust it.
    """

    secret: str
    names: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    times: Times = DEFAULT_TIMES

    def __post_init__(self) -> None:
        for name in self.names:
            if not (name and name.isascii()):
                raise ValueError(f"a certificate cannot be for {name!r}; write a host name in ASCII, or an address")


def _monotonic() -> float:
    """Restraint goes by this, for the wall clock may be what is wrong."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class IssuedPace:
    """How often is looked.

    Attributes:
        uniform: Chooses a number between two.
        look_seconds: Between two looks, a fifth more or less, so that replicas do not come as one.
        first_pause_seconds: Before the first attempt after a failure.
        most_pause_seconds: Before any attempt.
    """

    uniform: Callable[[float, float], float]
    now: Callable[[], datetime] = utc_now
    look_seconds: float = 60.0
    first_pause_seconds: float = 1.0
    most_pause_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class _Configured:
    """A look at the configurations."""

    found: Mapping[Configuration, WebhookConfiguration]
    absent: tuple[Configuration, ...] = ()
    failure: KubeError | None = None

    def trust(self, wanted: bytes) -> bool:
        return self.failure is None and all(found.trusts(wanted) for found in self.found.values())

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        return tuple(authority for found in self.found.values() for authority in found.authorities)


@dataclass(slots=True)
class _Seen:
    """What one replica remembers from round to round.

    Attributes:
        chain: The last in the Secret.
        served: What was loaded.
        trusted: The bundle that all configurations have, and since when they were seen to.
        trusted_once: Whether they ever were.
    """

    chain: Chain | None = None
    served: x509.Certificate | None = None
    trusted: tuple[bytes, datetime] | None = None
    trusted_once: bool = False

    def trusts(self, wanted: bytes, now: datetime) -> None:
        self.trusted_once = True
        if self.trusted is None or self.trusted[0] != wanted:
            self.trusted = (wanted, now)

    def trusted_since(self, wanted: bytes) -> datetime | None:
        return self.trusted[1] if self.trusted and self.trusted[0] == wanted else None


class IssuedCertificate:
    """Keeps the Secret, what is served and what the configurations trust in step; any number of replicas may."""

    def __init__(self, kube: Kube, live: LiveContext, order: Order, outlets: Outlets, pace: IssuedPace) -> None:
        self._kube: Final = kube
        self._live: Final = live
        self._order: Final = order
        self._outlets: Final = outlets
        self._pace: Final = pace
        self._secret: Final = ChainSecret(kube, order.secret)
        self._seen: Final = _Seen()
        self._restraint: Final = Restraint(pace.look_seconds, _MOST_RESTRAINT_SECONDS, _PEACE_SECONDS)
        self._problem = ""

    async def run(self) -> None:
        """Never ends; while the API server is away, what was loaded is served on."""
        pace = self._pace
        backoff = Backoff(pace.first_pause_seconds, pace.most_pause_seconds, pace.uniform)
        while True:
            problem, failure = "", None
            try:
                problem = await self._round()
            except (KubeError, CertificateError, RestrainedError) as error:
                failure = error
            now = pace.now()
            if isinstance(failure, ConflictError):
                log.info("another replica was faster, looking again error=%s", failure)
            elif failure is not None:
                remedy = "; apply manifests/webhooks, which allows it" if isinstance(failure, ForbiddenError) else ""
                self._tell(f"{failure}{remedy}", serving=self._seen.trusted_once and self._live.serves_at(now))
            else:
                self._tell(problem, serving=True)
            pause = self._pause_seconds(failure, backoff)
            await asyncio.sleep(min(pause, self._live.seconds_until_change(now)))

    def _pause_seconds(self, failure: Exception | None, backoff: Backoff) -> float:
        pace = self._pace
        if isinstance(failure, KubeError | CertificateError):
            asked = failure.retry_after_seconds if isinstance(failure, KubeError) else 0.0
            return min(max(backoff.next_seconds(), asked), pace.most_pause_seconds)
        backoff.reset()
        return pace.uniform(pace.look_seconds * 0.8, pace.look_seconds * 1.2)

    def _tell(self, problem: str, *, serving: bool) -> None:
        if problem and problem != self._problem:
            log.warning("certificates are not in order serving=%s problem=%s", serving, problem)
        self._problem = problem
        self._outlets.tell(problem, serving=serving)

    async def _round(self) -> str:
        """Bring everything one look further; the answer is what the operator should know of.

        The configurations are read before the Secret, and written after it as they were read: whoever wrote a newer
        bundle into one had written it into the Secret before, so that an older bundle never replaces a newer one.
        """
        configured = await self._configured()
        secret = await self._secret.find()
        chain = await self._in_order(secret, configured)
        self._serve(chain)
        await self._spread(chain, configured)
        if configured.failure is not None:
            raise configured.failure
        absent = ", ".join(str(configuration) for configuration in configured.absent)
        return f"there is no {absent}; apply manifests/webhooks" if absent else ""

    async def _configured(self) -> _Configured:
        found: dict[Configuration, WebhookConfiguration] = {}
        absent: list[Configuration] = []
        failure: KubeError | None = None
        for configuration in self._order.configurations:
            try:
                answer = await bundle.find(self._kube, configuration)
            except KubeError as error:
                failure = error
                continue
            if answer is None:
                absent.append(configuration)
            else:
                found[configuration] = answer
        return _Configured(found, tuple(absent), failure)

    async def _in_order(self, secret: Secret | None, configured: _Configured) -> Chain:
        """The chain in the Secret, after all the steps that are due."""
        chain = self._stored(secret)
        self._note_trust(chain, configured)
        now = self._pace.now()
        for _ in range(_MOST_STEPS):
            since = self._seen.trusted_since(chain.bundle) if chain and configured.failure is None else None
            known = Known(chain, self._seen.chain, configured.authorities, since)
            step = next_step(known, now, self._order.names, self._order.times)
            if step.action == "keep" and chain is not None:
                break
            self._check_restraint(step)
            changed = carried_out(step, Mint(self._order.names, self._order.times, now))
            secret = await self._secret.write(secret, changed)
            if step.overrules:
                self._restraint.overruled(_monotonic())
            log.info("certificates changed action=%s secret=%s reason=%s", step.action, self._secret, step.reason)
            chain = changed
        assert chain is not None, "the first step makes one"
        self._seen.chain = chain
        return chain

    def _check_restraint(self, step: Step) -> None:
        if step.overrules and not self._restraint.allows(_monotonic()):
            raise RestrainedError(
                f"others replace the certificates that this replica issues, which finds that {step.reason}; "
                "give all replicas the same --server-names, and their nodes the right time"
            )

    def _stored(self, secret: Secret | None) -> Chain | None:
        if secret is None:
            return None
        try:
            chain = secret.chain()
            if chain is not None and chain.server.certificate != self._seen.served:
                self._live.check(chain.server.certificate_pem, chain.server.key_pem)
        except NotLoadedError:
            raise  # what is in the Secret may be good
        except (BrokenChainError, CertificateError) as error:
            log.warning("what is in the Secret is replaced secret=%s error=%s", self._secret, error)
            return None
        return chain

    def _note_trust(self, chain: Chain | None, configured: _Configured) -> None:
        if configured.failure is not None:
            return
        if chain is not None and configured.trust(chain.bundle):
            self._seen.trusts(chain.bundle, self._pace.now())
        else:
            self._seen.trusted = None

    def _serve(self, chain: Chain) -> None:
        if chain.server.certificate != self._seen.served:
            self._live.load(chain.server.certificate_pem, chain.server.key_pem)
            self._seen.served = chain.server.certificate

    async def _spread(self, chain: Chain, configured: _Configured) -> None:
        """Make the configurations that were found trust the chain."""
        wanted = chain.bundle
        for configuration, found in configured.found.items():
            if not found.trusts(wanted):
                await bundle.set_bundle(self._kube, configuration, found, wanted)
                log.info("authorities written configuration=%s count=%d", configuration, len(chain.trusted))
        if configured.failure is None:
            self._seen.trusts(wanted, self._pace.now())
