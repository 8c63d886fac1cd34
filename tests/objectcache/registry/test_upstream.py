"""How registries are asked: logins, tokens, redirects, TLS."""

import asyncio
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from objectcache.registry.config import Credentials
from tests.objectcache.registry.mirrors import HOST, Given, running_mirror, upstream
from tests.objectcache.registry.registries import LIFETIME_SECONDS, digest_of, manifest_of, running_registry
from webhooks.certificates.issuing import Times
from webhooks.certificates.minting import Mint

LAYER: Final = b"layer" * 1000
DIGEST: Final = digest_of(LAYER)
LOGIN: Final = {HOST: Credentials("reader", "pass:word")}


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A registry's context, and the file of its authority."""
    folder = tmp_path_factory.mktemp("tls")
    mint = Mint(["127.0.0.1"], Times(), datetime.now(UTC))
    authority = mint.authority()
    server = mint.server(authority)
    chain = folder / "tls.pem"
    key = server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(server.certificate.public_bytes(Encoding.PEM) + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    ca = folder / "ca.crt"
    ca.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return context, ca


async def test_a_token_is_asked_for_once_a_repository_for_reading_only(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.scheme = "bearer"
        registry.add_blob(LAYER)
        registry.add_manifest(manifest_of(LAYER), "1")

        assert (await mirror.blob(DIGEST, "a/b")).body == LAYER
        assert (await mirror.get("/v2/a/b/manifests/1")).status == 200
        assert (await mirror.get("/v2/c/manifests/1")).status == 200

        assert registry.scopes == ["repository:a/b:pull", "repository:c:pull"]


async def test_a_token_is_asked_for_again_before_it_ends(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.scheme = "bearer"
        registry.add_manifest(manifest_of(LAYER), "1")
        await mirror.get("/v2/a/manifests/1", "HEAD")

        mirror.clock.now += LIFETIME_SECONDS - 10
        await mirror.get("/v2/a/manifests/1", "HEAD")

        assert len(registry.scopes) == 2


async def test_a_token_that_is_withdrawn_is_replaced(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.scheme = "bearer"
        registry.add_manifest(manifest_of(LAYER), "1")
        await mirror.get("/v2/a/manifests/1", "HEAD")
        registry.tokens.clear()
        mirror.clock.now += 60

        assert (await mirror.get("/v2/a/manifests/1", "HEAD")).status == 200
        assert len(registry.scopes) == 2


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
@pytest.mark.parametrize(
    ("shares", "logins", "status"),
    [
        pytest.param(True, LOGIN, 200, id="shared, and there"),
        pytest.param(False, LOGIN, 403, id="there, but not to be used"),
        pytest.param(True, {}, 503, id="to be used, but not there"),
        pytest.param(True, {HOST: Credentials("reader", "wrong")}, 403, id="wrong"),
    ],
)
async def test_credentials(
    spool_dir: Path, scheme: str, shares: bool, logins: dict[str, Credentials], status: int
) -> None:
    async with running_registry() as registry:
        given = Given(registry.url, spool_dir, shares_credentials=shares, logins=logins)
        async with running_mirror(given) as mirror:
            registry.scheme, registry.private = scheme, frozenset({"team/private"})
            registry.add_blob(LAYER)

            assert (await mirror.blob(DIGEST, "team/private")).status == status


async def test_a_redirect_is_followed_without_the_authorization(spool_dir: Path) -> None:
    async with running_registry() as registry, running_registry() as store:
        store.add_blob(LAYER)
        registry.add_blob(LAYER)
        registry.scheme, registry.elsewhere = "bearer", store.url
        async with running_mirror(Given(registry.url, spool_dir, origins=(store.url,))) as mirror:
            assert (await mirror.blob(DIGEST)).body == LAYER

        assert registry.authorizations[-1].startswith("Bearer ")
        assert store.authorizations == [""]
        assert "signature=very%2Fsecret" in store.log[0][1]


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param("", id="a private address without TLS"),
        pytest.param("http://93.184.215.14", id="a public one without TLS"),
        pytest.param("https://127.0.0.1:1", id="this host"),
        pytest.param("https://localhost:1", id="a name of this host"),
        pytest.param("https://169.254.169.254", id="a cloud's node"),
        pytest.param("https://[::ffff:10.0.0.1]", id="a private address in another's clothes"),
        pytest.param("https://127.1:1", id="this host, shortened"),
        pytest.param("https://2130706433:1", id="this host as a number"),
        pytest.param("file:///etc", id="a file"),
    ],
)
async def test_a_redirect_elsewhere_is_not(spool_dir: Path, elsewhere: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running_registry() as registry, running_registry() as store:
        registry.add_blob(LAYER)
        store.add_blob(LAYER)
        registry.elsewhere = elsewhere or store.url
        async with running_mirror(Given(registry.url, spool_dir)) as mirror:
            answer = await mirror.blob(DIGEST)

        assert (answer.status, b"redirectOrigins" in answer.body) == (502, True)
        assert store.log == []
        assert "very" not in caplog.text + answer.body.decode()


async def test_a_registry_that_redirects_in_circles_is_given_up(spool_dir: Path) -> None:
    async with running_registry() as registry, running_mirror(Given(registry.url, spool_dir)) as mirror:
        registry.add_blob(LAYER)
        registry.elsewhere = registry.url

        assert b"redirects more than 5 times" in (await mirror.blob(DIGEST)).body


async def test_credentials_do_not_go_where_the_registry_may_not_send_us(spool_dir: Path) -> None:
    async with running_registry() as registry, running_registry() as thief:
        registry.scheme, registry.realm = "bearer", f"{thief.url}/token"
        registry.add_blob(LAYER)
        given = Given(registry.url, spool_dir, shares_credentials=True, logins=LOGIN)
        async with running_mirror(given) as mirror:
            assert (await mirror.blob(DIGEST)).status == 502

        assert (thief.log, thief.scopes) == ([], [])


async def test_credentials_do_not_go_where_a_redirect_says(spool_dir: Path) -> None:
    async with running_registry() as registry, running_registry() as store, running_registry() as thief:
        registry.elsewhere = store.url
        store.scheme, store.realm = "bearer", f"{thief.url}/token"
        for each in (registry, store):
            each.add_blob(LAYER)
        given = Given(registry.url, spool_dir, shares_credentials=True, logins=LOGIN, origins=(store.url, thief.url))
        async with running_mirror(given) as mirror:
            assert (await mirror.blob(DIGEST)).status == 403

        assert (thief.log, thief.scopes) == ([], [])


async def test_what_was_had_with_credentials_is_not_shown_without(spool_dir: Path) -> None:
    async with running_registry() as registry:
        registry.scheme = "basic"
        digests = [registry.add_blob(bytes([number]) * 1000) for number in range(3)]
        given = Given(registry.url, spool_dir, shares_credentials=True, logins=LOGIN, most_fetches=1)
        async with running_mirror(given) as mirror:
            registry.gate = asyncio.Event()
            asking = [asyncio.ensure_future(mirror.blob(digest)) for digest in digests[:2]]
            await mirror.until(lambda: len(mirror.fetches) == 2)

            mirror.application.use({HOST: upstream(replace(given, shares_credentials=False))})
            registry.gate.set()

            assert [(await each).status for each in asking] == [200, 200]
            assert (await mirror.blob(digests[2])).status == 403


async def test_tls_is_verified(spool_dir: Path, server_tls: tuple[ssl.SSLContext, Path]) -> None:
    context, ca = server_tls
    async with running_registry(context) as registry:
        registry.scheme = "bearer"
        registry.add_blob(LAYER)
        async with running_mirror(Given(registry.url, spool_dir, ca=ca)) as mirror:
            trusted = await mirror.blob(DIGEST)
        async with running_mirror(Given(registry.url, spool_dir)) as mirror:
            untrusted = await mirror.blob(DIGEST)

    assert (trusted.status, trusted.body) == (200, LAYER)
    assert (untrusted.status, b"certificate verify failed" in untrusted.body) == (502, True)
