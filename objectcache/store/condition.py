"""Whether the disk takes objects, and if not, why."""

import errno
from typing import Final, Literal

from objectcache.link import Writable
from objectcache.storage.catalogue import CatalogueError, CatalogueFullError, CatalogueReadOnlyError

DiskState = Literal["ok", "full", "read_only", "broken"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Other errors say something of one file or of this process, and nothing of the disk.
_OF_THE_DISK: Final = frozenset({*(_FULL - {errno.EFBIG}), errno.EROFS, errno.EIO})
_STATUSES: Final[dict[DiskState, int]] = {"ok": 0, "full": 507, "read_only": 503, "broken": 503}


class Condition:
    """Of the disk, as the last error left it.

    Attributes:
        error: For clients and operators; empty while the disk takes objects.
    """

    __slots__ = ("error", "state")

    def __init__(self) -> None:
        self.state: DiskState = "ok"
        self.error = ""

    @property
    def is_ok(self) -> bool:
        return self.state == "ok"

    @property
    def takes_changes(self) -> bool:
        """Whether a transaction is worth a try; on a full disk, what removes objects may still succeed."""
        return self.state in {"ok", "full"}

    @property
    def status(self) -> int:
        """Of an answer to whoever wanted something kept; 503 also where the disk itself is well."""
        return _STATUSES[self.state] or 503

    @property
    def writable(self) -> Writable:
        return Writable(_STATUSES[self.state], self.error)

    def note(self, error: CatalogueError | OSError) -> None:
        self.state = _state(error)
        self.error = f"the cache's disk takes no objects ({self.state}): {error}"

    def note_if_of_the_disk(self, error: OSError) -> None:
        """What kept one file from being written or removed may keep all of them from it."""
        if error.errno in _OF_THE_DISK:
            self.note(error)

    def recovered(self) -> None:
        self.state, self.error = "ok", ""


def _state(error: CatalogueError | OSError) -> DiskState:
    code = error.errno if isinstance(error, OSError) else 0
    if isinstance(error, CatalogueFullError) or code in _FULL:
        return "full"
    if isinstance(error, CatalogueReadOnlyError) or code == errno.EROFS:
        return "read_only"
    return "broken"
