"""TLS for gRPC, whose certificate is replaced while streams live."""

from pathlib import Path
from typing import Final

import grpc

from tasuki.process.tls.live import LiveContext


class GrpcCertificate(LiveContext):
    """What `LiveContext` is for HTTP: each new connection gets the last certificate that was loaded.

    gRPC's own TLS takes PEM and no context of Python's, so that only the checks of `LiveContext` are of use here.

    Args:
        authorities: PEM; clients must show a certificate of one of them. None to ask for no certificate.

    Raises:
        CertificateError: The authorities cannot be used.
    """

    def __init__(self, authorities: bytes | None) -> None:
        super().__init__(authorities)
        self._authorities: Final = authorities
        self._configuration: grpc.ServerCertificateConfiguration | None = None

    def load(self, certificates: bytes, key: bytes) -> None:
        """As `LiveContext.load`."""
        super().load(certificates, key)
        self._configuration = grpc.ssl_server_certificate_configuration([(key, certificates)], self._authorities)

    def credentials(self) -> grpc.ServerCredentials:
        """For a server, once a certificate is loaded."""
        return grpc.dynamic_ssl_server_credentials(
            self._current(),
            # Asked for each connection, from gRPC's threads; reading one attribute is atomic.
            self._current,
            require_client_authentication=self._authorities is not None,
        )

    def _current(self) -> grpc.ServerCertificateConfiguration:
        assert self._configuration is not None
        return self._configuration


def grpc_certificate(client_ca: Path | None) -> GrpcCertificate:
    """One that asks Envoys for a certificate of these authorities; None asks for none.

    Raises:
        CertificateError: The file has no certificates.
        OSError: It cannot be read.
    """
    return GrpcCertificate(None if client_ca is None else client_ca.read_bytes())
