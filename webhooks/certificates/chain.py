"""The certificates and keys that the replicas share, as values and as a Secret's contents."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tasuki.process.tls.pem import pem_certificates

# Those of a kubernetes.io/tls Secret, those that cert-controller adds, and one of ours.
_SERVER_CERTIFICATE: Final = "tls.crt"
_SERVER_KEY: Final = "tls.key"
_BUNDLE: Final = "ca.crt"
_AUTHORITY_KEY: Final = "ca.key"
_NEXT_AUTHORITY_KEY: Final = "ca-next.key"
_KEYS: Final = (_SERVER_CERTIFICATE, _SERVER_KEY, _BUNDLE, _AUTHORITY_KEY, _NEXT_AUTHORITY_KEY)


class BrokenChainError(Exception):
    """The contents are no chain; the text never holds any of them, for they are keys."""


@dataclass(frozen=True, slots=True)
class Pair:
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True, slots=True)
class Chain:
    """What is served, and who vouches for it.

    Attributes:
        authority: Signs the server certificates.
        next_authority: Is in the bundle already and signs nothing yet.
        others: Are in the bundle still, because some replica may serve a certificate of theirs.
    """

    server: Pair
    authority: Pair
    next_authority: Pair | None = None
    others: tuple[x509.Certificate, ...] = ()

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        coming = (self.next_authority.certificate,) if self.next_authority else ()
        return without_repeats((*coming, self.authority.certificate, *self.others))

    @property
    def bundle(self) -> bytes:
        """What clients are to trust, as PEM."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.trusted)


def without_repeats(certificates: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    return tuple(dict.fromkeys(certificates))


def secret_contents(chain: Chain) -> dict[str, bytes | None]:
    """By key of the Secret; None for a key that it must not have."""
    return {
        _SERVER_CERTIFICATE: chain.server.certificate_pem,
        _SERVER_KEY: chain.server.key_pem,
        _BUNDLE: chain.bundle,
        _AUTHORITY_KEY: chain.authority.key_pem,
        _NEXT_AUTHORITY_KEY: chain.next_authority.key_pem if chain.next_authority else None,
    }


def chain_of(contents: Mapping[str, bytes]) -> Chain | None:
    """The chain in a Secret; None if it has none of a chain's keys, or all of them empty.

    Raises:
        BrokenChainError: There is something, and it is no chain.
    """
    if not any(contents.get(name) for name in _KEYS):
        return None
    server = _matching(_certificates(contents, _SERVER_CERTIFICATE)[:1], _key(contents, _SERVER_KEY))
    bundle = _certificates(contents, _BUNDLE)
    authority = _matching(bundle, _key(contents, _AUTHORITY_KEY))
    coming = _matching(bundle, _key(contents, _NEXT_AUTHORITY_KEY)) if contents.get(_NEXT_AUTHORITY_KEY) else None
    if server is None:
        raise BrokenChainError(f"{_SERVER_KEY} is not the key of {_SERVER_CERTIFICATE}")
    if authority is None:
        raise BrokenChainError(f"{_AUTHORITY_KEY} is the key of none of the certificates in {_BUNDLE}")
    named = {authority.certificate} | ({coming.certificate} if coming else set())
    return Chain(server, authority, coming, tuple(c for c in without_repeats(bundle) if c not in named))


def _matching(certificates: Iterable[x509.Certificate], key: EllipticCurvePrivateKey) -> Pair | None:
    for certificate in certificates:
        try:
            if certificate.public_key() == key.public_key():
                return Pair(certificate, key)
        except (ValueError, UnsupportedAlgorithm):
            continue
    return None


def _certificates(contents: Mapping[str, bytes], name: str) -> list[x509.Certificate]:
    try:
        return pem_certificates(contents.get(name, b""))
    except ValueError:
        raise BrokenChainError(f"{name} holds no PEM certificate") from None


def _key(contents: Mapping[str, bytes], name: str) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(contents.get(name, b""), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BrokenChainError(f"{name} holds no unencrypted PEM private key") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise BrokenChainError(f"{name} is no elliptic curve key, as we issue them")
    return key
