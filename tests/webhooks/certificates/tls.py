"""A TLS server that echoes, its clients, and certificates for them."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from tasuki.process.tls.live import LiveContext
from webhooks.certificates.chain import Chain
from webhooks.certificates.issuing import DEFAULT_TIMES, Step, Times
from webhooks.certificates.minting import Mint, carried_out

NAME = "hooks.gpus.svc"
NAMES = (NAME, "hooks.gpus.svc.cluster.local")


def a_chain(now: datetime | None = None, names: tuple[str, ...] = NAMES, times: Times = DEFAULT_TIMES) -> Chain:
    return carried_out(Step("start", ""), Mint(names, times, now or datetime.now(UTC)))


def an_expired_chain() -> Chain:
    return a_chain(datetime.now(UTC) - timedelta(days=400))


def serve(live: LiveContext, chain: Chain) -> None:
    live.load(chain.server.certificate_pem, chain.server.key_pem)


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


@asynccontextmanager
async def an_echo(live: LiveContext) -> AsyncIterator[int]:
    """Serves until the block ends; the answer is its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Clients that do not trust us break the connection.
        with suppress(OSError):
            while piece := await reader.read(100):
                writer.write(piece)
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=live.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def served(self) -> x509.Certificate:
        """What the server has shown."""
        return x509.load_der_x509_certificate(self.tls.getpeercert(binary_form=True) or b"")

    @property
    def tls(self) -> ssl.SSLObject:
        answer: ssl.SSLObject = self.writer.get_extra_info("ssl_object")
        return answer

    async def is_answered(self) -> bool:
        self.writer.write(b"?")
        return await self.reader.readexactly(1) == b"?"

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def trusting(bundle: bytes | str) -> ssl.SSLContext:
    text = bundle if isinstance(bundle, str) else bundle.decode()
    context = ssl.create_default_context(cadata=text)
    # As Go's and newer Pythons' clients, which refuse what RFC 5280 forbids.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@asynccontextmanager
async def connected(port: int, client: ssl.SSLContext, name: str = NAME) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
    connection = Connection(reader, writer)
    try:
        yield connection
    finally:
        await connection.close()


async def shown(port: int, bundle: bytes | str) -> x509.Certificate:
    """What a new client that trusts the bundle is shown.

    Raises:
        ssl.SSLError: It does not accept that.
    """
    async with connected(port, trusting(bundle)) as connection:
        assert await connection.is_answered()
        return connection.served
