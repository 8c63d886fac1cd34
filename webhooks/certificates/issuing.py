"""What to do next with the certificates that the replicas share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from webhooks.certificates.chain import Chain, without_repeats

# keep: nothing. start: a new authority and a server certificate of it. renew: a server certificate of the authority.
# prepare: another authority into the bundle. promote: a server certificate of that one, which is now the authority.
# retire: authorities that nobody needs leave the bundle.
Action = Literal["keep", "start", "renew", "prepare", "promote", "retire"]

# A certificate is valid from so long before it was issued: clocks differ.
CLOCK_SKEW: Final = timedelta(minutes=5)
# Beside the authority; more come together only where something goes round in circles, and Secrets are finite.
_MOST_OTHERS: Final = 8


@dataclass(frozen=True, slots=True)
class Times:
    """How long certificates last; the first three are open-policy-agent/cert-controller's.

    Attributes:
        renew_before: A certificate is replaced so long before its end.
        overlap: How long all configurations must have had a new authority before it signs. API servers take a
            changed configuration up within seconds.
        retire_after: How long after that the old authority is trusted still; a replica that the API server was out
            of reach for serves on with the old certificate.
    """

    authority_lifetime: timedelta = timedelta(days=3650)
    server_lifetime: timedelta = timedelta(days=365)
    renew_before: timedelta = timedelta(days=90)
    overlap: timedelta = timedelta(minutes=10)
    retire_after: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        if not timedelta() < self.renew_before < self.server_lifetime:
            raise ValueError(
                f"certificates that last {self.server_lifetime} cannot be renewed {self.renew_before} before that; "
                "make renew_before shorter than server_lifetime"
            )
        if self.authority_lifetime <= self.authority_before:
            raise ValueError(
                f"an authority that lasts {self.authority_lifetime} would be replaced at once; "
                f"make authority_lifetime longer than {self.authority_before}"
            )

    @property
    def authority_before(self) -> timedelta:
        """How long before its end an authority is replaced: what it signs until then lasts its whole lifetime."""
        return self.server_lifetime + self.renew_before


DEFAULT_TIMES: Final = Times()


@dataclass(frozen=True, slots=True)
class Known:
    """What a replica sees.

    Attributes:
        stored: In the Secret; None if there is nothing usable.
        earlier: What was last in the Secret; None if this replica has never seen anything.
        configured: The authorities that the webhook configurations trust.
        trusted_since: When every configuration had `stored`'s bundle for the first time; None while one has not.
    """

    stored: Chain | None
    earlier: Chain | None = None
    configured: tuple[x509.Certificate, ...] = ()
    trusted_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done.

    Attributes:
        base: The chain to do it to; None to start anew.
        others: Authorities that stay trusted beside the new one, for `start`.
        overrules: Whether what is stored is of no use here, though whoever stored it must have thought otherwise.
    """

    action: Action
    reason: str
    base: Chain | None = None
    others: tuple[x509.Certificate, ...] = ()
    overrules: bool = False


def next_step(known: Known, now: datetime, names: Sequence[str], times: Times) -> Step:
    """One step; after it, ask again.

    Args:
        known: What this replica sees.
        now: With a time zone.
        names: Host names and addresses that the server certificate must be valid for.
        times: How long things last.
    """
    chain = known.stored
    if chain is None:
        return _without_chain(known, now)
    coming = chain.next_authority
    if coming and not is_valid(coming.certificate, now):
        return Step("prepare", "the next authority is not valid now", chain, overrules=True)
    if not is_valid(chain.authority.certificate, now):
        reason = "the authority is not valid now"
        step = Step("promote", reason, chain) if coming else _start(reason, known, now)
        return replace(step, overrules=True)
    unfit = _unfit(chain, now, names)
    if unfit:
        return Step("renew", unfit, chain, overrules=True)
    return _when_fit(chain, known.trusted_since, now, times)


def _without_chain(known: Known, now: datetime) -> Step:
    """Nothing is stored: somebody wants new certificates, and what this replica serves lasts until they are trusted."""
    earlier = known.earlier
    if earlier is None or not (
        is_valid(earlier.server.certificate, now) and is_valid(earlier.authority.certificate, now)
    ):
        return _start("the Secret holds no usable certificates", known, now)
    others = [c for c in (*earlier.trusted, *known.configured) if c != earlier.authority.certificate]
    base = replace(earlier, next_authority=None, others=_still_trusted(others, now))
    return Step("prepare", "the certificates were taken out of the Secret", base)


def _start(reason: str, known: Known, now: datetime) -> Step:
    # Another replica may still serve a certificate of an authority that the configurations trust.
    return Step("start", reason, others=_still_trusted(known.configured, now))


def _unfit(chain: Chain, now: datetime, names: Sequence[str]) -> str:
    """Why the server certificate cannot be served; empty if it can."""
    certificate = chain.server.certificate
    if not is_valid(certificate, now):
        return "the server certificate is not valid now"
    missing = [name for name in names if not _covers(certificate, name)]
    if missing:
        return f"the server certificate is not for {', '.join(missing)}"
    try:
        certificate.verify_directly_issued_by(chain.authority.certificate)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return "the server certificate is not the authority's"
    return ""


def _when_fit(chain: Chain, trusted_since: datetime | None, now: datetime, times: Times) -> Step:
    coming = chain.next_authority
    if coming and trusted_since is not None and now - trusted_since >= times.overlap:
        return Step("promote", "the next authority is trusted everywhere", chain)
    authority_ends = chain.authority.certificate.not_valid_after_utc
    if not coming and authority_ends - now < times.authority_before:
        return Step("prepare", f"the authority ends at {authority_ends.isoformat()}", chain)
    server_ends = chain.server.certificate.not_valid_after_utc
    # One that already lasts as long as its authority would not last longer for being renewed.
    if server_ends - now < times.renew_before and server_ends < authority_ends:
        return Step("renew", f"the server certificate ends at {server_ends.isoformat()}", chain)
    return _retired(chain, trusted_since, now, times)


def _retired(chain: Chain, trusted_since: datetime | None, now: datetime, times: Times) -> Step:
    # By the certificate's own time, and by what was seen: the clock of whoever issued it may be another.
    begun = max(chain.server.certificate.not_valid_before_utc + CLOCK_SKEW, trusted_since or now)
    waited = chain.next_authority is None and now - begun >= times.retire_after
    needed = () if waited else _still_trusted(chain.others, now)
    if needed == chain.others:
        return Step("keep", "", chain)
    return Step("retire", "no replica serves certificates of theirs", replace(chain, others=needed))


def is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _still_trusted(certificates: Sequence[x509.Certificate], now: datetime) -> tuple[x509.Certificate, ...]:
    """Without those that have ended; one that is not valid yet is of a replica with another clock, and may serve."""
    return without_repeats(c for c in certificates if now < c.not_valid_after_utc)[:_MOST_OTHERS]


def _covers(certificate: x509.Certificate, name: str) -> bool:
    try:
        return general_name(name) in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return False


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
