"""Making keys, and certificates for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from webhooks.certificates.chain import Chain, Pair
from webhooks.certificates.issuing import CLOCK_SKEW, Action, Step, Times, general_name

_ORGANIZATION: Final = "Tasuki"


@dataclass(frozen=True, slots=True)
class Mint:
    """Makes what a step asks for, as of one moment."""

    names: Sequence[str]
    times: Times
    now: datetime

    def authority(self) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        # A name of its own: a client that meets two authorities of one name may try the wrong one only.
        name = _name(f"Tasuki webhooks authority {serial:x}"[:64])
        signs = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            self._builder(name, key, serial)
            .issuer_name(name)
            .not_valid_after((self.now + self.times.authority_lifetime).replace(microsecond=0))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signs), critical=False)
            .sign(key, SHA256())
        )
        return Pair(certificate, key)

    def server(self, authority: Pair) -> Pair:
        """A server certificate that does not outlast its authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        signer = authority.certificate
        signs = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
        ends = min(self.now + self.times.server_lifetime, signer.not_valid_after_utc)
        certificate = (
            # Not a host name: those may be longer than the 64 characters of a common name (RFC 5280, appendix A.1).
            self._builder(_name("Tasuki webhooks"), key, x509.random_serial_number())
            .issuer_name(signer.subject)
            .not_valid_after(ends.replace(microsecond=0))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([general_name(n) for n in self.names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signs), critical=False)
            .sign(authority.key, SHA256())
        )
        return Pair(certificate, key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, serial: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before((self.now - CLOCK_SKEW).replace(microsecond=0))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def carried_out(step: Step, mint: Mint) -> Chain:
    """The chain after a step."""
    if step.base is None:
        authority = mint.authority()
        return Chain(mint.server(authority), authority, None, step.others)
    return _STEPS[step.action](step.base, mint)


def _renewed(chain: Chain, mint: Mint) -> Chain:
    return replace(chain, server=mint.server(chain.authority))


def _prepared(chain: Chain, mint: Mint) -> Chain:
    return replace(chain, next_authority=mint.authority())


def _promoted(chain: Chain, mint: Mint) -> Chain:
    coming = chain.next_authority
    assert coming is not None, "only a next authority is promoted"
    others = (chain.authority.certificate, *chain.others)
    return Chain(mint.server(coming), coming, None, others)


def _as_decided(chain: Chain, _: Mint) -> Chain:
    return chain


_STEPS: Final[Mapping[Action, Callable[[Chain, Mint], Chain]]] = {
    "keep": _as_decided,
    "renew": _renewed,
    "prepare": _prepared,
    "promote": _promoted,
    "retire": _as_decided,
}


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
