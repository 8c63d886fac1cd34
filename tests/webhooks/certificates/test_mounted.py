"""A folder as the kubelet keeps one for a Secret, and real handshakes with what it holds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasuki.process.tls.live import LiveContext
from tasuki.process.tls.mounted import MountedCertificate, MountedPace
from tests.webhooks.certificates.telling import Told
from tests.webhooks.certificates.tls import a_chain, an_echo, connected, shown, trusting
from webhooks.certificates.chain import Chain

# So long that only the watch can bring a change to light.
PACE = MountedPace(look_seconds=3600.0, settle_seconds=0.01)


class Folder:
    """A Secret volume: files are links into a folder of one version, and one link is swapped to change them all.

    As kubernetes, pkg/volume/util/atomic_writer.go.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._versions = 0
        path.mkdir()

    def hold(self, certificate: bytes, key: bytes) -> None:
        self._versions += 1
        version = self.path / f"..2026_01_02_{self._versions}"
        version.mkdir()
        (version / "tls.crt").write_bytes(certificate)
        (version / "tls.key").write_bytes(key)
        link = self.path / "..data"
        old = link.readlink() if link.is_symlink() else None
        coming = self.path / "..data_tmp"
        coming.symlink_to(version.name)
        coming.rename(link)
        for name in ("tls.crt", "tls.key"):
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        if old is not None:
            for file in (self.path / old).iterdir():
                file.unlink()
            (self.path / old).rmdir()

    def hold_chain(self, chain: Chain) -> None:
        self.hold(chain.server.certificate_pem, chain.server.key_pem)


@asynccontextmanager
async def kept(path: Path, live: LiveContext, **more: Callable[[], datetime]) -> AsyncIterator[Told]:
    told = Told()
    task = asyncio.create_task(MountedCertificate(path, live, told.outlets, PACE, **more).run())
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "certificate")


async def test_a_swapped_volume_is_served_while_connections_live_on(folder: Folder) -> None:
    live, first, second = LiveContext(), a_chain(), a_chain()
    folder.hold_chain(first)
    async with kept(folder.path, live) as told, an_echo(live) as port:
        await told.until(lambda: told.reported == "")
        async with connected(port, trusting(first.bundle)) as early:
            folder.hold_chain(second)
            await told.until(lambda: live.certificate == second.server.certificate)

            assert await early.is_answered()
            assert await shown(port, second.bundle) == second.server.certificate


async def test_a_volume_that_comes_later_is_found(folder: Folder) -> None:
    live, chain = LiveContext(), a_chain()
    async with kept(folder.path, live) as told, an_echo(live) as port:
        await told.until(lambda: "tls.crt: No such file" in told.reported)
        folder.hold_chain(chain)
        await told.until(lambda: told.reported == "")

        assert await shown(port, chain.bundle) == chain.server.certificate


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        pytest.param(lambda c: (c.server.certificate_pem, c.authority.key_pem), "not the certificate's", id="mismatch"),
        pytest.param(lambda c: (b"", b""), "no PEM certificate", id="empty files"),
        pytest.param(lambda c: (c.server.certificate_pem[:200], c.server.key_pem), "no PEM", id="half a certificate"),
    ],
)
async def test_what_cannot_be_used_is_noted_once_and_the_last_good_serves(
    folder: Folder,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[[Chain], tuple[bytes, bytes]],
    reason: str,
) -> None:
    live, good = LiveContext(), a_chain()
    folder.hold_chain(good)
    async with kept(folder.path, live) as told, an_echo(live) as port:
        await told.until(lambda: told.reported == "")
        for _ in range(2):
            folder.hold(*break_it(a_chain()))
            looks = told.looks
            await told.until(lambda: reason in told.noted and told.looks > looks + 1)  # noqa: B023 - awaited here

        assert told.reported == ""
        assert await shown(port, good.bundle) == good.server.certificate
        assert sum("cannot be used" in message for message in caplog.messages) == 1

        better = a_chain()
        folder.hold_chain(better)
        await told.until(lambda: told.noted == "")

        assert await shown(port, better.bundle) == better.server.certificate


async def test_an_expired_certificate_is_reported_with_the_remedy(folder: Folder) -> None:
    live = LiveContext()
    folder.hold_chain(a_chain())
    async with kept(folder.path, live, now=lambda: datetime.now(UTC) + timedelta(days=366)) as told:
        await told.until(lambda: "expired at" in told.reported)

        assert told.reported.endswith("renew it")


def shifted_to(moment: datetime) -> Callable[[], datetime]:
    """A clock that reaches the moment in half a second."""
    offset = moment - datetime.now(UTC) - timedelta(seconds=0.5)
    return lambda: datetime.now(UTC) + offset


async def test_a_certificate_that_expires_is_told_of_and_logged_at_once(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    live, chain = LiveContext(), a_chain()
    folder.hold_chain(chain)
    async with kept(folder.path, live, now=shifted_to(chain.server.certificate.not_valid_after_utc)) as told:
        await told.until(lambda: told.reported == "")
        await told.until(lambda: "expired at" in told.reported)

    assert sum("expired at" in message for message in caplog.messages) == 1


async def test_a_certificate_that_is_not_valid_yet_is_reported_until_it_is(folder: Folder) -> None:
    live, chain = LiveContext(), a_chain()
    folder.hold_chain(chain)
    async with kept(folder.path, live, now=shifted_to(chain.server.certificate.not_valid_before_utc)) as told:
        await told.until(lambda: "tls.crt is not valid before" in told.reported)
        await told.until(lambda: told.reported == "")


async def test_a_broken_renewal_does_not_hide_that_the_last_good_one_has_expired(folder: Folder) -> None:
    live, chain = LiveContext(), a_chain()
    folder.hold_chain(chain)
    async with kept(folder.path, live, now=shifted_to(chain.server.certificate.not_valid_after_utc)) as told:
        await told.until(lambda: told.reported == "")
        folder.hold(b"", b"")

        await told.until(lambda: "no PEM" in told.reported and "the last good one expired at" in told.reported)


async def test_plain_files_that_change_one_after_the_other_are_taken(tmp_path: Path) -> None:
    live, first, second = LiveContext(), a_chain(), a_chain()
    (tmp_path / "tls.crt").write_bytes(first.server.certificate_pem)
    (tmp_path / "tls.key").write_bytes(first.server.key_pem)
    async with kept(tmp_path, live) as told, an_echo(live) as port:
        await told.until(lambda: told.reported == "")
        (tmp_path / "tls.key").write_bytes(second.server.key_pem)
        await told.until(lambda: "not the certificate's" in told.noted)
        (tmp_path / "tls.crt").write_bytes(second.server.certificate_pem)
        await told.until(lambda: told.noted == "")

        assert await shown(port, second.bundle) == second.server.certificate


async def test_files_that_are_only_half_changed_get_a_second_look_before_anybody_is_told(tmp_path: Path) -> None:
    first, second = a_chain(), a_chain()
    (tmp_path / "tls.crt").write_bytes(first.server.certificate_pem)
    (tmp_path / "tls.key").write_bytes(second.server.key_pem)

    class Unhurried(LiveContext):
        """Whoever changes the files is done only when the first look is over."""

        def load(self, certificates: bytes, key: bytes) -> None:
            (tmp_path / "tls.crt").write_bytes(second.server.certificate_pem)
            super().load(certificates, key)

    live = Unhurried()
    async with kept(tmp_path, live) as told:
        await told.until(lambda: told.looks > 0)

        assert (told.reported, told.noted) == ("", "")
        assert live.certificate == second.server.certificate
