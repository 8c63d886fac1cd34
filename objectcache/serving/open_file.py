"""A file that answers are sent from."""

import os
from typing import Final

# What the system reads ahead at least: of so little, the end is at hand only if the beginning is.
_READ_AHEAD_BYTES: Final = 128 * 2**10
_PROBE: Final = (bytearray(1),)


class OpenFile:
    """Its descriptor; several answers may share it, and the last who lets go closes it.

    Attributes:
        warmed: So far the content was in the page cache a moment ago.
    """

    __slots__ = ("_users", "fd", "warmed")

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd
        self.warmed = 0
        self._users = 1

    def hold(self) -> None:
        """One more uses it."""
        self._users += 1

    def let_go(self) -> None:
        self._users -= 1
        if not self._users:
            os.close(self.fd)

    def is_warm(self, begin: int, end: int) -> bool:
        """Whether both ends of a part are in the page cache; where nobody can tell, it counts as such."""
        try:
            os.preadv(self.fd, _PROBE, end - 1, os.RWF_NOWAIT)
            if end - begin > _READ_AHEAD_BYTES:
                os.preadv(self.fd, _PROBE, begin, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True
