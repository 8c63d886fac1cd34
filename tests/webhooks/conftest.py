"""A server certificate, and clients that trust it."""

import ssl
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tasuki.process.tls.live import LiveContext
from tests.webhooks.https import NAME, Tls
from webhooks.certificates.issuing import Times
from webhooks.certificates.minting import Mint


@pytest.fixture(scope="session")
def tls() -> Tls:
    mint = Mint([NAME, "127.0.0.1"], Times(), datetime.now(UTC))
    authority = mint.authority()
    server = mint.server(authority)
    live = LiveContext()
    key = server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    live.load(server.certificate.public_bytes(Encoding.PEM), key)
    trusted = authority.certificate.public_bytes(Encoding.PEM).decode()
    return Tls(live, ssl.create_default_context(cadata=trusted))
