"""Real handshakes with a context whose certificate changes."""

import asyncio
import errno
import math
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from tasuki.process.tls.live import CertificateError, LiveContext, NotLoadedError
from tests.webhooks.certificates.tls import (
    NAME,
    a_chain,
    an_echo,
    an_expired_chain,
    an_rsa_certificate,
    connected,
    serve,
    shown,
    trusting,
)
from webhooks.certificates.chain import Chain


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


def a_session(port: int, client: ssl.SSLContext, earlier: ssl.SSLSession | None = None) -> tuple[ssl.SSLSession, bool]:
    """Of a new connection, and whether it is the earlier one; blocking, for asyncio's clients resume none."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        client.wrap_socket(plain, server_hostname=NAME, session=earlier) as tls,
    ):
        tls.sendall(b"?")
        assert tls.recv(1) == b"?"
        assert tls.session is not None
        resumed = bool(tls.session_reused)
        session = tls.session
        # Whoever breaks a connection makes the server forget its session.
        tls.unwrap()
        return session, resumed


async def test_a_session_of_tls_1_2_ends_with_the_certificate_that_it_began_with() -> None:
    live, chain = LiveContext(), a_chain()
    serve(live, chain)
    client = trusting(chain.bundle)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with an_echo(live) as port:
        first, _ = await asyncio.to_thread(a_session, port, client)
        _, resumed_before = await asyncio.to_thread(a_session, port, client, first)
        live.load(*an_rsa_certificate(chain))

        _, resumed_after = await asyncio.to_thread(a_session, port, client, first)

    assert (resumed_before, resumed_after) == (True, False)


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
        pytest.param(lambda c: (of_unknown_version(c), c.server.key_pem), "no PEM certificate", id="unknown version"),
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


def of_unknown_version(chain: Chain) -> bytes:
    """The server certificate, but of X.509's fifth version."""
    der = chain.server.certificate.public_bytes(Encoding.DER)
    changed = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020104"), 1)
    return ssl.DER_cert_to_PEM_cert(changed).encode()


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


def test_a_system_without_means_to_load_a_certificate_is_not_the_certificates_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more_files(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", no_more_files)

    with pytest.raises(NotLoadedError, match=r"handed to OpenSSL: .*Too many open files"):
        serve(LiveContext(), a_chain())


BEGIN = datetime(2026, 1, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
YEAR = timedelta(days=365)


@pytest.mark.parametrize(
    ("now", "reason", "change"),
    [
        pytest.param(BEGIN - 6 * MINUTE, "is not valid before 2026-01-01 23:55", 60, id="not yet"),
        pytest.param(BEGIN - 5 * MINUTE, "", (YEAR + 5 * MINUTE).total_seconds(), id="from its first moment"),
        pytest.param(BEGIN + YEAR - MINUTE, "", 60, id="to its last minute"),
        pytest.param(BEGIN + YEAR, "expired at 2027-01-02 00:00:00+00:00; renew it", math.inf, id="no longer"),
    ],
)
def test_it_tells_whether_clients_accept_it_and_until_when(now: datetime, reason: str, change: float) -> None:
    live = LiveContext()
    serve(live, a_chain(BEGIN))

    assert live.serves_at(now) is (reason == "")
    assert live.refused_at(now).startswith(reason)
    assert live.seconds_until_change(now) == change


def test_nothing_is_served_before_something_is_loaded() -> None:
    live = LiveContext()

    assert (live.loaded, live.expires, live.serves_at(BEGIN), live.refused_at(BEGIN)) == (False, None, False, "")
    assert live.seconds_until_change(BEGIN) == math.inf


@pytest.mark.parametrize(
    "authorities",
    [
        pytest.param(b"", id="an empty file"),
        pytest.param(b"hello", id="no certificate"),
        pytest.param(a_chain().authority.certificate.public_bytes(Encoding.DER), id="DER"),
        pytest.param(a_chain().bundle[:200], id="half a certificate"),
    ],
)
def test_client_authorities_that_cannot_be_read_are_refused_with_the_remedy(authorities: bytes) -> None:
    with pytest.raises(CertificateError, match=r"no PEM certificate of a client authority.*openssl x509 -inform der"):
        LiveContext(authorities)


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
    # Public bundles name authorities in comments.
    live = LiveContext(client_authorities="# Autorité\n".encode() + chain.bundle)
    serve(live, chain)
    client = trusting(chain.bundle)
    file = tmp_path / "client.pem"
    file.write_bytes(b"".join(an_rsa_certificate(chain, ExtendedKeyUsageOID.CLIENT_AUTH)))
    client.load_cert_chain(file)
    async with an_echo(live) as port, connected(port, client) as connection:
        assert await connection.is_answered()
