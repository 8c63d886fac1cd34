"""Real handshakes with a context whose certificate changes."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.webhooks.certificates.tls import a_chain, an_echo, an_expired_chain, connected, serve, shown, trusting
from webhooks.certificates.chain import Chain
from webhooks.certificates.live import CertificateError, LiveContext


def an_rsa_certificate(
    chain: Chain, purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
) -> tuple[bytes, bytes]:
    """Of the chain's authority."""
    key = rsa.generate_private_key(65537, 2048)
    signer, model = chain.authority, chain.server.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(model.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for extension in model.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName | x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    certificate = builder.sign(signer.key, SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem


async def test_connections_live_on_and_new_ones_are_shown_the_new_certificate() -> None:
    live, first, second = LiveContext(), a_chain(), a_chain()
    serve(live, first)
    async with an_echo(live) as port, connected(port, trusting(first.bundle)) as early:
        serve(live, second)

        assert await early.is_answered()
        assert early.served == first.server.certificate
        assert await shown(port, second.bundle) == second.server.certificate


async def test_a_certificate_with_another_kind_of_key_replaces_the_old_one_for_every_client() -> None:
    live, chain = LiveContext(), a_chain()
    live.load(*an_rsa_certificate(chain))
    client = trusting(chain.bundle)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with an_echo(live) as port:
        async with connected(port, client) as early:
            assert isinstance(early.served.public_key(), rsa.RSAPublicKey)
        serve(live, chain)
        client.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")

        async with connected(port, client) as later:
            assert later.served == chain.server.certificate


async def test_a_server_listens_before_it_has_a_certificate() -> None:
    live, chain = LiveContext(), a_chain()
    async with an_echo(live) as port:
        # asyncio breaks the connection without sending the alert.
        with pytest.raises(OSError):  # noqa: PT011 - the kind depends on who is first
            await shown(port, chain.bundle)
        serve(live, chain)

        assert await shown(port, chain.bundle) == chain.server.certificate


async def test_a_client_that_names_no_server_is_answered() -> None:
    live, chain = LiveContext(), a_chain(names=("127.0.0.1", "::1"))
    serve(live, chain)
    async with an_echo(live) as port, connected(port, trusting(chain.bundle), "127.0.0.1") as connection:
        assert await connection.is_answered()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
async def test_sessions_get_no_ticket_that_would_outlive_the_certificate(version: ssl.TLSVersion) -> None:
    live, chain = LiveContext(), a_chain()
    serve(live, chain)
    client = trusting(chain.bundle)
    client.minimum_version = client.maximum_version = version
    async with an_echo(live) as port, connected(port, client) as connection:
        assert await connection.is_answered()

        session = connection.tls.session
        assert session is None or not session.has_ticket


async def test_http_1_1_is_agreed_on_with_a_client_that_would_rather_have_http_2() -> None:
    live, chain = LiveContext(), a_chain()
    serve(live, chain)
    client = trusting(chain.bundle)
    client.set_alpn_protocols(["h2", "http/1.1"])
    async with an_echo(live) as port, connected(port, client) as connection:
        assert connection.tls.selected_alpn_protocol() == "http/1.1"


async def test_tls_1_1_is_refused() -> None:
    live, chain = LiveContext(), a_chain()
    serve(live, chain)
    client = trusting(chain.bundle)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    async with an_echo(live) as port:
        with pytest.raises(OSError):  # noqa: PT011 - asyncio breaks the connection without sending the alert
            async with connected(port, client):
                pytest.fail("connected")


async def test_an_expired_certificate_is_refused_until_it_is_replaced() -> None:
    live, old, new = LiveContext(), an_expired_chain(), a_chain()
    serve(live, old)
    async with an_echo(live) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await shown(port, old.bundle)
        serve(live, new)

        assert await shown(port, new.bundle) == new.server.certificate


def an_encrypted_key(chain: Chain) -> tuple[bytes, bytes]:
    key = chain.server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    return chain.server.certificate_pem, key


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        pytest.param(lambda c: (c.server.certificate_pem, c.authority.key_pem), "not the certificate's", id="mismatch"),
        pytest.param(lambda c: (b"", c.server.key_pem), "no PEM certificate", id="no certificate"),
        pytest.param(lambda c: (c.server.certificate_pem, b""), "cannot be used", id="no key"),
        pytest.param(lambda c: (c.server.certificate_pem, b"\x00\xff"), "cannot be used", id="nonsense for a key"),
        pytest.param(an_encrypted_key, "encrypted", id="an encrypted key"),
    ],
)
async def test_what_cannot_be_served_leaves_the_last_good_in_force(pair: object, reason: str) -> None:
    live, chain = LiveContext(), a_chain()
    serve(live, chain)
    assert callable(pair)
    with pytest.raises(CertificateError, match=reason):
        live.load(*pair(a_chain()))

    async with an_echo(live) as port:
        assert await shown(port, chain.bundle) == chain.server.certificate
    assert live.expires == chain.server.certificate.not_valid_after_utc


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_loading_leaves_no_file_open() -> None:
    live, chain = LiveContext(), a_chain()
    before = open_files()
    for _ in range(3):
        serve(live, chain)
    with pytest.raises(CertificateError):
        live.load(chain.server.certificate_pem, chain.authority.key_pem)

    assert open_files() == before


def test_it_tells_whether_clients_can_accept_it() -> None:
    live, chain = LiveContext(), a_chain()
    now = datetime.now(UTC)

    assert (live.loaded, live.expires, live.serves_at(now)) == (False, None, False)
    serve(live, chain)
    assert (live.loaded, live.serves_at(now), live.serves_at(now + timedelta(days=366))) == (True, True, False)


async def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for() -> None:
    chain = a_chain()
    live = LiveContext(client_authorities=chain.bundle)
    serve(live, chain)
    async with an_echo(live) as port:
        # TLS 1.3 refuses only after the client's handshake.
        with pytest.raises((OSError, EOFError)):
            await shown(port, chain.bundle)


async def test_a_client_of_the_named_authority_is_let_in(tmp_path: Path) -> None:
    chain = a_chain()
    live = LiveContext(client_authorities=chain.bundle)
    serve(live, chain)
    client = trusting(chain.bundle)
    file = tmp_path / "client.pem"
    file.write_bytes(b"".join(an_rsa_certificate(chain, ExtendedKeyUsageOID.CLIENT_AUTH)))
    client.load_cert_chain(file)
    async with an_echo(live) as port, connected(port, client) as connection:
        assert await connection.is_answered()
