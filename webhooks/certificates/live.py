"""A server's TLS context, whose certificate is replaced while connections live."""

import logging
import os
import ssl
from datetime import datetime
from typing import Final

from cryptography import x509

log: Final = logging.getLogger(__name__)


class CertificateError(Exception):
    """A certificate and its key that cannot be served."""


class LiveContext:
    """Connections go on with the certificate that they began with; each new one gets the last that was loaded.

    Not `load_cert_chain` on one context: that replaces its certificate and key one after the other, keeps the new
    certificate where the key then does not match, and holds one certificate for each kind of key, so that after a
    change from RSA to ECDSA a client could still be shown the old one
    (https://docs.openssl.org/3.0/man3/SSL_CTX_use_certificate/#notes).

    Args:
        client_authorities: PEM; clients must show a certificate of one of them. None to ask for no certificate.

    Attributes:
        context: For the server; connections are refused until the first certificate was loaded.
    """

    def __init__(self, client_authorities: bytes | None = None) -> None:
        self._client_authorities: Final = client_authorities
        self._current: ssl.SSLContext | None = None
        self._certificate: x509.Certificate | None = None
        self.context: Final = self._new_context()
        # Called for clients that name no server too.
        self.context.sni_callback = self._choose

    @property
    def loaded(self) -> bool:
        return self._current is not None

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
        return self.expires is not None and now < self.expires

    def load(self, certificates: bytes, key: bytes) -> None:
        """Serve with these, as PEM, from now on.

        Raises:
            CertificateError: They cannot be used or do not belong together; what was loaded before stays.
        """
        context = self._serving(certificates, key)
        certificate = x509.load_pem_x509_certificates(certificates)[0]
        self._current = context
        self._certificate = certificate
        log.info(
            "certificate loaded serial=%x expires=%s",
            certificate.serial_number,
            certificate.not_valid_after_utc.isoformat(),
        )

    def check(self, certificates: bytes, key: bytes) -> None:
        """Nothing, or the CertificateError that loading them would raise."""
        self._serving(certificates, key)

    def _serving(self, certificates: bytes, key: bytes) -> ssl.SSLContext:
        try:
            x509.load_pem_x509_certificates(certificates)
        except ValueError:
            raise CertificateError("there is no PEM certificate, or one that cannot be read") from None
        if b"ENCRYPTED" in key:
            # OpenSSL would ask for the passphrase at the terminal.
            raise CertificateError("the private key is encrypted; give one without a passphrase")
        context = self._new_context()
        try:
            _load(context, certificates, key)
        except ssl.SSLError as error:
            text = (
                "the private key is not the certificate's"
                if error.reason == "KEY_VALUES_MISMATCH"
                else f"the certificate and its private key cannot be used: {error.reason or error.strerror}"
            )
            raise CertificateError(text) from None
        return context

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A session that is resumed is not shown the new certificate.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self._client_authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self._client_authorities.decode())
        return context


def _load(context: ssl.SSLContext, certificates: bytes, key: bytes) -> None:
    """Through a file in memory: ssl reads only files, and a key must not touch a disk."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(certificates + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
