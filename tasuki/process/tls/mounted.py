"""A certificate that somebody else renews, taken from a folder."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tasuki.process.tls.live import CertificateError, LiveContext, utc_now
from tasuki.process.tls.outlets import Outlets
from tasuki.process.watching import FolderWatch

log: Final = logging.getLogger(__name__)

# As cert-manager and `kubectl create secret tls` name them.
_CERTIFICATE: Final = "tls.crt"
_KEY: Final = "tls.key"
# The kubelet keeps a volume's files in a folder that this links to, and changes them all by changing the link.
_VERSION_LINK: Final = "..data"
# Far more than the longest chain; a file that never ends must not be read to its end.
_MOST_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class MountedPace:
    """How often is looked.

    Attributes:
        look_seconds: Between two looks where nothing is noticed.
        settle_seconds: What cannot be used counts once it cannot for so long: two files change one after the other.
    """

    look_seconds: float = 60.0
    settle_seconds: float = 0.5


class MountedCertificate:
    """Loads `tls.crt` and `tls.key` whenever they change; what cannot be used leaves the last good in force."""

    def __init__(
        self,
        folder: Path,
        live: LiveContext,
        outlets: Outlets,
        pace: MountedPace = MountedPace(),
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._folder: Final = folder
        self._live: Final = live
        self._outlets: Final = outlets
        self._pace: Final = pace
        self._now: Final = now
        self._loaded: tuple[bytes, bytes] | None = None
        self._problem = ""

    async def run(self) -> None:
        """Never ends."""
        with FolderWatch([self._folder]) as watch:
            while True:
                problem = await self._take()
                if problem:
                    await asyncio.sleep(self._pace.settle_seconds)
                    problem = await self._take()
                now = self._now()
                self._tell(problem, now)
                await watch.wait(min(self._pace.look_seconds, self._live.seconds_until_change(now)))

    async def _take(self) -> str:
        """Load what is there; the answer says why that is not possible."""
        try:
            found = await asyncio.to_thread(self._read)
            if found != self._loaded:
                self._live.load(*found)
                self._loaded = found
        except OSError as error:
            return f"{error.filename or self._folder}: {error.strerror or error}"
        except CertificateError as error:
            return f"{self._folder}: {error}"
        return ""

    def _read(self) -> tuple[bytes, bytes]:
        """Both files of one version; blocking."""
        version = self._folder / _VERSION_LINK
        folder = version.resolve() if version.is_symlink() else self._folder
        return _start_of(folder / _CERTIFICATE), _start_of(folder / _KEY)

    def _tell(self, problem: str, now: datetime) -> None:
        serving = self._live.serves_at(now)
        refused = self._live.refused_at(now)
        if refused:
            problem = (
                f"{problem}; the last good one {refused}" if problem else f"{self._folder / _CERTIFICATE} {refused}"
            )
        if problem and problem != self._problem:
            kept = " the last good one stays in force" if serving else ""
            log.warning("the mounted certificate cannot be used%s error=%s", kept, problem)
        self._problem = problem
        self._outlets.tell(problem, serving=serving)


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)
