"""A server's TLS context, whose certificate is replaced while connections live."""

import logging
import math
import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tasuki.process.tls.pem import pem_certificates

log: Final = logging.getLogger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


class CertificateError(Exception):
    """A certificate and its key that cannot be served."""


class NotLoadedError(CertificateError):
    """Nothing was found out about the certificate, for the system had no means to load it."""


class _Forwarding(ssl.SSLContext):
    """Begins each connection with the context that is current then.

    Not by an SNI callback: a connection's sessions stay in the context that it began with, so that one of TLS 1.2
    could be resumed after the certificate has changed (OpenSSL, ssl/ssl_sess.c: ssl_get_prev_session).
    """

    current: ssl.SSLContext | None = None

    # What asyncio and uvloop call for each connection.
    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        wrap = super().wrap_bio if self.current is None else self.current.wrap_bio
        return wrap(*given, **named)


class LiveContext:
    """Connections go on with the certificate that they began with; each new one gets the last that was loaded.

    Not `load_cert_chain` on one context: that replaces its certificate and key one after the other, keeps the new
    certificate where the key then does not match, and holds one certificate for each kind of key, so that after a
    change from RSA to ECDSA a client could still be shown the old one
    (https://docs.openssl.org/3.0/man3/SSL_CTX_use_certificate/#notes).

    Args:
        client_authorities: PEM; clients must show a certificate of one of them. None to ask for no certificate.

    Attributes:
        context: For a server in an event loop; connections are refused until the first certificate was loaded.

    Raises:
        CertificateError: The client authorities cannot be used.
    """

    def __init__(self, client_authorities: bytes | None = None) -> None:
        self._client_authorities: Final = None if client_authorities is None else _as_der(client_authorities)
        self._certificate: x509.Certificate | None = None
        self._context: Final = _Forwarding(ssl.PROTOCOL_TLS_SERVER)
        self._prepare(self._context)

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    @property
    def loaded(self) -> bool:
        return self._certificate is not None

    @property
    def expires(self) -> datetime | None:
        """The end of the loaded certificate; None while there is none."""
        return self._certificate.not_valid_after_utc if self._certificate else None

    @property
    def certificate(self) -> x509.Certificate | None:
        """What new connections are shown."""
        return self._certificate

    def serves_at(self, now: datetime) -> bool:
        """Whether clients can accept what is loaded."""
        return self.loaded and not self.refused_at(now)

    def refused_at(self, now: datetime) -> str:
        """Why clients refuse what is loaded; empty if they do not."""
        if self._certificate is None:
            return ""
        begins, ends = self._certificate.not_valid_before_utc, self._certificate.not_valid_after_utc
        if now < begins:
            return f"is not valid before {begins}; wait, or correct the clock of whoever issued it"
        return f"expired at {ends}; renew it" if now >= ends else ""

    def seconds_until_change(self, now: datetime) -> float:
        """Until clients begin to accept what is loaded, or cease to; infinite if they never will."""
        if self._certificate is None:
            return math.inf
        moments = (self._certificate.not_valid_before_utc, self._certificate.not_valid_after_utc)
        return min(((moment - now).total_seconds() for moment in moments if moment > now), default=math.inf)

    def load(self, certificates: bytes, key: bytes) -> None:
        """Serve with these, as PEM, from now on.

        Raises:
            CertificateError: They cannot be used or do not belong together; what was loaded before stays.
            NotLoadedError: The same, and the certificate is not to blame.
        """
        context, certificate = self._serving(certificates, key)
        self._context.current = context
        self._certificate = certificate
        log.info(
            "certificate loaded serial=%x expires=%s",
            certificate.serial_number,
            certificate.not_valid_after_utc.isoformat(),
        )

    def check(self, certificates: bytes, key: bytes) -> None:
        """Nothing, or the CertificateError that loading them would raise."""
        self._serving(certificates, key)

    def _serving(self, certificates: bytes, key: bytes) -> tuple[ssl.SSLContext, x509.Certificate]:
        try:
            first = pem_certificates(certificates)[0]
        except ValueError:
            raise CertificateError("there is no PEM certificate, or one that cannot be read") from None
        if b"ENCRYPTED" in key:
            # OpenSSL would ask for the passphrase at the terminal.
            raise CertificateError("the private key is encrypted; give one without a passphrase")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._prepare(context)
        try:
            _load(context, certificates, key)
        except ssl.SSLError as error:
            text = (
                "the private key is not the certificate's"
                if error.reason == "KEY_VALUES_MISMATCH"
                else f"the certificate and its private key cannot be used: {error.reason or error.strerror}"
            )
            raise CertificateError(text) from None
        except OSError as error:
            raise NotLoadedError(f"the certificate cannot be handed to OpenSSL: {error}") from error
        return context, first

    def _prepare(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # API servers keep their connections and no sessions (Go, crypto/tls: Config.ClientSessionCache). There are
        # sessions of TLS 1.2 nevertheless, at most 20,480: ssl has no way to turn those without tickets off.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self._client_authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(cadata=self._client_authorities)
            except ssl.SSLError as error:
                reason = error.reason or error.strerror
                raise CertificateError(f"the client authorities cannot be used: {reason}") from None


def _as_der(certificates: bytes) -> bytes:
    """As ssl takes them from memory, where PEM would have to be ASCII, also in comments."""
    try:
        return b"".join(each.public_bytes(Encoding.DER) for each in pem_certificates(certificates))
    except ValueError:
        raise CertificateError(
            "there is no PEM certificate of a client authority, or one that cannot be read; "
            "convert DER with: openssl x509 -inform der -outform pem"
        ) from None


def _load(context: ssl.SSLContext, certificates: bytes, key: bytes) -> None:
    """Through a file in memory: ssl reads only files, and a key must not touch a disk."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(certificates + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


def live_context(client_ca: Path | None) -> LiveContext:
    """One that asks clients for a certificate of these authorities; None asks for none.

    Raises:
        CertificateError: The file, which `--client-ca` names, has no certificates.
        OSError: It cannot be read.
    """
    if client_ca is None:
        return LiveContext()
    try:
        return LiveContext(client_ca.read_bytes())
    except CertificateError as error:
        raise CertificateError(f"--client-ca {client_ca}: {error}") from error
