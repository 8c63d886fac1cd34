"""A worker's side of its link to the keeper."""

import array
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from objectcache.link import (
    Done,
    Frames,
    FromKeeper,
    FromWorker,
    Granted,
    Listed,
    NewIndex,
    Refused,
    Reviewed,
    Summed,
    frame,
)  # fmt: skip

Answer = Reviewed | Done | Granted | Refused | Listed | Summed

# A larger buffer would be a mapping of its own each time.
_RECEIVE_BYTES: Final = 2**16
_MOST_DESCRIPTORS: Final = 4


class KeeperGoneError(Exception):
    """The keeper has closed the link."""


class KeeperLink:
    """Asks the keeper, and is told by it.

    Attributes:
        wants_to_write: Whether something is left that the socket did not take.
    """

    def __init__(self, link: socket.socket, told: Callable[[FromKeeper, int], None]) -> None:
        """Take over a socket.

        Args:
            link: Not blocking.
            told: Called with what is no answer, and with the descriptor that came with it, or -1.
        """
        self.socket: Final = link
        self._told: Final = told
        self._frames: Final = Frames(FromKeeper)
        self._asked: Final[dict[int, Callable[[Answer], None]]] = {}
        self._unsent: Final[deque[bytes]] = deque()
        self._descriptors: Final[deque[int]] = deque()
        self._tickets = 0

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def ticket(self, answered: Callable[[Answer], None]) -> int:
        """A number for a question whose answer goes to `answered`."""
        self._tickets += 1
        self._asked[self._tickets] = answered
        return self._tickets

    def tell(self, message: FromWorker) -> None:
        self._unsent.append(frame(message))

    def flush(self) -> None:
        """Send what is to be sent, as far as the socket takes it; once for all that came together.

        Raises:
            KeeperGoneError: Nobody listens.
        """
        while self._unsent:
            data = b"".join(self._unsent) if len(self._unsent) > 1 else self._unsent[0]
            self._unsent.clear()
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                self._unsent.append(data)
                return
            except OSError as error:
                raise KeeperGoneError(f"the keeper does not listen: {error}") from error
            if sent < len(data):
                self._unsent.append(data[sent:])
                return

    def receive(self) -> None:
        """Take what has come.

        Raises:
            KeeperGoneError: It has ended.
            LinkError: It speaks another language.
        """
        space = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self.socket.recvmsg(_RECEIVE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            raise KeeperGoneError(f"the keeper has ended: {error}") from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self._descriptors.extend(found)
        if not data:
            raise KeeperGoneError("the keeper has ended")
        for message in self._frames.feed(data):
            self._take(cast("FromKeeper", message))

    def _take(self, message: FromKeeper) -> None:
        if isinstance(message, Answer):
            answered = self._asked.pop(message.ticket, None)
            if answered is not None:
                answered(message)
            return
        # A descriptor comes with the first byte of its frame, and so before its message is whole.
        descriptor = self._descriptors.popleft() if isinstance(message, NewIndex) and self._descriptors else -1
        self._told(message, descriptor)
